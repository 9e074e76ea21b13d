"""The rules that an update goes through: what belongs to the server, what each subresource may write, what is judged.

Pure functions, used by `api.py`.
"""

from __future__ import annotations

from typing import Any, Final

from sandbox.kube import managed
from sandbox.kube.cel import evaluate
from sandbox.kube.errors import ApiError, FieldError, FieldErrorType, invalid, invalid_value, qualified, required
from sandbox.kube.goformat import go_quote
from sandbox.kube.options import WriteOptions
from sandbox.kube.resources import Resource
from sandbox.kube.schema import MISSING, dig, parse_simple_path
from sandbox.kube.selectors import is_qualified_name
from sandbox.kube.validation import validate, validate_lists

JsonObject = dict[str, Any]

_BLOCKS_CEL: Final = frozenset(
    {
        FieldErrorType.NOT_SUPPORTED,
        FieldErrorType.REQUIRED,
        FieldErrorType.TOO_LONG,
        FieldErrorType.TOO_MANY,
        FieldErrorType.TYPE_INVALID,
    }
)
_NOT_CHECKED: Final = FieldError(
    FieldErrorType.INVALID,
    "<nil>",
    None,
    "some validation rules were not checked because the object was invalid; correct the existing errors to complete "
    "validation",
)
_STANDARD_FINALIZERS: Final = frozenset({"orphan", "foregroundDeletion", "kubernetes"})


def writer(resource: Resource, options: WriteOptions, subresource: str) -> managed.Writer:
    """The owner of the fields that a request writes."""
    if subresource == "status":
        # A status can be written with its own door only; built-in kinds let metadata through with it.
        only = "status" if resource.custom else ""
        return managed.Writer(options.manager, resource.api_version, "status", ignored=("spec",), only=only)
    ignored = ("status",) if resource.status else ()
    return managed.Writer(options.manager, resource.api_version, subresource, ignored=ignored)


def unversioned(meta: JsonObject) -> JsonObject:
    """`metadata` without what changes at every write."""
    return {name: value for name, value in meta.items() if name not in {"managedFields", "resourceVersion"}}


def new_metadata(given: JsonObject) -> JsonObject:
    """The metadata of a new object, without what only the server sets.

    Raises:
        ApiError: 500, as the real server answers to a resourceVersion.
    """
    if given.get("resourceVersion"):
        raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
    left_out = {"deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation", "resourceVersion"}
    return {name: value for name, value in given.items() if name not in left_out}


_OF_THE_SERVER: Final = ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")


def carried(meta: JsonObject, old_meta: JsonObject, resource: Resource) -> JsonObject:
    """The metadata of an update, with what belongs to the server taken from the stored object."""
    result = {name: value for name, value in meta.items() if name not in {"managedFields", "selfLink"}}
    if not result.get("uid"):
        result["uid"] = old_meta["uid"]
    result["name"] = old_meta["name"]
    if resource.namespaced:
        result["namespace"] = old_meta["namespace"]
    for name in _OF_THE_SERVER:
        if name in old_meta:
            result[name] = old_meta[name]
        else:
            result.pop(name, None)
    for name in ("labels", "annotations", "finalizers", "ownerReferences"):
        if name in result and not result[name]:
            del result[name]
    return result


def through_door(resource: Resource, obj: JsonObject, old: JsonObject, subresource: str) -> JsonObject:
    """What remains of a change at the main resource, or at its status."""
    bare_old = {**old, "metadata": unversioned(old["metadata"])}
    if subresource == "status":
        result = bare_old
        if not resource.custom:
            meta = {**obj["metadata"]}
            if "ownerReferences" in old["metadata"]:
                meta["ownerReferences"] = old["metadata"]["ownerReferences"]
            result = {**bare_old, "metadata": meta}
        if "status" in obj:
            return {**result, "status": obj["status"]}
        return {name: value for name, value in result.items() if name != "status"}
    if resource.status:
        if "status" in old:
            return {**obj, "status": old["status"]}
        return {name: value for name, value in obj.items() if name != "status"}
    return obj


def count_generation(resource: Resource, obj: JsonObject, old: JsonObject) -> None:
    """Count a change of anything but metadata and status. Changes `obj`, whose metadata `carried` has made."""
    if not (resource.generation or resource.custom):
        return
    ignored = {"metadata", "status"} if resource.status else {"metadata"}
    names = (obj.keys() | old.keys()) - ignored
    if any(obj.get(name, MISSING) != old.get(name, MISSING) for name in names):
        obj["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1


def judge_custom(resource: Resource, obj: JsonObject, old: JsonObject | None, subresource: str) -> list[FieldError]:
    """What is wrong with a custom resource, besides its metadata."""
    former: Any = MISSING if old is None else old
    if subresource == "status":
        errors: list[FieldError] = []
        schema = resource.schema.properties.get("status")
        if "status" in obj and schema is not None:
            assert old is not None
            errors += validate(obj["status"], schema, old.get("status", MISSING), prefix="status")
    else:
        bare = {name: value for name, value in obj.items() if name != "metadata"}
        bare_old = {n: v for n, v in old.items() if n != "metadata"} if old is not None else MISSING
        errors = validate(bare, resource.schema, bare_old)
        errors += _judge_scale(resource, obj)
    if old is None or not validate_lists(old, resource.schema):
        errors += validate_lists(obj, resource.schema)
    if not resource.schema.has_rules:
        return errors
    if any(error.type in _BLOCKS_CEL for error in errors):
        return [*errors, _NOT_CHECKED]
    return errors + evaluate(obj, resource.schema, former)


def _judge_scale(resource: Resource, obj: JsonObject) -> list[FieldError]:
    if resource.scale is None:
        return []
    replicas = dig(obj, parse_simple_path(resource.scale.spec))
    if isinstance(replicas, int) and replicas < 0:
        return [invalid_value(resource.scale.spec, replicas, "should be a non-negative integer")]
    return []


def warn_finalizers(obj: JsonObject, old_meta: JsonObject, options: WriteOptions) -> None:
    """Warn of new finalizers whose names could clash."""
    known = old_meta.get("finalizers") or []
    for name in obj["metadata"].get("finalizers") or []:
        if name in known or "/" in name or name in _STANDARD_FINALIZERS or not is_qualified_name(name):
            continue
        advice = "prefer a domain-qualified finalizer name"
        if "." in name:
            advice += " including a path (/)"
        options.warnings.append(
            f"metadata.finalizers: {go_quote(name)}: {advice} to avoid accidental conflicts with other finalizer "
            "writers"
        )


def manager_required() -> ApiError:
    """422: an apply must say who applies."""
    error = required("fieldManager", "is required for apply patch")
    return invalid("meta.k8s.io", "PatchOptions", "", [error])


def unsupported_verb(resource: Resource, verb: str) -> ApiError:
    """405: the resource has no such verb."""
    name = qualified(resource.group, resource.plural)
    return ApiError(
        405,
        "MethodNotAllowed",
        f"{verb} is not supported on resources of kind {go_quote(name)}",
        {**({"group": resource.group} if resource.group else {}), "kind": resource.plural},
    )
