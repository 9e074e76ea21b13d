"""Workers without browsers, and a node that runs their pods: what the operator sees of a fleet, in one process.

Owns the worker's side of the protocol in Redis as `session_worker.supervisor` speaks it (lease, desired set, epochs,
release before the next owner, goodbye), and the kubelet's side of a pod's life. Everything that is written to Redis
goes through `session_worker.registry`, each worker over connections of its own. A session is a clock here: Starting,
then Connected after a fixed time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kubeclient import KubeClient, KubernetesError, NotFoundError, Object, path_of
from sandbox.kube.clients import Cache, ObjectKey
from sandbox.kubelet.node import Node, NodeSpec
from session_worker.contract import (
    CONTROL_PORT,
    HEARTBEAT_INTERVAL,
    SELF_STOP_AFTER,
    Account,
    Assignment,
    Heartbeat,
    Phase,
    Running,
    RuntimeState,
    SessionKey,
    WorkerKey,
)
from session_worker.registry import Publication, Registry, RegistryUnavailableError
from session_worker.supervisor import BEAT_GAP, POLL

log = logging.getLogger(__name__)

CONTAINER = "worker"
_MEBI = 2**20
_NODE_PORT = 10250
_STATUS_WRITES = 16
"""Requests of the node at a time."""
_STATUS_TRIES = 5
_STATUS_PAUSE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How simulated workers behave."""

    redis_url: str
    capacity: int = 15
    connect_seconds: float = 0.2
    """From the assignment's arrival to Connected; a real browser with a linked profile takes seconds."""
    close_seconds: float = 0.05
    """From the end of an assignment to the release."""
    base_memory: int = 50 * _MEBI
    session_memory: int = 100 * _MEBI
    memory_limit: int = 2048 * _MEBI


