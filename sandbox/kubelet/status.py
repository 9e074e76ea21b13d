"""From what happened to containers to what a pod's status says.

Pure. Owns the states, phases and conditions of k8s.io/kubernetes `pkg/kubelet` (`getPhase`,
`GeneratePodReadyCondition`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sandbox.kube.formats import format_time

JsonObject = dict[str, Any]

OURS: Final = ("PodScheduled", "Initialized", "ContainersReady", "Ready")


@dataclass(frozen=True, slots=True)
class Terminated:
    """A run that ended."""

    code: int
    reason: str
    signal: int = 0
    message: str = ""
    started: str = ""
    finished: str = ""
    container_id: str = ""

    def state(self) -> JsonObject:
        """The `ContainerStateTerminated`."""
        body: JsonObject = {"exitCode": self.code, "reason": self.reason}
        for name, value in (
            ("signal", self.signal),
            ("message", self.message),
            ("startedAt", self.started or None),
            ("finishedAt", self.finished or None),
            ("containerID", self.container_id),
        ):
            if value:
                body[name] = value
        return body


@dataclass(slots=True)
class Record:
    """What is known of one container of a pod. The worker changes it, everything else is derived from it."""

    name: str
    image: str
    init: bool = False
    restarts: int = 0
    waiting: str = "ContainerCreating"
    """Reason of the waiting state, while it neither runs nor has ended for good."""
    message: str = ""
    running_since: datetime | None = None
    container_id: str = ""
    terminated: Terminated | None = None
    """Set while the container has ended and will not start again, or has not yet."""
    last: Terminated | None = None
    started: bool = False
    """Whether the startup probe has succeeded."""
    ready: bool = False

    def status(self) -> JsonObject:
        """The `ContainerStatus`."""
        running = self.running_since is not None
        if running and self.running_since is not None:
            state: JsonObject = {"running": {"startedAt": format_time(self.running_since)}}
        elif self.terminated is not None:
            state = {"terminated": self.terminated.state()}
        else:
            state = {"waiting": {"reason": self.waiting, **({"message": self.message} if self.message else {})}}
        finished = self.init and self.terminated is not None and self.terminated.code == 0
        body: JsonObject = {
            "name": self.name,
            "image": self.image,
            "imageID": f"process://{self.image}",
            "state": state,
            "lastState": {"terminated": self.last.state()} if self.last is not None else {},
            "ready": finished or (running and self.ready),
            "started": running and self.started,
            "restartCount": self.restarts,
        }
        container_id = self.container_id or (self.terminated.container_id if self.terminated is not None else "")
        if container_id:
            body["containerID"] = container_id
        return body


@dataclass(slots=True)
class PodFacts:
    """What the status of a pod is made from."""

    pod: JsonObject
    containers: Sequence[Record]
    init_containers: Sequence[Record] = ()
    pod_ip: str = ""
    host_ip: str = ""
    started: str = ""
    failure: tuple[str, str] | None = None
    """Reason and message where the pod as a whole has failed (`DeadlineExceeded`)."""
    terminal: bool = False
    """Whether no process is left, and none will start again."""
    conditions: Mapping[str, JsonObject] = field(default_factory=dict)
    """The conditions that were written last, by type."""


def phase(facts: PodFacts) -> str:
    """The pod's phase."""
    if facts.failure is not None:
        return "Failed"
    policy = facts.pod["spec"].get("restartPolicy", "Always")
    sidecars = {c["name"] for c in facts.pod["spec"].get("initContainers") or [] if c.get("restartPolicy") == "Always"}
    for record in facts.init_containers:
        if record.name in sidecars:
            continue
        if record.terminated is None or record.terminated.code != 0:
            failed = record.terminated is not None and policy == "Never"
            return "Failed" if failed else "Pending"
    records = facts.containers
    ended = [record.terminated for record in records if record.running_since is None and record.terminated is not None]
    if len(ended) == len(records) and (facts.terminal or policy != "Always"):
        if all(run.code == 0 for run in ended):
            return "Succeeded"
        if facts.terminal or policy == "Never":
            return "Failed"
    untouched = [r for r in records if r.running_since is None and r.terminated is None and r.last is None]
    return "Pending" if untouched else "Running"


def _condition(kind: str, *, true: bool, reason: str = "", message: str = "") -> JsonObject:
    body: JsonObject = {"type": kind, "status": "True" if true else "False", "lastProbeTime": None}
    if reason:
        body["reason"] = reason
    if message:
        body["message"] = message
    return body


