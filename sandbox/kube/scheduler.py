"""A trivial scheduler: puts pending pods on ready nodes that have room.

Owns the choice of the node. A client of the API, so that it serves a real API server as well where no kube-scheduler
is at hand. It looks at readiness, cordons, taints, node selectors and requests (cpu, memory, pods), and spreads by
requests. Not there: affinity, topology spread, priorities and preemption, volumes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from kubeclient import KubeClient, KubernetesError, path_of
from sandbox.kube.clients import Cache, Recorder, key_of
from sandbox.kube.events import reference_to
from sandbox.kube.formats import format_time
from sandbox.kube.quantity import parse_quantity

JsonObject = dict[str, Any]

NAME: Final = "default-scheduler"
_LOG: Final = logging.getLogger(__name__)
_NOT_READY: Final = "node.kubernetes.io/not-ready"
_RETRY_SECONDS: Final = 1.0


@dataclass(slots=True)
class Resources:
    """Amounts of cpu (cores), memory (bytes) and pods."""

    cpu: Decimal = Decimal(0)
    memory: Decimal = Decimal(0)
    pods: int = 0

    def add(self, other: Resources) -> None:
        """Add another amount."""
        self.cpu += other.cpu
        self.memory += other.memory
        self.pods += other.pods


@dataclass(slots=True)
class Room:
    """A node and what is left of it."""

    node: JsonObject
    allocatable: Resources
    used: Resources = field(default_factory=Resources)

    def share(self) -> Decimal:
        """How full the node is by requests, for spreading."""
        return self.used.cpu / (self.allocatable.cpu or 1) + self.used.memory / (self.allocatable.memory or 1)


def requests_of(pod: JsonObject) -> Resources:
    """What a pod asks for: the sum of its containers, or the largest of its init containers where that is more."""
    spec = pod["spec"]

    def amount(container: JsonObject, name: str) -> Decimal:
        return parse_quantity(((container.get("resources") or {}).get("requests") or {}).get(name, "0"))

    def total(name: str) -> Decimal:
        main = sum((amount(container, name) for container in spec.get("containers") or []), Decimal(0))
        init = max((amount(container, name) for container in spec.get("initContainers") or []), default=Decimal(0))
        return max(main, init) + parse_quantity((spec.get("overhead") or {}).get(name, "0"))

    return Resources(total("cpu"), total("memory"), 1)


def _tolerates(tolerations: Iterable[JsonObject], taint: JsonObject) -> bool:
    return any(
        toleration.get("effect") in {None, "", taint.get("effect")}
        and (
            (toleration.get("operator") == "Exists" and toleration.get("key") in {None, "", taint["key"]})
            or (
                toleration.get("operator", "Equal") == "Equal"
                and toleration.get("key") == taint["key"]
                and toleration.get("value", "") == taint.get("value", "")
            )
        )
        for toleration in tolerations
    )


def _is_ready(node: JsonObject) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def obstacles(pod: JsonObject, wanted: Resources, room: Room) -> list[str]:
    """Why a pod cannot go to a node, in the words of kube-scheduler; empty where it can.

    The first reason is told alone, but all resources that are short are told together.
    """
    spec, node = pod["spec"], room.node
    node_spec = node.get("spec") or {}
    if node_spec.get("unschedulable"):
        return ["node(s) were unschedulable"]
    ready = _is_ready(node)
    if not ready:
        return [f"node(s) had untolerated taint {{{_NOT_READY}: }}"]
    for taint in node_spec.get("taints") or []:
        # A node that has become ready keeps this taint until a node controller removes it, if there is one.
        blocks = taint.get("effect") in {"NoSchedule", "NoExecute"} and taint["key"] != _NOT_READY
        if blocks and not _tolerates(spec.get("tolerations") or [], taint):
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
    labels: Mapping[str, str] = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return ["node(s) didn't match Pod's node affinity/selector"]
    found = []
    if room.used.pods + 1 > room.allocatable.pods:
        found.append("Too many pods")
    if wanted.cpu and room.used.cpu + wanted.cpu > room.allocatable.cpu:
        found.append("Insufficient cpu")
    if wanted.memory and room.used.memory + wanted.memory > room.allocatable.memory:
        found.append("Insufficient memory")
    return found


def rooms(nodes: Iterable[JsonObject], pods: Iterable[JsonObject]) -> dict[str, Room]:
    """What is left of each node."""
    found: dict[str, Room] = {}
    for node in nodes:
        amounts = (node.get("status") or {}).get("allocatable") or {}
        found[node["metadata"]["name"]] = Room(
            node,
            Resources(
                parse_quantity(amounts.get("cpu", "0")),
                parse_quantity(amounts.get("memory", "0")),
                int(parse_quantity(amounts.get("pods", "0"))),
            ),
        )
    for pod in pods:
        room = found.get(pod["spec"].get("nodeName", ""))
        if room is not None and (pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}:
            room.used.add(requests_of(pod))
    return found


def choose(pod: JsonObject, candidates: Mapping[str, Room]) -> tuple[str, str]:
    """The node for a pod, or nothing and the reason."""
    wanted = requests_of(pod)
    found = {name: obstacles(pod, wanted, room) for name, room in candidates.items()}
    free = [name for name, reasons in found.items() if not reasons]
    if free:
        return min(free, key=lambda name: (candidates[name].share(), candidates[name].used.pods, name)), ""
    counted = Counter(reason for reasons in found.values() for reason in reasons)
    counts = ", ".join(sorted(f"{count} {why}" for why, count in counted.items()))
    if not candidates:
        return "", "no nodes available to schedule pods"
    return "", f"0/{len(candidates)} nodes are available: {counts}."


class Scheduler:
    """Runs until cancelled: `await Scheduler(client).run()`."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._wake = asyncio.Event()
        self._pods = Cache(client, path_of("v1", "pods"), self._changed)
        self._nodes = Cache(client, path_of("v1", "nodes"), self._changed)
        self._recorder = Recorder(client, NAME)
        self._assumed: dict[str, str] = {}
        """Nodes of pods that were bound a moment ago, by uid, until the cache shows it."""

    def _changed(self, _key: object) -> None:
        self._wake.set()

    async def run(self) -> None:
        """Schedule until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._pods.run())
            tasks.create_task(self._nodes.run())
            await self._pods.synced.wait()
            await self._nodes.synced.wait()
            while True:
                self._wake.clear()
                if not await self._round():
                    # Something could not be written: the server will be asked again even if it stays silent.
                    asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._wake.set)
                await self._wake.wait()

    def _known_pods(self) -> list[JsonObject]:
        known = []
        for pod in self._pods.objects.values():
            uid = pod["metadata"]["uid"]
            node = self._assumed.get(uid)
            if node is not None and pod["spec"].get("nodeName"):
                del self._assumed[uid]
                node = None
            known.append({**pod, "spec": {**pod["spec"], "nodeName": node}} if node is not None else pod)
        return known

    async def _round(self) -> bool:
        """Look at every pending pod once; whether all went well."""
        pods = self._known_pods()
        candidates = rooms(self._nodes.objects.values(), pods)
        waiting = [
            pod
            for pod in pods
            if not pod["spec"].get("nodeName")
            and pod["spec"].get("schedulerName", NAME) == NAME
            and not pod["metadata"].get("deletionTimestamp")
            and not pod["spec"].get("schedulingGates")
        ]
        waiting.sort(key=lambda pod: (-(pod["spec"].get("priority") or 0), pod["metadata"]["creationTimestamp"]))
        done = True
        for pod in waiting:
            name, why = choose(pod, candidates)
            try:
                if name:
                    await self._bind(pod, name)
                    candidates[name].used.add(requests_of(pod))
                else:
                    await self._refuse(pod, why)
            except KubernetesError as error:
                _LOG.info("pod %s/%s not scheduled: %s", *key_of(pod), error.message)
                done = False
        return done

    async def _bind(self, pod: JsonObject, node: str) -> None:
        namespace, name = key_of(pod)
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pod["metadata"]["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self._assumed[pod["metadata"]["uid"]] = node
        try:
            await self._client.create(
                path_of("v1", "pods", namespace=namespace, name=name, subresource="binding"), body
            )
        except KubernetesError:
            del self._assumed[pod["metadata"]["uid"]]
            raise
        text = f"Successfully assigned {namespace}/{name} to {node}"
        await self._recorder.record(reference_to(pod), "Scheduled", text)

    async def _refuse(self, pod: JsonObject, why: str) -> None:
        namespace, name = key_of(pod)
        former = (pod.get("status") or {}).get("conditions") or []
        old = next((item for item in former if item["type"] == "PodScheduled"), None)
        if old is not None and old.get("status") == "False" and old.get("message") == why:
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": why,
            "lastProbeTime": None,
            "lastTransitionTime": format_time(datetime.now(UTC)),
        }
        conditions = [item for item in former if item["type"] != "PodScheduled"] + [condition]
        path = path_of("v1", "pods", namespace=namespace, name=name, subresource="status")
        await self._client.patch(path, {"status": {"conditions": conditions}})
        await self._recorder.record(reference_to(pod), "FailedScheduling", why, kind="Warning")
