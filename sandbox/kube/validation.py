"""Judges values against structural schemas, in the words of the real API server.

Owns the texts of k8s.io/kube-openapi `validation` as apiextensions-apiserver reports them, the checks of list-type set
and map, and the rules for object metadata. Pure. CEL rules are in `cel.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sandbox.kube.errors import (
    FieldError,
    FieldErrorType,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_long,
    too_many,
)
from sandbox.kube.formats import FORMATS, go_regex
from sandbox.kube.goformat import go_json, go_number, go_quote
from sandbox.kube.schema import MISSING, Schema
from sandbox.kube.selectors import is_label_value, is_qualified_name

_NO_PATH: Final = "<nil>"
"""How the real server prints the path of an error at the root."""

_INTEGER_LIMITS: Final = {"int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1)}


_EXACT: Final = 1 << 53
"""From here on floating-point numbers no longer tell neighbouring integers apart, and are no integers."""


def json_equal(left: Any, right: Any) -> bool:
    """Equality of JSON values, where `true` is not `1`."""
    if left is right:
        return True
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool) and left == right
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and left.keys() == right.keys()
            and all(json_equal(item, right[name]) for name, item in left.items())
        )
    if isinstance(left, list):
        return (
            isinstance(right, list)
            and len(left) == len(right)
            and all(json_equal(a, b) for a, b in zip(left, right, strict=True))
        )
    return bool(left == right)


def json_type(value: Any) -> str:
    """The JSON type of `value` in the words of JSON schema."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def list_key(item: Any, keys: Sequence[str]) -> str | None:
    """What identifies an item of a list of type map; `None` where the item is no object."""
    return go_json({key: item[key] for key in keys if key in item}) if isinstance(item, dict) else None


def _bound(bound: float, value: float) -> str:
    """A limit as texts show it: cut to an integer where the value is one."""
    return go_number(int(bound) if isinstance(value, int) else float(bound))


