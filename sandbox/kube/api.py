"""The verbs of the Kubernetes API that change objects: create, update, patch, apply, delete.

Owns their semantics (identity, versions, finalizers, ownership of fields) for built-in kinds and custom resources
alike. Knows nothing of HTTP. Every method runs without awaiting, so requests do not interleave.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sandbox.kube import admission, managed, strategy
from sandbox.kube.decoding import decode, fill_custom, require_declared, require_object
from sandbox.kube.deletion import Fate, decide, is_finished
from sandbox.kube.errors import (
    STALE,
    FieldError,
    already_exists,
    bad_request,
    conflict,
    invalid,
    invalid_value,
    not_found,
    success_status,
    unsupported_media_type,
)
from sandbox.kube.formats import format_time
from sandbox.kube.options import DeleteOptions, ListOptions, WriteOptions
from sandbox.kube.patch import json_patch, merge_patch, strategic_merge_patch
from sandbox.kube.reading import Page, Reader, Target
from sandbox.kube.resources import Catalog, Resource, StorageKey
from sandbox.kube.store import Store, Stored
from sandbox.kube.validation import validate_metadata, validate_metadata_update

JsonObject = dict[str, Any]
Clock = Callable[[], datetime]
Entries = list[JsonObject]
"""`metadata.managedFields`."""


class PatchType(StrEnum):
    """Media types of patches."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


def accepted_patches(resource: Resource) -> list[str]:
    """The patch types that a resource takes, as error messages list them."""
    if resource.custom:
        return [PatchType.JSON, PatchType.MERGE, PatchType.APPLY]
    return [PatchType.JSON, PatchType.MERGE, PatchType.STRATEGIC, PatchType.APPLY]


