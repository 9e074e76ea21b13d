"""OpenAPI documents: version 3 per group and version, version 2 in JSON and in protobuf.

Owns what clients read from them: the schemas (kubectl explain, client-side validation, merge keys), and that writes
take `fieldValidation` and `dryRun`, so that clients leave validation to the server. The documents hold no more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from sandbox.kube import openapi_proto
from sandbox.kube.reading import encode_json
from sandbox.kube.resources import Catalog, Resource
from sandbox.kube.schema import MISSING, Schema, walk
from sandbox.kube.typeinfo import details

JsonObject = dict[str, Any]

PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
PROTOBUF_OF_OLD: Final = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
"""What clients before 1.24 ask for. It is no valid media type, so the answer bears the other name."""
_WRITE_PARAMETERS: Final = {
    "post": ("dryRun", "fieldManager", "fieldValidation"),
    "put": ("dryRun", "fieldManager", "fieldValidation"),
    "patch": ("dryRun", "fieldManager", "fieldValidation", "force"),
    "delete": ("dryRun", "gracePeriodSeconds", "propagationPolicy"),
    "get": (),
}
_ROOT_TEXTS: Final = {
    "apiVersion": (
        "APIVersion defines the versioned schema of this representation of an object. Servers should convert "
        "recognized schemas to the latest internal value, and may reject unrecognized values."
    ),
    "kind": (
        "Kind is a string value representing the REST resource this object represents. Servers may infer this from the "
        "endpoint the client submits requests to. Cannot be updated. In CamelCase."
    ),
    "metadata": "Standard object's metadata.",
}


_MODEL: Final = re.compile(r"([A-Z][a-z]+)?(V\d+(?:alpha\d+|beta\d+)?)(.+)")


def _definition_name(model: str) -> str:
    """`io.k8s.v1.Pod` for `V1Pod`: kubectl shows what follows the last point."""
    match = _MODEL.fullmatch(model)
    if match is None:
        return f"io.k8s.{model}"
    group = f"{match[1].lower()}." if match[1] else ""
    return f"io.k8s.{group}{match[2].lower()}.{match[3]}"


def _custom_name(resource: Resource) -> str:
    return ".".join([*reversed(resource.group.split(".")), resource.version, resource.kind])


def _kind_extension(resource: Resource) -> JsonObject:
    return {"group": resource.group, "kind": resource.kind, "version": resource.version}


class _Writer:
    """Writes schemas as JSON for one version of OpenAPI."""

    def __init__(self, version: int) -> None:
        self._three = version == 3
        self._prefix = "#/components/schemas/" if self._three else "#/definitions/"

    def reference(self, name: str, description: str) -> JsonObject:
        reference = {"$ref": self._prefix + name}
        if not self._three:
            return {**reference, **({"description": description} if description else {})}
        entry: JsonObject = {"allOf": [reference]}
        if description:
            entry["description"] = description
        return entry

    def inline(self, schema: Schema, description: str = "") -> JsonObject:
        """A schema at a place where others refer to named ones."""
        text = description or schema.description
        if schema.reference:
            return self.reference(_definition_name(schema.reference), text)
        return self._body(schema, text)

    def definition(self, schema: Schema) -> JsonObject:
        """A named schema of a built-in model."""
        required, texts = details(schema.reference)
        body: JsonObject = {"type": "object"}
        if schema.properties:
            body["properties"] = {name: self.inline(item, texts[name]) for name, item in schema.properties.items()}
        if required:
            body["required"] = sorted(required)
        if schema.map_type:
            body["x-kubernetes-map-type"] = schema.map_type
        return body

    def custom(self, resource: Resource) -> JsonObject:
        """The root of a custom resource."""
        body = self._body(resource.schema, resource.schema.description)
        for name, text in _ROOT_TEXTS.items():
            body["properties"][name].setdefault("description", text)
        return body

    def _body(self, schema: Schema, description: str) -> JsonObject:
        body: JsonObject = {}
        if description:
            body["description"] = description
        body.update(self._type(schema))
        if schema.properties:
            body["properties"] = {name: self.inline(item) for name, item in schema.properties.items()}
        if schema.additional is not None:
            body["additionalProperties"] = self.inline(schema.additional)
        if schema.items is not None:
            body["items"] = self.inline(schema.items)
        if schema.required:
            body["required"] = list(schema.required)
        if schema.default is not MISSING:
            body["default"] = schema.default
        if schema.enum is not None:
            body["enum"] = list(schema.enum)
        for name, value in (
            ("pattern", schema.pattern or None),
            ("minimum", schema.minimum),
            ("maximum", schema.maximum),
            ("minLength", schema.min_length),
            ("maxLength", schema.max_length),
            ("minItems", schema.min_items),
            ("maxItems", schema.max_items),
        ):
            if value is not None:
                body[name] = value
        body.update(self._extensions(schema))
        return body

    def _type(self, schema: Schema) -> JsonObject:
        if schema.int_or_string:
            if not schema.format:
                return {"x-kubernetes-int-or-string": True}
            if not self._three:
                return {"type": "string", **({"format": "int-or-string"} if schema.format == "int-or-string" else {})}
            number = "integer" if schema.format == "int-or-string" else "number"
            kinds = [{"type": number}, {"type": "string"}]
            return {"format": schema.format, "oneOf": kinds} if number == "integer" else {"oneOf": kinds}
        body: JsonObject = {}
        if schema.type:
            body["type"] = schema.type
        if schema.format:
            body["format"] = schema.format
        return body

    @staticmethod
    def _extensions(schema: Schema) -> JsonObject:
        found: JsonObject = {}
        if schema.list_type:
            found["x-kubernetes-list-type"] = schema.list_type
        if schema.list_keys:
            found["x-kubernetes-list-map-keys"] = list(schema.list_keys)
        if schema.map_type:
            found["x-kubernetes-map-type"] = schema.map_type
        if schema.merge_key:
            found["x-kubernetes-patch-merge-key"] = schema.merge_key
        if schema.patch_merge:
            found["x-kubernetes-patch-strategy"] = "merge"
        if schema.preserve_unknown and (schema.type or not schema.closed):
            if schema.type:
                found["x-kubernetes-preserve-unknown-fields"] = True
        elif schema.preserve_unknown:
            found["x-kubernetes-preserve-unknown-fields"] = True
        if schema.rules:
            found["x-kubernetes-validations"] = [
                {"rule": rule.rule, **({"message": rule.message} if rule.message else {})} for rule in schema.rules
            ]
        return found


def _operations(resource: Resource, *, collection: bool, three: bool) -> JsonObject:
    methods = ("get", "post", "delete") if collection else ("get", "put", "patch", "delete")
    verbs = {
        "get": "list" if collection else "get",
        "post": "create",
        "put": "update",
        "patch": "patch",
        "delete": "deletecollection" if collection else "delete",
    }
    found: JsonObject = {}
    for method in methods:
        if verbs[method] not in resource.verbs:
            continue
        kind: JsonObject = {"schema": {"type": "string"}} if three else {"type": "string"}
        found[method] = {
            "operationId": f"{verbs[method]}{resource.version}{resource.kind}{'Collection' if collection else ''}",
            "parameters": [{"name": name, "in": "query", **kind} for name in _WRITE_PARAMETERS[method]],
            "responses": {"200": {"description": "OK"}},
            "x-kubernetes-group-version-kind": _kind_extension(resource),
        }
    return found


def _paths(resources: Iterable[Resource], *, three: bool) -> JsonObject:
    found: JsonObject = {}
    for resource in resources:
        root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        inside = f"{root}/namespaces/{{namespace}}" if resource.namespaced else root
        collection = f"{inside}/{resource.plural}"
        found[collection] = _operations(resource, collection=True, three=three)
        if resource.verbs != ("create",):
            found[f"{collection}/{{name}}"] = _operations(resource, collection=False, three=three)
        if resource.namespaced and "list" in resource.verbs:
            listing = _operations(resource, collection=True, three=three)
            found[f"{root}/{resource.plural}"] = {"get": listing["get"]}
    return found


def _definitions(resources: Iterable[Resource], version: int) -> JsonObject:
    writer = _Writer(version)
    found: JsonObject = {}

    def add(schema: Schema) -> None:
        if schema.reference and _definition_name(schema.reference) not in found:
            found[_definition_name(schema.reference)] = writer.definition(schema)

    for resource in resources:
        walk(resource.schema, add)
        if resource.custom:
            name = _custom_name(resource)
            found[name] = writer.custom(resource)
        else:
            name = _definition_name(resource.model)
        kinds = [*found[name].get("x-kubernetes-group-version-kind", ()), _kind_extension(resource)]
        found[name]["x-kubernetes-group-version-kind"] = kinds
    return found


class OpenApi:
    """The documents of a catalog, made when asked for and kept until the catalog changes."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._generation = -1
        self._made: dict[str, bytes] = {}

    def _once(self, key: str, make: Callable[[], bytes]) -> bytes:
        if self._generation != self._catalog.generation:
            self._made.clear()
            self._generation = self._catalog.generation
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @staticmethod
    def etag(document: bytes) -> str:
        """A tag that changes with the document."""
        return hashlib.sha256(document).hexdigest()[:32].upper()

    def _v2(self) -> JsonObject:
        resources = list(self._catalog)
        return {
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "sandbox"},
            "paths": _paths(resources, three=False),
            "definitions": _definitions(resources, 2),
        }

    def v2_json(self) -> bytes:
        """`/openapi/v2` as JSON."""
        return self._once("v2", lambda: encode_json(self._v2()))

    def v2_protobuf(self) -> bytes:
        """`/openapi/v2` as the protobuf that kubectl asks for up to version 1.26."""
        return self._once("v2pb", lambda: openapi_proto.encode(self._v2()))

    def v3_index(self) -> bytes:
        """`/openapi/v3`."""

        def make() -> bytes:
            paths = {}
            for group, versions in self._catalog.groups().items():
                for version in versions:
                    name = f"apis/{group}/{version}" if group else f"api/{version}"
                    # Hashing the description of the resources is cheaper than making the document.
                    listed = [(id(r), r.plural) for r in self._catalog.in_group_version(group, version)]
                    tag = self.etag(repr((listed, self._catalog.generation)).encode())
                    paths[name] = {"serverRelativeURL": f"/openapi/v3/{name}?hash={tag}"}
            return encode_json({"paths": paths})

        return self._once("v3", make)

    def v3(self, group: str, version: str) -> bytes | None:
        """`/openapi/v3/apis/{group}/{version}`; `None` where there is no such version."""
        resources = self._catalog.in_group_version(group, version)
        if not resources:
            return None

        def make() -> bytes:
            return encode_json(
                {
                    "openapi": "3.0.0",
                    "info": {"title": "Kubernetes", "version": "sandbox"},
                    "paths": _paths(resources, three=True),
                    "components": {"schemas": _definitions(resources, 3)},
                }
            )

        return self._once(f"v3/{group}/{version}", make)