class _Validator:
    """One pass over a value. `prefix` is put before paths of errors, but not into their texts (as for /status)."""

    def __init__(self, prefix: str, root: str, *, int_or_string: bool) -> None:
        self._prefix = prefix
        self._root = root
        self._int_or_string = int_or_string

    def _shown(self, path: str) -> str:
        return path or self._root

    def _path(self, path: str) -> str:
        path = path.removeprefix(".")
        if not self._prefix:
            return path or _NO_PATH
        return f"{self._prefix}.{path}" if path else self._prefix

    def _invalid(self, path: str, value: Any, text: str) -> FieldError:
        return invalid_value(self._path(path), value, f"{path} in body {text}")

    def check(self, value: Any, schema: Schema, path: str, old: Any) -> Iterator[FieldError]:
        if old is not MISSING and json_equal(value, old):
            return  # Ratcheting: what was stored and has not changed is not judged again.
        yield from self._check_type(value, schema, path)
        yield from self._check_junctors(value, schema, path)
        if isinstance(value, str):
            yield from self._check_string(value, schema, path)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield from self._check_number(value, schema, path)
        elif isinstance(value, list):
            yield from self._check_list(value, schema, path, old)
        elif isinstance(value, dict):
            yield from self._check_object(value, schema, path, old)
        if schema.enum is not None and not any(json_equal(value, allowed) for allowed in schema.enum):
            yield not_supported(self._path(path), value, schema.enum)

    def _check_type(self, value: Any, schema: Schema, path: str) -> Iterator[FieldError]:
        types: tuple[str, ...] = (schema.type,) if schema.type else ()
        if schema.int_or_string:
            types = ("integer", "string") if self._int_or_string else ()
        found = json_type(value)
        if not types or (value is None and schema.nullable):
            return
        fits = found in types or (found == "integer" and "number" in types)
        if found == "number" and "integer" in types and value.is_integer() and abs(value) < _EXACT:
            fits = True
        if not fits:
            wanted = ",".join(types)
            if schema.format and not isinstance(value, (str, list)):
                # With a format, the real server compares formats, and only numbers have one to tell.
                wanted, found = schema.format, {"integer": "int64", "number": "float64"}.get(found, "")
            yield FieldError(
                FieldErrorType.TYPE_INVALID,
                self._path(path),
                found,
                f"{self._shown(path)} in body must be of type {wanted}: {go_quote(found)}",
            )

    def _check_string(self, value: str, schema: Schema, path: str) -> Iterator[FieldError]:
        if schema.max_length is not None and len(value) > schema.max_length:
            yield too_long(self._path(path), schema.max_length)
        elif schema.min_length is not None and len(value) < schema.min_length:
            yield self._invalid(path, value, f"should be at least {schema.min_length} chars long")
        elif schema.pattern and not go_regex(schema.pattern).search(value):
            yield self._invalid(path, value, f"should match '{schema.pattern}'")
        if schema.format and schema.type in ("string", ""):
            known = FORMATS.get(schema.format.replace("-", ""))
            if known is not None and not known(value):
                yield FieldError(
                    FieldErrorType.TYPE_INVALID,
                    self._path(path),
                    value,
                    f"{path} in body must be of type {schema.format}: {go_quote(value)}",
                )

    def _check_number(self, value: float, schema: Schema, path: str) -> Iterator[FieldError]:
        if schema.type == "integer" and (limits := _INTEGER_LIMITS.get(schema.format or "int64")) is not None:
            low, high = limits
            if not low <= value <= high or not float(value).is_integer():
                form = f"with format {schema.format}" if schema.format in _INTEGER_LIMITS else "(default format)"
                yield invalid_value(
                    _NO_PATH if not self._prefix else self._prefix,
                    "",
                    f"Checked value must be of type integer {form} in {path}",
                )
        if schema.multiple_of is not None and value % schema.multiple_of:
            yield self._invalid(path, value, f"should be a multiple of {_bound(schema.multiple_of, value)}")
        if schema.maximum is not None:
            if schema.exclusive_maximum and value >= schema.maximum:
                yield self._invalid(path, value, f"should be less than {_bound(schema.maximum, value)}")
            elif value > schema.maximum:
                yield self._invalid(path, value, f"should be less than or equal to {_bound(schema.maximum, value)}")
        if schema.minimum is not None:
            if schema.exclusive_minimum and value <= schema.minimum:
                yield self._invalid(path, value, f"should be greater than {_bound(schema.minimum, value)}")
            elif value < schema.minimum:
                yield self._invalid(path, value, f"should be greater than or equal to {_bound(schema.minimum, value)}")

    def _check_list(self, value: list[Any], schema: Schema, path: str, old: Any) -> Iterator[FieldError]:
        if schema.items is not None:
            before: dict[str | None, Any] = {}
            if schema.list_type == "map" and isinstance(old, list):
                before = {list_key(item, schema.list_keys): item for item in old}
            for index, item in enumerate(value):
                former = before.get(list_key(item, schema.list_keys), MISSING) if before else MISSING
                yield from self.check(item, schema.items, f"{path}[{index}]", former)
        if schema.min_items is not None and len(value) < schema.min_items:
            yield self._invalid(path, len(value), f"should have at least {schema.min_items} items")
        if schema.max_items is not None and len(value) > schema.max_items:
            yield too_many(self._path(path), len(value), schema.max_items)

    def _check_object(self, value: dict[str, Any], schema: Schema, path: str, old: Any) -> Iterator[FieldError]:
        if schema.min_properties is not None and len(value) < schema.min_properties:
            yield self._invalid(path, len(value), f"should have at least {schema.min_properties} properties")
        if schema.max_properties is not None and len(value) > schema.max_properties:
            yield too_many(self._path(path), len(value), schema.max_properties)
        former = old if isinstance(old, dict) else {}
        for name, item in value.items():
            child = schema.properties.get(name, schema.additional)
            if child is not None:
                # The real server's texts name fields without a property of their own `.name` where there is no parent.
                where = f"{path}.{name}" if path or name not in schema.properties else name
                yield from self.check(item, child, where, former.get(name, MISSING))
        for name in schema.required:
            if name not in value:
                yield required(self._path(f"{path}.{name}" if path else name))

    def _check_junctors(self, value: Any, schema: Schema, path: str) -> Iterator[FieldError]:
        where = self._prefix or _NO_PATH
        if schema.any_of:
            failures = [list(self.check(value, option, path, MISSING)) for option in schema.any_of]
            if all(failures):
                yield invalid_value(where, "", f"{go_quote(path)} must validate at least one schema (anyOf)")
                yield from failures[0]
        if schema.one_of:
            failures = [list(self.check(value, option, path, MISSING)) for option in schema.one_of]
            valid = sum(1 for failure in failures if not failure)
            if valid != 1:
                found = f"Found {valid} valid alternatives" if valid else "Found none valid"
                yield invalid_value(
                    where, "", f"{go_quote(path)} must validate one and only one schema (oneOf). {found}"
                )
                if not valid:
                    yield from failures[0]
        if schema.all_of:
            failures = [list(self.check(value, option, path, MISSING)) for option in schema.all_of]
            for failure in failures:
                yield from failure
            if any(failures):
                none = ". None validated" if all(failures) else ""
                yield invalid_value(where, "", f"{go_quote(path)} must validate all the schemas (allOf){none}")
        if schema.not_ is not None and not any(True for _ in self.check(value, schema.not_, path, MISSING)):
            yield invalid_value(where, "", f"{go_quote(path)} must not validate the schema (not)")