class Api(Reader):
    """The API of a cluster, on a store and a catalog."""

    def __init__(self, store: Store, catalog: Catalog, clock: Clock | None = None) -> None:
        super().__init__(store)
        self.catalog = catalog
        self._clock: Clock = clock if clock is not None else lambda: datetime.now(UTC)
        self.validators: dict[StorageKey, Callable[[JsonObject, JsonObject | None], list[FieldError]]] = {}
        """Further validation of stored kinds that needs more than the object itself."""

    def now(self) -> str:
        """The time as objects carry it."""
        return format_time(self._clock())

    # --- Create, update, patch --------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str, body: Any, options: WriteOptions) -> Stored:
        """Store a new object.

        Raises:
            ApiError: Whatever is wrong with the object or its surroundings.
        """
        obj = require_object(body, resource)
        _require_namespace_of_path(obj, resource, namespace)
        obj = decode(obj, resource, options, patched=False)
        return self._insert(resource, namespace, obj, options)

    def update(self, target: Target, body: Any, options: WriteOptions) -> Stored:
        """Replace an object, or its status.

        Raises:
            ApiError: 404, 409 for a stale resourceVersion, or whatever is wrong with the object.
        """
        resource = target.resource
        obj = require_object(body, resource)
        _require_name_of_path(obj, target.name)
        _require_namespace_of_path(obj, resource, target.namespace)
        stored = self.get(resource, target.namespace, target.name)
        if not obj["metadata"].get("resourceVersion") and not resource.unconditional_update:
            error = invalid_value("metadata.resourceVersion", 0, "must be specified for an update")
            raise invalid(resource.group, resource.plural, target.name, [error])
        uid, given = stored.value["metadata"]["uid"], obj["metadata"].get("uid")
        if given and given != uid:
            why = f"Precondition failed: UID in precondition: {given}, UID in object meta: {uid}"
            raise conflict(resource.group, resource.plural, target.name, why)
        obj = decode(obj, resource, options, patched=False)
        return self._replace(target, stored, obj, options)

    def patch(self, target: Target, kind: str, patch: Any, options: WriteOptions) -> tuple[Stored, bool]:
        """Change an object by a patch of the media type `kind`; an apply may create it.

        Returns:
            The object, and whether it was created.

        Raises:
            ApiError: 404, 409 for a stale resourceVersion or a conflict of managers, 415, or whatever is wrong with
                the result.
        """
        resource = target.resource
        if kind not in accepted_patches(resource):
            raise unsupported_media_type(kind, accepted_patches(resource))
        if kind == PatchType.APPLY:
            return self._apply(target, patch, options)
        stored = self.get(resource, target.namespace, target.name)
        old = self.present(resource, stored)
        if kind == PatchType.MERGE:
            if not isinstance(patch, dict):
                raise bad_request("error decoding patch: a merge patch is an object")
            obj = merge_patch(old, patch)
        elif kind == PatchType.JSON:
            obj = json_patch(old, patch)
        else:
            obj = strategic_merge_patch(old, patch, resource.schema)
        obj = require_object(obj, resource)
        _require_name_of_path(obj, target.name)
        obj = decode(obj, resource, options, patched=True)
        return self._replace(target, stored, obj, options), False

    def _apply(self, target: Target, patch: Any, options: WriteOptions) -> tuple[Stored, bool]:
        resource, name = target.resource, target.name
        if not isinstance(patch, dict):
            raise bad_request(f"error decoding YAML: {patch!r} is not an object")
        if patch.get("apiVersion") != resource.api_version or patch.get("kind") != resource.kind:
            raise bad_request(f"invalid object type: {patch.get('apiVersion', '')}, Kind={patch.get('kind', '')}")
        config = {**patch, "metadata": dict(patch.get("metadata") or {})}
        if config["metadata"].get("managedFields") is not None:
            raise bad_request("metadata.managedFields must be nil")
        _require_name_of_path(config, name)
        config["metadata"]["name"] = name
        if resource.namespaced:
            _require_namespace_of_path(config, resource, target.namespace)
            config["metadata"]["namespace"] = target.namespace
        require_declared(patch, resource)
        writer = strategy.writer(resource, options, target.subresource)
        stored = self.find(resource, target.namespace, name)
        old: JsonObject = {}
        if stored is not None:
            old = self.present(resource, stored)
            if (given := config["metadata"].get("resourceVersion")) and given != old["metadata"]["resourceVersion"]:
                raise conflict(resource.group, resource.plural, name, STALE)
        elif target.subresource:
            raise not_found(resource.group, resource.plural, name)
        elif uid := config["metadata"].get("uid"):
            why = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            raise conflict(resource.group, resource.plural, name, why)
        merged, entries = managed.apply(
            old, config, resource.schema, writer, now=self.now(), force=options.force, created=stored is None
        )
        obj = decode(require_object(merged, resource), resource, options, patched=True)
        if stored is None:
            return self._insert(resource, target.namespace, obj, options, entries), True
        return self._replace(target, stored, obj, options, entries), False

    def _insert(
        self, resource: Resource, namespace: str, obj: JsonObject, options: WriteOptions, entries: Entries | None = None
    ) -> Stored:
        """Store a decoded object; `entries` is its managedFields where apply has made them already."""
        meta = strategy.new_metadata(obj["metadata"])
        if resource.namespaced:
            meta["namespace"] = namespace
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = admission.generated_name(
                meta["generateName"], lambda name: self.find(resource, namespace, name) is not None
            )
        name = meta.get("name") or ""
        if resource.namespaced:
            admission.require_namespace(self.store, resource, namespace, name)
        if name and self.find(resource, namespace, name) is not None:
            raise already_exists(resource.group, resource.plural, name)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self.now()
        if resource.generation or resource.custom:
            meta["generation"] = 1
        requested = managed.requested_entries(meta, {})
        meta.pop("managedFields", None)
        obj = {**obj, "metadata": meta}
        if resource.status and resource.kind != "Node":
            obj.pop("status", None)
        if resource.hooks.prepare is not None:
            obj = copy.deepcopy(obj)
            resource.hooks.prepare(obj, None)
        if entries is None:
            writer = strategy.writer(resource, options, "")
            entries = managed.after_update(requested, {}, obj, resource.schema, writer, now=self.now(), created=True)
        self._admit(resource, obj, None)
        if resource.custom:
            obj = fill_custom(obj, resource)
        self._judge(resource, obj, None, "")
        strategy.warn_finalizers(obj, {}, options)
        return self._write(resource, _owned(obj, entries), options)

    def _replace(
        self, target: Target, stored: Stored, obj: JsonObject, options: WriteOptions, entries: Entries | None = None
    ) -> Stored:
        """Put a decoded object in the place of `stored`; `entries` as for `_insert`."""
        resource, subresource = target.resource, target.subresource
        old = self.present(resource, stored)
        old_meta, meta = old["metadata"], dict(obj["metadata"])
        given = meta.pop("resourceVersion", None)
        if given and given != old_meta["resourceVersion"]:
            raise conflict(resource.group, resource.plural, target.name, STALE)
        requested = managed.requested_entries(old_meta if subresource else meta, old_meta)
        obj = {**obj, "metadata": strategy.carried(meta, old_meta, resource)}
        obj = strategy.through_door(resource, obj, old, subresource)
        if resource.hooks.prepare is not None:
            obj = copy.deepcopy(obj)
            resource.hooks.prepare(obj, old)
        if resource.custom:
            obj = fill_custom(obj, resource)
        self._admit(resource, obj, old)
        strategy.count_generation(resource, obj, old)
        self._judge(resource, obj, old, subresource)
        strategy.warn_finalizers(obj, old_meta, options)
        bare_old = {**old, "metadata": strategy.unversioned(old_meta)}
        if entries is None:
            writer = strategy.writer(resource, options, subresource)
            entries = managed.after_update(
                requested, bare_old, obj, resource.schema, writer, now=self.now(), created=False
            )
        if obj == bare_old and entries == (old_meta.get("managedFields") or []):
            return stored  # Nothing changed, so there is no new version either.
        obj = _owned(obj, entries)
        if is_finished(obj) and resource.storage != admission.NAMESPACES:
            return self._remove(resource, obj, dry_run=options.dry_run)
        return self._write(resource, obj, options)

    def _admit(self, resource: Resource, obj: JsonObject, old: JsonObject | None) -> None:
        if resource.group == "" and resource.plural == "pods" and old is None:
            admission.admit_new_pod(self.store, obj)
        elif resource.group == "" and resource.plural == "services":
            admission.admit_service(self.store, obj, old)

    def _judge(self, resource: Resource, obj: JsonObject, old: JsonObject | None, subresource: str) -> None:
        """Refuse an object that is not valid."""
        if old is None:
            errors = validate_metadata(obj["metadata"], kind_of_name=resource.name_kind, namespaced=resource.namespaced)
        else:
            errors = validate_metadata_update(obj["metadata"], old["metadata"])
        if resource.custom:
            errors += strategy.judge_custom(resource, obj, old, subresource)
        elif subresource == "status":
            if resource.hooks.validate_status is not None:
                errors += resource.hooks.validate_status(obj)
        elif resource.hooks.validate is not None:
            errors += resource.hooks.validate(obj, old)
        if not subresource and (more := self.validators.get(resource.storage)) is not None:
            errors += more(obj, old)
        if errors:
            raise invalid(resource.group, resource.kind, obj["metadata"].get("name") or "", errors)

    def _write(self, resource: Resource, obj: JsonObject, options: WriteOptions) -> Stored:
        value = resource.to_storage(obj) if resource.to_storage is not None else obj
        if options.dry_run:
            return Stored(value, 0)
        stored = self.store.put(resource.storage, value)
        if resource.to_storage is None:
            stored.memo["writer"] = resource
        return stored

    def _remove(self, resource: Resource, obj: JsonObject, *, dry_run: bool) -> Stored:
        value = resource.to_storage(obj) if resource.to_storage is not None else obj
        return Stored(value, 0) if dry_run else self.store.remove(resource.storage, value)

    # --- Delete -----------------------------------------------------------------------------------------------------

    def delete(self, resource: Resource, namespace: str, name: str, options: DeleteOptions) -> Stored | JsonObject:
        """Delete an object, or start to.

        Returns:
            The object where it stays for a while (or where its kind answers so), otherwise a `Status`.

        Raises:
            ApiError: 404, or 409 for preconditions that do not hold.
        """
        stored = self.get(resource, namespace, name)
        value = self.present(resource, stored)
        _require_preconditions(resource, value, options)
        if resource.storage == admission.NAMESPACES:
            return self._terminate_namespace(resource, stored, options)
        verdict = decide(
            value,
            options,
            now=self._clock(),
            graceful=resource.group == "" and resource.plural == "pods",
            orphan_by_default=resource.orphan_by_default,
        )
        if verdict.fate is Fate.KEEP:
            return stored
        if verdict.fate is Fate.UPDATE:
            return self._write(resource, verdict.value, WriteOptions(dry_run=options.dry_run))
        removed = self._remove(resource, verdict.value, dry_run=options.dry_run)
        return removed if resource.returns_deleted else _deleted(resource, value)

    def _terminate_namespace(self, resource: Resource, stored: Stored, options: DeleteOptions) -> Stored | JsonObject:
        value = stored.value
        admission.refuse_system_namespace(value["metadata"]["name"])
        if value["metadata"].get("deletionTimestamp"):
            if (value.get("spec") or {}).get("finalizers"):
                return stored
            self._remove(resource, value, dry_run=options.dry_run)
            return _deleted(resource, value)
        meta = {**value["metadata"], "deletionTimestamp": self.now()}
        status = {**(value.get("status") or {}), "phase": "Terminating"}
        changed = {**value, "metadata": meta, "status": status}
        return self._write(resource, changed, WriteOptions(dry_run=options.dry_run))

    def delete_collection(
        self, resource: Resource, namespace: str, selection: ListOptions, options: DeleteOptions
    ) -> Page:
        """Delete everything that is selected; the answer lists it as it was."""
        page = self.select(resource, namespace, replace(selection, limit=0))
        for stored in page.items:
            space, name = stored.key
            if self.find(resource, space, name) is not None:
                self.delete(resource, space, name, options)
        return page

    # --- For controllers ----------------------------------------------------------------------------------------------

    def system(self, manager: str) -> WriteOptions:
        """Options of a controller's writes."""
        return WriteOptions(manager=manager, field_validation="Ignore", user=f"system:{manager}")

    def rewrite(self, resource: Resource, value: JsonObject) -> Stored:
        """Store `value` as it is, for controllers that maintain fields which no client can write."""
        return self._write(resource, value, WriteOptions())

    def remove_now(self, resource: Resource, stored: Stored) -> None:
        """Remove an object without further questions, for controllers that have finished its last work."""
        self._remove(resource, self.present(resource, stored), dry_run=False)


