"""From a request's JSON to an object of a resource: type checks, unknown fields, defaults.

Pure. Owns the difference between built-in kinds, which are decoded into Go structs on a real server, and custom
resources, which are pruned by their schema.
"""

from __future__ import annotations

from typing import Any

from sandbox.kube.errors import ApiError, bad_request, invalid, invalid_value
from sandbox.kube.goformat import go_json
from sandbox.kube.options import WriteOptions
from sandbox.kube.quantity import parse_quantity
from sandbox.kube.resources import Resource
from sandbox.kube.schema import Schema, apply_defaults, copy_json, drop_nulls, prune, unknown_field_messages
from sandbox.kube.typeinfo import object_meta
from sandbox.kube.validation import json_type

JsonObject = dict[str, Any]

_GO_TYPES = {"string": "string", "integer": "int32", "number": "float64", "boolean": "bool"}


def require_object(body: Any, resource: Resource) -> JsonObject:
    """`body` with apiVersion and kind as they must be.

    Raises:
        ApiError: 400, it is no object of the resource.
    """
    if not isinstance(body, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {resource.kind}): not a JSON object")
    if resource.custom and "kind" not in body:
        text = go_json(body)
        raise bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): "
            f"Object 'Kind' is missing in '{text}'"
        )
    api_version = body.get("apiVersion", "" if resource.custom else resource.api_version)
    if api_version != resource.api_version:
        raise bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version "
            f"({resource.api_version})"
        )
    kind = body.get("kind", resource.kind)
    if kind != resource.kind:
        if resource.custom:
            name = (body.get("metadata") or {}).get("name", "")
            raise invalid(resource.group, kind, name, [invalid_value("kind", kind, f"must be {resource.kind}")])
        raise bad_request(
            f"{kind} in version {resource.version!r} cannot be handled as a {resource.kind}: no kind {kind!r} is "
            f"registered for version {resource.api_version!r}".replace("'", '"')
        )
    meta = body.get("metadata")
    if meta is not None and not isinstance(meta, dict):
        raise _unmarshal_error(resource, meta, "metadata", object_meta())
    head = {"apiVersion": api_version, "kind": kind, "metadata": meta if meta is not None else {}}
    return {**head, **{name: value for name, value in body.items() if name not in head}}


def decode(obj: JsonObject, resource: Resource, options: WriteOptions, *, patched: bool) -> JsonObject:
    """`obj` without unknown fields and with defaults.

    Raises:
        ApiError: 400 or 422, a field has the wrong JSON type, or is unknown under strict validation.
    """
    unknown: list[str] = []
    if resource.custom:
        result = _decode_custom(obj, resource, unknown)
    else:
        result = drop_nulls(prune(obj, resource.schema, unknown), resource.schema)
        _check_types(result, resource.schema, "", resource)
        if resource.hooks.default is not None:
            result = copy_json(result)
            resource.hooks.default(result)
    if unknown:
        _report_unknown(unknown, obj, resource, options, patched=patched)
    return result


def _decode_custom(obj: JsonObject, resource: Resource, unknown: list[str]) -> JsonObject:
    meta = obj["metadata"]
    kept_meta = prune(meta, object_meta(), unknown, path="metadata")
    _check_types(kept_meta, object_meta(), "metadata", resource)
    if kept_meta is not meta:
        obj = {**obj, "metadata": kept_meta}
    return fill_custom(prune(obj, resource.schema, unknown, root=True), resource)


def fill_custom(obj: JsonObject, resource: Resource) -> JsonObject:
    """A custom resource with its schema's defaults."""
    result: JsonObject = drop_nulls(apply_defaults(obj, resource.schema), resource.schema)
    return result