class SimulatedWorker:
    """One worker. `start` it; then `retire`, `kill` or `freeze` ends it, and `aclose` in any case."""

    def __init__(self, key: WorkerKey, uid: str, address: str, manner: Manner) -> None:
        self.key = key
        self._uid = uid
        self._address = address
        self._manner = manner
        self._registry = Registry.connect(manner.redis_url)
        self._running: dict[SessionKey, Running] = {}
        self._assignments: dict[SessionKey, Assignment] = {}
        self._stops: dict[SessionKey, asyncio.Event] = {}
        self._refused: dict[SessionKey, int] = {}
        self._lives: set[asyncio.Task[None]] = set()
        self._revision = 0
        self._void_revision = 0
        self._draining = False
        self._beat_now = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._tasks: list[asyncio.Task[None]] = []
        self.frozen = False

    @property
    def sessions(self) -> int:
        """Sessions that run here."""
        return len(self._running)

    async def start(self) -> None:
        """Take the lease, then follow the desired set."""
        with suppress(RegistryUnavailableError):  # the loop goes on trying
            await self._registry.beat(self.key, self._heartbeat())
        self._tasks = [asyncio.create_task(self._beat_loop()), asyncio.create_task(self._follow_loop())]

    async def retire(self, deadline: float) -> None:
        """What SIGTERM does: wait for the sessions to be taken elsewhere, then close what is left and say goodbye.

        Args:
            deadline: Seconds that the sessions have for leaving.
        """
        self._draining = True
        self._beat_now.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._empty.wait()
        await _cancel(self._tasks[1:])
        await self._stop_all()
        await _cancel(self._tasks)
        with suppress(RegistryUnavailableError):
            await self._registry.beat(self.key, self._heartbeat(stopped=True))
            await self._registry.tell(self.key)

    async def freeze(self) -> None:
        """Stop in the middle of everything, and say nothing: what SIGSTOP or a hung event loop does."""
        self.frozen = True
        await _cancel([*self._tasks, *self._lives])

    async def aclose(self) -> None:
        """Stop without a word, as SIGKILL does, and close the connections."""
        await _cancel([*self._tasks, *self._lives])
        await self._registry.aclose()

    # --- The lease

    async def _beat_loop(self) -> None:
        last = time.monotonic()
        while True:
            try:
                await self._registry.beat(self.key, self._heartbeat())
                last = time.monotonic()
            except RegistryUnavailableError as error:
                log.warning("%s: the lease could not be renewed: %s", self.key, error)
                if time.monotonic() - last > SELF_STOP_AFTER.total_seconds():
                    self._void_revision = self._revision
                    await self._stop_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_INTERVAL.total_seconds()):
                    await self._beat_now.wait()
                    await asyncio.sleep(BEAT_GAP)
            self._beat_now.clear()

    def _heartbeat(self, *, stopped: bool = False) -> Heartbeat:
        manner = self._manner
        return Heartbeat(
            uid=self._uid,
            address=self._address,
            version="simulated",
            capacity=manner.capacity,
            revision=self._revision,
            void_revision=self._void_revision,
            running={str(key): running for key, running in self._running.items()},
            memory_used_bytes=manner.base_memory + len(self._running) * manner.session_memory,
            memory_limit_bytes=manner.memory_limit,
            draining=self._draining,
            stopped=stopped,
        )

    # --- The desired set

    async def _follow_loop(self) -> None:
        wake = "0"
        while True:
            try:
                publication = await self._registry.assigned(self.key)
                if publication is not None:
                    self._adopt(publication)
                wake = await self._registry.wait_for_wake(self.key, after=wake, idle=POLL)
            except RegistryUnavailableError as error:
                log.warning("%s: the assignments cannot be read: %s", self.key, error)
                await asyncio.sleep(POLL)

    def _adopt(self, publication: Publication) -> None:
        if publication.revision <= self._void_revision:
            return
        desired = publication.assignments
        for key, assignment in self._assignments.items():
            wanted = desired.get(key)
            if wanted is None or (wanted.epoch, wanted.uid) != (assignment.epoch, assignment.uid):
                self._stops[key].set()
        for key, assignment in desired.items():
            if key not in self._assignments and self._refused.get(key, 0) < assignment.epoch:
                self._begin(key, assignment)
        if publication.revision != self._revision:
            self._revision = publication.revision
            self._beat_now.set()

    def _begin(self, key: SessionKey, assignment: Assignment) -> None:
        self._assignments[key] = assignment
        self._stops[key] = asyncio.Event()
        self._empty.clear()
        self._show(key, assignment, Phase.STARTING)
        life = asyncio.create_task(self._live(key, assignment))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)

    async def _stop_all(self) -> None:
        for stop in self._stops.values():
            stop.set()
        await asyncio.gather(*self._lives, return_exceptions=True)

    # --- A session

    async def _live(self, key: SessionKey, assignment: Assignment) -> None:
        stop = self._stops[key]
        current = await self._tell(key, assignment, Phase.STARTING)
        if current:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._manner.connect_seconds):
                    await stop.wait()
        if current and not stop.is_set():
            self._show(key, assignment, Phase.CONNECTED)
            current = await self._tell(key, assignment, Phase.CONNECTED)
        if current:
            await stop.wait()
            self._show(key, assignment, Phase.DRAINING)
            await asyncio.sleep(self._manner.close_seconds)
            await self._tell(key, assignment, Phase.STOPPED)
        else:
            self._refused[key] = assignment.epoch
        del self._assignments[key], self._stops[key], self._running[key]
        if not self._running:
            self._empty.set()
        self._beat_now.set()

    def _show(self, key: SessionKey, assignment: Assignment, phase: Phase) -> None:
        memory = self._manner.session_memory if phase is Phase.CONNECTED else None
        self._running[key] = Running(epoch=assignment.epoch, phase=phase, memory_bytes=memory)
        self._beat_now.set()

    async def _tell(self, key: SessionKey, assignment: Assignment, phase: Phase) -> bool:
        """Write the session's state until Redis takes it; whether this is still its owner."""
        now = time.time()
        state = RuntimeState(
            epoch=assignment.epoch,
            phase=phase,
            worker=self.key.name,
            address=self._address,
            since=now,
            last_activity=now,
            generation=assignment.generation,
            account=Account(id="15550100000@c.us", push_name=key.name) if phase is Phase.CONNECTED else None,
            message=phase.lower(),
        )
        while True:
            try:
                return await self._registry.write_state(key, state)
            except RegistryUnavailableError as error:
                log.warning("%s: the state of %s could not be written: %s", self.key, key, error)
                await asyncio.sleep(1)


