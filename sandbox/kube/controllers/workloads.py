"""ReplicaSets and Deployments in their simplest honest form.

A Deployment rolls by making a new ReplicaSet and shrinking the old ones as new pods become available, within maxSurge
and maxUnavailable. Not there: adoption of orphans, rollback by `kubectl rollout undo`, progress deadlines.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sandbox.kube.api import Api
from sandbox.kube.controllers import Key, object_key
from sandbox.kube.controllers.base import (
    Actor,
    condition,
    is_active,
    is_ready,
    owned,
    owner_key,
    owner_reference,
    pod_from,
    with_condition,
)
from sandbox.kube.errors import ApiError
from sandbox.kube.formats import parse_time
from sandbox.kube.resources import StorageKey
from sandbox.kube.store import Event

JsonObject = dict[str, Any]

_PODS: Final = ("", "pods")
_REPLICA_SETS: Final = ("apps", "replicasets")
_DEPLOYMENTS: Final = ("apps", "deployments")
_JOBS: Final = ("batch", "jobs")
_HASH_LABEL: Final = "pod-template-hash"
_REVISION: Final = "deployment.kubernetes.io/revision"


def _available(pod: JsonObject, min_ready: int, now: datetime) -> bool:
    ready = condition(pod, "Ready")
    if ready is None or ready["status"] != "True":
        return False
    return min_ready == 0 or now - parse_time(ready["lastTransitionTime"]) >= timedelta(seconds=min_ready)


class ReplicaSets:
    """Keeps as many pods as each ReplicaSet asks for."""

    name = "replica sets"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._actor = Actor(api, "replicaset-controller")

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """ReplicaSets, and their pods."""
        if storage == _REPLICA_SETS:
            yield object_key(event)
        elif storage == _PODS:
            yield from owner_key(self._api, _REPLICA_SETS, event)

    def reconcile(self, key: Key) -> float | None:
        """Create or delete pods, then count them."""
        found = self._api.store.get(_REPLICA_SETS, (key[0], key[1]))
        if found is None or found.value["metadata"].get("deletionTimestamp"):
            return None
        replica_set = found.value
        pods = [s.value for s in owned(self._api, _PODS, replica_set) if is_active(s.value)]
        missing = replica_set["spec"].get("replicas", 1) - len(pods)
        problem = self._create(replica_set, missing) if missing > 0 else ""
        for pod in sorted(pods, key=_first_to_go)[: max(-missing, 0)]:
            self._actor.delete(self._actor.resource("v1", "Pod"), pod)
            self._actor.tell(replica_set, "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
        return self._count(key, problem)

    def _create(self, replica_set: JsonObject, count: int) -> str:
        meta, pods = replica_set["metadata"], self._actor.resource("v1", "Pod")
        for _ in range(count):
            body = pod_from(replica_set, replica_set["spec"]["template"], f"{meta['name']}-")
            try:
                pod = self._actor.create(pods, meta["namespace"], body)
            except ApiError as error:
                self._actor.tell(replica_set, "FailedCreate", f"Error creating: {error.message}", kind="Warning")
                return error.message
            self._actor.tell(replica_set, "SuccessfulCreate", f"Created pod: {pod.value['metadata']['name']}")
        return ""

    def _count(self, key: Key, problem: str) -> float | None:
        found = self._api.store.get(_REPLICA_SETS, (key[0], key[1]))
        if found is None:
            return None
        replica_set, now = found.value, datetime.now(UTC)
        pods = [s.value for s in owned(self._api, _PODS, replica_set) if is_active(s.value)]
        min_ready = replica_set["spec"].get("minReadySeconds") or 0
        counts = {
            "replicas": len(pods),
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": sum(map(is_ready, pods)),
            "availableReplicas": sum(_available(pod, min_ready, now) for pod in pods),
        }
        status: JsonObject = {name: count for name, count in counts.items() if count or name == "replicas"}
        status["observedGeneration"] = replica_set["metadata"]["generation"]
        if problem:
            former = (replica_set.get("status") or {}).get("conditions") or []
            text = {"reason": "FailedCreate", "message": problem, "now": self._api.now()}
            status["conditions"] = with_condition(former, "ReplicaFailure", status=True, update_time=False, **text)
        self._actor.set_status(self._actor.resource("apps/v1", "ReplicaSet"), replica_set, status)
        if problem:
            return 5.0
        waiting = counts["readyReplicas"] > counts["availableReplicas"]
        return 1.0 if waiting else None


def _first_to_go(pod: JsonObject) -> tuple[bool, bool, int, str]:
    """Pods without a node go first, then those not ready, then by deletion cost, then the youngest."""
    annotations = pod["metadata"].get("annotations") or {}
    cost = annotations.get("controller.kubernetes.io/pod-deletion-cost", "0")
    age = pod["metadata"]["creationTimestamp"]
    inverted = "".join(chr(0x10FFFF - ord(char)) for char in age)
    cost_value = int(cost) if cost.lstrip("-").isdigit() else 0
    return bool(pod["spec"].get("nodeName")), is_ready(pod), cost_value, inverted


def _share(value: Any, total: int, *, up: bool) -> int:
    """`maxSurge` and `maxUnavailable`: a number, or a percentage of `total`."""
    if isinstance(value, str) and value.endswith("%"):
        exact = int(value[:-1]) * total / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


class Deployments:
    """Rolls Deployments out over ReplicaSets."""

    name = "deployments"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._actor = Actor(api, "deployment-controller")

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """Deployments, and their ReplicaSets."""
        if storage == _DEPLOYMENTS:
            yield object_key(event)
        elif storage == _REPLICA_SETS:
            yield from owner_key(self._api, _DEPLOYMENTS, event)

    def reconcile(self, key: Key) -> float | None:
        """Take one step of the rollout, then report."""
        found = self._api.store.get(_DEPLOYMENTS, (key[0], key[1]))
        if found is None or found.value["metadata"].get("deletionTimestamp"):
            return None
        deployment = found.value
        replica_sets = [stored.value for stored in owned(self._api, _REPLICA_SETS, deployment)]
        digest = _template_hash(deployment["spec"]["template"])
        new = next((rs for rs in replica_sets if rs["metadata"]["labels"].get(_HASH_LABEL) == digest), None)
        if new is None:
            if not deployment["spec"].get("paused"):
                self._new_replica_set(deployment, replica_sets, digest)
                return None  # The new ReplicaSet brings us back.
        else:
            old = [rs for rs in replica_sets if rs is not new]
            if not deployment["spec"].get("paused"):
                self._step(deployment, new, old)
                self._forget(deployment, old)
        return self._report(key, digest)

    def _new_replica_set(self, deployment: JsonObject, replica_sets: list[JsonObject], digest: str) -> None:
        meta, spec = deployment["metadata"], deployment["spec"]
        template = spec["template"]
        labels = {**(template["metadata"].get("labels") or {}), _HASH_LABEL: digest}
        revision = 1 + max((int(rs["metadata"]["annotations"].get(_REVISION, 0)) for rs in replica_sets), default=0)
        body = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"{meta['name']}-{digest}",
                "labels": labels,
                "annotations": {_REVISION: str(revision)},
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {
                "replicas": 0,
                "minReadySeconds": spec.get("minReadySeconds") or 0,
                "selector": {
                    **spec["selector"],
                    "matchLabels": {**(spec["selector"].get("matchLabels") or {}), _HASH_LABEL: digest},
                },
                "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
            },
        }
        self._actor.create(self._actor.resource("apps/v1", "ReplicaSet"), meta["namespace"], body)
        patch = {"metadata": {"annotations": {_REVISION: str(revision)}}}
        self._actor.patch(self._actor.resource("apps/v1", "Deployment"), deployment, patch)

    def _step(self, deployment: JsonObject, new: JsonObject, old: list[JsonObject]) -> None:
        wanted = deployment["spec"]["replicas"]
        strategy = deployment["spec"]["strategy"]
        old_total = sum(rs["spec"]["replicas"] for rs in old)
        if strategy["type"] == "Recreate":
            for rs in old:
                self._scale(deployment, rs, 0)
            if all((rs.get("status") or {}).get("replicas", 0) == 0 for rs in old) and not self._old_pods(old):
                self._scale(deployment, new, wanted)
            return
        bounds = strategy.get("rollingUpdate") or {}
        surge = _share(bounds.get("maxSurge", "25%"), wanted, up=True)
        unavailable = _share(bounds.get("maxUnavailable", "25%"), wanted, up=False)
        if surge == 0 and unavailable == 0:
            unavailable = 1
        room = wanted + surge - old_total
        target = min(wanted, max(room, new["spec"]["replicas"])) if old_total else wanted
        self._scale(deployment, new, target)
        available = sum((rs.get("status") or {}).get("availableReplicas", 0) for rs in [new, *old])
        spare = available - (wanted - unavailable)
        for rs in sorted(old, key=lambda rs: rs["metadata"]["creationTimestamp"]):
            status = rs.get("status") or {}
            # Pods that never became available cost nothing to remove.
            broken = rs["spec"]["replicas"] - status.get("availableReplicas", 0)
            cut = min(rs["spec"]["replicas"], max(broken, 0) + max(spare, 0))
            spare -= max(cut - max(broken, 0), 0)
            self._scale(deployment, rs, rs["spec"]["replicas"] - cut)

    def _old_pods(self, old: list[JsonObject]) -> bool:
        return any(owned(self._api, _PODS, rs) for rs in old)

    def _scale(self, deployment: JsonObject, replica_set: JsonObject, replicas: int) -> None:
        before = replica_set["spec"]["replicas"]
        if before == replicas:
            return
        resource = self._actor.resource("apps/v1", "ReplicaSet")
        self._actor.patch(resource, replica_set, {"spec": {"replicas": replicas}})
        word = "up" if replicas > before else "down"
        name = replica_set["metadata"]["name"]
        text = f"Scaled {word} replica set {name} from {before} to {replicas}"
        self._actor.tell(deployment, "ScalingReplicaSet", text)

    def _forget(self, deployment: JsonObject, old: list[JsonObject]) -> None:
        limit = deployment["spec"].get("revisionHistoryLimit", 10)
        idle = [rs for rs in old if not rs["spec"]["replicas"] and not (rs.get("status") or {}).get("replicas", 0)]
        idle.sort(key=lambda rs: rs["metadata"]["creationTimestamp"])
        for rs in idle[: max(len(idle) - limit, 0)]:
            self._actor.delete(self._actor.resource("apps/v1", "ReplicaSet"), rs)

    def _report(self, key: Key, digest: str) -> float | None:
        found = self._api.store.get(_DEPLOYMENTS, (key[0], key[1]))
        if found is None:
            return None
        deployment, now = found.value, self._api.now()
        replica_sets = [stored.value for stored in owned(self._api, _REPLICA_SETS, deployment)]

        def total(name: str, sets: list[JsonObject]) -> int:
            return sum((rs.get("status") or {}).get(name, 0) for rs in sets)

        new = [rs for rs in replica_sets if rs["metadata"]["labels"].get(_HASH_LABEL) == digest]
        wanted = deployment["spec"]["replicas"]
        available = total("availableReplicas", replica_sets)
        counts = {
            "replicas": total("replicas", replica_sets),
            "updatedReplicas": total("replicas", new),
            "readyReplicas": total("readyReplicas", replica_sets),
            "availableReplicas": available,
            "unavailableReplicas": max(total("replicas", replica_sets) - available, wanted - available, 0),
        }
        status: JsonObject = {name: count for name, count in counts.items() if count}
        status["observedGeneration"] = deployment["metadata"]["generation"]
        bounds = deployment["spec"]["strategy"].get("rollingUpdate") or {}
        least = wanted - _share(bounds.get("maxUnavailable", 0), wanted, up=False)
        enough = available >= least
        name = f'ReplicaSet "{deployment["metadata"]["name"]}-{digest}"'
        done = counts["updatedReplicas"] == counts["replicas"] == wanted == available
        conditions = (deployment.get("status") or {}).get("conditions") or []
        conditions = with_condition(
            conditions,
            "Available",
            status=enough,
            reason="MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            message="Deployment has minimum availability."
            if enough
            else "Deployment does not have minimum availability.",
            now=now,
        )
        status["conditions"] = with_condition(
            conditions,
            "Progressing",
            status=True,
            reason="NewReplicaSetAvailable" if done else "ReplicaSetUpdated",
            message=f"{name} has successfully progressed." if done else f"{name} is progressing.",
            now=now,
        )
        self._actor.set_status(self._actor.resource("apps/v1", "Deployment"), deployment, status)
        return None


def _template_hash(template: JsonObject) -> str:
    """Names the ReplicaSet of a template; without letters that could spell words."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    alphabet = "bcdfghjklmnpqrstvwxz2456789"
    return "".join(alphabet[byte % len(alphabet)] for byte in digest[:9])
