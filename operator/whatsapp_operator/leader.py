"""Leader election: one operator acts, the others stand by with warm caches.

The algorithm is client-go's (tools/leaderelection): a `coordination.k8s.io/v1` Lease is renewed again and again; a
candidate takes it when its record has not changed for its whole duration by the candidate's own clock, and a leader
that could not renew it for somewhat less stops before anybody else may start. Clocks are never compared.

Beyond client-go, every leadership has a **term** that only grows, kept in an annotation of the Lease. What the leader
publishes carries it, and Redis refuses a lower one: a leader that was paused, and does not know yet that it is none any
more, can change nothing that its successor has changed.

Owns the Lease. Must not know what a leader does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

from kubeclient import ConflictError, KubeClient, KubernetesError, NotFoundError, Object, path_of
from session_worker.contract import GROUP
from session_worker.logs import fields

log = logging.getLogger(__name__)

TERM_ANNOTATION = f"{GROUP}/term"

_API = "coordination.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; the defaults are those of Kubernetes' own controllers."""

    duration: int = 15
    """Without a renewal for so long, others may take the lease."""
    deadline: float = 10.0
    """Without a renewal for so long, the leader gives up; it must be less than `duration`."""
    retry: float = 2.0
    """Between two attempts to renew or to take."""


USUAL = Timing()


class Authority(Protocol):
    """What gives a process the right to act."""

    @property
    def leads(self) -> bool:
        """Whether it may act now."""

    @property
    def term(self) -> int:
        """The number of its leadership; a later one's is higher."""


@dataclass(frozen=True, slots=True)
class Alone:
    """The authority of an operator that runs without election: somebody else sees to it that it is the only one."""

    term: int
    leads: bool = True


class Move(Enum):
    """What a candidate does next."""

    CREATE = "Create"
    TAKE = "Take"
    RENEW = "Renew"
    WAIT = "Wait"


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease's record, and when this process first saw it so."""

    record: str
    at: float
    """`time.monotonic()`."""


def observe(lease: Object, seen: Seen | None, now: float) -> Seen:
    """The record of `lease`, timed by when it last changed before our eyes."""
    spec = lease.get("spec") or {}
    record = f"{spec.get('holderIdentity')} {spec.get('renewTime')} {spec.get('acquireTime')}"
    return seen if seen is not None and seen.record == record else Seen(record, now)


def decide(lease: Object | None, identity: str, seen: Seen | None, now: float) -> Move:
    """What to do about a lease as it is now; `seen` comes from `observe`."""
    if lease is None:
        return Move.CREATE
    spec = lease.get("spec") or {}
    holder = spec.get("holderIdentity")
    if holder == identity:
        return Move.RENEW
    if not holder:
        return Move.TAKE
    duration = spec.get("leaseDurationSeconds") or USUAL.duration
    return Move.TAKE if seen is not None and now - seen.at > duration else Move.WAIT


def next_term(lease: Object | None, unix_time: float) -> int:
    """A term above all before it, also where the Lease was deleted or restored from a backup."""
    annotations = ((lease or {}).get("metadata") or {}).get("annotations") or {}
    text = str(annotations.get(TERM_ANNOTATION, ""))
    before = int(text) if text.isdecimal() else 0  # anybody may have written it
    return max(before + 1, int(unix_time))


def record_of(
    lease: Object | None, identity: str, *, term: int, now: datetime, taking: bool, duration: int = USUAL.duration
) -> Object:
    """The lease as its leader writes it; with the resourceVersion of the one that it replaces."""
    moment = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
    before = (lease or {}).get("spec") or {}
    transitions = int(before.get("leaseTransitions") or 0)
    metadata: Object = dict((lease or {}).get("metadata") or {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), TERM_ANNOTATION: str(term)}
    return {
        "apiVersion": _API,
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            **before,
            "holderIdentity": identity,
            "leaseDurationSeconds": duration,
            "acquireTime": moment if taking else before.get("acquireTime", moment),
            "renewTime": moment,
            "leaseTransitions": transitions + 1 if taking and lease is not None else transitions,
        },
    }


