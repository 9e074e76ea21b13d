"""What the custom resources' status says, as a function of what is known.

Owns phases, conditions, messages, and when they count as changed. Must not do I/O or read a clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from session_worker.contract import Phase, RuntimeState
from whatsapp_operator.autoscaling import Verdict
from whatsapp_operator.fleet import Life, Pool, Session, Worker
from whatsapp_operator.planner import PoolReport
from whatsapp_operator.pods import pool_selector, selector_text
from whatsapp_operator.resources import (
    AccountStatus,
    AssignmentStatus,
    Condition,
    PoolStatus,
    SessionStatus,
    WorkerState,
    WorkerStatus,
    format_memory,
)

STARTING_SHOWS_AFTER = timedelta(seconds=3)
"""A start that is over sooner is not written: most are, and each write is one for every watcher."""
MEMORY_STEP = 0.2
"""A worker's memory is written anew when it differs by this share, so that a settled pool is not written at all."""

AUTOSCALING = "Autoscaling"
"""The condition that says whether the pool's autoscaler works."""
_SESSION_STEP = 25 * 2**20
"""Measured memory of a session is shown in whole steps of this, for the same reason."""

_READY_REASON = {
    Phase.PENDING: "NoRoom",
    Phase.ASSIGNED: "Starting",
    Phase.STARTING: "Starting",
    Phase.PAIRING: "AwaitingPairing",
    Phase.CONNECTED: "Connected",
    Phase.RECONNECTING: "Reconnecting",
    Phase.DRAINING: "Moving",
    Phase.HIBERNATED: "Hibernated",
    Phase.STOPPED: "Stopped",
    Phase.FAILED: "Failed",
}
_IN_PROGRESS = {Phase.PENDING, Phase.ASSIGNED, Phase.STARTING, Phase.RECONNECTING, Phase.DRAINING}
"""Phases that the operator and the worker leave by themselves: kstatus calls them InProgress. Pairing waits for a
person and is none of them."""
_LINKED = {Phase.CONNECTED, Phase.RECONNECTING, Phase.HIBERNATED}


