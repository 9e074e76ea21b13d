"""The loop that makes the fleet what the custom resources ask for: observe, plan, apply.

Owns the order of things and what is tried again. Level-triggered: every cycle starts from what is, so a lost event, a
crash between two steps or a failed request costs time and nothing else. The order within a cycle matters:

1. an assignment is on record in the custom resource before a worker hears of it;
2. a pod leaves its pool's selector before the pool's `status.replicas` drops;
3. status is written even when actions failed.

Must not decide anything that `planner` or `status` could decide.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kubeclient import ConflictError, KubernetesError, NotFoundError, Object, RejectedError, UnavailableError
from session_worker.contract import WAHA_STATUS, Assignment, InboundEvent, Phase, SessionKey, WorkerKey
from session_worker.logs import fields
from session_worker.registry import Registry, RegistryUnavailableError, SupersededError
from whatsapp_operator import planner
from whatsapp_operator.autoscaling import AT_MAX_REPLICAS
from whatsapp_operator.cluster import Cluster, Kind
from whatsapp_operator.fleet import Life, PoolKey, Session
from whatsapp_operator.leader import Authority
from whatsapp_operator.ledger import Ledger
from whatsapp_operator.metrics import OperatorMetrics
from whatsapp_operator.observer import KnownPool, KnownSession, Observer, View
from whatsapp_operator.planner import Plan, Policy, SessionAction, WorkerAction
from whatsapp_operator.pods import WorkerDefaults, disruption_budget, worker_pod
from whatsapp_operator.resources import DeletionPolicy, PoolStatus, Resource, SessionStatus
from whatsapp_operator.scalers import Scalers
from whatsapp_operator.status import AUTOSCALING, pool_status, session_status, without_wording

log = logging.getLogger(__name__)

TICK = 2.0
"""Seconds between cycles when nothing happens: leases run out without an event."""
DEBOUNCE = 0.05
"""Seconds in which events gather into one cycle."""
MESSAGE_EVERY = 10.0
"""Seconds between writes of a status in which only a message differs: a thousand waiting sessions share one cause."""
CONCURRENCY = 32
"""Requests to the API server at a time."""
SESSIONS_FOR = 1.0
"""Seconds of a cycle after which the sessions still to do wait for the next one: however many are applied at once,
their workers hear of them, and a worker that dies meanwhile is noticed, within about this time."""
BATCH = 128
"""Sessions between two looks at the clock."""
FAILURE_DELAYS = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds to wait after the first, second, … failed cycle in a row."""

REFUSAL_DELAY = 30.0
"""Seconds to wait before the next pod of a pool whose last one the API refused."""

_EVENTS: dict[Phase, tuple[str, bool]] = {
    Phase.PENDING: ("NoRoom", True),
    Phase.ASSIGNED: ("Assigned", False),
    Phase.PAIRING: ("AwaitingPairing", False),
    Phase.CONNECTED: ("Connected", False),
    Phase.RECONNECTING: ("Reconnecting", True),
    Phase.DRAINING: ("Moving", False),
    Phase.HIBERNATED: ("Hibernated", False),
    Phase.STOPPED: ("Stopped", False),
    Phase.FAILED: ("Failed", True),
}
"""Phase -> reason of the event that announces it, and whether it is a warning."""


@dataclass(slots=True)
class Pulse:
    """Signs of life, for readiness."""

    cycled: float = field(default_factory=time.monotonic)
    """`time.monotonic()` of the last cycle that went through."""
    problem: str = "the first cycle has not ended yet"
    """Why the last cycle failed; empty when it did not."""
    seen: float | None = None
    """`time.monotonic()` of the last event of a watch."""


