"""Garbage collection by owner references, and the `orphan` and `foregroundDeletion` finalizers.

After k8s.io/kubernetes `pkg/controller/garbagecollector`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from sandbox.kube.api import Api, PatchType
from sandbox.kube.controllers import Key
from sandbox.kube.deletion import FOREGROUND, ORPHAN
from sandbox.kube.options import DeleteOptions
from sandbox.kube.reading import Target
from sandbox.kube.resources import Resource, StorageKey
from sandbox.kube.store import Event, EventType, Stored

JsonObject = dict[str, Any]


class GarbageCollector:
    """Deletes what no owner holds any more. Keys are group, plural, namespace and name."""

    name = "garbage collector"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._dependents: defaultdict[str, set[tuple[str, str, str, str]]] = defaultdict(set)
        self._alive: dict[str, tuple[str, str, str, str]] = {}
        """Existing objects by uid."""

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """The object itself where it has owners or such a finalizer, and its dependents where it is gone."""
        meta = event.stored.value["metadata"]
        key = (*storage, *event.stored.key)
        uid = meta["uid"]
        owners = {owner["uid"] for owner in meta.get("ownerReferences") or ()}
        former = set()
        if event.previous is not None:
            former = {owner["uid"] for owner in event.previous.value["metadata"].get("ownerReferences") or ()}
        for owner in former - owners:
            self._forget(owner, key)
        if event.type is EventType.DELETED:
            self._alive.pop(uid, None)
            for owner in owners:
                self._forget(owner, key)
            yield from self._dependents.get(uid, ())
        else:
            self._alive[uid] = key
            for owner in owners:
                self._dependents[owner].add(key)
            if owners or {ORPHAN, FOREGROUND} & set(meta.get("finalizers") or ()):
                yield key
        # Owners that wait for their dependents look again.
        yield from (self._alive[owner] for owner in owners | former if owner in self._alive and self._waits(owner))

    def _forget(self, owner: str, key: tuple[str, str, str, str]) -> None:
        found = self._dependents.get(owner)
        if found is not None:
            found.discard(key)
            if not found:
                del self._dependents[owner]

    def _waits(self, uid: str) -> bool:
        group, plural, namespace, name = self._alive[uid]
        found = self._api.store.get((group, plural), (namespace, name))
        return found is not None and bool(found.value["metadata"].get("deletionTimestamp"))

    def _find(self, key: Key) -> tuple[Resource, Stored] | None:
        group, plural, namespace, name = key
        stored = self._api.store.get((group, plural), (namespace, name))
        resource = self._api.catalog.storage_resource((group, plural))
        return (resource, stored) if resource is not None and stored is not None else None

    def reconcile(self, key: Key) -> float | None:
        """Work off the finalizers of an object that is being deleted, or delete one without owners."""
        found = self._find(key)
        if found is None:
            return None
        resource, stored = found
        meta = stored.value["metadata"]
        finalizers = meta.get("finalizers") or []
        if meta.get("deletionTimestamp"):
            if ORPHAN in finalizers:
                self._orphan(resource, stored)
            elif FOREGROUND in finalizers:
                self._foreground(resource, stored)
            return None
        if meta.get("ownerReferences"):
            self._collect(resource, stored)
        return None

    def _dependents_of(self, uid: str) -> Iterator[tuple[Resource, Stored, JsonObject]]:
        for key in list(self._dependents.get(uid, ())):
            found = self._find(key)
            if found is None:
                continue
            for owner in found[1].value["metadata"].get("ownerReferences") or ():
                if owner["uid"] == uid:
                    yield found[0], found[1], owner

    def _orphan(self, resource: Resource, stored: Stored) -> None:
        uid = stored.value["metadata"]["uid"]
        for kind, dependent, _ in list(self._dependents_of(uid)):
            owners = [o for o in dependent.value["metadata"]["ownerReferences"] if o["uid"] != uid]
            self._set_meta(kind, dependent, "ownerReferences", owners)
        self._drop_finalizer(resource, stored, ORPHAN)

    def _foreground(self, resource: Resource, stored: Stored) -> None:
        blocking = False
        for kind, dependent, owner in list(self._dependents_of(stored.value["metadata"]["uid"])):
            blocking = blocking or bool(owner.get("blockOwnerDeletion"))
            if not dependent.value["metadata"].get("deletionTimestamp"):
                self._delete(kind, dependent, "Foreground")
        if not blocking:
            self._drop_finalizer(resource, stored, FOREGROUND)

    def _collect(self, resource: Resource, stored: Stored) -> None:
        meta = stored.value["metadata"]
        owners = meta["ownerReferences"]
        solid = [owner for owner in owners if self._is_alive(owner, meta) and not self._in_foreground(owner)]
        if len(solid) == len(owners):
            return
        if solid:
            self._set_meta(resource, stored, "ownerReferences", solid)
            return
        waiting = any(self._is_alive(owner, meta) for owner in owners)
        has_dependents = bool(self._dependents.get(meta["uid"]))
        self._delete(resource, stored, "Foreground" if waiting and has_dependents else "Background")

    def _is_alive(self, owner: JsonObject, meta: JsonObject) -> bool:
        key = self._alive.get(owner["uid"])
        # An owner in another namespace is as good as none.
        return key is not None and key[2] in {"", meta.get("namespace", "")} and key[3] == owner["name"]

    def _in_foreground(self, owner: JsonObject) -> bool:
        found = self._find(self._alive[owner["uid"]])
        if found is None:
            return False
        meta = found[1].value["metadata"]
        return bool(meta.get("deletionTimestamp")) and FOREGROUND in (meta.get("finalizers") or ())

    def _delete(self, resource: Resource, stored: Stored, policy: str) -> None:
        namespace, name = stored.key
        options = DeleteOptions(propagation=policy, uid=stored.value["metadata"]["uid"])
        self._api.delete(resource, namespace, name, options)

    def _drop_finalizer(self, resource: Resource, stored: Stored, finalizer: str) -> None:
        kept = [name for name in stored.value["metadata"].get("finalizers") or () if name != finalizer]
        self._set_meta(resource, stored, "finalizers", kept)

    def _set_meta(self, resource: Resource, stored: Stored, field: str, value: list[Any]) -> None:
        namespace, name = stored.key
        patch = {"metadata": {field: value or None}}
        options = self._api.system("garbage-collector")
        self._api.patch(Target(resource, namespace, name), PatchType.MERGE, patch, options)
