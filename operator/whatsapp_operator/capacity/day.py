"""A simulated day: users, failures and an autoscaler as models, and the real planner between them.

Owns the models of everything that is not the planner, and the counting. Decisions are `planner.plan`'s and
`autoscaler.Autoscaler`'s alone. Everything random comes from the scenario's seed, so a day can be had again.

Most sessions of a large fleet are settled: on a worker that serves, and connected. The planner has nothing to say
about them but that their places are taken, so the fleet that it gets here lists as sessions in question only the
others, and what can be concluded from a worker is concluded once for each change of it. `_audit` plans the whole fleet
as the operator would, now and then, and raises if that would have decided anything else.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta

from session_worker.contract import Heartbeat, Phase, Running, SessionKey, WorkerKey
from whatsapp_operator import planner
from whatsapp_operator.capacity.autoscaler import SYNC_SECONDS, Autoscaler, Utilization
from whatsapp_operator.capacity.scenario import (
    Result,
    Sample,
    Scenario,
    behavior,
    check,
    max_replicas,
    places,
    worker_memory,
)
from whatsapp_operator.capacity.sizing import base_memory, target, workers_for
from whatsapp_operator.fleet import Fleet, Life, Pool, PoolKey, Session, Worker, scaled_demand
from whatsapp_operator.planner import Policy
from whatsapp_operator.pods import GRACE_AFTER_DRAIN

SAMPLE = 60.0
"""Seconds between two samples of the result."""

_START = datetime(2026, 1, 1, tzinfo=UTC)
_NAMESPACE = "day"
_POOL = PoolKey(_NAMESPACE, "default")
_TEMPLATE = "t"
_AUDIT_EVERY = 500
"""Plans between two audits."""
_EXIT_SECONDS = 1.0
"""Seconds until an empty worker's pod is gone after its deletion."""


class InvariantError(AssertionError):
    """The simulated fleet did what it must never do."""


class _AllEqual(dict[str, Running]):
    """What a worker runs. All connected sessions take the same memory here, so one stands for all in `values`."""

    def __init__(self, running: Mapping[str, Running]) -> None:
        super().__init__(running)
        connected = (item for item in running.values() if item.phase is Phase.CONNECTED)
        self._values = tuple(itertools.islice(connected, 1))

    def values(self) -> Iterable[Running]:  # type: ignore[override]  # a tuple serves all who iterate
        return self._values


@dataclass(frozen=True, slots=True, kw_only=True)
class _Concluded(Worker):
    """A worker whose properties were computed once: it never changes, and each plan asks for them several times."""

    # Properties of `Worker`, here as attributes.
    exists: bool = field(init=False)
    leaving: bool = field(init=False)
    serving: bool = field(init=False)
    accepts: bool = field(init=False)

    def __post_init__(self) -> None:
        for name in ("exists", "leaving", "serving", "accepts"):
            object.__setattr__(self, name, getattr(Worker, name).fget(self))

    @classmethod
    def of(cls, worker: Worker) -> _Concluded:
        return cls(**{item.name: getattr(worker, item.name) for item in fields(Worker)})


@dataclass(frozen=True, kw_only=True)
class _Indexed(Fleet):
    """A fleet whose indices are kept up to date by the simulation instead of computed anew for every plan."""

    on_record: Mapping[WorkerKey, list[Session]]
    unsettled: list[Session]

    @property
    def sessions_of(self) -> Mapping[WorkerKey, list[Session]]:
        return self.on_record

    @property
    def sessions_in(self) -> Mapping[PoolKey, list[Session]]:
        return {_POOL: self.unsettled} if self.unsettled else {}


def simulate(scenario: Scenario, progress: Callable[[float], None] = lambda _: None) -> Result:
    """Play a day; `progress` gets the share of it that is over, now and then.

    Raises:
        CapacityError: The scenario cannot be played.
        InvariantError: A worker had more sessions than places, or a session two browsers.
    """
    check(scenario)
    return _Day(scenario).run(progress)


_Happening = Callable[[], None]


