"""What to do next: `plan(fleet, policy, now) -> Plan`.

Owns placement, handover, drain, rollout and replacement as decisions. Must not do I/O or read a clock: everything it
needs is in its arguments, so a plan can be replayed. Every action and every refusal carries its reason; the same
sentence ends up in the log, the event, the status and the tests.

The rules, in the order in which they win:

1. A session has at most one owner. It gets another only when the one on record cannot run it any more
   (`Fleet.may_run`), and then under a higher epoch.
2. A worker never has more sessions on record than it has places. A session that is being taken back keeps its place.
3. Sessions leave a worker that is going away a few at a time, and only while there is a place for them elsewhere; when
   the pod is already being deleted, or at the drain's deadline, they leave anyway.
4. A session that waits knows why.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from session_worker.contract import Phase, SessionKey, WorkerKey
from whatsapp_operator.fleet import Fleet, Life, Measured, Pool, PoolKey, Session, Worker, scaled_demand
from whatsapp_operator.resources import Placement, format_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Constants of the planner, in one place so that tests and simulations may bend them."""

    move_settles_after: timedelta = timedelta(seconds=60)
    """A moved session that is not up by then no longer counts as a move in flight, so that one that cannot start
    never holds up a drain."""
    failure_memory: timedelta = timedelta(minutes=10)
    """How long a failed pod is remembered, and kept for `kubectl logs`."""
    first_backoff: timedelta = timedelta(seconds=10)
    """Delay before a pod is replaced when the one before it failed too; doubles with every further one."""
    longest_backoff: timedelta = timedelta(minutes=5)
    silent_grace: int = 30
    """Seconds that a worker without heartbeat gets to end when its pod is deleted."""
    smoothing: timedelta = timedelta(seconds=60)
    """Time constant with which measured memory is believed: a page that loads must not look like a fuller fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateWorker:
    """Make a worker pod."""

    pool: PoolKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainWorker:
    """Take a worker out of service; its sessions leave in later plans."""

    worker: WorkerKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteWorker:
    """Delete a worker's pod."""

    worker: WorkerKey
    reason: str
    grace_seconds: int | None = None
    """None: the pod's own grace period."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign:
    """Give a session to a worker under a new epoch."""

    session: SessionKey
    worker: WorkerKey
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Take a session back from its worker; it stays on record until the worker has confirmed."""

    session: SessionKey
    worker: WorkerKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacate:
    """Clear the record of a session's owner: none runs it, and it is to have none for now."""

    session: SessionKey
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalize:
    """Let a deleted session's object go."""

    session: SessionKey
    reason: str


WorkerAction = CreateWorker | DrainWorker | DeleteWorker
SessionAction = Assign | Release | Vacate | Finalize
Action = WorkerAction | SessionAction


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """A pool in numbers, for its status."""

    replicas: int = 0
    """Workers that serve, as an autoscaler is to see them."""
    surge: int = 0
    """Workers that serve besides, for a rollout."""
    ready: int = 0
    draining: int = 0
    capacity: int = 0
    effective_capacity: int = 0
    sessions: int = 0
    pending: int = 0
    demand: int = 0
    """Sessions that want a browser, each counted once wherever it is, and the spare places; scaled where memory lets
    workers hold fewer than the spec allows (`fleet.scaled_demand`)."""
    session_bytes: int = 0
    """What a session takes, where that is why workers hold fewer; else 0."""
    measured: Measured | None = None
    """For the next cycle."""
    problems: tuple[str, ...] = ()
    """What keeps workers from getting ready, one sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do, and why what is left undone is left undone."""

    actions: tuple[Action, ...] = ()
    waiting: Mapping[SessionKey, str] = field(default_factory=dict)
    """Sessions that want a place and get none in this plan, each with the reason."""
    pools: Mapping[PoolKey, PoolReport] = field(default_factory=dict)

    @property
    def worker_actions(self) -> list[WorkerAction]:
        """The actions on pods."""
        return [action for action in self.actions if isinstance(action, WorkerAction)]

    @property
    def session_actions(self) -> list[SessionAction]:
        """The actions on sessions, at most one for each."""
        return [action for action in self.actions if isinstance(action, SessionAction)]