class Elector:
    """A candidate. `start` it; `elected` and `lost` say what becomes of it."""

    def __init__(self, client: KubeClient, *, namespace: str, name: str, identity: str, timing: Timing = USUAL) -> None:
        self._client = client
        self._timing = timing
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._lease: Object | None = None
        self._seen: Seen | None = None
        self._renewed: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.elected = asyncio.Event()
        self.lost = asyncio.Event()
        """Set once, after `elected`, when this process must not act any more."""
        self.term = 0
        self.heard: float | None = None
        """`time.monotonic()` at which the API last answered."""

    @property
    def leads(self) -> bool:
        """Whether this process may act now; false also before anything has noticed that the time has run out."""
        return (
            self.elected.is_set()
            and not self.lost.is_set()
            and self._renewed is not None
            and time.monotonic() - self._renewed < self._timing.deadline
        )

    def start(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Begin to stand for election; `on_change` is called when `elected` or `lost` is set."""
        self._task = asyncio.create_task(self._run(on_change), name="elector")

    async def stop(self) -> None:
        """End, and give the lease up if it is held, so that the next leader need not wait for it to run out."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self.leads and self._lease is not None:
            body = record_of(self._lease, "", term=self.term, now=datetime.now(UTC), taking=False)
            try:
                await self._client.replace(self._path(), body)
            except KubernetesError as error:
                log.info("The lease could not be given up", extra=fields(error=error.message))

    async def _run(self, on_change: Callable[[], None]) -> None:
        while not self.lost.is_set():
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._timing.deadline / 2):
                    await self._turn(began)
                self.heard = time.monotonic()
            except (KubernetesError, TimeoutError) as error:
                log.warning("The lease cannot be renewed or taken", extra=fields(error=str(error) or "timeout"))
            if self._renewed is not None and not self.elected.is_set():
                log.info("Elected", extra=fields(identity=self._identity, term=self.term))
                self.elected.set()
                on_change()
            if self.elected.is_set() and not self.leads:
                log.error("The lease is lost", extra=fields(identity=self._identity, term=self.term))
                self.lost.set()
                on_change()
            await asyncio.sleep(self._timing.retry)

    async def _turn(self, began: float) -> None:
        """Look at the lease and make one move. `began` counts as the time of a renewal: the answer took a while."""
        # What was written last is what is there now, unless the next write is refused.
        if self._lease is None or not self.elected.is_set():
            self._lease = await self._read()
        if self._lease is not None:
            self._seen = observe(self._lease, self._seen, time.monotonic())
        move = decide(self._lease, self._identity, self._seen, time.monotonic())
        if move is Move.WAIT:
            if self.elected.is_set():
                self._renewed = None
            return
        taking = move is not Move.RENEW or not self.elected.is_set()
        if taking and self.elected.is_set():
            self._renewed = None  # deleted, or given up in our name: others may have acted since
            return
        term = next_term(self._lease, time.time()) if taking else self.term
        body = record_of(
            self._lease,
            self._identity,
            term=term,
            now=datetime.now(UTC),
            taking=taking,
            duration=self._timing.duration,
        )
        try:
            self._lease = await self._write(body, create=move is Move.CREATE)
        except (ConflictError, NotFoundError):
            self._lease = None  # somebody else was faster; look again
            return
        self.term, self._renewed = term, began

    async def _read(self) -> Object | None:
        try:
            return await self._client.get(self._path())
        except NotFoundError:
            return None

    async def _write(self, body: Object, *, create: bool) -> Object:
        if not create:
            return await self._client.replace(self._path(), body)
        named: dict[str, Any] = {**body, "metadata": {**body["metadata"], "name": self._name}}
        return await self._client.create(path_of(_API, "leases", namespace=self._namespace), named)

    def _path(self) -> str:
        return path_of(_API, "leases", namespace=self._namespace, name=self._name)