def validate(
    value: Any,
    schema: Schema,
    old: Any = MISSING,
    *,
    prefix: str = "",
    root: str = "<root>",
    int_or_string: bool = True,
) -> list[FieldError]:
    """What is wrong with `value`; what it shares with `old` is taken as it is. `root` is what texts call the whole.

    `int_or_string` says whether the type of such values is judged; the real server does not where it looks at defaults.
    """
    return list(_Validator(prefix, root, int_or_string=int_or_string).check(value, schema, "", old))


def validate_lists(value: Any, schema: Schema, path: str = "") -> list[FieldError]:
    """Repeated items in lists of type set and repeated keys in lists of type map."""
    errors: list[FieldError] = []
    if isinstance(value, list):
        if schema.list_type == "set":
            errors += _repeated(value, value, path)
        elif schema.list_type == "map":
            keys = [
                {key: item[key] for key in schema.list_keys if key in item} for item in value if isinstance(item, dict)
            ]
            errors += _repeated(keys, keys, path)
        if schema.items is not None and isinstance(next(iter(value), None), (dict, list)):
            for index, item in enumerate(value):
                errors += validate_lists(item, schema.items, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            child = schema.properties.get(name)
            if child is not None:
                errors += validate_lists(item, child, f"{path}.{name}" if path else name)
            elif schema.additional is not None:
                errors += validate_lists(item, schema.additional, f"{path}[{name}]")
    return errors


def _repeated(items: Sequence[Any], shown: Sequence[Any], path: str) -> Iterator[FieldError]:
    if len(items) < 2:
        return
    counts: dict[str, int] = {}
    for index, item in enumerate(items):
        text = go_json(item)
        counts[text] = counts.get(text, 0) + 1
        if counts[text] == 2:  # The second appearance is reported once, however many follow.
            yield duplicate(f"{path}[{index}]", shown[index])


# --- Object metadata --------------------------------------------------------------------------------------------------

_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")

SUBDOMAIN_TEXT: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_TEXT: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
DNS1035_TEXT: Final = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
_QUALIFIED_TEXT: Final = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_LABEL_VALUE_TEXT: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_ANNOTATIONS_LIMIT: Final = 256 * 1024


def name_error(kind_of_name: str, name: str) -> str | None:
    """Why `name` is no valid name of the kind `subdomain`, `label`, `dns1035` or `path`; `None` where it is."""
    if kind_of_name == "path":
        if name in {".", ".."}:
            return f"may not be '{name}'"
        bad = next((char for char in "/%" if char in name), None)
        return None if bad is None else f"may not contain '{bad}'"
    pattern, limit, text = {
        "subdomain": (_SUBDOMAIN, 253, SUBDOMAIN_TEXT),
        "label": (_LABEL, 63, LABEL_TEXT),
        "dns1035": (_DNS1035, 63, DNS1035_TEXT),
    }[kind_of_name]
    if len(name) > limit:
        return f"must be no more than {limit} bytes"
    return None if pattern.fullmatch(name) else text


def validate_labels(labels: Mapping[str, Any] | None, path: str) -> list[FieldError]:
    """Keys and values of labels."""
    errors = []
    for key, value in (labels or {}).items():
        if not is_qualified_name(key):
            errors.append(invalid_value(path, key, _QUALIFIED_TEXT))
        if not isinstance(value, str) or not is_label_value(value):
            errors.append(invalid_value(path, value, _LABEL_VALUE_TEXT))
    return errors


def validate_metadata(meta: Mapping[str, Any], *, kind_of_name: str, namespaced: bool) -> list[FieldError]:
    """The rules for `metadata` of a new object."""
    errors: list[FieldError] = []
    if prefix := meta.get("generateName"):
        why = name_error(kind_of_name, prefix.rstrip("-") + "a")
        if why:
            errors.append(invalid_value("metadata.generateName", prefix, why))
    name = meta.get("name") or ""
    if not name:
        errors.append(required("metadata.name", "name or generateName is required"))
    elif why := name_error(kind_of_name, name):
        errors.append(invalid_value("metadata.name", name, why))
    if namespaced and not meta.get("namespace"):
        errors.append(required("metadata.namespace"))
    elif not namespaced and meta.get("namespace"):
        errors.append(forbidden_field("metadata.namespace", "not allowed on this type"))
    return errors + _shared_metadata_rules(meta)


def _shared_metadata_rules(meta: Mapping[str, Any]) -> list[FieldError]:
    errors = validate_labels(meta.get("labels"), "metadata.labels")
    annotations = meta.get("annotations") or {}
    errors += [
        invalid_value("metadata.annotations", key, _QUALIFIED_TEXT)
        for key in annotations
        if not is_qualified_name(key.lower())
    ]
    if sum(len(key) + len(str(value)) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        errors.append(too_long("metadata.annotations", _ANNOTATIONS_LIMIT))
    for index, owner in enumerate(meta.get("ownerReferences") or []):
        errors += [
            invalid_value(f"metadata.ownerReferences[{index}].{name}", owner.get(name, ""), "must not be empty")
            if name != "apiVersion"
            else invalid_value(f"metadata.ownerReferences[{index}].apiVersion", "", "version must not be empty")
            for name in ("apiVersion", "kind", "name", "uid")
            if not owner.get(name)
        ]
    controllers = [owner for owner in meta.get("ownerReferences") or [] if owner.get("controller")]
    if len(controllers) > 1:
        names = " and ".join(f"{owner['kind']}/{owner['name']}" for owner in controllers[:2])
        errors.append(
            invalid_value(
                "metadata.ownerReferences",
                meta["ownerReferences"],
                f'Only one reference can have Controller set to true. Found "true" in references for {names}',
            )
        )
    errors += [
        invalid_value("metadata.finalizers", finalizer, _QUALIFIED_TEXT)
        for finalizer in meta.get("finalizers") or []
        if not is_qualified_name(finalizer)
    ]
    finalizers = meta.get("finalizers") or []
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        errors.append(
            invalid_value(
                "metadata.finalizers", finalizers, "finalizer orphan and foregroundDeletion cannot be both set"
            )
        )
    return errors


def validate_metadata_update(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[FieldError]:
    """The rules for changes of `metadata`: identity and the marks of deletion are the server's."""
    errors: list[FieldError] = []
    if old.get("deletionTimestamp"):
        added = [item for item in new.get("finalizers") or [] if item not in (old.get("finalizers") or [])]
        if added:
            listed = ", ".join(go_quote(item) for item in added)
            errors.append(
                forbidden_field(
                    "metadata.finalizers",
                    "no new finalizers can be added if the object is being deleted, found new finalizers "
                    f"[]string{{{listed}}}",
                )
            )
    errors += [
        invalid_value(f"metadata.{name}", new.get(name), "field is immutable")
        for name in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds")
        if new.get(name) != old.get(name)
    ]
    return errors + _shared_metadata_rules(new)
