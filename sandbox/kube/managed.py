"""Field ownership (`metadata.managedFields`) and server-side apply.

Owns sets of fields, the comparison that tells what a write changed, merging, pruning and conflicts, after
sigs.k8s.io/structured-merge-diff. Pure: the time of the write is an argument.

A set of fields is kept in the form in which it goes over the wire (FieldsV1): a tree whose keys are `f:<field>`,
`k:<keys of a list item>` or `v:<value in a set>`. A node is a member of the set where it is empty or holds `.`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sandbox.kube.errors import ApiError
from sandbox.kube.goformat import go_json, go_quote
from sandbox.kube.schema import MISSING, Schema

FieldSet = dict[str, Any]
JsonObject = dict[str, Any]

_SELF: Final = "."
_MAX_UPDATERS: Final = 10
"""More than this many updaters are merged into one entry, so that an object does not grow without end."""

_STRIPPED: Final[FieldSet] = {
    "f:apiVersion": {},
    "f:kind": {},
    "f:metadata": {
        _SELF: {},
        "f:name": {},
        "f:namespace": {},
        "f:creationTimestamp": {},
        "f:selfLink": {},
        "f:uid": {},
        "f:clusterName": {},
        "f:generation": {},
        "f:managedFields": {},
        "f:resourceVersion": {},
    },
}
"""Fields that nobody owns."""


# --- Set algebra ------------------------------------------------------------------------------------------------------


def _member(node: FieldSet | None) -> bool:
    return node is not None and (not node or _SELF in node)


def _node(children: FieldSet, *, member: bool) -> FieldSet | None:
    if member:
        return {_SELF: {}, **children} if children else {}
    return children or None


def _union_node(left: FieldSet, right: FieldSet) -> FieldSet:
    if left is right:
        return left
    children = {name: node for name, node in left.items() if name != _SELF}
    for name, node in right.items():
        if name != _SELF:
            children[name] = _union_node(children[name], node) if name in children else node
    return _node(children, member=_member(left) or _member(right)) or {}


def union(left: FieldSet, right: FieldSet) -> FieldSet:
    """Fields of either set."""
    result = dict(left)
    for name, node in right.items():
        result[name] = _union_node(result[name], node) if name in result else node
    return result


def _difference_node(left: FieldSet, right: FieldSet | None) -> FieldSet | None:
    if right is None:
        return left
    children = {}
    for name, node in left.items():
        if name != _SELF and (kept := _difference_node(node, right.get(name))) is not None:
            children[name] = kept
    return _node(children, member=_member(left) and not _member(right))


def difference(left: FieldSet, right: FieldSet) -> FieldSet:
    """Fields of `left` that are not in `right`; what lies below a field of `right` stays."""
    result = {}
    for name, node in left.items():
        if (kept := _difference_node(node, right.get(name))) is not None:
            result[name] = kept
    return result


def _intersection_node(left: FieldSet, right: FieldSet | None) -> FieldSet | None:
    if right is None:
        return None
    children = {}
    for name, node in left.items():
        if name != _SELF and (kept := _intersection_node(node, right.get(name))) is not None:
            children[name] = kept
    return _node(children, member=_member(left) and _member(right))


def intersection(left: FieldSet, right: FieldSet) -> FieldSet:
    """Fields of both sets."""
    result = {}
    for name, node in left.items():
        if (kept := _intersection_node(node, right.get(name))) is not None:
            result[name] = kept
    return result


def paths(fields: FieldSet, prefix: str = "") -> Iterator[str]:
    """The members as people read them: `.spec.containers[name="a"].image`."""
    for name, node in sorted(fields.items()):
        if name == _SELF:
            continue
        kind, _, rest = name.partition(":")
        if kind == "f":
            path = f"{prefix}.{rest}"
        elif kind == "k":
            path = prefix + "[" + ",".join(f"{key}={go_json(value)}" for key, value in json.loads(rest).items()) + "]"
        else:
            path = f"{prefix}[={rest}]"
        if _member(node):
            yield path
        yield from paths(node, path)


# --- Values to sets ---------------------------------------------------------------------------------------------------


def _child(schema: Schema | None, name: str) -> Schema | None:
    if schema is None:
        return None
    found = schema.properties.get(name)
    return schema.additional if found is None else found


def _is_named(schema: Schema | None, name: str) -> bool:
    return schema is not None and name in schema.properties


def _is_granular_map(value: Any, schema: Schema | None) -> bool:
    return isinstance(value, dict) and not (schema is not None and schema.map_type == "atomic")


def _is_granular_list(value: Any, schema: Schema | None) -> bool:
    return isinstance(value, list) and schema is not None and schema.list_type in {"map", "set"}


def _item_name(item: Any, schema: Schema) -> str | None:
    """The path element of a list item, or `None` where it lacks its keys."""
    if schema.list_type == "set":
        return f"v:{go_json(item)}"
    if not isinstance(item, dict):
        return None
    keys = {}
    for key in schema.list_keys:
        value = item.get(key, MISSING)
        if value is MISSING and schema.items is not None and key in schema.items.properties:
            value = schema.items.properties[key].default
        if value is MISSING:
            continue
        keys[key] = value
    return f"k:{go_json(keys)}" if keys else None


def _by_name(items: Sequence[Any], schema: Schema) -> dict[str, Any]:
    """The items by path element; of repeated ones the first counts."""
    found: dict[str, Any] = {}
    for item in items:
        name = _item_name(item, schema)
        if name is not None:
            found.setdefault(name, item)
    return found


def field_set(value: Any, schema: Schema | None) -> FieldSet:
    """The fields that an applied configuration claims."""
    fields: FieldSet = {}
    for name, item in value.items():
        child = _child(schema, name)
        node = _claimed(item, child)
        empty = item is None or item in ({}, [])
        if node and not empty and _is_named(schema, name):
            fields[f"f:{name}"] = node
        else:
            fields[f"f:{name}"] = _node(node, member=True) or {}
    return fields


def _claimed(value: Any, schema: Schema | None) -> FieldSet:
    if _is_granular_map(value, schema):
        return field_set(value, schema)
    if _is_granular_list(value, schema):
        assert schema is not None
        return {
            name: _node(_claimed(item, schema.items), member=True) or {}
            for name, item in _by_name(value, schema).items()
        }
    return {}


# --- Comparison -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Comparison:
    """What a write did to an object."""

    added: FieldSet
    modified: FieldSet
    removed: FieldSet

    def changed(self) -> FieldSet:
        """Added and modified fields."""
        return union(self.added, self.modified)


def _everything(value: Any, schema: Schema | None) -> FieldSet:
    """The node of a value that is there on one side only: all its fields, containers included."""
    if _is_granular_map(value, schema):
        children = {f"f:{name}": _everything(item, _child(schema, name)) for name, item in value.items()}
    elif _is_granular_list(value, schema):
        assert schema is not None
        children = {name: _everything(item, schema.items) for name, item in _by_name(value, schema).items()}
    else:
        return {}
    return _node(children, member=True) or {}


def compare(old: Any, new: Any, schema: Schema | None) -> Comparison:
    """What changed from one object to the other."""
    result = Comparison({}, {}, {})
    _compare_members(
        {f"f:{name}": (item, _child(schema, name)) for name, item in old.items()},
        {f"f:{name}": (item, _child(schema, name)) for name, item in new.items()},
        result,
    )
    return result


def _compare_members(
    old: Mapping[str, tuple[Any, Schema | None]], new: Mapping[str, tuple[Any, Schema | None]], result: Comparison
) -> None:
    for name, (value, schema) in old.items():
        if name not in new:
            result.removed[name] = _everything(value, schema)
    for name, (value, schema) in new.items():
        if name not in old:
            result.added[name] = _everything(value, schema)
            continue
        former = old[name][0]
        if former is value or (former == value and type(former) is type(value)):
            continue
        below = _compare_values(former, value, schema)
        if below is None:
            result.modified[name] = {}
            continue
        for whole, part in (
            (result.added, below.added),
            (result.modified, below.modified),
            (result.removed, below.removed),
        ):
            if part:
                whole[name] = part


def _compare_values(old: Any, new: Any, schema: Schema | None) -> Comparison | None:
    """The comparison below two values that differ; `None` where they are leaves."""
    result = Comparison({}, {}, {})
    if _is_granular_map(old, schema) and _is_granular_map(new, schema):
        _compare_members(
            {f"f:{name}": (item, _child(schema, name)) for name, item in old.items()},
            {f"f:{name}": (item, _child(schema, name)) for name, item in new.items()},
            result,
        )
        return result
    if _is_granular_list(old, schema) and _is_granular_list(new, schema):
        assert schema is not None
        _compare_members(
            {name: (item, schema.items) for name, item in _by_name(old, schema).items()},
            {name: (item, schema.items) for name, item in _by_name(new, schema).items()},
            result,
        )
        return result
    return None


# --- Managers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes, and through which door."""

    manager: str
    api_version: str
    subresource: str = ""
    ignored: tuple[str, ...] = ()
    """Top-level fields that this door resets, so that writing them claims nothing."""
    only: str = ""
    """The one top-level field that this door writes, where it writes one only."""

    def filtered(self, fields: FieldSet) -> FieldSet:
        """The fields that can be owned through this door."""
        if self.only:
            return {name: node for name, node in fields.items() if name == f"f:{self.only}"}
        if self.ignored:
            return {name: node for name, node in fields.items() if name.removeprefix("f:") not in self.ignored}
        return fields

    def is_entry(self, entry: Mapping[str, Any], operation: str) -> bool:
        """Whether `entry` is this writer's own."""
        return (
            entry.get("manager") == self.manager
            and entry.get("operation") == operation
            and entry.get("subresource", "") == self.subresource
            and (operation == "Apply" or entry.get("apiVersion") == self.api_version)
        )

    def entry(self, operation: str, fields: FieldSet, now: str) -> JsonObject:
        """A `ManagedFieldsEntry`."""
        entry: JsonObject = {
            "manager": self.manager,
            "operation": operation,
            "apiVersion": self.api_version,
            "time": now,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        }
        if self.subresource:
            entry["subresource"] = self.subresource
        return entry


