"""Which CustomResourceDefinitions are accepted: names, versions, structural schemas, CEL rules, columns, subresources.

Pure. Follows k8s.io/apiextensions-apiserver `pkg/apis/apiextensions/validation` and
`pkg/apiserver/schema/validation.go`.
The estimated cost of CEL rules is not computed: a rule over lists and strings without bounds passes here, and the real
server may refuse it as too expensive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from sandbox.kube.cel import CelError, check_rule, uses_old_self
from sandbox.kube.errors import FieldError, duplicate, forbidden_field, invalid_value, not_supported, required
from sandbox.kube.formats import go_regex
from sandbox.kube.schema import Rule, Schema, parse_schema, parse_simple_path, prune
from sandbox.kube.validation import name_error, validate

JsonObject = dict[str, Any]

_TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")
_COLUMN_TYPES: Final = ("boolean", "date", "integer", "number", "string")
_REASONS: Final = ("FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate")
_UNSUPPORTED: Final = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")
_INT_OR_STRING: Final = [{"type": "integer"}, {"type": "string"}]
_NOT_NESTED: Final = ("type", "default", "title", "description", "additionalProperties", "nullable")
_EXTENSIONS_NOT_NESTED: Final = (
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
)


def validate_definition(crd: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """What is wrong with a CustomResourceDefinition."""
    return list(_definition(crd, old))


def _definition(crd: JsonObject, old: JsonObject | None) -> Iterator[FieldError]:
    spec = crd.get("spec") or {}
    names = spec.get("names") or {}
    group = spec.get("group") or ""
    if not group:
        yield required("spec.group")
    elif "." not in group:
        yield invalid_value("spec.group", group, "should be a domain with at least one dot")
    elif why := name_error("subdomain", group):
        yield invalid_value("spec.group", group, why)
    wanted = f"{names.get('plural', '')}.{group}"
    if crd["metadata"].get("name") != wanted:
        yield invalid_value("metadata.name", crd["metadata"].get("name"), 'must be spec.names.plural+"."+spec.group')
    if spec.get("scope") not in {"Namespaced", "Cluster"}:
        scope = spec.get("scope") or ""
        yield not_supported("spec.scope", scope, ("Cluster", "Namespaced")) if scope else required("spec.scope")
    yield from _names(names, "spec.names")
    yield from _versions(spec.get("versions") or [], spec)
    if old is not None:
        former = old.get("spec") or {}
        for name in ("group", "scope"):
            if former.get(name) != spec.get(name):
                yield invalid_value(f"spec.{name}", spec.get(name), "field is immutable")
        for name in ("plural", "kind"):
            if (former.get("names") or {}).get(name) != names.get(name):
                yield invalid_value(f"spec.names.{name}", names.get(name), "field is immutable")
        served = {version.get("name") for version in spec.get("versions") or []}
        for index, name in enumerate((old.get("status") or {}).get("storedVersions") or []):
            if name not in served:
                yield invalid_value(
                    f"status.storedVersions[{index}]",
                    name,
                    f"missing from spec.versions; {name} was previously a storage version, and must remain in "
                    f"spec.versions until a storage migration ensures no data remains persisted in {name} and removes "
                    f"{name} from status.storedVersions",
                )


def _names(names: JsonObject, path: str) -> Iterator[FieldError]:
    for name in ("plural", "singular", "kind", "listKind"):
        value = names.get(name) or ""
        if not value:
            yield required(f"{path}.{name}")
        elif why := name_error("dns1035", value.lower() if "ind" in name else value):
            yield invalid_value(f"{path}.{name}", value, why)
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        yield invalid_value(f"{path}.listKind", names["listKind"], "kind and listKind may not be the same")
    for field in ("shortNames", "categories"):
        for index, value in enumerate(names.get(field) or []):
            if why := name_error("dns1035", value):
                yield invalid_value(f"{path}.{field}[{index}]", value, why)


def _versions(versions: list[JsonObject], spec: JsonObject) -> Iterator[FieldError]:
    names = [version.get("name") for version in versions]
    if len(set(names)) != len(names):
        yield invalid_value("spec.versions", names, "must contain unique version names")
    if sum(1 for version in versions if version.get("storage")) != 1:
        yield invalid_value("spec.versions", names, "must have exactly one version marked as storage version")
    if (spec.get("conversion") or {}).get("strategy", "None") not in {"None", "Webhook"}:
        yield not_supported("spec.conversion.strategy", spec["conversion"]["strategy"], ("None", "Webhook"))
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}]"
        if why := name_error("dns1035", version.get("name") or ""):
            yield invalid_value(f"{path}.name", version.get("name") or "", why)
        raw = (version.get("schema") or {}).get("openAPIV3Schema")
        if not raw:
            yield required(f"{path}.schema.openAPIV3Schema")
            if version.get("selectableFields"):
                where = "spec.selectableFields" if len(versions) == 1 else f"{path}.selectableFields"
                yield invalid_value(where, "", "may only be set when validations.schema is included")
            continue
        # A single version is validated as if its schema stood at the top, which shows in the paths of errors.
        where = "spec.validation.openAPIV3Schema" if len(versions) == 1 else f"{path}.schema.openAPIV3Schema"
        schema_errors = list(_SchemaChecker(raw).root(where))
        yield from schema_errors
        top = "spec" if len(versions) == 1 else path
        yield from _columns(version.get("additionalPrinterColumns") or [], f"{top}.additionalPrinterColumns")
        yield from _subresources(version.get("subresources") or {}, f"{top}.subresources")
        if not schema_errors:
            yield from _selectable(version.get("selectableFields") or [], parse_schema(raw), f"{top}.selectableFields")


def _columns(columns: list[JsonObject], path: str) -> Iterator[FieldError]:
    for index, column in enumerate(columns):
        where = f"{path}[{index}]"
        if not column.get("name"):
            yield required(f"{where}.name")
        if column.get("type") not in _COLUMN_TYPES:
            text = f"must be one of {','.join(_COLUMN_TYPES)}"
            kind = column.get("type") or ""
            yield invalid_value(f"{where}.type", kind, text) if kind else required(f"{where}.type", text)
        if not column.get("jsonPath"):
            yield required(f"{where}.JSONPath")
        elif not column["jsonPath"].startswith("."):
            text = "must be a simple json path starting with ."
            yield invalid_value(f"{where}.JSONPath", column["jsonPath"], text)


def _subresources(subresources: JsonObject, path: str) -> Iterator[FieldError]:
    scale = subresources.get("scale")
    if scale is None:
        return
    for name, roots in (
        ("specReplicasPath", (".spec.",)),
        ("statusReplicasPath", (".status.",)),
        ("labelSelectorPath", (".spec.", ".status.")),
    ):
        value = scale.get(name) or ""
        where = f"{path}.scale.{name}"
        if not value:
            if name != "labelSelectorPath":
                yield required(where)
        elif not value.startswith(roots):
            under = "either .spec or .status" if len(roots) > 1 else roots[0].rstrip(".")
            yield invalid_value(where, value, f"should be a json path under {under}")
        elif not re.fullmatch(r"(\.[A-Za-z0-9_-]+)+", value):
            yield invalid_value(where, value, "must be a json path in the dot notation")


def _selectable(fields: list[JsonObject], schema: Schema, path: str) -> Iterator[FieldError]:
    seen: set[str] = set()
    for index, field in enumerate(fields):
        where, value = f"{path}[{index}].jsonPath", field.get("jsonPath") or ""
        if not value:
            yield required(where)
            continue
        node: Schema | None = schema
        try:
            steps = parse_simple_path(value)
        except ValueError as error:
            yield invalid_value(where, value, f"is an invalid path: {error}")
            continue
        if steps[0] == "metadata":
            yield invalid_value(where, value, "must not point to fields in metadata")
            continue
        for step in steps:
            node = node.properties.get(str(step)) if node is not None else None
        if node is None:
            yield invalid_value(where, value, "is an invalid path: does not refer to a valid field")
        elif node.type not in {"string", "boolean", "integer"}:
            text = (
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats "
            )
            yield invalid_value(where, value, f"{text}are allowed.")
        if value in seen:
            yield duplicate(where, value)
        seen.add(value)


class _SchemaChecker:
    """Walks one schema. `raw` is the root, which defaults are checked against."""

    def __init__(self, raw: JsonObject) -> None:
        self._raw = raw

    def root(self, path: str) -> Iterator[FieldError]:
        raw = self._raw
        if raw.get("nullable"):
            yield forbidden_field(f"{path}.nullable", "nullable cannot be true at the root")
        yield from self._node(raw, path, level="root", correlatable=True)

    def _node(self, raw: JsonObject, path: str, *, level: str, correlatable: bool) -> Iterator[FieldError]:
        yield from self._keywords(raw, path)
        yield from self._type(raw, path, level)
        yield from self._list(raw, path)
        yield from self._value_rules(raw, path)
        yield from self._default(raw, path)
        yield from self._cel(raw, path, correlatable=correlatable)
        properties = raw.get("properties") or {}
        for name, child in properties.items():
            where = f"{path}.properties[{name}]"
            if name == "metadata" and level == "root":
                extra = {key for key in child if key not in {"type", "description", "properties"}}
                if extra or set(child.get("properties") or {}) - {"name", "generateName"}:
                    text = (
                        "must not specify anything other than name and generateName, but metadata is implicitly "
                        "specified"
                    )
                    yield forbidden_field(where, text)
                continue
            yield from self._node(child, where, level="field", correlatable=correlatable)
        additional = raw.get("additionalProperties")
        if level == "root" and additional is not None:
            yield forbidden_field(f"{path}.additionalProperties", "must not be used at the root")
        if isinstance(additional, Mapping):
            where = f"{path}.additionalProperties"
            yield from self._node(dict(additional), where, level="field", correlatable=correlatable)
        items = raw.get("items")
        if isinstance(items, Mapping):
            keyed = raw.get("x-kubernetes-list-type") == "map"
            yield from self._node(dict(items), f"{path}.items", level="item", correlatable=correlatable and keyed)

    def _keywords(self, raw: JsonObject, path: str) -> Iterator[FieldError]:
        for keyword in _UNSUPPORTED:
            if raw.get(keyword):
                yield forbidden_field(f"{path}.{keyword}", f"{keyword} is not supported")
        if raw.get("uniqueItems"):
            text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
            yield forbidden_field(f"{path}.uniqueItems", text)
        if raw.get("additionalProperties") is not None and raw.get("properties"):
            text = "additionalProperties and properties are mutual exclusive"
            yield forbidden_field(f"{path}.additionalProperties", text)
        if isinstance(raw.get("items"), list):
            yield forbidden_field(f"{path}.items", "items must be a schema object and not an array")
        if raw.get("x-kubernetes-preserve-unknown-fields") is False:
            yield invalid_value(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined")  # noqa: FBT003  # the bad value itself

    def _type(self, raw: JsonObject, path: str, level: str) -> Iterator[FieldError]:
        kind = raw.get("type") or ""
        if kind and kind not in _TYPES:
            yield not_supported(f"{path}.type", kind, _TYPES)
        embedded = raw.get("x-kubernetes-embedded-resource")
        if embedded and kind != "object":
            text = "must be object if x-kubernetes-embedded-resource is true"
            yield invalid_value(f"{path}.type", kind, text) if kind else required(f"{path}.type", text)
        elif (
            not kind
            and not raw.get("x-kubernetes-int-or-string")
            and not raw.get("x-kubernetes-preserve-unknown-fields")
        ):
            where = {"root": "at the root", "item": "for specified array items", "field": "for specified object fields"}
            yield required(f"{path}.type", f"must not be empty {where[level]}")
        if level == "root" and kind and kind != "object":
            yield invalid_value(f"{path}.type", kind, "must be object at the root")
        if kind == "array" and raw.get("items") is None:
            yield required(f"{path}.items", "must be specified")
        if raw.get("x-kubernetes-int-or-string") and raw.get("x-kubernetes-preserve-unknown-fields"):
            text = "must be false if x-kubernetes-int-or-string is true"
            yield invalid_value(f"{path}.x-kubernetes-preserve-unknown-fields", True, text)  # noqa: FBT003  # the bad value itself

    def _list(self, raw: JsonObject, path: str) -> Iterator[FieldError]:
        kind, keys = raw.get("x-kubernetes-list-type"), raw.get("x-kubernetes-list-map-keys") or []
        if kind is not None:
            if raw.get("type") != "array":
                text = "must be array if x-kubernetes-list-type is specified"
                yield invalid_value(f"{path}.type", raw.get("type") or "", text)
            if kind not in {"atomic", "set", "map"}:
                yield not_supported(f"{path}.x-kubernetes-list-type", kind, ("atomic", "set", "map"))
        if keys and kind != "map":
            text = "must be map if x-kubernetes-list-map-keys is non-empty"
            yield invalid_value(f"{path}.x-kubernetes-list-type", kind or "", text)
        if kind != "map":
            return
        if not keys:
            text = "must not be empty if x-kubernetes-list-type is map"
            yield required(f"{path}.x-kubernetes-list-map-keys", text)
        items = raw.get("items") or {}
        if items.get("type") != "object":
            text = "must be object if parent array's x-kubernetes-list-type is map"
            yield invalid_value(f"{path}.items.type", items.get("type") or "", text)
            return
        properties = items.get("properties") or {}
        for key in keys:
            if key not in properties:
                text = "entries must all be names of item properties"
                yield invalid_value(f"{path}.x-kubernetes-list-map-keys", keys, text)
            elif key not in (items.get("required") or []) and properties[key].get("default") is None:
                text = (
                    "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required "
                    "property"
                )
                yield required(f"{path}.items.properties[{key}].default", text)

    def _value_rules(self, raw: JsonObject, path: str) -> Iterator[FieldError]:
        if pattern := raw.get("pattern"):
            try:
                go_regex(pattern)
            except re.error as error:
                text = f"must be a valid regular expression, but isn't: {error}"
                yield invalid_value(f"{path}.pattern", pattern, text)
        whole = bool(raw.get("x-kubernetes-int-or-string"))
        for junctor in ("allOf", "anyOf", "oneOf"):
            if whole and raw.get(junctor) == _INT_OR_STRING:
                continue
            for index, option in enumerate(raw.get(junctor) or []):
                yield from self._nested(option, f"{path}.{junctor}[{index}]")
        if raw.get("not"):
            yield from self._nested(raw["not"], f"{path}.not")

    def _nested(self, raw: JsonObject, path: str) -> Iterator[FieldError]:
        """Below allOf, anyOf, oneOf and not a schema only judges values; the shape stands outside."""
        for keyword in _NOT_NESTED:
            if raw.get(keyword):
                word = "undefined" if keyword in {"default", "additionalProperties"} else "empty"
                word = "false" if keyword == "nullable" else word
                yield forbidden_field(f"{path}.{keyword}", f"must be {word} to be structural")
        for keyword in _EXTENSIONS_NOT_NESTED:
            if raw.get(keyword):
                yield forbidden_field(f"{path}.{keyword}", "must be undefined to be structural")
        yield from self._value_rules(raw, path)
        for name, child in (raw.get("properties") or {}).items():
            yield from self._nested(child, f"{path}.properties[{name}]")
        if isinstance(raw.get("items"), Mapping):
            yield from self._nested(raw["items"], f"{path}.items")

    def _default(self, raw: JsonObject, path: str) -> Iterator[FieldError]:
        default = raw.get("default")
        if default is None:
            return
        schema = parse_schema(raw)
        unknown: list[str] = []
        prune(default, schema, unknown)
        if unknown:
            yield invalid_value(f"{path}.default", default, "must not have unknown fields")
        for error in validate(default, schema, root="", int_or_string=False):
            yield replace(error, path=f"{path}.default{_below(error.path)}")

    def _cel(self, raw: JsonObject, path: str, *, correlatable: bool) -> Iterator[FieldError]:
        entries = raw.get("x-kubernetes-validations") or []
        if not entries:
            return
        schema = parse_schema(raw)
        for index, (entry, rule) in enumerate(zip(entries, schema.rules, strict=True)):
            where = f"{path}.x-kubernetes-validations[{index}]"
            if not rule.rule.strip():
                yield required(f"{where}.rule", "rule is not specified")
                continue
            yield from _rule_texts(entry, rule, where)
            if rule.field_path and dig_schema(schema, rule.field_path) is None:
                text = "fieldPath must be a valid path: does not refer to a valid field"
                yield invalid_value(f"{where}.fieldPath", rule.field_path, text)
            try:
                check_rule(rule, schema)
            except CelError as error:
                yield invalid_value(f"{where}.rule", entry, str(error))
                continue
            if uses_old_self(rule):
                if not correlatable:
                    text = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {path}"
                    yield invalid_value(f"{where}.rule", rule.rule, text)
            elif rule.optional_old_self:
                text = "may not be set if oldSelf is not used in rule"
                yield invalid_value(f"{where}.optionalOldSelf", True, text)  # noqa: FBT003  # the bad value itself


def _rule_texts(entry: JsonObject, rule: Rule, where: str) -> Iterator[FieldError]:
    if "message" in entry and not rule.message.strip():
        yield invalid_value(f"{where}.message", rule.message, "must be non-empty if specified")
    elif "\n" in rule.message.strip():
        yield invalid_value(f"{where}.message", rule.message, "must not contain line breaks")
    elif "\n" in rule.rule.strip() and not rule.message:
        yield required(f"{where}.message", "message must be specified if rule contains line breaks")
    if rule.reason and rule.reason not in _REASONS:
        yield not_supported(f"{where}.reason", rule.reason, _REASONS)


def _below(path: str) -> str:
    return "" if path == "<nil>" else f".{path}"


def dig_schema(schema: Schema, path: str) -> Schema | None:
    """The schema at a path of fields, `.spec.name` say; `None` where it leads nowhere."""
    try:
        steps = parse_simple_path(path)
    except ValueError:
        return None
    node: Schema | None = schema
    for step in steps:
        if node is None:
            return None
        node = node.properties.get(str(step), node.additional)
    return node