class _Day:
    """The world and its clock."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._random = random.Random(scenario.seed)  # noqa: S311  # a day to be had again, nothing secret
        self._clock = 0.0
        self._end = scenario.hours * 3600
        self._places = places(scenario)
        self._memory = worker_memory(scenario)
        self._base = base_memory()
        per_worker = scenario.sessions_per_worker
        self._hpa = Autoscaler(target(per_worker), scenario.min_replicas, max_replicas(scenario), behavior(scenario))
        self._pool = Pool(
            key=_POOL,
            uid="pool",
            generation=1,
            replicas=scenario.min_replicas,
            sessions_per_worker=scenario.sessions_per_worker,
            memory_per_session=scenario.memory_per_session,
            spare_sessions=scenario.spare_sessions,
            template=_TEMPLATE,
        )
        self._queue: list[tuple[float, int, _Happening]] = []
        self._order = itertools.count()
        self._names = itertools.count()
        # --- What is
        self._workers: dict[WorkerKey, Worker] = {}
        self._sessions: dict[SessionKey, Session] = {}
        self._held: dict[WorkerKey, dict[SessionKey, Session]] = {}
        """The sessions on record for each worker."""
        self._browsers: dict[WorkerKey, dict[str, Running]] = {}
        """The open browsers of each worker: the truth that the planner hears of in heartbeats."""
        self._browser_of: dict[SessionKey, WorkerKey] = {}
        self._unsettled: dict[SessionKey, Session] = {}
        self._wanted = 0
        self._changed = True
        self._lists: dict[WorkerKey, list[Session]] = {}
        self._report = planner.PoolReport(ready=1, effective_capacity=self._places)
        """Of the last plan; before the first one, what it will find."""
        # --- What was
        self._waiting_since: dict[SessionKey, float] = {}
        self._away_since: dict[SessionKey, float] = {}
        self._demands: deque[tuple[float, int]] = deque()
        self._pendings: list[float] = []
        self._moves: list[float] = []
        self._moved: Counter[SessionKey] = Counter()
        self._kills: list[float] = []
        self._samples: list[Sample] = []
        self._most_waiting = 0
        """Since the last sample."""
        self._peaks = (0, 0)
        self._worst_move = 0.0
        self._cut = self._orphaned = self._plans = self._audits = 0

    def run(self, progress: Callable[[float], None]) -> Result:
        self._write_the_story()
        next_sync, next_sample = 0.0, 0.0
        while self._clock <= self._end:
            tick = self._clock
            while self._queue and self._queue[0][0] <= tick:
                self._clock, _, happening = heapq.heappop(self._queue)
                happening()
            self._clock = tick
            if self._clock >= next_sync:
                next_sync += SYNC_SECONDS
                self._autoscale()
            self._operate()
            self._peaks = (max(self._peaks[0], self._wanted), max(self._peaks[1], len(self._alive())))
            self._most_waiting = max(self._most_waiting, len(self._waiting_since))
            if self._clock >= next_sample:
                next_sample += SAMPLE
                self._sample()
                progress(self._clock / self._end)
            self._clock += self._scenario.step
        self._audit()
        return self._result()

    # --- The story of the day

    def _write_the_story(self) -> None:
        scenario, chance, day = self._scenario, self._random, self._end
        overnight = round(scenario.sessions * scenario.overnight)
        burst = round(scenario.sessions * scenario.burst)
        for number in range(scenario.sessions):
            key = SessionKey(_NAMESPACE, f"s{number:05}")
            if number < overnight:
                arrival = 0.0
            elif number < overnight + burst:
                arrival = 0.46 * day + chance.uniform(0, 60)
            else:
                peak = (0.375, 0.06) if chance.random() < 0.65 else (0.56, 0.05)
                arrival = min(max(chance.gauss(*peak), 0.01), 0.9) * day
            self._at(arrival, lambda key=key: self._apply(key))  # type: ignore[misc]  # a default binds the loop's value
            end = day
            if chance.random() < scenario.leave:
                end = min(max(chance.gauss(0.8, 0.05), 0.7), 0.99) * day
                if end > arrival + 600:
                    self._at(end, lambda key=key: self._delete(key))  # type: ignore[misc]  # as above
            if chance.random() < scenario.idle:
                length = chance.uniform(1, 4) / 24 * day
                start = chance.uniform(arrival + 600, max(arrival + 600, end - length))
                if start + length < end:
                    self._at(start, lambda key=key: self._set_state(key, running=False))  # type: ignore[misc]  # as above
                    self._at(start + length, lambda key=key: self._set_state(key, running=True))  # type: ignore[misc]  # as above
        for _ in range(scenario.kills):
            self._at(chance.uniform(0.02, 0.98) * day, self._kill)
        # The day begins with a settled fleet for those who are there overnight.
        demand = overnight + scenario.spare_sessions
        self._demands.append((0.0, self._metric(demand)))
        ready = max(scenario.min_replicas, workers_for(demand, self._places, scenario.sessions_per_worker))
        self._pool = replace(self._pool, replicas=min(ready, self._hpa.max_replicas))
        for _ in range(self._pool.replicas):
            self._become_ready(self._create_worker())

    def _at(self, time: float, happening: _Happening) -> None:
        heapq.heappush(self._queue, (time, next(self._order), happening))

    def _after(self, seconds: tuple[float, float], happening: _Happening) -> None:
        self._at(self._clock + self._random.uniform(*seconds), happening)

    # --- Users

    def _apply(self, key: SessionKey) -> None:
        created = self._now()
        self._wanted += 1
        self._waiting_since[key] = self._clock
        self._record(Session(key=key, uid=key.name, generation=1, created=created, pool=_POOL.name, finalizer=True))

    def _set_state(self, key: SessionKey, *, running: bool) -> None:
        session = self._sessions[key]
        self._wanted += running - session.running
        if running:
            self._waiting_since[key] = self._clock
        else:
            self._stop_counting(key)
        self._record(replace(session, running=running))

    def _delete(self, key: SessionKey) -> None:
        session = self._sessions[key]
        self._wanted -= session.wanted
        self._stop_counting(key)
        self._record(replace(session, deleting_since=self._now()))

    def _stop_counting(self, key: SessionKey) -> None:
        self._waiting_since.pop(key, None)
        self._away_since.pop(key, None)

    # --- Failures

    def _kill(self) -> None:
        """A worker's process dies, and its browsers with it; the kubelet reports it at once."""
        alive = [key for key, worker in self._workers.items() if worker.accepts]
        if not alive:
            return
        victim = self._random.choice(alive)
        self._kills.append(self._clock)
        self._orphaned += self._lose(victim)
        ended = replace(self._workers[victim], life=Life.ENDED, failed=True, ended_at=self._now(), ready=False)
        self._set_worker(ended)

    def _lose(self, key: WorkerKey) -> int:
        """All browsers of a worker are gone; how many sessions that should run have lost theirs."""
        for name in self._browsers.pop(key, {}):
            del self._browser_of[SessionKey.parse(name)]
        lost = 0
        for session in self._held.get(key, {}).values():
            if session.wanted:
                lost += 1
                self._waiting_since.setdefault(session.key, self._clock)
        return lost

    # --- Workers

    def _create_worker(self) -> WorkerKey:
        key = WorkerKey(_NAMESPACE, f"w{next(self._names):05}")
        self._set_worker(
            Worker(key=key, pool=_POOL.name, uid=key.name, created=self._now(), life=Life.COMING, template=_TEMPLATE)
        )
        return key

    def _become_ready(self, key: WorkerKey) -> None:
        worker = self._workers.get(key)
        if worker is None or worker.deleting or worker.life is not Life.COMING:
            return
        self._browsers[key] = {}
        self._set_worker(replace(worker, life=Life.LIVE, ready=True))

    def _set_worker(self, worker: Worker) -> None:
        """Record a worker with a heartbeat of this moment."""
        if worker.life is Life.LIVE:
            running = self._browsers[worker.key]
            heartbeat = Heartbeat.model_construct(
                uid=worker.uid,
                address=worker.key.name,
                version="simulated",
                capacity=self._scenario.sessions_per_worker,
                revision=1,
                running=_AllEqual(running),
                memory_used_bytes=self._base + len(running) * self._scenario.memory_per_session,
                memory_limit_bytes=self._memory,
            )
            worker = replace(worker, heartbeat=heartbeat)
        before = self._workers.get(worker.key)
        self._workers[worker.key] = _Concluded.of(worker)
        self._changed = True
        if before is None or before.serving != worker.serving:
            for session in self._held.get(worker.key, {}).values():
                self._sort(session)

    def _gone(self, key: WorkerKey) -> None:
        """The pod of a deleted worker is gone, at the latest when its grace period is over."""
        if key not in self._workers:
            return
        self._cut += self._lose(key)
        held = list(self._held.get(key, {}).values())
        del self._workers[key]
        self._changed = True
        for session in held:
            self._sort(session)

    def _connect(self, key: SessionKey, worker: WorkerKey, epoch: int) -> None:
        session = self._sessions.get(key)
        if session is None or (session.worker_key, session.epoch) != (worker, epoch) or session.releasing:
            return
        if worker not in self._browsers:
            return
        memory = self._scenario.memory_per_session
        self._browsers[worker][str(key)] = Running(epoch=epoch, phase=Phase.CONNECTED, memory_bytes=memory)
        self._set_worker(self._workers[worker])
        self._record(replace(session, phase=Phase.CONNECTED))
        if (since := self._away_since.pop(key, None)) is not None:
            self._worst_move = max(self._worst_move, self._clock - since)

    def _open(self, key: SessionKey, worker: WorkerKey, epoch: int) -> None:
        """A worker starts a browser, which must be the only one of its session."""
        if (other := self._browser_of.get(key)) is not None:
            raise InvariantError(f"{key} was given to {worker} while {other} still has its browser open")
        self._browser_of[key] = worker
        self._browsers[worker][str(key)] = Running(epoch=epoch, phase=Phase.STARTING)

    def _closed(self, key: SessionKey, worker: WorkerKey) -> None:
        """A worker has closed a browser and says so in its next heartbeat."""
        if self._browsers.get(worker, {}).pop(str(key), None) is None:
            return
        del self._browser_of[key]
        current = self._workers[worker]
        self._set_worker(replace(current, cleared=current.cleared | {key}))
        if current.deleting and not self._browsers[worker]:
            self._at(self._clock + _EXIT_SECONDS, lambda: self._gone(worker))

    # --- Autoscaler

    def _autoscale(self) -> None:
        self._demands.append((self._clock, self._metric(self._wanted + self._scenario.spare_sessions)))
        while len(self._demands) > 1 and self._demands[1][0] <= self._clock - self._scenario.metric_delay:
            self._demands.popleft()
        serving = [worker for worker in self._workers.values() if worker.serving]
        ready = [worker.key for worker in serving if worker.accepts]
        per_session = self._scenario.memory_per_session
        used = sum(self._base + len(self._browsers[key]) * per_session for key in ready)
        replicas = self._hpa.sync(
            self._clock,
            metric=self._demands[0][1],
            spec_replicas=self._pool.replicas,
            status_replicas=len(serving),
            use=Utilization(total=used / self._memory, ready=len(ready), starting=len(serving) - len(ready)),
        )
        if replicas != self._pool.replicas:
            self._pool = replace(self._pool, replicas=replicas)
            self._changed = True

    def _metric(self, demand: int) -> int:
        """The session metric as the operator tells it: demand, and what the last plan has learnt of capacity."""
        return scaled_demand(
            demand,
            sessions_per_worker=self._scenario.sessions_per_worker,
            ready=self._report.ready,
            effective_capacity=self._report.effective_capacity,
        )

    # --- Operator

    def _operate(self) -> None:
        """Plan and apply, unless nothing has changed that a plan could speak of."""
        leaving = any(not worker.serving for worker in self._workers.values())
        if not (self._changed or self._unsettled or leaving):
            return
        self._changed = False
        self._plans += 1
        if self._plans % _AUDIT_EVERY == 0:
            self._audit()
        plan = planner.plan(self._fleet(), Policy(), self._now())
        self._report = plan.pools[_POOL]
        self._pool = replace(self._pool, measured=self._report.measured)
        for staffing in plan.worker_actions:
            self._staff(staffing)
        given: set[WorkerKey] = set()
        for action in plan.session_actions:
            self._settle(action)
            if isinstance(action, planner.Assign):
                given.add(action.worker)
        for key in given:
            # Loads grow by assignments alone.
            if len(self._held[key]) > self._places:
                raise InvariantError(f"{key} has {len(self._held[key])} sessions on record for {self._places} places")
            self._set_worker(self._workers[key])
        # What was applied is seen in the next plan, as after the operator's own writes.
        self._changed = self._changed or bool(plan.actions)

    def _fleet(self) -> Fleet:
        for key in [key for key in self._held if key not in self._lists]:
            self._lists[key] = list(self._held[key].values())
        return _Indexed(
            pools={_POOL: self._pool},
            workers=self._workers,
            sessions=self._sessions,
            on_record=self._lists,
            unsettled=list(self._unsettled.values()),
        )

    def _staff(self, action: planner.WorkerAction) -> None:
        match action:
            case planner.CreateWorker():
                key = self._create_worker()
                self._after(self._scenario.pod_start, lambda: self._become_ready(key))
            case planner.DrainWorker():
                self._set_worker(replace(self._workers[action.worker], draining_since=self._now()))
            case planner.DeleteWorker():
                key = action.worker
                worker = replace(self._workers[key], deleting=True)
                self._set_worker(worker)
                drain = self._pool.drain_timeout.total_seconds() + GRACE_AFTER_DRAIN
                patience = drain if self._browsers.get(key) else _EXIT_SECONDS
                self._at(self._clock + patience, lambda: self._gone(key))

    def _settle(self, action: planner.SessionAction) -> None:
        key = action.session
        session = self._sessions[key]
        match action:
            case planner.Finalize():
                self._forget(session)
            case planner.Assign():
                self._assign(session, action)
            case planner.Release():
                owner = action.worker
                if session.wanted:
                    self._moves.append(self._clock)
                    self._moved[key] += 1
                    self._away_since[key] = self._clock
                self._record(planner.after(session, action, self._now()))
                self._after(self._scenario.close, lambda: self._closed(key, owner))
            case planner.Vacate():
                if session.wanted:
                    self._waiting_since.setdefault(key, self._clock)
                self._record(planner.after(session, action, self._now()))

    def _assign(self, session: Session, action: planner.Assign) -> None:
        key, worker, epoch = action.session, action.worker, action.epoch
        if epoch <= session.epoch:
            raise InvariantError(f"{key} got epoch {epoch} after {session.epoch}")
        self._open(key, worker, epoch)
        current = self._workers[worker]
        if key in current.cleared:
            self._set_worker(replace(current, cleared=current.cleared - {key}))
        if (since := self._waiting_since.pop(key, None)) is not None:
            self._pendings.append(self._clock - since)
        self._record(planner.after(session, action, self._now()))
        self._after(self._scenario.connect, lambda: self._connect(key, worker, epoch))

    # --- Records

    def _record(self, session: Session) -> None:
        """Write a session, and keep the indices in step."""
        before = self._sessions.get(session.key)
        if before is not None and before.worker_key is not None:
            self._held[before.worker_key].pop(session.key, None)
            self._lists.pop(before.worker_key, None)
        self._sessions[session.key] = session
        if session.worker_key is not None:
            self._held.setdefault(session.worker_key, {})[session.key] = session
            self._lists.pop(session.worker_key, None)
        self._sort(session)
        self._changed = True

    def _forget(self, session: Session) -> None:
        if session.worker_key is not None:
            self._held[session.worker_key].pop(session.key, None)
            self._lists.pop(session.worker_key, None)
        del self._sessions[session.key]
        self._unsettled.pop(session.key, None)
        self._changed = True

    def _sort(self, session: Session) -> None:
        """Whether a plan could have something to say about a session."""
        owner = self._workers.get(session.worker_key) if session.worker_key else None
        if owner is not None:
            settled = session.wanted and not session.releasing and owner.serving and session.phase is Phase.CONNECTED
        else:
            settled = session.worker_key is None and not session.wanted and session.deleting_since is None
        if settled:
            self._unsettled.pop(session.key, None)
        else:
            self._unsettled[session.key] = session

    def _now(self) -> datetime:
        return _START + timedelta(seconds=self._clock)

    def _alive(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.exists]

    # --- What must hold, and what is told

    def _audit(self) -> None:
        """Check the indices against the records, the invariants of the whole fleet, and the planner's view of it."""
        self._audits += 1
        held: Counter[WorkerKey] = Counter()
        for session in self._sessions.values():
            if (owner := session.worker_key) is not None:
                held[owner] += 1
                if self._held[owner].get(session.key) is not session:
                    raise InvariantError(f"{session.key} is on record for {owner}, whose list says otherwise")
        for key, count in held.items():
            if count != len(self._held[key]):
                raise InvariantError(f"{key} has {count} sessions on record, and {len(self._held[key])} in its list")
            if key in self._workers and count > self._places:
                raise InvariantError(f"{key} has {count} sessions on record for {self._places} places")
        open_in: dict[str, WorkerKey] = {}
        for key, browsers in self._browsers.items():
            for name in browsers:
                if (other := open_in.setdefault(name, key)) != key:
                    raise InvariantError(f"{name} has browsers on {other} and {key}")
        if len(open_in) != len(self._browser_of):
            raise InvariantError(f"{len(open_in)} browsers are open, {len(self._browser_of)} are on record")
        whole = Fleet(pools={_POOL: self._pool}, workers=self._plain_workers(), sessions=self._sessions)
        full, lean = (planner.plan(fleet, Policy(), self._now()).actions for fleet in (whole, self._fleet()))
        if Counter(full) != Counter(lean):
            extra = next(iter((Counter(full) - Counter(lean)) + (Counter(lean) - Counter(full))))
            raise InvariantError(f"a plan of the whole fleet differs from the one of what has changed: {extra}")

    def _plain_workers(self) -> dict[WorkerKey, Worker]:
        """The workers as the operator would have them."""
        plain = {}
        for key, worker in self._workers.items():
            values = {item.name: getattr(worker, item.name) for item in fields(Worker)}
            if worker.heartbeat is not None:
                running = dict(self._browsers.get(key, {}))
                values["heartbeat"] = worker.heartbeat.model_copy(update={"running": running})
            plain[key] = Worker(**values)
        return plain

    def _sample(self) -> None:
        ready = sum(worker.accepts for worker in self._workers.values())
        waiting = len(self._waiting_since)
        self._samples.append(
            Sample(
                time=self._clock,
                wanted=self._wanted,
                placed=self._wanted - waiting,
                places=ready * self._places,
                waiting=self._most_waiting,
                replicas=self._pool.replicas,
                workers=len(self._alive()),
            )
        )
        self._most_waiting = 0

    def _result(self) -> Result:
        pendings = sorted(self._pendings)
        count = len(pendings)
        unserved = [self._clock - since for since in self._waiting_since.values()]
        return Result(
            scenario=self._scenario,
            samples=self._samples,
            moves=self._moves,
            kills=self._kills,
            peak_sessions=self._peaks[0],
            peak_workers=self._peaks[1],
            places_per_worker=self._places,
            placements=count,
            worst_pending=max([*pendings[-1:], *unserved], default=0.0),
            p99_pending=pendings[min(count - 1, int(count * 0.99))] if count else 0.0,
            mean_pending=sum(pendings) / count if count else 0.0,
            waited=sum(wait > self._scenario.step for wait in pendings),
            still_pending=len(self._waiting_since),
            moves_per_session=len(self._moves) / self._scenario.sessions,
            most_moves=max(self._moved.values(), default=0),
            worst_move=self._worst_move,
            cut=self._cut,
            orphaned=self._orphaned,
            replica_changes=len(self._hpa.changes),
            direction_changes=self._hpa.direction_changes(),
            stabilization=self._hpa.behavior.down_window,
            plans=self._plans,
            audits=self._audits,
        )