def plan(fleet: Fleet, policy: Policy, now: datetime) -> Plan:
    """Decide the next actions for the whole fleet. A settled fleet gets a plan without actions."""
    actions: list[Action] = []
    waiting: dict[SessionKey, str] = {}
    reports: dict[PoolKey, PoolReport] = {}
    for key in sorted({*fleet.pools, *fleet.workers_of, *fleet.sessions_in}):
        scope = _Scope.of(fleet, key, policy, now)
        actions += _staff(scope, policy, now)
        placed, refused = _settle(scope, policy, now)
        actions += placed
        waiting |= refused
        if scope.pool is not None:
            reports[key] = _report(scope, refused, now)
    return Plan(actions=tuple(actions), waiting=waiting, pools=reports)


def after(session: Session, action: SessionAction | None, now: datetime) -> Session:
    """The session as it is on record once `action` was carried out."""
    match action:
        case Assign():
            return replace(
                session,
                worker=action.worker.name,
                epoch=action.epoch,
                assigned_since=now,
                releasing=False,
                state=None,
                phase=Phase.ASSIGNED,
            )
        case Release():
            return replace(session, releasing=True)
        case Vacate():
            return replace(session, worker=None, releasing=False, assigned_since=now, state=None)
        case _:
            return session


def waiting_for(worker: WorkerKey) -> str:
    """The sentence for a session whose handover waits for its old owner."""
    return f"waiting for worker {worker.name} to release it"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """One pool with its workers and the sessions that ask for it."""

    key: PoolKey
    pool: Pool | None
    workers: Sequence[Worker]
    sessions: Sequence[Session]
    fleet: Fleet
    session_bytes: float
    """Mean of the sessions measured, smoothed; 0 where none ever was."""
    memory_estimate: int
    """Bytes that one more session is expected to take: the user's estimate, or what is measured if that is higher."""
    weight: float
    """How much of what is measured now is believed, against what was believed before."""

    @classmethod
    def of(cls, fleet: Fleet, key: PoolKey, policy: Policy, now: datetime) -> _Scope:
        pool = fleet.pools.get(key)
        before = pool.measured if pool else None
        weight = 1 - math.exp(-max((now - before.at) / policy.smoothing, 0.0)) if before else 1.0
        workers = fleet.workers_of.get(key, [])
        measured = [
            running.memory_bytes
            for worker in workers
            if worker.heartbeat is not None
            for running in worker.heartbeat.running.values()
            if running.phase is Phase.CONNECTED and running.memory_bytes
        ]
        known = before.session_bytes if before else 0.0
        mean = sum(measured) / len(measured) if measured else known
        session_bytes = _blend(known, mean, weight) if known else mean
        return cls(
            key=key,
            pool=pool,
            workers=workers,
            sessions=fleet.sessions_in.get(key, []),
            fleet=fleet,
            session_bytes=session_bytes,
            memory_estimate=max(pool.memory_per_session if pool else 0, int(session_bytes), 1),
            weight=weight,
        )

    def load(self, worker: Worker) -> int:
        """Places taken on a worker."""
        return len(self.fleet.sessions_of.get(worker.key, ()))

    def places(self, worker: Worker) -> tuple[int, bool]:
        """Places that a worker has in all, and whether memory rather than the session limit sets them.

        Committed memory is the higher of count times estimate and what is measured plus the estimate of what has not
        started yet.
        """
        if self.pool is None:
            return 0, False
        beat = worker.heartbeat
        most = min(self.pool.sessions_per_worker, beat.capacity) if beat else self.pool.sessions_per_worker
        if beat is None or beat.memory_limit_bytes <= 0:
            return most, False
        load = self.load(worker)
        unstarted = max(0, load - len(beat.running))
        committed = max(load * self.memory_estimate, beat.memory_used_bytes + unstarted * self.memory_estimate)
        free = int(beat.memory_limit_bytes * self.pool.memory_threshold) - committed
        by_memory = load + max(0, free // self.memory_estimate)
        return (by_memory, True) if by_memory < most else (most, False)


def _blend(before: float, now: float, weight: float) -> float:
    return before + (now - before) * weight


# --- Workers --------------------------------------------------------------------------------------------------------


def _staff(scope: _Scope, policy: Policy, now: datetime) -> Iterator[Action]:
    """Make, drain and delete worker pods."""
    yield from _clear_away(scope, policy, now)
    pool = scope.pool
    if pool is None or pool.deleting:
        return
    serving = [worker for worker in scope.workers if worker.serving]
    outdated = [worker for worker in serving if worker.template != pool.template]
    current = [worker for worker in serving if worker.template == pool.template]
    # A rollout works with one worker more than wanted, so that sessions have a place to go to.
    surge = 1 if outdated and pool.replicas > 0 else 0
    wanted = pool.replicas + surge
    if len(serving) < wanted and not (surge and len(serving) >= pool.replicas and _unready(current)):
        delay = _backoff(scope, policy, now)
        if delay <= timedelta():
            why = f"{len(serving)} of {pool.replicas} workers"
            reason = f"rollout of a new pod template: {why} and one more" if surge else f"{why} exist"
            missing = wanted - len(serving)
            yield from (CreateWorker(pool=pool.key, reason=reason) for _ in range(missing))
        return
    surplus = len(serving) - wanted
    if surplus > 0:
        reason = f"scale-in: {pool.replicas} of {len(serving)} workers are wanted"
        for worker in sorted(serving, key=lambda worker: _victim_order(scope, worker))[:surplus]:
            yield DrainWorker(worker=worker.key, reason=reason)
        return
    # A pod that does not answer may stay for ever: it must not hold up the others.
    drain_runs = any(worker.exists and worker.leaving and worker.life is not Life.SILENT for worker in scope.workers)
    if outdated and not drain_runs and not _unready(current) and len(serving) > pool.replicas:
        victim = min(outdated, key=lambda worker: _victim_order(scope, worker))
        yield DrainWorker(worker=victim.key, reason="rollout of a new pod template")


def _unready(workers: Iterable[Worker]) -> bool:
    return any(not worker.accepts for worker in workers)


def _victim_order(scope: _Scope, worker: Worker) -> tuple[bool, bool, int, float, str]:
    """Who goes first: outdated, then not in use, then emptiest, then youngest."""
    pool = scope.pool
    return (
        pool is not None and worker.template == pool.template,
        worker.accepts,
        scope.load(worker),
        -worker.created.timestamp(),
        worker.key.name,
    )


def _clear_away(scope: _Scope, policy: Policy, now: datetime) -> Iterator[DeleteWorker]:
    """Delete pods that are empty, overdue, silent or dead."""
    for worker in scope.workers:
        if worker.deleting:
            continue
        match worker.life:
            case Life.SILENT:
                yield DeleteWorker(
                    worker=worker.key, reason="its heartbeat has stopped", grace_seconds=policy.silent_grace
                )
            case Life.ENDED if not worker.failed:
                yield DeleteWorker(worker=worker.key, reason="it has ended")
            case Life.ENDED if now - (worker.ended_at or worker.created) > policy.failure_memory:
                yield DeleteWorker(worker=worker.key, reason="it failed a while ago")
            case Life.COMING | Life.LIVE if worker.draining_since is not None:
                timeout = scope.pool.drain_timeout if scope.pool else timedelta()
                if scope.load(worker) == 0:
                    yield DeleteWorker(worker=worker.key, reason="drained: it has no session left")
                elif now - worker.draining_since > timeout:
                    yield DeleteWorker(worker=worker.key, reason="the drain's deadline has passed")
            case _:
                pass


def _backoff(scope: _Scope, policy: Policy, now: datetime) -> timedelta:
    """How long to wait before the next pod: not at all after one failure, 10 s after two, then doubling."""
    ends = sorted(
        worker.ended_at
        for worker in scope.workers
        if worker.failed and worker.ended_at is not None and now - worker.ended_at <= policy.failure_memory
    )
    if len(ends) < 2:
        return timedelta()
    delay = min(policy.first_backoff * (1 << min(len(ends) - 2, 10)), policy.longest_backoff)
    return ends[-1] + delay - now


# --- Sessions -------------------------------------------------------------------------------------------------------


def _settle(scope: _Scope, policy: Policy, now: datetime) -> tuple[list[Action], dict[SessionKey, str]]:
    """Move every session of a pool one step towards what is wanted."""
    actions: list[Action] = []
    waiting: dict[SessionKey, str] = {}
    movers: list[Session] = []  # without a browser now, and due to have one: they come before those who never had
    newcomers: list[Session] = []
    leaving: list[Session] = []
    reserved = 0
    for session in scope.sessions:
        owner_key = session.worker_key
        if owner_key is None:
            if session.wanted or _purging(session, now):
                newcomers.append(session)
            elif session.deleting_since is not None and session.finalizer:
                actions.append(Finalize(session=session.key, reason="no worker runs it"))
            continue
        free = not scope.fleet.may_run(session)
        if free and (session.releasing or _ended(scope, session)):
            if session.wanted or _purging(session, now):
                movers.append(session)
            elif session.deleting_since is not None:
                if session.finalizer:
                    actions.append(Finalize(session=session.key, reason=f"worker {owner_key.name} released it"))
            else:
                actions.append(Vacate(session=session.key, reason="spec.state is Stopped"))
        elif session.releasing:
            waiting[session.key] = waiting_for(owner_key)
            reserved += session.wanted
        elif reason := _must_leave(scope, session, owner_key, now):
            actions.append(Release(session=session.key, worker=owner_key, reason=reason))
        elif (owner := scope.fleet.owner(session)) is not None and owner.leaving:
            leaving.append(session)
    seats = _Seats(scope)
    seats.reserve(reserved)
    for session in (*sorted(movers, key=lambda s: s.order), *sorted(newcomers, key=lambda s: s.order)):
        runner = scope.fleet.running_at.get(session.key)
        if runner is not None:
            # Under another record: its object was made anew, or lost its finalizer.
            waiting[session.key] = f"waiting for worker {runner.name} to end its browser of this name"
            continue
        worker = seats.take()
        if worker is None:
            waiting[session.key] = seats.refusal()
            if session.worker_key is not None:
                actions.append(Vacate(session=session.key, reason=waiting[session.key]))
        else:
            actions.append(
                Assign(
                    session=session.key,
                    worker=worker.key,
                    epoch=session.next_epoch,
                    reason=_assign_reason(scope, session, worker),
                )
            )
    actions += _move(scope, policy, now, leaving, seats)
    return actions, waiting


def _ended(scope: _Scope, session: Session) -> bool:
    owner = scope.fleet.owner(session)
    return owner is None or owner.life is Life.ENDED


def _must_leave(scope: _Scope, session: Session, owner_key: WorkerKey, now: datetime) -> str:
    """Why a session has to leave its worker whether or not there is another place; empty when it may stay."""
    if session.deleting_since is not None:
        return "" if _purging(session, now) else "the session is being deleted"
    if not session.running:
        return "spec.state is Stopped"
    owner = scope.fleet.owner(session)
    if owner is not None and owner.pool != session.pool:
        return f"it moved to pool {session.pool}"
    if owner is not None and owner.life in (Life.SILENT, Life.VANISHED):
        return f"worker {owner_key.name} is gone or does not answer"
    if session.known_epoch > session.epoch:
        # The object was made anew or restored from a backup; Redis refuses the owner of an epoch that has passed.
        return f"Redis knows a later epoch ({session.known_epoch})"
    return ""


PURGE_TIMEOUT = timedelta(seconds=60)
"""How long a deleted session waits for its profile to be removed (and its account unlinked): deletion always ends."""


def _purging(session: Session, now: datetime) -> bool:
    """Whether a worker still has to remove the profile before the session may go.

    One that no worker runs gets one for that: only workers reach profiles. One that never had a worker has none.
    """
    if session.deletion_policy == "Retain" or session.deleting_since is None or session.epoch == 0:
        return False
    done = session.state is not None and session.state.purged
    return not done and now - session.deleting_since < PURGE_TIMEOUT


def _move(scope: _Scope, policy: Policy, now: datetime, leaving: Sequence[Session], seats: _Seats) -> Iterator[Release]:
    """Take sessions back from workers that are going away, a few at a time."""
    if not leaving:
        return
    limit = scope.pool.max_concurrent_moves if scope.pool else len(leaving)
    arriving = sum(_in_flight(session, policy, now) for session in scope.sessions)
    releasing = Counter(session.worker_key for session in scope.sessions if session.releasing)
    budget: dict[WorkerKey, int] = {}
    for session in sorted(leaving, key=lambda s: s.order):
        owner = scope.fleet.owner(session)
        if owner is None:
            continue
        left = budget.setdefault(owner.key, limit - releasing[owner.key] - arriving)
        # A pod under deletion ends at its deadline in any case: an orderly release beats a cut, even without a place.
        if left <= 0 or not (seats.take() or owner.deleting):
            continue
        budget[owner.key] = left - 1
        yield Release(session=session.key, worker=owner.key, reason=_leaving_reason(owner))


def _leaving_reason(worker: Worker) -> str:
    if worker.deleting:
        return f"worker {worker.key.name} is being deleted"
    return f"worker {worker.key.name} is being drained"


def _in_flight(session: Session, policy: Policy, now: datetime) -> bool:
    """Whether a session was moved a moment ago and is not up again yet."""
    return (
        session.epoch > 1
        and session.phase in (Phase.ASSIGNED, Phase.STARTING)
        and session.assigned_since is not None
        and now - session.assigned_since < policy.move_settles_after
    )


def _assign_reason(scope: _Scope, session: Session, worker: Worker) -> str:
    if session.worker_key is None:
        places, _ = scope.places(worker)
        return f"worker {worker.key.name} has room ({scope.load(worker)}/{places})"
    if _ended(scope, session):
        return f"worker {session.worker} has ended"
    return f"worker {session.worker} released it"


class _Seats:
    """Free places of a pool's workers, handed out in the order of its placement."""

    def __init__(self, scope: _Scope) -> None:
        self._scope = scope
        self._reserved = 0
        self._given: Counter[WorkerKey] = Counter()
        self._refusal = ""
        pool = scope.pool
        takers = [worker for worker in scope.workers if worker.accepts] if pool and not pool.deleting else []
        spread = pool is not None and pool.placement is Placement.SPREAD
        self._heap: list[tuple[bool, int, datetime, WorkerKey, int, Worker]] = []
        self._step = 1 if spread else -1
        self._free = 0
        for worker in takers:
            load = scope.load(worker)
            room = scope.places(worker)[0] - load
            if room > 0:
                outdated = pool is not None and worker.template != pool.template
                self._heap.append((outdated, self._step * load, worker.created, worker.key, room, worker))
                self._free += room
        heapq.heapify(self._heap)

    def reserve(self, count: int) -> None:
        """Keep places for sessions that are on their way from one worker to another."""
        self._reserved += count

    def take(self) -> Worker | None:
        """The next place, or None when there is none. Pack fills the fullest worker first, Spread the emptiest."""
        if self._free <= self._reserved or not self._heap:
            return None
        outdated, load, created, key, room, worker = self._heap[0]
        self._free -= 1
        self._given[key] += 1
        if room == 1:
            heapq.heappop(self._heap)
        else:
            heapq.heapreplace(self._heap, (outdated, load + self._step, created, key, room - 1, worker))
        return worker

    def refusal(self) -> str:
        """Why there is no place, counted over the pool's workers; the same for all who ask once the places are gone."""
        self._refusal = self._refusal or self._explain()
        return self._refusal

    def _explain(self) -> str:
        scope = self._scope
        if scope.pool is None:
            return f"pool {scope.key.name!r} does not exist in namespace {scope.key.namespace!r}"
        if scope.pool.deleting:
            return f"pool {scope.key.name!r} is being deleted"
        existing = [worker for worker in scope.workers if worker.exists]
        if not existing:
            if scope.pool.replicas == 0:
                return f"pool {scope.key.name!r} has no workers (spec.replicas: 0)"
            return f"pool {scope.key.name!r} has none of its {scope.pool.replicas} workers yet"
        groups: dict[str, int] = {}
        for worker in existing:
            cause = _no_room_because(scope, worker, scope.load(worker) + self._given[worker.key])
            groups[cause] = groups.get(cause, 0) + 1
        causes = ", ".join(f"{count} of {len(existing)} {cause}" for cause, count in groups.items())
        most = scope.pool.max_replicas
        limit = f"; autoscaling.maxReplicas is {most}" if most is not None and scope.pool.replicas >= most else ""
        return f"no worker has room: {causes}{limit}"


def _no_room_because(scope: _Scope, worker: Worker, load: int) -> str:
    if worker.leaving:
        return "draining"
    if worker.life is Life.SILENT:
        return "without heartbeat"
    if not worker.accepts:
        return f"not ready ({worker.problem})" if worker.problem else "not ready"
    places, by_memory = scope.places(worker)
    if load < places:
        return f"kept for sessions on the move ({load}/{places})"
    beat = worker.heartbeat
    if by_memory and beat is not None and scope.pool is not None:
        # No measured figure: each change of it would be a write for every session that waits.
        limit = format_memory(beat.memory_limit_bytes)
        return f"at the memory threshold ({load} sessions, {scope.pool.memory_threshold:.0%} of {limit} allowed)"
    return f"full ({load}/{places})"


# --- Report ---------------------------------------------------------------------------------------------------------


def _report(scope: _Scope, refused: Mapping[SessionKey, str], now: datetime) -> PoolReport:
    pool = scope.pool
    assert pool is not None
    serving = [worker for worker in scope.workers if worker.serving]
    ready = [worker for worker in serving if worker.accepts]
    problems = Counter(
        worker.problem for worker in scope.workers if worker.problem and (worker.serving or worker.failed)
    )
    nominal = len(ready) * pool.sessions_per_worker
    share = _share(scope, ready, short=any(session.worker is None for session in _of(scope, refused)))
    effective = round(share * nominal)
    wanted = sum(session.wanted for session in scope.sessions) + pool.spare_sessions
    # The one that a rollout adds for its own sake is none that somebody asked for: an autoscaler that saw it would
    # keep it, since the session metric may well be within its tolerance for one worker more.
    extra = int(len(serving) > pool.replicas and any(worker.template != pool.template for worker in serving))
    return PoolReport(
        replicas=len(serving) - extra,
        surge=extra,
        ready=len(ready),
        draining=sum(worker.exists and worker.leaving for worker in scope.workers),
        capacity=nominal,
        effective_capacity=effective,
        sessions=sum(session.worker_key is not None for session in scope.sessions),
        pending=len(refused),
        demand=scaled_demand(
            wanted, sessions_per_worker=pool.sessions_per_worker, ready=len(ready), effective_capacity=effective
        ),
        session_bytes=scope.memory_estimate if effective < nominal else 0,
        measured=Measured(now, scope.session_bytes, share),
        problems=tuple(f"{count} workers: {problem}" if count > 1 else problem for problem, count in problems.items()),
    )


def _of(scope: _Scope, keys: Iterable[SessionKey]) -> Iterator[Session]:
    return (scope.fleet.sessions[key] for key in keys)


def _share(scope: _Scope, ready: Sequence[Worker], *, short: bool) -> float:
    """What the ready workers hold of what the spec allows; what was believed before, while none is ready.

    It follows the measurement slowly, but downwards at once when sessions wait: whoever scales must see why.
    """
    assert scope.pool is not None
    before = scope.pool.measured.share if scope.pool.measured else None
    if not ready:
        return 1.0 if before is None else before
    held = sum(max(scope.places(worker)[0], scope.load(worker)) for worker in ready)
    share = min(held / (len(ready) * scope.pool.sessions_per_worker), 1.0)
    if before is None:
        return share
    smooth = _blend(before, share, scope.weight)
    return min(smooth, share) if short else smooth