def _sorted(entries: list[JsonObject]) -> list[JsonObject]:
    return sorted(
        entries,
        key=lambda entry: (
            entry.get("operation", ""),
            entry.get("time", ""),
            entry.get("manager", ""),
            entry.get("apiVersion", ""),
            entry.get("subresource", ""),
        ),
    )


def without_metadata(meta: Mapping[str, Any]) -> JsonObject:
    """`metadata` without managedFields."""
    return {name: value for name, value in meta.items() if name != "managedFields"}


def requested_entries(new_meta: Mapping[str, Any], old_meta: Mapping[str, Any]) -> list[JsonObject]:
    """The entries to start from: those of the request where a client edits them on purpose, else the stored ones."""
    given = new_meta.get("managedFields")
    if given in ([], [{}]):
        return []
    if isinstance(given, list) and all(isinstance(entry, dict) and "fieldsV1" in entry for entry in given):
        return given
    stored: list[JsonObject] = old_meta.get("managedFields") or []
    return stored


def after_update(
    entries: list[JsonObject],
    old: JsonObject,
    new: JsonObject,
    schema: Schema,
    writer: Writer,
    *,
    now: str,
    created: bool,
) -> list[JsonObject]:
    """The entries after a create, update or patch. `old` is empty for a create."""
    if not entries and not created:
        return entries  # Ownership was reset by a client; it starts again with the next apply.
    comparison = compare(old, new, schema)
    claimed = writer.filtered(difference(comparison.changed(), _STRIPPED))
    if not claimed and not comparison.removed:
        return entries
    result: list[JsonObject] = []
    mine: JsonObject | None = None
    for entry in entries:
        fields = entry["fieldsV1"]
        own = writer.is_entry(entry, "Update")
        kept = difference(fields, comparison.removed if own else union(comparison.removed, comparison.changed()))
        if own:
            mine = {**entry, "fieldsV1": kept}
        elif kept:
            result.append(entry if kept == fields else {**entry, "fieldsV1": kept})
    if claimed:
        former = mine["fieldsV1"] if mine is not None else {}
        result.append(writer.entry("Update", union(former, claimed), now))
    elif mine is not None and mine["fieldsV1"]:
        result.append(mine)
    return _capped(_sorted(result))


