"""A small world in which the operator's pure parts run the show: an API server, a kubelet, Redis and workers as data.

The operator here is the real planner, the real observation and the real ledger rules, wired as `observer` and
`reconciler` wire them; everything around it is a model that may fail between any two steps. `World.browsers` is the
truth that nobody in the world can see: which browsers are open. `check` states what must hold at all times.

A cycle of the operator is a generator that stops before each of its writes, so that it can die there, or be paused and
go on after another operator has taken over.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from session_worker.contract import (
    HEARTBEAT_KEPT,
    SELF_STOP_AFTER,
    Assignment,
    Beat,
    Heartbeat,
    Phase,
    Running,
    RuntimeState,
    SessionKey,
    WorkerKey,
    WorkerSpec,
)
from tests.support.fleets import NOW
from whatsapp_operator import planner
from whatsapp_operator.fleet import Fleet, Pool, PoolKey, Session, Worker
from whatsapp_operator.ledger import Page, cleared, turn
from whatsapp_operator.observation import Sight, Tombstone, heard_at, remains_of, state_for, tombstone_of, worker_of
from whatsapp_operator.planner import Policy
from whatsapp_operator.pods import DRAINING_ANNOTATION, POOL_LABEL, TEMPLATE_LABEL
from whatsapp_operator.resources import DeletionPolicy

STEP = 5.0
"""Seconds of one tick of the world."""


@dataclass
class Process:
    """A worker process: what is really running."""

    uid: str
    revision: int = 0
    void: int = 0
    browsers: dict[SessionKey, int] = field(default_factory=dict)
    """Open browsers with their epochs, those being closed included."""
    closing: set[SessionKey] = field(default_factory=set)
    last_beat: float = 0.0
    draining: bool = False
    partitioned: bool = False


@dataclass
class Pod:
    """A pod in the API."""

    uid: str
    pool: str
    created: float
    template: str = "t1"
    ready: bool = False
    deleting: float | None = None
    draining: datetime | None = None
    ended: float | None = None
    failed: bool = False


@dataclass
class Record:
    """A session object in the API."""

    session: Session
    version: int = 0


@dataclass
class Operator:
    """The memory of one operator process; a restarted one begins with none."""

    term: int = 1
    sessions: dict[SessionKey, Record] = field(default_factory=dict)
    """Sessions as this process last saw or wrote them."""
    pods: dict[WorkerKey, Pod] = field(default_factory=dict)
    stones: dict[WorkerKey, Tombstone] = field(default_factory=dict)
    pages: dict[WorkerKey, Page] = field(default_factory=dict)
    heard: dict[WorkerKey, float] = field(default_factory=dict)
    looked: float | None = None


class World:
    """Everything."""

    def __init__(self, pools: list[Pool]) -> None:
        self.clock = 1000.0
        self.pools = {pool.key: pool for pool in pools}
        self.pods: dict[WorkerKey, Pod] = {}
        self.processes: dict[WorkerKey, Process] = {}
        self.records: dict[SessionKey, Record] = {}
        self.pages: dict[WorkerKey, Page] = {}  # in Redis
        self.beats: dict[WorkerKey, tuple[float, Heartbeat]] = {}
        self.claims: dict[SessionKey, tuple[int, str]] = {}  # epoch and worker of the session hashes
        self.states: dict[SessionKey, RuntimeState] = {}
        self.terms: dict[WorkerKey, int] = {}  # in Redis, with the pages
        self.operator = Operator()
        self.names = 0
        self.max_epoch: dict[SessionKey, int] = {}
        self.policy = Policy()

    @property
    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.clock)

    # --- The operator, one cycle

    def restart_operator(self) -> None:
        """Another process leads from now on, in a term of its own."""
        self.operator = Operator(term=self.operator.term + 1)

    def cycle(self) -> planner.Plan:
        """One whole cycle."""
        return self.run(self.steps())

    def run(self, steps: Generator[None, None, planner.Plan], writes: int | None = None) -> planner.Plan:
        """Let a cycle go on, for so many writes or to its end."""
        done = 0
        while writes is None or done <= writes:
            try:
                next(steps)
            except StopIteration as end:
                plan: planner.Plan = end.value
                return plan
            done += 1
        return planner.Plan()

    def steps(self) -> Generator[None, None, planner.Plan]:
        """A cycle of the present leader, pausing before each write."""
        memory = self.operator
        self._see_pods(memory)
        memory.sessions = {key: replace(record) for key, record in self.records.items()}
        fleet = self._observe(memory)
        plan = planner.plan(fleet, self.policy, self.now)
        for action in plan.worker_actions:
            yield
            self._staff(memory, action)
        by_session = {action.session: action for action in plan.session_actions}
        for key, session in fleet.sessions.items():
            if (step := by_session.get(key)) is not None:
                yield
                self._settle(memory, session, step)
        yield from self._publish(memory, fleet)
        return plan

    def _see_pods(self, memory: Operator) -> None:
        """What the watch has told since the last cycle, deletions with their last state included."""
        for key, known in list(memory.pods.items()):
            current = self.pods.get(key)
            if current is None or current.uid != known.uid:
                memory.stones[key] = tombstone_of(self._pod_object(key, known))
        memory.pods = dict(self.pods)

    def _observe(self, memory: Operator) -> Fleet:
        known = memory.pods
        owners = {owner for record in self.records.values() if (owner := record.session.worker_key)}
        for key in {*known, *owners}:
            stored = self.pages.get(key, Page())
            page = memory.pages.get(key)
            if page is None or page.revision != stored.revision:
                memory.pages[key] = Page(stored.revision, stored.term, stored.assignments)
        beats = {key: self._beat(key) for key in {*known, *owners}}
        ages = {key: beat.age if beat else None for key, beat in beats.items()}
        gap = None if memory.looked is None else self.clock - memory.looked
        memory.heard = heard_at(memory.heard, ages, clock=self.clock, since_last_look=gap)
        memory.looked = self.clock
        workers: dict[WorkerKey, Worker] = {}
        for key, pod in known.items():
            beat = self._beat(key)
            page = memory.pages.get(key, Page())
            given_up = cleared(page, beat.heartbeat if beat else None)
            sight = Sight(beat, self.clock - memory.heard[key], key in owners, given_up)
            workers[key] = worker_of(self._pod_object(key, pod), sight)
        for owner in owners - known.keys():
            beat = self._beat(owner)
            given_up = cleared(memory.pages.get(owner, Page()), beat.heartbeat if beat else None)
            stone = memory.stones.get(owner)
            silence = self.clock - memory.heard[owner]
            left = remains_of(owner, stone, beat, given_up, unheard_for=silence, now=self.now)
            if left is not None:
                workers[owner] = left
        sessions = {}
        for session_key, record in self.records.items():
            state, epoch = state_for(record.session, self.states.get(session_key))
            sessions[session_key] = replace(record.session, state=state, known_epoch=epoch)
        return Fleet(pools=self.pools, workers=workers, sessions=sessions)

    def _beat(self, key: WorkerKey) -> Beat | None:
        found = self.beats.get(key)
        if found is None or self.clock - found[0] >= HEARTBEAT_KEPT.total_seconds():
            return None
        return Beat(found[1], self.clock - found[0])

    def _staff(self, memory: Operator, action: planner.WorkerAction) -> None:
        match action:
            case planner.CreateWorker():
                self.names += 1
                key = WorkerKey(action.pool.namespace, f"w{self.names}")
                pool = self.pools[action.pool]
                pod = Pod(uid=f"uid{self.names}", pool=action.pool.name, created=self.clock, template=pool.template)
                self.pods[key] = memory.pods[key] = pod
            case planner.DrainWorker():
                if (found := self.pods.get(action.worker)) is not None:
                    found.draining = self.now
            case planner.DeleteWorker():
                self.delete_pod(action.worker)

    def _settle(self, memory: Operator, seen: Session, action: planner.SessionAction) -> None:
        record = self.records.get(seen.key)
        if record is None or record.version != memory.sessions[seen.key].version:
            return  # a conflict: somebody else has changed it
        if isinstance(action, planner.Finalize):
            del self.records[seen.key], memory.sessions[seen.key]
            return
        record.session = replace(planner.after(record.session, action, self.now), state=None, finalizer=True)
        record.version += 1
        epoch = record.session.epoch
        assert epoch >= self.max_epoch.get(seen.key, 0), "an epoch went back"
        if isinstance(action, planner.Assign):
            assert epoch > self.max_epoch.get(seen.key, 0), "a change of owner without a new epoch"
        self.max_epoch[seen.key] = epoch
        memory.sessions[seen.key] = replace(record)

    def _publish(self, memory: Operator, fleet: Fleet) -> Generator[None]:
        desired: dict[WorkerKey, dict[SessionKey, Assignment]] = {}
        on_record: dict[WorkerKey, list[SessionKey]] = {}
        for key, record in memory.sessions.items():
            session = record.session
            if (owner := session.worker_key) is None:
                continue
            on_record.setdefault(owner, []).append(key)
            if not session.releasing:
                purge = session.deletion_policy if session.deleting_since else DeletionPolicy.RETAIN
                spec = WorkerSpec(purge=None if purge is DeletionPolicy.RETAIN else purge.value)
                desired.setdefault(owner, {})[key] = Assignment(
                    epoch=session.epoch, uid=session.uid, generation=1, spec=spec
                )
        for worker in fleet.workers.values():
            before = memory.pages.get(worker.key, Page())

            def turned(worker: Worker = worker, before: Page = before) -> Page:
                wanted, recorded = desired.get(worker.key, {}), on_record.get(worker.key, ())
                clock = int(self.clock * 1000)
                return turn(before, wanted, recorded, worker.heartbeat, clock=clock, term=memory.term)

            after = turned()
            if after.revision != before.revision:
                yield
                after = turned()  # the worst case: the clock is read when the pause is over
                stored = self.pages.get(worker.key, Page())
                if memory.term < self.terms.get(worker.key, 0) or after.revision <= stored.revision:
                    memory.pages.pop(worker.key, None)
                    continue  # Redis refuses it
                self.pages[worker.key] = after
                self.terms[worker.key] = memory.term
            memory.pages[worker.key] = after

    def _pod_object(self, key: WorkerKey, pod: Pod) -> dict[str, object]:
        moment = (NOW + timedelta(seconds=pod.created)).isoformat()
        metadata: dict[str, object] = {
            "namespace": key.namespace,
            "name": key.name,
            "uid": pod.uid,
            "creationTimestamp": moment,
            "labels": {POOL_LABEL: pod.pool, TEMPLATE_LABEL: pod.template},
            "annotations": {DRAINING_ANNOTATION: pod.draining.isoformat()} if pod.draining else {},
        }
        if pod.deleting is not None:
            metadata["deletionTimestamp"] = moment
        status: dict[str, object] = {
            "conditions": [{"type": "Ready", "status": "True" if pod.ready else "False"}],
        }
        if pod.ended is not None:
            end = (NOW + timedelta(seconds=pod.ended)).isoformat()
            status["phase"] = "Failed" if pod.failed else "Succeeded"
            terminated = {"exitCode": int(pod.failed), "finishedAt": end}
            status["containerStatuses"] = [{"state": {"terminated": terminated}}]
        else:
            status["containerStatuses"] = [{"state": {"running": {}}}]
        return {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": status}

    # --- The rest of the world

    def tick(self) -> None:
        """Time passes; processes that cannot renew their lease close their browsers."""
        self.clock += STEP
        for process in self.processes.values():
            if self.clock - process.last_beat > SELF_STOP_AFTER.total_seconds():
                process.browsers.clear()
                process.closing.clear()
                process.void = process.revision

    def start_pod(self, key: WorkerKey) -> None:
        """The kubelet starts a pod's process."""
        pod = self.pods[key]
        if key not in self.processes and pod.ended is None and pod.deleting is None:
            self.processes[key] = Process(uid=pod.uid, last_beat=self.clock)
            pod.ready = True

    def beat(self, key: WorkerKey) -> None:
        """A worker renews its lease."""
        process = self.processes[key]
        if process.partitioned:
            return
        running = {str(s): Running(epoch=e, phase=Phase.CONNECTED) for s, e in process.browsers.items()}
        heartbeat = Heartbeat(
            uid=process.uid,
            address="a",
            version="1",
            capacity=100,
            revision=process.revision,
            void_revision=process.void,
            running=running,
            draining=process.draining,
        )
        self.beats[key] = (self.clock, heartbeat)
        process.last_beat = self.clock

    def adopt(self, key: WorkerKey) -> None:
        """A worker reads its page: begins to close what is not on it, opens what is."""
        process = self.processes[key]
        page = self.pages.get(key)
        if process.partitioned or page is None or page.revision <= process.void:
            return
        for session, epoch in process.browsers.items():
            wanted = page.assignments.get(session)
            if wanted is None or wanted.epoch != epoch:
                process.closing.add(session)
        for session, wanted in page.assignments.items():
            if session in process.browsers:
                if wanted.spec.purge is not None and (state := self.states.get(session)) is not None:
                    self.states[session] = state.model_copy(update={"purged": True})
                continue
            epoch, owner = self.claims.get(session, (0, key.name))
            if wanted.epoch < epoch or (wanted.epoch == epoch and owner != key.name):
                continue  # the registry refuses an owner whose epoch has passed
            self.claims[session] = (wanted.epoch, key.name)
            self.states[session] = RuntimeState(
                epoch=wanted.epoch, phase=Phase.CONNECTED, worker=key.name, address="a", since=0, last_activity=0
            )
            process.browsers[session] = wanted.epoch
        process.revision = page.revision

    def finish_closing(self, key: WorkerKey) -> None:
        """The browsers that are being closed are closed."""
        process = self.processes[key]
        for session in process.closing:
            process.browsers.pop(session, None)
        process.closing.clear()

    def kill(self, key: WorkerKey) -> None:
        """A worker process dies; its browsers die with it, and the kubelet says so."""
        if self.processes.pop(key, None) is not None and (pod := self.pods.get(key)) is not None:
            pod.ended, pod.failed, pod.ready = self.clock, True, False

    def delete_pod(self, key: WorkerKey) -> None:
        """An ordinary deletion: SIGTERM, and the object stays until the kubelet is done."""
        pod = self.pods.get(key)
        if pod is None or pod.deleting is not None:
            return
        pod.deleting = self.clock
        if (process := self.processes.get(key)) is not None:
            process.draining = True
        elif pod.ended is not None or not pod.ready:
            del self.pods[key]

    def end_deleted(self, key: WorkerKey, *, deadline: bool) -> None:
        """A terminated worker exits when it is empty or at its deadline, and its object goes with an end on record."""
        pod, process = self.pods[key], self.processes.get(key)
        if pod.deleting is None or (process is not None and process.browsers and not deadline):
            return
        self.processes.pop(key, None)
        if pod.ended is None:
            pod.ended = self.clock
        # The watch delivers the pod's last status with its deletion.
        if key in self.operator.pods:
            self.operator.pods[key] = pod
        del self.pods[key]

    def force_delete(self, key: WorkerKey) -> None:
        """The object goes while its process lives on."""
        self.pods.pop(key, None)

    def flush(self) -> None:
        """Redis comes back empty."""
        self.pages.clear()
        self.terms.clear()
        self.beats.clear()
        self.claims.clear()
        self.states.clear()

    def add(
        self, name: str, pool: str, priority: int = 0, deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    ) -> None:
        key = SessionKey("ns", name)
        self.max_epoch.pop(key, None)
        session = Session(key=key, uid=name, generation=1, created=self.now, pool=pool)
        session = replace(session, priority=priority, deletion_policy=deletion_policy)
        self.records[key] = Record(session)

    def edit(self, key: SessionKey, **changes: object) -> None:
        record = self.records[key]
        record.session = replace(record.session, **changes)  # type: ignore[arg-type]  # any field
        record.version += 1

    # --- What must hold

    def check(self) -> None:
        """Never two browsers for one account; never more on record than places."""
        open_in: dict[SessionKey, WorkerKey] = {}
        for key, process in self.processes.items():
            for session in process.browsers:
                assert session not in open_in, f"{session} has browsers on {open_in[session]} and {key}"
                open_in[session] = key
        on_record: dict[WorkerKey, int] = {}
        for record in self.records.values():
            if owner := record.session.worker_key:
                on_record[owner] = on_record.get(owner, 0) + 1
        for owner, count in on_record.items():
            pod = self.pods.get(owner)
            if pod is not None:
                places = self.pools[PoolKey("ns", pod.pool)].sessions_per_worker
                assert count <= places, f"{owner} has {count} sessions on record for {places} places"

    def settle(self, rounds: int = 400) -> planner.Plan:
        """Let everything happen without further failures until nothing is left to do."""
        quiet = 0
        plan = planner.Plan()
        for process in self.processes.values():
            process.partitioned = False
        for _ in range(rounds):
            plan = self.cycle()
            for key in list(self.pods):
                self.start_pod(key)
            for key in list(self.processes):
                if key not in self.pods:
                    # A kubelet ends the processes of pods that are gone.
                    del self.processes[key]
                    continue
                self.adopt(key)
                self.finish_closing(key)
                self.beat(key)
            for key in list(self.pods):
                self.end_deleted(key, deadline=False)
            self.tick()
            self.check()
            quiet = quiet + 1 if not plan.actions else 0
            if quiet > HEARTBEAT_KEPT.total_seconds() / STEP + 2:
                return plan
        raise AssertionError(f"the fleet does not settle: {plan.actions}")
