"""Structural schemas: the model, and what they do to a value (prune, default, find unknown fields).

Owns the one schema class that custom resources and built-in kinds share. Must not judge values; `validation.py` does.
All functions leave their input alone and return it unchanged (the same object) where there is nothing to do, so that
unchanged parts of two versions of an object stay identical and cheap to compare.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.kube.goformat import go_quote


class Missing:
    """The type of `MISSING`."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
"""Stands for "there is no value", which is not the same as null."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `x-kubernetes-validations`."""

    rule: str
    message: str = ""
    message_expression: str = ""
    reason: str = ""
    field_path: str = ""
    optional_old_self: bool = False


@dataclass(slots=True, eq=False)
class Schema:
    """One node of a schema. Compared by identity; may be part of a cycle for recursive built-in kinds."""

    type: str = ""
    """`object`, `array`, `string`, `integer`, `number`, `boolean`, or empty for any."""
    description: str = ""
    properties: dict[str, Schema] = field(default_factory=dict)
    additional: Schema | None = None
    """Schema of the values of a map."""
    items: Schema | None = None
    required: tuple[str, ...] = ()
    nullable: bool = False
    int_or_string: bool = False
    preserve_unknown: bool = False
    embedded: bool = False
    """An embedded Kubernetes object, with apiVersion, kind and metadata of its own."""
    default: Any = MISSING
    format: str = ""
    enum: tuple[Any, ...] | None = None
    pattern: str = ""
    min_length: int | None = None
    max_length: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    multiple_of: float | None = None
    min_items: int | None = None
    max_items: int | None = None
    unique_items: bool = False
    min_properties: int | None = None
    max_properties: int | None = None
    all_of: tuple[Schema, ...] = ()
    any_of: tuple[Schema, ...] = ()
    one_of: tuple[Schema, ...] = ()
    not_: Schema | None = None
    rules: tuple[Rule, ...] = ()
    list_type: str = ""
    """`atomic`, `set` or `map`; empty means atomic."""
    list_keys: tuple[str, ...] = ()
    map_type: str = ""
    """`atomic` or `granular`; empty means granular."""
    patch_merge: bool = False
    """Whether a strategic merge patch merges this list instead of replacing it."""
    merge_key: str = ""
    """Key by which such a patch finds an object in the list; empty for lists of plain values."""
    retain_keys: bool = False
    """Whether a strategic merge patch may drop the fields that it does not name (`$retainKeys`)."""
    reference: str = ""
    """Name of the definition that this node is, for OpenAPI documents; empty for an inline schema."""
    closed: bool = True
    """Whether fields other than `properties` are unknown; false for free-form JSON."""
    has_defaults: bool = False
    """Whether this node or one below it has a default (computed by `parse_schema`)."""
    has_rules: bool = False
    """Whether this node or one below it has CEL rules (computed by `parse_schema`)."""


def _rules(raw: Mapping[str, Any]) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            rule=entry.get("rule", ""),
            message=entry.get("message", ""),
            message_expression=entry.get("messageExpression", ""),
            reason=entry.get("reason", ""),
            field_path=entry.get("fieldPath", ""),
            optional_old_self=bool(entry.get("optionalOldSelf", False)),
        )
        for entry in raw.get("x-kubernetes-validations") or ()
    )


def parse_schema(raw: Mapping[str, Any]) -> Schema:
    """An `openAPIV3Schema` of a CustomResourceDefinition, which is supposed to be well-formed already."""
    additional = raw.get("additionalProperties")
    items = raw.get("items")
    negated = raw.get("not")
    enum = raw.get("enum")
    schema = Schema(
        type=raw.get("type", ""),
        description=raw.get("description", ""),
        properties={name: parse_schema(child) for name, child in (raw.get("properties") or {}).items()},
        additional=parse_schema(additional) if isinstance(additional, Mapping) else None,
        items=parse_schema(items) if isinstance(items, Mapping) else None,
        required=tuple(raw.get("required") or ()),
        nullable=bool(raw.get("nullable", False)),
        int_or_string=bool(raw.get("x-kubernetes-int-or-string", False)),
        preserve_unknown=bool(raw.get("x-kubernetes-preserve-unknown-fields", False)) or additional is True,
        embedded=bool(raw.get("x-kubernetes-embedded-resource", False)),
        default=raw["default"] if raw.get("default") is not None else MISSING,
        format=raw.get("format", ""),
        enum=tuple(enum) if enum is not None else None,
        pattern=raw.get("pattern", ""),
        min_length=raw.get("minLength"),
        max_length=raw.get("maxLength"),
        minimum=raw.get("minimum"),
        maximum=raw.get("maximum"),
        exclusive_minimum=bool(raw.get("exclusiveMinimum", False)),
        exclusive_maximum=bool(raw.get("exclusiveMaximum", False)),
        multiple_of=raw.get("multipleOf"),
        min_items=raw.get("minItems"),
        max_items=raw.get("maxItems"),
        unique_items=bool(raw.get("uniqueItems", False)),
        min_properties=raw.get("minProperties"),
        max_properties=raw.get("maxProperties"),
        all_of=tuple(parse_schema(child) for child in raw.get("allOf") or ()),
        any_of=tuple(parse_schema(child) for child in raw.get("anyOf") or ()),
        one_of=tuple(parse_schema(child) for child in raw.get("oneOf") or ()),
        not_=parse_schema(negated) if isinstance(negated, Mapping) else None,
        rules=_rules(raw),
        list_type=raw.get("x-kubernetes-list-type", ""),
        list_keys=tuple(raw.get("x-kubernetes-list-map-keys") or ()),
        map_type=raw.get("x-kubernetes-map-type", ""),
    )
    children = [*schema.properties.values(), *(s for s in (schema.additional, schema.items) if s is not None)]
    schema.has_defaults = any(child.default is not MISSING or child.has_defaults for child in children)
    schema.has_rules = bool(schema.rules) or any(child.has_rules for child in (*children, *schema.all_of))
    return schema


