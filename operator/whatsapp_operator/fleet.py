"""The fleet as the planner sees it: pools, workers and sessions at one moment.

Owns what may be concluded from pods, heartbeats and assignments: above all, whether a worker may still run a session.
Must not do I/O, read a clock, or choose anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from session_worker.contract import Heartbeat, Phase, RuntimeState, SessionKey, WorkerKey
from whatsapp_operator.resources import DeletionPolicy, Placement


class PoolKey(NamedTuple):
    """Namespace and name of a `WhatsAppWorkerPool`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Life(StrEnum):
    """What is known of the process behind a worker."""

    COMING = "Coming"
    """The pod exists; its process has not reported yet."""
    LIVE = "Live"
    """Its lease is valid."""
    SILENT = "Silent"
    """The pod exists, its lease has run out: it may still run browsers."""
    VANISHED = "Vanished"
    """The pod is gone without proof that its processes ended: a forced deletion. It may still run browsers."""
    ENDED = "Ended"
    """Its processes ended: the pod says so, the worker said so, or its self-stop deadline has passed. Once the pod
    object is gone as well, the worker is no longer part of the fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker pod, or what is left of it."""

    key: WorkerKey
    pool: str
    uid: str
    created: datetime
    life: Life
    ready: bool = False
    """The pod's Ready condition."""
    deleting: bool = False
    draining_since: datetime | None = None
    """When the operator began to empty it."""
    ended_at: datetime | None = None
    failed: bool = False
    """The pod ended otherwise than by its own good exit."""
    problem: str = ""
    """Why the pod does not get ready, in Kubernetes' words: image, scheduling, crash."""
    template: str = ""
    """Hash of the pod template it was made from."""
    heartbeat: Heartbeat | None = None
    cleared: frozenset[SessionKey] = frozenset()
    """Sessions taken away from it that it has confirmed not to run."""
    self_stopped: bool = False
    """It was not heard for so long that it has closed its browsers by itself, wherever it is."""

    @property
    def pool_key(self) -> PoolKey:
        """The pool it belongs to."""
        return PoolKey(self.key.namespace, self.pool)

    @property
    def exists(self) -> bool:
        """Whether there is a pod whose process may run."""
        return self.life in (Life.COMING, Life.LIVE, Life.SILENT)

    @property
    def leaving(self) -> bool:
        """Whether its sessions have to go elsewhere."""
        return (
            self.deleting or self.draining_since is not None or (self.heartbeat is not None and self.heartbeat.draining)
        )

    @property
    def serving(self) -> bool:
        """Whether it counts as one of the pool's replicas."""
        return self.exists and not self.leaving

    @property
    def accepts(self) -> bool:
        """Whether it may get sessions."""
        return self.serving and self.ready and self.life is Life.LIVE

    def may_run(self, session: SessionKey) -> bool:
        """Whether a browser of `session` may be open here, for all that is known."""
        return self.life is not Life.ENDED and not self.self_stopped and session not in self.cleared


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One `WhatsAppSession`, with what its worker says of it."""

    key: SessionKey
    uid: str
    generation: int
    created: datetime
    pool: str
    running: bool = True
    """`spec.state` is Running."""
    priority: int = 0
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    deleting_since: datetime | None = None
    finalizer: bool = False
    """Our finalizer is on the object."""
    worker: str | None = None
    epoch: int = 0
    releasing: bool = False
    """The assignment was taken back; it stays on record until the worker has confirmed."""
    assigned_since: datetime | None = None
    phase: Phase | None = None
    """`status.phase` as last written."""
    state: RuntimeState | None = None
    """What the owner reports; older epochs are left out."""
    known_epoch: int = 0
    """The highest epoch seen anywhere, in Redis too."""

    @property
    def pool_key(self) -> PoolKey:
        """The pool it asks for."""
        return PoolKey(self.key.namespace, self.pool)

    @property
    def wanted(self) -> bool:
        """Whether a browser should hold this account."""
        return self.running and self.deleting_since is None

    @property
    def worker_key(self) -> WorkerKey | None:
        """Its owner."""
        return WorkerKey(self.key.namespace, self.worker) if self.worker else None

    @property
    def next_epoch(self) -> int:
        """The epoch of its next owner."""
        return max(self.epoch, self.known_epoch) + 1

    @property
    def order(self) -> tuple[int, datetime, SessionKey]:
        """Who comes first when room is short: priority, then age."""
        return (-self.priority, self.created, self.key)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a pool's workers have shown of themselves, smoothed over about a minute."""

    at: datetime
    session_bytes: float = 0.0
    """Memory of a connected session; the last that was known where none is connected. 0: never measured."""
    share: float = 1.0
    """What the ready workers hold of what the pool's spec allows them, at most 1."""