def _report_unknown(
    unknown: list[str], obj: JsonObject, resource: Resource, options: WriteOptions, *, patched: bool
) -> None:
    messages = unknown_field_messages(unknown)
    if options.field_validation == "Warn":
        options.warnings += messages
    elif options.field_validation == "Strict":
        text = f"strict decoding error: {', '.join(messages)}"
        if patched:
            raise invalid("", "", "", [invalid_value("patch", go_json(obj), text)])
        raise bad_request(_cannot_handle(resource, text))


def _cannot_handle(resource: Resource, text: str) -> str:
    return f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {text}'


def _unmarshal_error(resource: Resource, value: Any, path: str, schema: Schema) -> ApiError:
    found = {"integer": "number", "boolean": "bool"}.get(json_type(value), json_type(value))
    where = f"{resource.kind}.{path}".replace("[", ".").replace("]", "")
    return bad_request(
        _cannot_handle(
            resource,
            f"json: cannot unmarshal {found} into Go struct field {where} of type {_go_type(schema)}",
        )
    )


def _go_type(schema: Schema) -> str:
    if schema.reference:
        return f"v1.{schema.reference.removeprefix('V1').removeprefix('V2')}"
    if schema.items is not None:
        return f"[]{_go_type(schema.items)}"
    if schema.additional is not None:
        return f"map[string]{_go_type(schema.additional)}"
    return _GO_TYPES.get(schema.type, "object")


def _check_types(value: Any, schema: Schema, path: str, resource: Resource) -> None:
    """Refuse what could not be decoded into the kind's Go type."""
    if schema.int_or_string:
        if schema.format == "quantity":
            try:
                parse_quantity(value)
            except ValueError as error:
                raise bad_request(_cannot_handle(resource, str(error))) from None
        elif not isinstance(value, (int, str)) or isinstance(value, bool):
            raise _unmarshal_error(resource, value, path, schema)
        return
    match schema.type:
        case "object":
            if not isinstance(value, dict):
                raise _unmarshal_error(resource, value, path, schema)
            for name, item in value.items():
                child = schema.properties.get(name, schema.additional)
                if child is not None and item is not None:
                    _check_types(item, child, f"{path}.{name}" if path else name, resource)
        case "array":
            if not isinstance(value, list):
                raise _unmarshal_error(resource, value, path, schema)
            assert schema.items is not None
            for index, item in enumerate(value):
                _check_types(item, schema.items, f"{path}[{index}]", resource)
        case "string":
            if not isinstance(value, str):
                raise _unmarshal_error(resource, value, path, schema)
        case "integer":
            if isinstance(value, bool) or not isinstance(value, int):
                raise _unmarshal_error(resource, value, path, schema)
        case "boolean":
            if not isinstance(value, bool):
                raise _unmarshal_error(resource, value, path, schema)


def require_declared(config: JsonObject, resource: Resource) -> None:
    """Refuse an applied configuration with fields that the schema does not have, or of another type.

    Raises:
        ApiError: 500, as the real server answers.
    """
    meta = config.get("metadata") or {}
    where = f"{meta.get('namespace', '')}/{meta.get('name', '')}; {resource.api_version}, Kind={resource.kind}"
    problem = _undeclared(config, resource.schema, "")
    if problem:
        raise ApiError(500, "", f"failed to create typed patch object ({where}): {problem}")


def _undeclared(value: Any, schema: Schema, path: str) -> str:
    if value is None:
        return ""
    if schema.type == "object" and not isinstance(value, dict):
        return f"{path}: expected map, got &{{{go_json(value)}}}"
    if schema.type == "array" and not isinstance(value, list):
        return f"{path}: expected list, got &{{{value if isinstance(value, str) else go_json(value)}}}"
    if isinstance(value, dict):
        for name, item in value.items():
            child = schema.properties.get(name, schema.additional)
            if child is not None:
                if problem := _undeclared(item, child, f"{path}.{name}"):
                    return problem
            elif schema.closed and not schema.preserve_unknown and schema.type == "object":
                return f"{path}.{name}: field not declared in schema"
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            if problem := _undeclared(item, schema.items, f"{path}[{index}]"):
                return problem
    return ""