def _capped(entries: list[JsonObject]) -> list[JsonObject]:
    updaters = [entry for entry in entries if entry.get("operation") == "Update"]
    if len(updaters) <= _MAX_UPDATERS:
        return entries
    oldest = sorted(updaters, key=lambda entry: entry.get("time", ""))[: len(updaters) - _MAX_UPDATERS + 1]
    merged: FieldSet = {}
    for entry in oldest:
        merged = union(merged, entry["fieldsV1"])
    bucket = {**oldest[-1], "manager": "ancient-changes", "fieldsV1": merged}
    bucket.pop("subresource", None)
    return _sorted([entry for entry in entries if entry not in oldest] + [bucket])


# --- Apply ------------------------------------------------------------------------------------------------------------


def merge(live: Any, config: Any, schema: Schema | None) -> Any:
    """`live` with everything that `config` says, containers merged field by field as the schema allows."""
    if _is_granular_map(live, schema) and isinstance(config, dict):
        result = dict(live)
        for name, item in config.items():
            result[name] = merge(result[name], item, _child(schema, name)) if name in result else item
        return result
    if _is_granular_list(live, schema) and isinstance(config, list):
        assert schema is not None
        applied = _by_name(config, schema)
        items = []
        for item in live:
            name = _item_name(item, schema)
            items.append(merge(item, applied.pop(name), schema.items) if name in applied else item)
        return items + list(applied.values())
    return config


