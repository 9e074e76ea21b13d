"""What the controllers of workloads share: creating, patching and telling on behalf of the cluster."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sandbox.kube.api import Api, PatchType
from sandbox.kube.controllers import Key, controller_of
from sandbox.kube.errors import ApiError
from sandbox.kube.events import event_body, reference_to
from sandbox.kube.options import DeleteOptions
from sandbox.kube.reading import Target
from sandbox.kube.resources import Resource, StorageKey
from sandbox.kube.store import Event, Stored

JsonObject = dict[str, Any]


def owner_reference(owner: JsonObject) -> JsonObject:
    """A controller reference to `owner`."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def is_controlled_by(obj: JsonObject, uid: str) -> bool:
    """Whether the object's controller is the one with this uid."""
    return any(o.get("controller") and o["uid"] == uid for o in obj["metadata"].get("ownerReferences") or ())


def is_active(pod: JsonObject) -> bool:
    """Whether a pod counts: it has not ended and is not about to."""
    phase = (pod.get("status") or {}).get("phase")
    return phase not in {"Succeeded", "Failed"} and not pod["metadata"].get("deletionTimestamp")


def condition(obj: JsonObject, kind: str) -> JsonObject | None:
    """One of an object's conditions."""
    found = (obj.get("status") or {}).get("conditions") or ()
    return next((item for item in found if item["type"] == kind), None)


def is_ready(pod: JsonObject) -> bool:
    """Whether a pod's Ready condition is true."""
    found = condition(pod, "Ready")
    return found is not None and found["status"] == "True"


def owner_key(api: Api, storage: StorageKey, event: Event) -> Iterable[Key]:
    """The controlling owner of what changed, where it is of the kind that lies at `storage`."""
    uid = controller_of(event)
    if uid is None:
        return
    namespace = event.stored.key[0]
    for owner in event.stored.value["metadata"]["ownerReferences"]:
        if owner["uid"] == uid and api.store.get(storage, (namespace, owner["name"])) is not None:
            yield (namespace, owner["name"])


def owned(api: Api, storage: StorageKey, owner: JsonObject) -> list[Stored]:
    """The objects at `storage` that `owner` controls."""
    meta = owner["metadata"]
    return [s for s in api.store.list(storage, meta["namespace"]) if is_controlled_by(s.value, meta["uid"])]


def pod_from(owner: JsonObject, template: JsonObject, prefix: str) -> JsonObject:
    """A pod that `owner` controls, from its template."""
    meta = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **{name: meta[name] for name in ("labels", "annotations", "finalizers") if meta.get(name)},
            "generateName": prefix,
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": template["spec"],
    }


class Actor:
    """Writes for one controller, under its own name."""

    def __init__(self, api: Api, manager: str) -> None:
        self.api = api
        self._manager = manager

    def resource(self, api_version: str, kind: str) -> Resource:
        """A built-in resource."""
        found = self.api.catalog.by_kind(api_version, kind)
        assert found is not None
        return found

    def create(self, resource: Resource, namespace: str, body: JsonObject) -> Stored:
        """Create an object."""
        return self.api.create(resource, namespace, body, self.api.system(self._manager))

    def patch(self, resource: Resource, obj: JsonObject, patch: JsonObject, subresource: str = "") -> None:
        """Merge into an object."""
        meta = obj["metadata"]
        target = Target(resource, meta.get("namespace", ""), meta["name"], subresource)
        self.api.patch(target, PatchType.MERGE, patch, self.api.system(self._manager))

    def set_status(self, resource: Resource, obj: JsonObject, status: JsonObject) -> None:
        """Replace an object's status where it changes."""
        if obj.get("status") == status:
            return
        former = obj.get("status") or {}
        gone = {name: None for name in former if name not in status}
        self.patch(resource, obj, {"status": {**gone, **status}}, "status")

    def delete(self, resource: Resource, obj: JsonObject, propagation: str = "Background") -> None:
        """Delete this very object."""
        meta = obj["metadata"]
        options = DeleteOptions(propagation=propagation, uid=meta["uid"])
        self.api.delete(resource, meta.get("namespace", ""), meta["name"], options)

    def tell(self, about: JsonObject, reason: str, message: str, *, kind: str = "Normal") -> None:
        """Record an Event; a namespace that is being deleted takes none, which does not matter."""
        body = event_body(
            reference_to(about),
            kind=kind,
            reason=reason,
            message=message,
            component=self._manager,
            now=datetime.now(UTC),
        )
        events = self.resource("v1", "Event")
        try:
            self.create(events, body["metadata"]["namespace"], body)
        except ApiError as error:
            if error.code not in {403, 404, 409}:
                raise


def with_condition(
    former: list[JsonObject], kind: str, *, status: bool, reason: str, message: str, now: str, update_time: bool = True
) -> list[JsonObject]:
    """Conditions with one of them set; its transition time changes with its status only."""
    text = "True" if status else "False"
    old = next((item for item in former if item["type"] == kind), None)
    since = old["lastTransitionTime"] if old is not None and old["status"] == text else now
    new: JsonObject = {"type": kind, "status": text, "reason": reason, "message": message, "lastTransitionTime": since}
    if update_time:
        same = old is not None and all(old.get(name) == new[name] for name in ("status", "reason", "message"))
        new["lastUpdateTime"] = old["lastUpdateTime"] if same and old is not None else now
    return [*(item for item in former if item["type"] != kind), new]