def _initialized(facts: PodFacts, current: str) -> JsonObject:
    if current == "Succeeded":
        return _condition("Initialized", true=True, reason="PodCompleted")
    unfinished = [
        record.name
        for record in facts.init_containers
        if not record.status()["ready"] and not record.status()["started"]
    ]
    if unfinished:
        names = " ".join(unfinished)
        text = f"containers with incomplete status: [{names}]"
        return _condition("Initialized", true=False, reason="ContainersNotInitialized", message=text)
    return _condition("Initialized", true=True)


def _containers_ready(facts: PodFacts, current: str) -> JsonObject:
    if current == "Succeeded":
        return _condition("ContainersReady", true=False, reason="PodCompleted")
    if current == "Failed":
        return _condition("ContainersReady", true=False, reason="PodFailed")
    unready = [record.name for record in facts.containers if not record.status()["ready"]]
    if unready:
        text = f"containers with unready status: [{' '.join(unready)}]"
        return _condition("ContainersReady", true=False, reason="ContainersNotReady", message=text)
    return _condition("ContainersReady", true=True)


def _ready(facts: PodFacts, containers_ready: JsonObject) -> JsonObject:
    if containers_ready["status"] != "True":
        return {**containers_ready, "type": "Ready"}
    found = {c["type"]: c["status"] for c in (facts.pod.get("status") or {}).get("conditions") or []}
    problems = []
    for gate in facts.pod["spec"].get("readinessGates") or []:
        kind = gate["conditionType"]
        if found.get(kind) != "True":
            text = f'the status of pod readiness gate "{kind}" is not "True", but {found.get(kind, "False")}'
            problems.append(
                text if kind in found else f'corresponding condition of pod readiness gate "{kind}" does not exist.'
            )
    if problems:
        return _condition("Ready", true=False, reason="ReadinessGatesNotReady", message=", ".join(problems))
    return _condition("Ready", true=True)


def build(facts: PodFacts, now: datetime) -> JsonObject:
    """The part of the status that a pod runner writes. Conditions of others are not in it."""
    current = phase(facts)
    containers_ready = _containers_ready(facts, current)
    wanted = [
        _condition("PodScheduled", true=True),
        _initialized(facts, current),
        containers_ready,
        _ready(facts, containers_ready),
    ]
    conditions = []
    for item in wanted:
        former = facts.conditions.get(item["type"])
        changed = former is None or former.get("status") != item["status"]
        since = format_time(now) if changed or former is None else former.get("lastTransitionTime")
        conditions.append({**item, "lastTransitionTime": since})
    body: JsonObject = {"phase": current, "conditions": conditions}
    if facts.failure is not None:
        body["reason"], body["message"] = facts.failure
    if facts.started:
        body["startTime"] = facts.started
    body["hostIP"], body["hostIPs"] = facts.host_ip, [{"ip": facts.host_ip}]
    if facts.pod_ip:
        body["podIP"], body["podIPs"] = facts.pod_ip, [{"ip": facts.pod_ip}]
    if facts.init_containers:
        body["initContainerStatuses"] = [record.status() for record in facts.init_containers]
    body["containerStatuses"] = [record.status() for record in facts.containers]
    return body


def restarts(policy: str, code: int) -> bool:
    """Whether a container that ended with `code` is started again."""
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def back_off(failures: int, base: float, longest: float = 300.0) -> float:
    """Seconds to wait before the next start: none before the first restart, then doubling from `base`."""
    return 0.0 if failures <= 1 else min(base * 2 ** (failures - 2), longest)


def inherited(status: JsonObject, now: datetime) -> Terminated | None:
    """What became of a container that a former runner started: whatever ran has died with that runner."""
    state = status.get("state") or {}
    if (ended := state.get("terminated")) is not None:
        return Terminated(
            ended.get("exitCode", 0),
            ended.get("reason", ""),
            ended.get("signal", 0),
            ended.get("message", ""),
            ended.get("startedAt") or "",
            ended.get("finishedAt") or "",
            ended.get("containerID", ""),
        )
    if (running := state.get("running")) is not None:
        return Terminated(
            137,
            "ContainerStatusUnknown",
            message="The pod runner was restarted; its containers ended with it.",
            started=running.get("startedAt") or "",
            finished=format_time(now),
            container_id=status.get("containerID", ""),
        )
    return None