def _require_name_of_path(obj: JsonObject, name: str) -> None:
    given = obj["metadata"].get("name") or name
    if given != name:
        raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")


def _require_namespace_of_path(obj: JsonObject, resource: Resource, namespace: str) -> None:
    given = obj["metadata"].get("namespace")
    if given and resource.namespaced and given != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")


def _require_preconditions(resource: Resource, value: JsonObject, options: DeleteOptions) -> None:
    meta = value["metadata"]
    if options.uid and options.uid != meta["uid"]:
        why = (
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({meta['uid']}). The object "
            "might have been deleted and then recreated"
        )
        raise conflict(resource.group, resource.kind, meta["name"], why)
    if options.resource_version and options.resource_version != meta["resourceVersion"]:
        why = (
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the ResourceVersion "
            f"in record ({meta['resourceVersion']}). The object might have been modified"
        )
        raise conflict(resource.group, resource.kind, meta["name"], why)


def _deleted(resource: Resource, value: JsonObject) -> JsonObject:
    group = {"group": resource.group} if resource.group else {}
    meta = value["metadata"]
    return success_status({"name": meta["name"], **group, "kind": resource.plural, "uid": meta["uid"]})


def _owned(obj: JsonObject, entries: Entries) -> JsonObject:
    return {**obj, "metadata": {**obj["metadata"], "managedFields": entries}} if entries else obj