def _prune(value: Any, schema: Schema | None, last: FieldSet, owned: FieldSet) -> Any:
    """`value` without the fields in `last` that nobody owns any more."""
    if _is_granular_map(value, schema):
        result = dict(value)
        for name, node in last.items():
            field = name.removeprefix("f:")
            if not name.startswith("f:") or field not in value:
                continue
            keeper = owned.get(name)
            named = _is_named(schema, field)
            if (_member(node) or named) and not (keeper is not None and (_member(keeper) or named)):
                del result[field]
            else:
                result[field] = _prune(value[field], _child(schema, field), node, keeper or {})
        return result
    if _is_granular_list(value, schema):
        assert schema is not None
        items = []
        for item in value:
            name = _item_name(item, schema) or ""
            node, keeper = last.get(name), owned.get(name)
            if node is None:
                items.append(item)
            elif not _member(node) or _member(keeper):
                items.append(_prune(item, schema.items, node, keeper or {}))
        return items
    return value


def apply(
    live: JsonObject, config: JsonObject, schema: Schema, writer: Writer, *, now: str, force: bool, created: bool
) -> tuple[JsonObject, list[JsonObject]]:
    """Server-side apply of `config` on `live` (empty for a new object).

    Returns:
        The merged object without managedFields, and its managedFields.

    Raises:
        ApiError: 409 with a cause per field that another manager owns with another value.
    """
    entries: list[JsonObject] = live.get("metadata", {}).get("managedFields") or []
    bare = {**live, "metadata": without_metadata(live["metadata"])} if "metadata" in live else live
    if not entries and not created:
        before = difference(compare({}, bare, schema).added, _STRIPPED)
        entries = [Writer("before-first-apply", writer.api_version).entry("Update", before, now)]
    claimed = writer.filtered(difference(field_set(config, schema), _STRIPPED))
    last: FieldSet = next((e["fieldsV1"] for e in entries if writer.is_entry(e, "Apply")), {})
    others = [entry for entry in entries if not writer.is_entry(entry, "Apply")]
    merged = merge(bare, config, schema)
    if last:
        owned = claimed
        for entry in others:
            owned = union(owned, entry["fieldsV1"])
        merged = _prune(merged, schema, last, owned)
    comparison = compare(bare, merged, schema)
    changed = writer.filtered(comparison.changed())
    if not force:
        _refuse_conflicts(others, changed)
    result = []
    lost = union(changed, comparison.removed)
    for entry in others:
        kept = difference(entry["fieldsV1"], lost)
        if kept:
            result.append({**entry, "fieldsV1": kept})
    previous = next((entry for entry in entries if writer.is_entry(entry, "Apply")), None)
    if claimed:
        unchanged = previous is not None and previous["fieldsV1"] == claimed and merged == bare
        result.append(previous if unchanged and previous else writer.entry("Apply", claimed, now))
    return merged, _sorted(result)


def _refuse_conflicts(others: list[JsonObject], changed: FieldSet) -> None:
    conflicts: list[tuple[str, str]] = []
    for entry in others:
        who = go_quote(entry.get("manager", ""))
        if entry.get("subresource"):
            who += f" with subresource {go_quote(entry['subresource'])}"
        if entry.get("operation") == "Update":
            who += f" using {entry.get('apiVersion')}"
        conflicts += [(who, path) for path in paths(intersection(entry["fieldsV1"], changed))]
    if not conflicts:
        return
    if len(conflicts) == 1:
        who, path = conflicts[0]
        message = f"Apply failed with 1 conflict: conflict with {who}: {path}"
    else:
        lines = []
        for who in sorted({who for who, _ in conflicts}):
            lines.append(f"conflicts with {who}:")
            lines += [f"- {path}" for found, path in conflicts if found == who]
        message = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path} for who, path in conflicts
    ]
    raise ApiError(409, "Conflict", message, {"causes": causes})