def scaled_demand(wanted: int, *, sessions_per_worker: int, ready: int, effective_capacity: int) -> int:
    """The session metric: places that a pool needs, counted in places of `sessions_per_worker` to a worker.

    Autoscaling knows how many sessions a worker should hold and divides by it. Where memory lets a worker hold fewer,
    each session counts for correspondingly more, so that the quotient is the number of workers that are needed.

    Args:
        wanted: Sessions that are to run, each once, and the spare places.
        sessions_per_worker: What the pool's spec allows.
        ready: Workers that `effective_capacity` speaks of.
        effective_capacity: Sessions that they really hold together.
    """
    nominal = ready * sessions_per_worker
    if not 0 < effective_capacity < nominal:
        return wanted
    return -(-wanted * nominal // effective_capacity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One `WhatsAppWorkerPool`."""

    key: PoolKey
    uid: str
    generation: int
    replicas: int
    sessions_per_worker: int = 15
    memory_per_session: int = 100 * 2**20
    """Bytes."""
    memory_threshold: float = 0.8
    """Share of a worker's memory limit above which it gets no new session."""
    spare_sessions: int = 0
    placement: Placement = Placement.PACK
    max_concurrent_moves: int = 3
    drain_timeout: timedelta = timedelta(minutes=5)
    template: str = ""
    """Hash of the wanted pod template."""
    deleting: bool = False
    max_replicas: int | None = None
    """Most workers that autoscaling may ask for; None: nothing scales the pool."""
    measured: Measured | None = None
    """As of the last cycle; None in the first one."""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Everything at one moment."""

    pools: Mapping[PoolKey, Pool] = field(default_factory=dict)
    workers: Mapping[WorkerKey, Worker] = field(default_factory=dict)
    sessions: Mapping[SessionKey, Session] = field(default_factory=dict)

    @cached_property
    def sessions_of(self) -> Mapping[WorkerKey, list[Session]]:
        """Worker -> the sessions on record for it, those being taken back included."""
        result: dict[WorkerKey, list[Session]] = {}
        for session in self.sessions.values():
            if owner := session.worker_key:
                result.setdefault(owner, []).append(session)
        return result

    @cached_property
    def workers_of(self) -> Mapping[PoolKey, list[Worker]]:
        """Pool -> its workers, oldest first."""
        result: dict[PoolKey, list[Worker]] = {}
        for worker in sorted(self.workers.values(), key=lambda worker: (worker.created, worker.key)):
            result.setdefault(worker.pool_key, []).append(worker)
        return result

    @cached_property
    def sessions_in(self) -> Mapping[PoolKey, list[Session]]:
        """Pool -> the sessions that ask for it."""
        result: dict[PoolKey, list[Session]] = {}
        for session in self.sessions.values():
            result.setdefault(session.pool_key, []).append(session)
        return result

    @cached_property
    def running_at(self) -> Mapping[SessionKey, WorkerKey]:
        """Session -> a worker that lists it in its heartbeat and may still have its browser open, on record or not."""
        return {
            SessionKey.parse(text): worker.key
            for worker in self.workers.values()
            if worker.heartbeat is not None
            for text in worker.heartbeat.running
            if worker.may_run(SessionKey.parse(text))
        }

    def owner(self, session: Session) -> Worker | None:
        """The worker on record for `session`, where anything of it is left."""
        return self.workers.get(session.worker_key) if session.worker_key else None

    def may_run(self, session: Session) -> bool:
        """Whether the worker on record may still have a browser of `session` open."""
        owner = self.owner(session)
        return owner is not None and owner.may_run(session.key)