# --- Unknown fields ---------------------------------------------------------------------------------------------------

_OBJECT_FIELDS: Final = frozenset({"apiVersion", "kind", "metadata"})


def _child(schema: Schema, name: str) -> Schema | None:
    found = schema.properties.get(name)
    return schema.additional if found is None else found


def prune(value: Any, schema: Schema, unknown: list[str] | None = None, *, path: str = "", root: bool = False) -> Any:
    """`value` without the fields that `schema` does not know; their paths are appended to `unknown`.

    The root and embedded objects keep apiVersion, kind and metadata, which another rule looks after.
    """
    if isinstance(value, dict):
        whole_object = root or schema.embedded
        result: dict[str, Any] | None = None
        for name, item in value.items():
            if whole_object and name in _OBJECT_FIELDS:
                continue
            child = _child(schema, name)
            if child is None:
                if schema.preserve_unknown or not schema.closed:
                    continue
                if unknown is not None:
                    unknown.append(f"{path}.{name}" if path else name)
                result = dict(value) if result is None else result
                del result[name]
                continue
            if not isinstance(item, (dict, list)):
                continue
            kept = prune(item, child, unknown, path=f"{path}.{name}" if path else name)
            if kept is not item:
                result = dict(value) if result is None else result
                result[name] = kept
        return value if result is None else result
    if isinstance(value, list) and schema.items is not None:
        items = [prune(item, schema.items, unknown, path=f"{path}[{index}]") for index, item in enumerate(value)]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


def unknown_field_messages(paths: list[str]) -> list[str]:
    """The texts of warnings and strict errors for pruned fields."""
    return [f"unknown field {go_quote(path)}" for path in paths]


# --- Defaults ---------------------------------------------------------------------------------------------------------


def copy_json(value: Any) -> Any:
    """A deep copy of a JSON value."""
    if isinstance(value, dict):
        return {name: copy_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [copy_json(item) for item in value]
    return value


def apply_defaults(value: Any, schema: Schema) -> Any:
    """`value` with the schema's defaults where fields are missing, or null without being nullable."""
    if not schema.has_defaults:
        return value
    if isinstance(value, dict):
        result: dict[str, Any] | None = None
        for name, child in schema.properties.items():
            current = value.get(name, MISSING)
            if child.default is not MISSING and (current is MISSING or (current is None and not child.nullable)):
                result = dict(value) if result is None else result
                result[name] = current = copy_json(child.default)
            if current is not MISSING and child.has_defaults:
                filled = apply_defaults(current, child)
                if filled is not current:
                    result = dict(value) if result is None else result
                    result[name] = filled
        if schema.additional is not None:
            for name, current in value.items():
                if name not in schema.properties:
                    filled = _with_default(current, schema.additional)
                    if filled is not current:
                        result = dict(value) if result is None else result
                        result[name] = filled
        return value if result is None else result
    if isinstance(value, list) and schema.items is not None:
        element = schema.items
        items = [_with_default(item, element) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


def _with_default(value: Any, schema: Schema) -> Any:
    if value is None and not schema.nullable and schema.default is not MISSING:
        value = copy_json(schema.default)
    return apply_defaults(value, schema)


def drop_nulls(value: Any, schema: Schema | None) -> Any:
    """`value` without the nulls that the schema neither allows nor replaces by a default."""
    if isinstance(value, dict):
        result: dict[str, Any] | None = None
        for name, item in value.items():
            child = _child(schema, name) if schema is not None else None
            if item is None:
                if child is not None and not child.nullable and child.default is MISSING:
                    result = dict(value) if result is None else result
                    del result[name]
            elif isinstance(item, (dict, list)):
                kept = drop_nulls(item, child)
                if kept is not item:
                    result = dict(value) if result is None else result
                    result[name] = kept
        return value if result is None else result
    if isinstance(value, list):
        element = schema.items if schema is not None else None
        items = [drop_nulls(item, element) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


# --- Walking ----------------------------------------------------------------------------------------------------------

_STEP = re.compile(r"\.([A-Za-z0-9_$-]+)|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]|\[(\d+)\]")


def parse_simple_path(path: str) -> tuple[str | int, ...]:
    """The steps of a JSONPath without filters and wildcards (`.spec.a['b.c'][0]`).

    Raises:
        ValueError: the path has another form.
    """
    steps: list[str | int] = []
    position = 0
    while position < len(path):
        match = _STEP.match(path, position)
        if match is None:
            raise ValueError(f"{path!r} is not a simple JSONPath such as .spec.replicas")
        name = match[1] if match[1] is not None else match[2] if match[2] is not None else match[3]
        steps.append(int(match[4]) if name is None else re.sub(r"\\(.)", r"\1", name))
        position = match.end()
    return tuple(steps)


def dig(value: Any, steps: tuple[str | int, ...]) -> Any:
    """What lies at the end of `steps`, or `MISSING`."""
    for step in steps:
        if isinstance(step, str):
            if not isinstance(value, dict) or step not in value:
                return MISSING
            value = value[step]
        else:
            if not isinstance(value, list) or step >= len(value):
                return MISSING
            value = value[step]
    return value


def walk(schema: Schema, visit: Callable[[Schema], None]) -> None:
    """Call `visit` once for every node at and below `schema`, cycles included."""
    seen: set[int] = set()
    pending = [schema]
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        visit(node)
        pending.extend(node.properties.values())
        pending.extend(child for child in (node.additional, node.items, node.not_) if child is not None)
        pending.extend((*node.all_of, *node.any_of, *node.one_of))