@dataclass(slots=True)
class _Pod:
    """A pod that runs here."""

    pod: Object
    worker: SimulatedWorker
    task: asyncio.Task[None] | None = None
    """What is being done about it at the API."""
    started: str = ""
    ended: bool = False
    address: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class SimulatedNode:
    """A kubelet whose pods are `SimulatedWorker`s. Pods get here by `spec.nodeName`. `start` it, `aclose` it."""

    def __init__(self, client: KubeClient, name: str, manner: Manner) -> None:
        self._client = client
        self.name = name
        self._manner = manner
        capacity = {"cpu": "100000", "memory": "100Ti", "pods": "100000"}
        self._node = Node(client, NodeSpec(name=name, capacity=capacity), _NODE_PORT)
        query = {"fieldSelector": f"spec.nodeName={name}"}
        self._cache = Cache(client, path_of("v1", "pods"), self._changed, **query)
        self._pods: dict[str, _Pod] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_STATUS_WRITES)
        self._addresses = 0

    async def start(self) -> None:
        """Register the node and begin to run its pods.

        Raises:
            KubernetesError: The server does not answer, or refuses the node.
        """
        await self._node.register()
        self._tasks = [asyncio.create_task(self._cache.run()), asyncio.create_task(self._node.run())]
        await self._cache.synced.wait()

    async def aclose(self) -> None:
        """Stop everything; the objects stay at the API."""
        await _cancel([*self._tasks, *self._jobs])
        await asyncio.gather(*(pod.worker.aclose() for pod in self._pods.values()))

    @property
    def ready(self) -> int:
        """Workers that are Ready at the API and alive."""
        return sum(pod.ready.is_set() and not pod.ended and not pod.worker.frozen for pod in self._pods.values())

    @property
    def pods(self) -> int:
        """Pods that are bound to this node."""
        return len(self._pods)

    async def kill(self, name: str) -> float:
        """Let a worker die, and tell the API as a kubelet does whose container has ended.

        Returns:
            `time.monotonic()` at which the API was told.
        """
        found = self._find(name)
        await found.worker.aclose()
        found.ended = True
        told = time.monotonic()
        await self._write(found, _ended_status(found, code=137))
        return told

    async def freeze(self, name: str) -> float:
        """Let a worker hang while its pod stays Running.

        Returns:
            `time.monotonic()` at which it froze.
        """
        await self._find(name).worker.freeze()
        return time.monotonic()

    def _find(self, name: str) -> _Pod:
        return next(pod for pod in self._pods.values() if pod.worker.key.name == name)

    # --- Pods

    def _changed(self, key: ObjectKey | None) -> None:
        objects = self._cache.objects
        if key is None or key not in objects:
            present = {pod["metadata"]["uid"] for pod in objects.values()}
            for uid in [uid for uid in self._pods if uid not in present]:
                self._spawn(self._pods.pop(uid).worker.aclose())
        for pod in objects.values() if key is None else filter(None, [objects.get(key)]):
            found = self._pods.get(pod["metadata"]["uid"])
            if found is None:
                if pod["status"].get("phase") not in ("Succeeded", "Failed"):
                    self._begin(pod)
                continue
            found.pod = pod
            if "deletionTimestamp" in pod["metadata"] and found.task is None:
                found.task = self._spawn(self._end(found))

    def _begin(self, pod: Object) -> None:
        metadata = pod["metadata"]
        self._addresses += 1
        address = f"10.{200 + self._addresses // 65025}.{self._addresses // 255 % 255}.{self._addresses % 255 + 1}"
        key = WorkerKey(metadata["namespace"], metadata["name"])
        worker = SimulatedWorker(key, metadata["uid"], f"{address}:{CONTROL_PORT}", self._manner)
        started = _utc()
        found = _Pod(pod, worker, started=started, address=address)
        self._pods[metadata["uid"]] = found
        self._spawn(self._run(found))

    async def _run(self, found: _Pod) -> None:
        await found.worker.start()
        await self._write(found, _running_status(found))
        found.ready.set()

    async def _end(self, found: _Pod) -> None:
        """What a kubelet does with a pod that is being deleted."""
        grace = found.pod["metadata"].get("deletionGracePeriodSeconds", 30)
        if found.worker.frozen:
            await asyncio.sleep(grace)
            await found.worker.aclose()
            code = 137
        else:
            code = 0
            if not found.ended:
                await found.worker.retire(grace)
        if not found.ended:
            found.ended = True
            await self._write(found, _ended_status(found, code=code))
        namespace, name = found.worker.key
        with suppress(NotFoundError):
            path = path_of("v1", "pods", namespace=namespace, name=name)
            await self._client.delete(path, uid=found.pod["metadata"]["uid"], grace_seconds=0)

    async def _write(self, found: _Pod, status: Object) -> None:
        namespace, name = found.worker.key
        path = path_of("v1", "pods", namespace=namespace, name=name, subresource="status")
        for _ in range(_STATUS_TRIES):
            try:
                async with self._slots:
                    await self._client.patch(path, {"status": status})
            except NotFoundError:
                return
            except KubernetesError as error:
                log.warning("%s: its status could not be written: %s", found.worker.key, error.message)
                await asyncio.sleep(_STATUS_PAUSE)
            else:
                return

    def _spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task


def _utc() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _running_status(found: _Pod) -> Object:
    return {
        "phase": "Running",
        "hostIP": "127.0.0.1",
        "podIP": found.address,
        "podIPs": [{"ip": found.address}],
        "startTime": found.started,
        "conditions": [
            {"type": name, "status": "True", "lastTransitionTime": found.started}
            for name in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        ],
        "containerStatuses": [
            {**_container(found), "ready": True, "started": True, "state": {"running": {"startedAt": found.started}}}
        ],
    }


def _ended_status(found: _Pod, *, code: int) -> Object:
    now = _utc()
    end = {
        "exitCode": code,
        "reason": "Error" if code else "Completed",
        "startedAt": found.started,
        "finishedAt": now,
        "containerID": f"simulated://{found.worker.key.name}",
    }
    return {
        "phase": "Failed" if code else "Succeeded",
        "conditions": [
            {"type": name, "status": status, "lastTransitionTime": now}
            for name, status in (
                ("PodScheduled", "True"),
                ("Initialized", "True"),
                ("ContainersReady", "False"),
                ("Ready", "False"),
            )
        ],
        "containerStatuses": [
            {**_container(found), "ready": False, "started": False, "state": {"terminated": end}},
        ],
    }


def _container(found: _Pod) -> Object:
    image = found.pod["spec"]["containers"][0]["image"]
    return {"name": CONTAINER, "image": image, "imageID": image, "restartCount": 0, "lastState": {}}


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
