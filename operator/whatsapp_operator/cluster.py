"""The Kubernetes API as the operator uses it.

Owns every request that the operator makes, and a cache of our resources that is never older than our own writes. Must
not decide anything. Watching is kopf's work: `handlers` passes what it sees to `see`.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from sys import intern
from typing import Any, Literal

from kubeclient import ConflictError, KubeClient, KubernetesError, NotFoundError, Object, path_of
from session_worker.contract import GROUP, POOL_PLURAL, SESSION_PLURAL, VERSION
from session_worker.logs import fields
from whatsapp_operator.observation import Tombstone, key_of, tombstone_of
from whatsapp_operator.pods import DRAINING_ANNOTATION, POOL_LABEL, SERVING_LABEL
from whatsapp_operator.resources import FINALIZER, utc_text

log = logging.getLogger(__name__)

API_VERSION = f"{GROUP}/{VERSION}"
MANAGER = "whatsapp-operator"
"""Field manager, and reporter of events."""
POD_SELECTOR = "app.kubernetes.io/name=whatsapp-worker,app.kubernetes.io/managed-by=whatsapp-operator"
MANAGED_SELECTOR = f"{POOL_LABEL},app.kubernetes.io/managed-by=whatsapp-operator"

Key = tuple[str, str]


class Kind(StrEnum):
    """What the operator watches, by plural."""

    SESSION = SESSION_PLURAL
    POOL = POOL_PLURAL
    POD = "pods"


_OBJECT_KINDS = {Kind.SESSION: "WhatsAppSession", Kind.POOL: "WhatsAppWorkerPool", Kind.POD: "Pod"}


@dataclass(slots=True)
class Cache:
    """The objects of each kind, and the pods that went away."""

    objects: dict[Kind, dict[Key, Object]] = field(default_factory=lambda: {kind: {} for kind in Kind})
    tombstones: dict[Key, Tombstone] = field(default_factory=dict)

    def put(self, kind: Kind, item: Object) -> bool:
        """Keep an object unless a newer one is known; whether it was kept."""
        key = key_of(item)
        known = self.objects[kind].get(key)
        if known is not None and _version(item) <= _version(known):
            return False  # also where it is another object of the same name: an old list may come after a new watch
        if kind is Kind.POD and known is not None and known["metadata"]["uid"] != item["metadata"]["uid"]:
            self._bury(known)
        self.objects[kind][key] = _slim(kind, item)
        return True

    def drop(self, kind: Kind, item: Object) -> None:
        """Forget an object that was deleted; `item` is its last state."""
        key = key_of(item)
        known = self.objects[kind].get(key)
        if known is None or known["metadata"]["uid"] != item["metadata"]["uid"]:
            return
        del self.objects[kind][key]
        if kind is Kind.POD:
            self._bury(item if _version(item) >= _version(known) else known)

    def reset(self, kind: Kind, items: Iterable[Object], version: int) -> None:
        """Take over a complete list that was true at a resourceVersion."""
        listed = {key_of(item): item for item in items}
        for key, known in list(self.objects[kind].items()):
            if key not in listed and _version(known) <= version:
                self.drop(kind, known)
        for item in listed.values():
            self.put(kind, item)

    def _bury(self, pod: Object) -> None:
        self.tombstones[key_of(pod)] = tombstone_of(pod)


def _slim(kind: Kind, item: Object) -> Object:
    """A copy without what nobody reads here, in which equal strings are one.

    The objects of a fleet are much alike, and thousands of them are most of the operator's memory: 17 KiB become 3.
    """
    kept = {**item, "metadata": {name: value for name, value in item["metadata"].items() if name != "managedFields"}}
    if kind is Kind.POD and "spec" in item:
        kept["spec"] = {name: value for name, value in item["spec"].items() if name == "nodeName"}
    slim: Object = _interned(kept)
    return slim


def _interned(value: Any) -> Any:
    if isinstance(value, dict):
        return {intern(key): _interned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_interned(item) for item in value]
    return intern(value) if type(value) is str else value


def _version(item: Object) -> int:
    """ResourceVersion as the number that it is in every API server; comparable by KEP-5504."""
    return int(item["metadata"]["resourceVersion"])


class Cluster:
    """The operator's hands in Kubernetes."""

    def __init__(self, client: KubeClient, namespaces: tuple[str, ...] = ()) -> None:
        self._client = client
        self._namespaces = namespaces
        self.cache = Cache()
        self.writes = 0
        """Requests that changed something, for metrics and benchmarks."""

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    # --- Reading

    async def load(self) -> None:
        """Read everything anew. Afterwards the cache is complete, which a stream of events alone never proves.

        Raises:
            KubernetesError: The API cannot be read.
        """
        await asyncio.gather(*(self._load(kind) for kind in Kind))

    async def _load(self, kind: Kind) -> None:
        query = {"labelSelector": POD_SELECTOR} if kind is Kind.POD else {}
        paths = [_path(kind, namespace) for namespace in self._namespaces] or [_path(kind, None)]
        lists = await asyncio.gather(*(self._client.list(path, **query) for path in paths))
        self.cache.reset(
            kind, [item for found, _ in lists for item in found], min(int(version) for _, version in lists)
        )

    def see(self, kind: Kind, item: Object, *, deleted: bool) -> bool:
        """Take in what a watch has told; whether it was news."""
        if deleted:
            self.cache.drop(kind, item)
            return True
        return self.cache.put(kind, item)

    # --- Sessions and pools

    async def write_status(self, kind: Kind, item: Object, status: Mapping[str, Any]) -> None:
        """Replace the status of an object, provided that it is still as we know it.

        Raises:
            ConflictError: It has changed; what we know of it was replaced by what it is now.
            KubernetesError: The API failed or refused.
        """
        patch = merge_patch(item.get("status") or {}, status)
        await self._change(kind, item, {"status": patch}, subresource="status")

    async def set_finalizer(self, item: Object, *, present: bool) -> None:
        """Put our finalizer on a session, or take it off.

        Raises:
            ConflictError: It has changed.
            KubernetesError: The API failed or refused.
        """
        others = [name for name in item["metadata"].get("finalizers", []) if name != FINALIZER]
        wanted = [*others, FINALIZER] if present else others
        await self._change(Kind.SESSION, item, {"metadata": {"finalizers": wanted}})

    async def _change(self, kind: Kind, item: Object, patch: Object, subresource: str | None = None) -> None:
        namespace, name = key_of(item)
        version = item["metadata"]["resourceVersion"]
        body = {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": version}}
        path = _path(kind, namespace, name, subresource)
        try:
            self.writes += 1
            changed = await self._client.patch(path, body, fieldManager=MANAGER)
        except ConflictError:
            await self._reread(kind, item)
            raise
        except NotFoundError:
            self.cache.drop(kind, item)
            raise
        if changed["metadata"].get("deletionTimestamp") and not changed["metadata"].get("finalizers"):
            self.cache.drop(kind, changed)
        else:
            self.cache.put(kind, changed)

    async def _reread(self, kind: Kind, item: Object) -> None:
        try:
            self.cache.put(kind, await self._client.get(_path(kind, *key_of(item))))
        except NotFoundError:
            self.cache.drop(kind, item)

    # --- Pods

    async def create_pod(self, pod: Object) -> None:
        """Create a worker pod.

        Raises:
            KubernetesError: The API failed, or refuses the pool's template.
        """
        self.writes += 1
        self.cache.put(Kind.POD, await self._client.create(_path(Kind.POD, pod["metadata"]["namespace"]), pod))

    async def mark_draining(self, pod: Object, now: datetime) -> None:
        """Take a pod out of the pool's selector, and note since when."""
        patch = {"metadata": {"labels": {SERVING_LABEL: "false"}, "annotations": {DRAINING_ANNOTATION: utc_text(now)}}}
        self.writes += 1
        self.cache.put(Kind.POD, await self._client.patch(_path(Kind.POD, *key_of(pod)), patch, fieldManager=MANAGER))

    async def delete_pod(self, pod: Object, grace_seconds: int | None) -> None:
        """Delete that very pod; a pod that is gone already is no error."""
        self.writes += 1
        try:
            answer = await self._client.delete(
                _path(Kind.POD, *key_of(pod)), uid=pod["metadata"]["uid"], grace_seconds=grace_seconds
            )
        except (NotFoundError, ConflictError):
            await self._reread(Kind.POD, pod)
            return
        if answer.get("kind") == "Pod" and answer["metadata"].get("deletionTimestamp"):
            self.cache.put(Kind.POD, answer)

    async def apply(self, plural: str, manifest: Object) -> Object:
        """Create or correct an object that belongs to a pool; what it is now."""
        path = path_of(
            manifest["apiVersion"],
            plural,
            namespace=manifest["metadata"]["namespace"],
            name=manifest["metadata"]["name"],
        )
        self.writes += 1
        return await self._client.apply(path, manifest, manager=MANAGER)

    async def list_managed(self, api_version: str, plural: str) -> list[Object]:
        """The objects of a kind that belong to pools, in all namespaces that are watched.

        Raises:
            NotFoundError: The kind does not exist here.
            RejectedError: We may not read it.
        """
        paths = [path_of(api_version, plural, namespace=name) for name in self._namespaces or (None,)]
        lists = await asyncio.gather(*(self._client.list(path, labelSelector=MANAGED_SELECTOR) for path in paths))
        return [item for found, _ in lists for item in found]

    async def delete_managed(self, api_version: str, plural: str, item: Object) -> None:
        """Delete that very object; one that is gone already is no error."""
        namespace, name = key_of(item)
        self.writes += 1
        with suppress(NotFoundError, ConflictError):
            await self._client.delete(
                path_of(api_version, plural, namespace=namespace, name=name), uid=item["metadata"]["uid"]
            )

    # --- Events

    async def record(
        self, kind: Kind, item: Object, *, severity: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """Post a Kubernetes Event about an object. One that fails is logged only: the status says the same."""
        now = utc_text(datetime.now(UTC))
        namespace, name = key_of(item)
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.{uuid.uuid4().hex[:16]}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": _OBJECT_KINDS[kind],
                "namespace": namespace,
                "name": name,
                "uid": item["metadata"]["uid"],
                "resourceVersion": item["metadata"]["resourceVersion"],
            },
            "type": severity,
            "reason": reason,
            "message": message[:1024],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": MANAGER},
            "reportingComponent": MANAGER,
            "reportingInstance": MANAGER,
        }
        try:
            await self._client.create(path_of("v1", "events", namespace=namespace), event)
        except KubernetesError as error:
            log.warning("An event could not be posted", extra=fields(object=name, reason=reason, error=error.message))


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """The JSON merge patch (RFC 7386) that turns `old` into `new`; empty when they are equal."""
    patch: Object = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            if nested := merge_patch(before, value):
                patch[key] = nested
        elif key not in old or before != value:
            patch[key] = value
    return patch


def _path(kind: Kind, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    version = "v1" if kind is Kind.POD else API_VERSION
    return path_of(version, kind, namespace=namespace, name=name, subresource=subresource)