class Reconciler:
    """The loop. `start` it once the registry and the cluster are connected; `stop` ends it between two requests."""

    def __init__(
        self,
        cluster: Cluster,
        registry: Registry,
        defaults: WorkerDefaults,
        *,
        metrics: OperatorMetrics,
        authority: Authority,
        policy: Policy | None = None,
        scalers: Scalers | None = None,
    ) -> None:
        self.pulse = Pulse()
        self._authority = authority
        self._cluster = cluster
        self._registry = registry
        self._metrics = metrics
        self._policy = policy or Policy()
        self._scalers = scalers or Scalers(cluster)
        self._ledger = Ledger(registry)
        self._observer = Observer(cluster, registry, self._ledger, defaults)
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._tasks: list[asyncio.Task[None]] = []
        self._settled: dict[SessionKey, tuple[Session, str | None]] = {}
        self._written: dict[SessionKey, float] = {}
        self._budgets: dict[PoolKey, str] = {}
        self._refused_until: dict[PoolKey, float] = {}
        self._announced: list[tuple[Object, Literal["Normal", "Warning"], str, str]] = []
        """Events about sessions that are still to be posted: object, severity, reason, message."""

    # --- Life

    def start(self) -> None:
        """Start the loop and the reader of the workers' events."""
        self.pulse.cycled = time.monotonic()
        loops = {"reconciler": self._run(), "events": self._listen()}
        self._tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]

    async def stop(self) -> None:
        """End both and wait for them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def see(self, kind: Kind, item: Object, *, deleted: bool) -> None:
        """Take in an event of a watch."""
        self.pulse.seen = time.monotonic()
        if self._cluster.see(kind, item, deleted=deleted):
            self._wake.set()

    async def _listen(self) -> None:
        """Let the workers' events start cycles."""
        while True:
            try:
                async for changed in self._registry.events(idle=TICK):
                    if changed:
                        self._observer.changed(changed)
                        self._wake.set()
            except RegistryUnavailableError as error:
                log.warning("The workers' events cannot be read", extra=fields(error=error))
                self._observer.missed()
                await asyncio.sleep(FAILURE_DELAYS[1])

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._wait()
                started = time.monotonic()
                await self.cycle()
                self._metrics.cycle.observe(time.monotonic() - started)
                self._metrics.last_cycle.set_to_current_time()
                self.pulse.cycled, self.pulse.problem = time.monotonic(), ""
                failures = 0
            except (KubernetesError, RegistryUnavailableError, SupersededError) as error:
                log.warning("A cycle failed and is tried again", extra=fields(error=error))
                await self._recover(error, failures)
                failures += 1
            except Exception as error:  # a bug that shows in one cycle must not end the operator
                log.exception("A cycle failed by a bug")
                await self._recover(error, failures)
                failures += 1

    async def _recover(self, error: Exception, failures: int) -> None:
        self.pulse.problem = f"{type(error).__name__}: {error}"
        self._wake.set()
        await asyncio.sleep(FAILURE_DELAYS[min(failures, len(FAILURE_DELAYS) - 1)])

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(TICK):
                await self._wake.wait()
                await asyncio.sleep(DEBOUNCE)
        except TimeoutError:
            return
        finally:
            self._wake.clear()

    async def cycle(self) -> Plan:
        """Observe, plan and apply once.

        Raises:
            KubernetesError: The API failed; what was not done is done in the next cycle.
            RegistryUnavailableError: Redis failed, likewise.
            SupersededError: Another operator leads, whether or not the lease says so yet.
        """
        if not self._authority.leads:
            raise SupersededError("the lease has run out")
        view = await self._observer.observe()
        plan = planner.plan(view.fleet, self._policy, view.now)
        self._observer.measured({key: report.measured for key, report in plan.pools.items() if report.measured})
        self._metrics.show(view.fleet, plan)
        await self._apply(view, plan)
        return plan

    # --- Apply

    async def _apply(self, view: View, plan: Plan) -> None:
        failures: list[Exception] = []
        # Sessions first: those of a dead worker wait neither for the pod that replaces it nor for their Events.
        await self._settle_sessions(view, plan, failures)
        await self._together([("Publish", self._publish(view))], failures)
        await self._together(
            [(type(action).__name__, self._staff(view, action)) for action in plan.worker_actions], failures
        )
        await self._post_events(failures)
        scaled = {key: (known.item, known.spec) for key, known in view.pools.items()}
        await self._together([("Autoscaler", self._scalers.tend(scaled))], failures)
        await self._together(
            [("PoolStatus", self._tend_pool(view, plan, key, known)) for key, known in view.pools.items()], failures
        )
        for memory in (self._settled, self._written):
            for key in memory.keys() - view.sessions.keys():
                del memory[key]
        if failures:
            raise failures[0]

    async def _settle_sessions(self, view: View, plan: Plan, failures: list[Exception]) -> None:
        """Take the sessions that need it one step further, for about `SESSIONS_FOR`; the next cycle does the rest.

        Those that lost their worker or have to leave it come first, then the others by priority and age.
        """
        by_session = {action.session: action for action in plan.session_actions}
        news = [
            (session, action, waiting)
            for key, session in view.fleet.sessions.items()
            if self._is_news(session, action := by_session.get(key), waiting := plan.waiting.get(key))
        ]
        news.sort(key=lambda item: (item[1] is None or item[0].worker is None, item[0].order))
        ends = time.monotonic() + SESSIONS_FOR
        for start in range(0, len(news), BATCH):
            if time.monotonic() > ends:
                self._wake.set()
                return
            steps = [
                (type(action).__name__ if action else "Status", self._settle(view, session, action, waiting))
                for session, action, waiting in news[start : start + BATCH]
            ]
            await self._together(steps, failures)

    async def _together(self, steps: list[tuple[str, Coroutine[None, None, None]]], failures: list[Exception]) -> None:
        """Run steps side by side; each may fail by itself. `failures` gets what a later cycle has to mend."""
        await asyncio.gather(*(self._guarded(name, step, failures) for name, step in steps))

    async def _guarded(self, name: str, step: Coroutine[None, None, None], failures: list[Exception]) -> None:
        async with self._slots:
            if not self._authority.leads:
                # Asked before every step: this process may have been paused since the last one.
                step.close()
                failures.append(SupersededError("the lease has run out"))
                return
            try:
                await step
            except (ConflictError, NotFoundError) as error:
                # Somebody else was faster; the cache has the newer state by now.
                log.debug("An object changed meanwhile", extra=fields(action=name, error=error.message))
                self._wake.set()
            except RejectedError as error:
                self._metrics.errors.labels(name).inc()
                log.warning("The API refused an action", extra=fields(action=name, error=error.message))
            except (UnavailableError, RegistryUnavailableError, SupersededError) as error:
                self._metrics.errors.labels(name).inc()
                failures.append(error)

    async def _staff(self, view: View, action: WorkerAction) -> None:
        """Make, drain or delete a pod."""
        if isinstance(action, planner.CreateWorker):
            await self._create(view.pools[action.pool], action)
        elif (pod := self._cluster.cache.objects[Kind.POD].get(action.worker)) is not None:
            if isinstance(action, planner.DrainWorker):
                await self._cluster.mark_draining(pod, view.now)
                reason = "Draining"
            else:
                await self._cluster.delete_pod(pod, action.grace_seconds)
                reason = "Deleting"
            log.info(f"{reason} a worker", extra=fields(worker=action.worker, reason=action.reason))  # noqa: G004  # one of two constants
            await self._cluster.record(Kind.POD, pod, severity="Normal", reason=reason, message=action.reason)
        self._metrics.actions.labels(type(action).__name__).inc()

    async def _create(self, known: KnownPool, action: planner.CreateWorker) -> None:
        if time.monotonic() < self._refused_until.get(action.pool, 0.0):
            return
        namespace, pool = action.pool
        name = f"{pool}-{secrets.token_hex(4)}"
        pod = worker_pod(name=name, pool=pool, pool_uid=known.pool.uid, namespace=namespace, template=known.template)
        try:
            await self._cluster.create_pod(pod)
        except RejectedError as error:
            # A quota, a policy or a bad template: the next hundred pods would fare no better.
            self._refused_until[action.pool] = time.monotonic() + REFUSAL_DELAY
            await self._cluster.record(
                Kind.POOL, known.item, severity="Warning", reason="WorkerRefused", message=error.message
            )
            raise
        log.info("Created a worker", extra=fields(worker=name, pool=action.pool, reason=action.reason))
        await self._cluster.record(
            Kind.POOL, known.item, severity="Normal", reason="WorkerCreated", message=f"{name}: {action.reason}"
        )

    def _is_news(self, session: Session, action: SessionAction | None, waiting: str | None) -> bool:
        """Whether a session's status may have to be written."""
        if action is not None or self._settled.get(session.key) != (session, waiting):
            return True
        # A start is shown only when it lasts: time alone may make that news.
        return session.phase is Phase.ASSIGNED and session.state is not None

    async def _settle(self, view: View, session: Session, action: SessionAction | None, waiting: str | None) -> None:
        """Carry out a session's action and write its status, in one request."""
        known = view.sessions[session.key]
        if isinstance(action, planner.Finalize):
            await self._finalize(known, action)
            return
        if isinstance(action, planner.Assign) and not session.finalizer:
            await self._cluster.set_finalizer(known.item, present=True)
            known = self._observer.session(session.key)
        before = known.status
        wanted = session_status(planner.after(session, action, view.now), before, waiting=waiting, now=view.now)
        if self._may_wait(session.key, before, wanted):
            return
        if as_json(wanted) != (known.item.get("status") or {}):
            if isinstance(action, planner.Vacate) and wanted.phase is Phase.STOPPED:
                await self._tell_stopped(session, view.now)
            await self._cluster.write_status(Kind.SESSION, known.item, as_json(wanted))
            self._written[session.key] = time.monotonic()
            self._announce(known, before, wanted, action)
        if action is None:
            self._settled[session.key] = (session, waiting)
        else:
            self._metrics.actions.labels(type(action).__name__).inc()

    def _may_wait(self, key: SessionKey, before: SessionStatus, after: SessionStatus) -> bool:
        """Whether they differ in wording only, and the last write was a moment ago."""
        if before == after or without_wording(before) != without_wording(after):
            return False
        return time.monotonic() - self._written.get(key, 0.0) < MESSAGE_EVERY

    def _announce(
        self, known: KnownSession, before: SessionStatus, status: SessionStatus, action: SessionAction | None
    ) -> None:
        if status.phase is None or status.phase == before.phase or status.phase not in _EVENTS:
            return
        reason, warning = _EVENTS[status.phase]
        message = action.reason if action is not None else status.message
        if isinstance(action, planner.Assign):
            message = f"given to worker {action.worker.name} (epoch {action.epoch}): {action.reason}"
        log.info(
            "Session changed phase",
            extra=fields(session=known.session.key, before=before.phase, phase=status.phase, reason=message),
        )
        self._announced.append((known.item, "Warning" if warning else "Normal", reason, message or reason))

    async def _post_events(self, failures: list[Exception]) -> None:
        """Post what `_announce` has noted."""
        announced, self._announced = self._announced, []
        steps = [
            ("Event", self._cluster.record(Kind.SESSION, item, severity=severity, reason=reason, message=message))
            for item, severity, reason, message in announced
        ]
        await self._together(steps, failures)

    async def _tell_stopped(self, session: Session, now: datetime) -> None:
        """Tell webhooks what the last owner could not know: that nobody takes the session over."""
        if session.worker is None:
            return
        timestamp = int(now.timestamp() * 1000)
        status = WAHA_STATUS[Phase.STOPPED]
        payload = {"name": session.key.name, "status": status, "statuses": [{"status": status, "timestamp": timestamp}]}
        await self._registry.append_inbound(
            session.key,
            epoch=session.epoch,
            worker=session.worker,
            event=InboundEvent.new("session.status", {**payload, "data": None}, now=now.timestamp()),
        )

    async def _finalize(self, known: KnownSession, action: planner.Finalize) -> None:
        await self._cluster.set_finalizer(known.item, present=False)
        if known.session.deletion_policy is not DeletionPolicy.RETAIN:
            await self._registry.forget_session(known.session.key)
        self._metrics.actions.labels("Finalize").inc()
        log.info("Let a session go", extra=fields(session=known.session.key, reason=action.reason))

    async def _publish(self, view: View) -> None:
        """Tell every worker what it is to run, from what is on record now."""
        desired: dict[WorkerKey, dict[SessionKey, Assignment]] = {}
        on_record: dict[WorkerKey, list[SessionKey]] = {}
        for known in self._observer.sessions().values():
            owner = known.session.worker_key
            if owner is None:
                continue
            on_record.setdefault(owner, []).append(known.session.key)
            if known.assignment is not None and not known.session.releasing:
                desired.setdefault(owner, {})[known.session.key] = known.assignment
        term = self._authority.term
        for key, worker in view.fleet.workers.items():
            if not self._authority.leads:
                raise SupersededError("the lease has run out")
            if worker.life is not Life.ENDED:
                await self._ledger.publish(
                    key, desired.get(key, {}), on_record.get(key, ()), worker.heartbeat, term=term
                )

    async def _tend_pool(self, view: View, plan: Plan, key: PoolKey, known: KnownPool) -> None:
        """Write a pool's status and see to its disruption budget."""
        pool = known.pool
        if self._budgets.get(key) != pool.uid and not pool.deleting:
            budget = disruption_budget(pool=key.name, pool_uid=pool.uid, namespace=key.namespace)
            await self._cluster.apply("poddisruptionbudgets", budget)
            self._budgets[key] = pool.uid
        workers, report = view.fleet.workers_of.get(key, []), plan.pools[key]
        previous = PoolStatus.model_validate(known.item.get("status") or {})
        wanted = pool_status(
            pool,
            report,
            workers=workers,
            loads={worker.key.name: len(view.fleet.sessions_of.get(worker.key, ())) for worker in workers},
            previous=previous,
            now=view.now,
            scaling=self._scalers.verdict(
                key, known.spec, replicas=pool.replicas, ready=report.ready, pending=report.pending
            ),
        )
        if as_json(wanted) != (known.item.get("status") or {}):
            await self._cluster.write_status(Kind.POOL, known.item, as_json(wanted))
            await self._warn_of_scaling(known, previous, wanted)

    async def _warn_of_scaling(self, known: KnownPool, before: PoolStatus, after: PoolStatus) -> None:
        """Post an event when autoscaling has come to its limit, or no longer works."""
        former, found = (
            next((condition for condition in status.conditions if condition.type == AUTOSCALING), None)
            for status in (before, after)
        )
        if found is None or (former is not None and former.reason == found.reason):
            return
        if found.status == "False" or found.reason == AT_MAX_REPLICAS:
            await self._cluster.record(
                Kind.POOL, known.item, severity="Warning", reason=found.reason, message=found.message
            )


def as_json(status: Resource) -> Object:
    """A status as the API server keeps it."""
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