@dataclass(frozen=True, slots=True)
class Truth:
    """One condition before it has a time."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def session_status(session: Session, previous: SessionStatus, *, waiting: str | None, now: datetime) -> SessionStatus:
    """The status of a session.

    Args:
        session: The session after the plan's action on it.
        previous: What its status says now; conditions that did not change keep their time.
        waiting: Why it has no place, from the plan.
        now: Time of the plan.
    """
    state = session.state if session.worker else None
    phase, message = _phase(session, state, waiting, now)
    account = (
        AccountStatus(id=state.account.id, push_name=state.account.push_name, phone_number=state.account.phone_number)
        if state and state.account
        else None
        if state and state.phase is Phase.PAIRING
        else previous.account
    )
    return SessionStatus(
        observed_generation=session.generation,
        phase=phase,
        message=message,
        conditions=_conditions(
            _session_truths(session, phase, message, linked=account is not None),
            previous.conditions,
            generation=session.generation,
            now=now,
        ),
        assignment=AssignmentStatus(
            worker=session.worker, epoch=session.epoch, since=session.assigned_since, releasing=session.releasing
        )
        if session.epoch
        else None,
        account=account,
        restarts=state.restarts if state else previous.restarts,
        last_transition=previous.last_transition if phase == previous.phase and previous.last_transition else now,
    )


def _phase(session: Session, state: RuntimeState | None, waiting: str | None, now: datetime) -> tuple[Phase, str]:
    if session.worker is None:
        if session.wanted:
            return Phase.PENDING, waiting or "waiting for a worker"
        return Phase.STOPPED, "being deleted" if session.deleting_since else "stopped by spec.state"
    if session.releasing:
        return Phase.DRAINING, f"leaving worker {session.worker}"
    if state is None:
        return Phase.ASSIGNED, f"given to worker {session.worker}"
    if (
        state.phase is Phase.STARTING
        and session.phase is Phase.ASSIGNED
        and now - datetime.fromtimestamp(state.since, UTC) < STARTING_SHOWS_AFTER
    ):
        return Phase.ASSIGNED, f"given to worker {session.worker}"
    return state.phase, state.message


def _session_truths(session: Session, phase: Phase, message: str, *, linked: bool) -> Iterable[Truth]:
    reason = _READY_REASON[phase]
    yield Truth("Ready", "True" if phase is Phase.CONNECTED else "False", reason, message)
    if session.worker:
        yield Truth("Scheduled", "True", "Assigned", f"on worker {session.worker}")
    else:
        yield Truth("Scheduled", "False", reason, message)
    if phase in _LINKED:
        yield Truth("Authenticated", "True", "Linked")
    elif phase is Phase.PAIRING:
        yield Truth("Authenticated", "False", "AwaitingPairing", message)
    elif linked:
        yield Truth("Authenticated", "True", "Linked", "linked when last seen")
    else:
        yield Truth("Authenticated", "Unknown", "NotSeen", "not known before its browser has opened WhatsApp")
    if phase in _IN_PROGRESS:
        yield Truth("Reconciling", "True", reason, message)
    if phase is Phase.FAILED:
        yield Truth("Stalled", "True", reason, message)


def without_wording(status: SessionStatus) -> SessionStatus:
    """A status without its sentences for people."""
    silent = [condition.model_copy(update={"message": ""}) for condition in status.conditions]
    return status.model_copy(update={"message": "", "conditions": silent})


def pool_status(
    pool: Pool,
    report: PoolReport,
    *,
    workers: Iterable[Worker],
    loads: dict[str, int],
    previous: PoolStatus,
    now: datetime,
    scaling: Verdict | None = None,
) -> PoolStatus:
    """The status of a pool. `loads` maps worker names to the sessions on record for them."""
    known = {worker.name: worker.memory for worker in previous.workers}
    return PoolStatus(
        observed_generation=pool.generation,
        replicas=report.replicas,
        ready_replicas=report.ready,
        draining_replicas=report.draining,
        capacity=report.capacity,
        effective_capacity=report.effective_capacity,
        sessions=report.sessions,
        pending_sessions=report.pending,
        selector=selector_text(pool_selector(pool.key.name)),
        workers=[
            WorkerStatus(
                name=worker.key.name,
                state=worker_state(worker),
                sessions=loads.get(worker.key.name, 0),
                memory=_steady_memory(worker, known.get(worker.key.name, "")),
            )
            for worker in workers
            if worker.exists
        ],
        conditions=_conditions(
            (*_pool_truths(pool, report), *_capacity_truths(report), *_scaling_truths(scaling)),
            previous.conditions,
            generation=pool.generation,
            now=now,
        ),
    )


def worker_state(worker: Worker) -> WorkerState:
    """What a worker is doing, in one word."""
    if worker.deleting:
        return WorkerState.TERMINATING
    if worker.leaving:
        return WorkerState.DRAINING
    if worker.life is Life.SILENT:
        return WorkerState.UNRESPONSIVE
    return WorkerState.READY if worker.accepts else WorkerState.STARTING


def _steady_memory(worker: Worker, shown: str) -> str:
    if worker.heartbeat is None:
        return ""
    used = worker.heartbeat.memory_used_bytes
    before = int(shown.removesuffix("Mi")) * 2**20 if shown else 0
    return shown if shown and abs(used - before) <= before * MEMORY_STEP else format_memory(used)


def _pool_truths(pool: Pool, report: PoolReport) -> Iterable[Truth]:
    complete = report.ready >= pool.replicas and report.replicas + report.surge == pool.replicas
    problems = "; ".join(report.problems)
    waiting = "1 session waits" if report.pending == 1 else f"{report.pending} sessions wait"
    waiting = f"{waiting} for a place" if report.pending else ""
    count = f"{report.ready} of {pool.replicas} workers ready"
    message = ", ".join(part for part in (count, waiting, problems) if part)
    if complete and report.pending:
        yield Truth("Ready", "True", "Full", message)
    elif complete:
        yield Truth("Ready", "True", "WorkersReady", message)
    else:
        yield Truth("Ready", "False", "WorkersFail" if problems else "WorkersNotReady", message)
        if problems:
            yield Truth("Stalled", "True", "WorkersFail", problems)
        else:
            yield Truth("Reconciling", "True", "WorkersNotReady", message)


def _capacity_truths(report: PoolReport) -> Iterable[Truth]:
    if report.session_bytes:
        size = format_memory(-(-report.session_bytes // _SESSION_STEP) * _SESSION_STEP)
        message = f"by memory the workers hold fewer sessions than sessionsPerWorker: one takes about {size}"
        yield Truth("MemoryBound", "True", "SessionsNeedMoreMemory", message)


def _scaling_truths(scaling: Verdict | None) -> Iterable[Truth]:
    if scaling is not None:
        yield Truth(AUTOSCALING, scaling.status, scaling.reason, scaling.message)


def _conditions(
    truths: Iterable[Truth], previous: Iterable[Condition], *, generation: int, now: datetime
) -> list[Condition]:
    before = {condition.type: condition for condition in previous}
    result = []
    for truth in truths:
        old = before.get(truth.type)
        result.append(
            Condition(
                type=truth.type,
                status=truth.status,
                reason=truth.reason,
                message=truth.message,
                observed_generation=generation,
                last_transition_time=old.last_transition_time if old and old.status == truth.status else now,
            )
        )
    return result
