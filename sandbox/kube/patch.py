"""The three client-side patch types: JSON patch, merge patch and strategic merge patch.

Pure: an object and a patch in, a new object out; what does not change is shared with the input. Server-side apply is in
`managed.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

import jsonpatch
import jsonpointer

from sandbox.kube.errors import ApiError, bad_request
from sandbox.kube.schema import Schema

_DIRECTIVE: Final = "$patch"
_RETAIN_KEYS: Final = "$retainKeys"
_DELETE_FROM: Final = "$deleteFromPrimitiveList/"
_SET_ORDER: Final = "$setElementOrder/"


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902, with one liberty of the real server: `replace` also sets a field that is not there yet.

    Raises:
        ApiError: 400 where the patch is malformed, 422 where it does not fit the document (a failed test, say).
    """
    if not isinstance(operations, list) or not all(isinstance(item, dict) for item in operations):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    result = copy.deepcopy(document)
    try:
        for operation in operations:
            result = jsonpatch.JsonPatch([_lenient(operation, result)]).apply(result, in_place=True)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError) as error:
        text = "the server rejected our request due to an error in our request"
        raise ApiError(422, "Invalid", text, {}) from error
    return result


def _lenient(operation: Mapping[str, Any], document: Any) -> Mapping[str, Any]:
    path = operation.get("path")
    if operation.get("op") != "replace" or not isinstance(path, str):
        return operation
    parent, name = jsonpointer.JsonPointer(path).to_last(document)
    return {**operation, "op": "add"} if isinstance(parent, dict) and name not in parent else operation


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7386: objects are merged, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = merge_patch(result.get(name), value)
        else:
            result[name] = value
    return result


def strategic_merge_patch(document: Mapping[str, Any], patch: Any, schema: Schema) -> dict[str, Any]:
    """A merge patch that knows from `schema` which lists are merged, and by which key.

    Raises:
        ApiError: 400, the patch is malformed or a list item lacks its merge key.
    """
    if not isinstance(patch, dict):
        raise bad_request("error decoding patch: a strategic merge patch is an object")
    return _merge_object(document, patch, schema)


def _merge_object(document: Mapping[str, Any], patch: Mapping[str, Any], schema: Schema | None) -> dict[str, Any]:
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {name: value for name, value in patch.items() if name != _DIRECTIVE}
    if directive == "delete":
        return {}
    if directive not in {None, "merge"}:
        raise bad_request(f"Unknown value of $patch: {directive!r}; use replace, delete or merge")
    result = dict(document)
    if isinstance(retained := patch.get(_RETAIN_KEYS), list):
        result = {name: value for name, value in result.items() if name in retained}
    for name, value in patch.items():
        if name.startswith(_DELETE_FROM):
            field = name.removeprefix(_DELETE_FROM)
            result[field] = [item for item in result.get(field) or [] if item not in value]
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        child = None
        if schema is not None:
            child = schema.properties.get(name, schema.additional)
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            former = result.get(name)
            merged = _merge_object(former if isinstance(former, dict) else {}, value, child)
            if value.get(_DIRECTIVE) == "delete" and not merged:
                result.pop(name, None)
            else:
                result[name] = merged
        elif isinstance(value, list) and child is not None and child.patch_merge:
            former = result.get(name)
            result[name] = _merge_list(former if isinstance(former, list) else [], value, child, name)
        else:
            result[name] = value
    for name, order in patch.items():
        if name.startswith(_SET_ORDER):
            field = name.removeprefix(_SET_ORDER)
            key = schema.properties[field].merge_key if schema is not None and field in schema.properties else ""
            if isinstance(result.get(field), list):
                former = document.get(field)
                result[field] = _in_order(result[field], order, former if isinstance(former, list) else [], key)
    return result


def _merge_list(former: list[Any], patch: list[Any], schema: Schema, name: str) -> list[Any]:
    if not schema.merge_key:
        more = [item for index, item in enumerate(patch) if item not in former and item not in patch[:index]]
        return _in_order(former + more, patch, former, "")
    key = schema.merge_key
    if any(isinstance(item, dict) and item.get(_DIRECTIVE) == "replace" for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and _DIRECTIVE in item)]
    result = list(former)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key} (in {name})")
        matching = [i for i, found in enumerate(result) if isinstance(found, dict) and found.get(key) == item[key]]
        if item.get(_DIRECTIVE) == "delete":
            result = [found for i, found in enumerate(result) if i not in matching]
        elif matching:
            # Two ports of one number differ by protocol, which is no merge key: the first one is patched, as the real
            # server does.
            result[matching[0]] = _merge_object(result[matching[0]], item, schema.items)
        else:
            result.append(_merge_object({}, item, schema.items))
    return _in_order(result, [item for item in patch if _DIRECTIVE not in item], former, key)


def _in_order(items: list[Any], order: list[Any], former: list[Any], key: str) -> list[Any]:
    """`items` as the real server puts them: those named by `order` in that order, the others as far back as possible.

    An item that is not named comes before a named one only where it stood before it in `former`.
    """

    def identity(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    wanted, known = [identity(item) for item in order], [identity(item) for item in former]
    named = sorted((item for item in items if identity(item) in wanted), key=lambda item: wanted.index(identity(item)))
    others = [item for item in items if identity(item) not in wanted]
    result: list[Any] = []
    while named and others:
        left, right = identity(others[0]), identity(named[0])
        earlier = right in known and left in known and known.index(left) < known.index(right)
        result.append(others.pop(0) if earlier else named.pop(0))
    return [*result, *named, *others]
