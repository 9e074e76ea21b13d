"""What the custom resources say of themselves: phases, conditions, sentences."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from session_worker.contract import Account, Phase
from tests.support.fleets import MIB, NOW, pool, session, state, worker
from whatsapp_operator.fleet import Life, Session
from whatsapp_operator.planner import PoolReport
from whatsapp_operator.resources import Condition, PoolStatus, SessionStatus, WorkerState
from whatsapp_operator.status import pool_status, session_status, without_wording, worker_state

ANA = Account(id="5511987654321@c.us", push_name="Ana")
FRESH = SessionStatus()


def running(phase: Phase, **changes: Any) -> Session:
    """A session on worker w1 that says to be in a phase."""
    known = {"since": NOW.timestamp() - 60, **changes}
    owned = session("a", worker="w1")
    return session("a", worker="w1", state=state(owned, phase=phase, **known))


def told(item: Session, previous: SessionStatus = FRESH, **more: Any) -> SessionStatus:
    return session_status(item, previous, **{"waiting": None, "now": NOW, **more})


def truths(status: SessionStatus | PoolStatus) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in status.conditions}


@pytest.mark.parametrize(
    ("phase", "ready", "authenticated", "progress"),
    [
        (Phase.STARTING, ("False", "Starting"), ("Unknown", "NotSeen"), "Reconciling"),
        (Phase.PAIRING, ("False", "AwaitingPairing"), ("False", "AwaitingPairing"), None),
        (Phase.CONNECTED, ("True", "Connected"), ("True", "Linked"), None),
        (Phase.RECONNECTING, ("False", "Reconnecting"), ("True", "Linked"), "Reconciling"),
        (Phase.HIBERNATED, ("False", "Hibernated"), ("True", "Linked"), None),
        (Phase.FAILED, ("False", "Failed"), ("Unknown", "NotSeen"), "Stalled"),
    ],
)
def test_a_running_sessions_phase_is_its_workers(
    phase: Phase, ready: tuple[str, str], authenticated: tuple[str, str], progress: str | None
) -> None:
    status = told(running(phase, message="why"))
    assert (status.phase, status.message) == (phase, "why")
    found = truths(status)
    assert found.pop("Ready") == ready
    assert found.pop("Scheduled") == ("True", "Assigned")
    assert found.pop("Authenticated") == authenticated
    # kstatus: InProgress with Reconciling, Failed with Stalled; neither while it is settled or waits for a person.
    assert list(found) == ([progress] if progress else [])


def test_a_session_without_a_place_says_what_it_waits_for() -> None:
    status = told(session("a"), waiting="no worker has room: 1 of 1 full (15/15)")
    assert (status.phase, status.message) == (Phase.PENDING, "no worker has room: 1 of 1 full (15/15)")
    assert truths(status)["Scheduled"] == ("False", "NoRoom")
    assert truths(status)["Reconciling"] == ("True", "NoRoom")
    assert status.assignment is None


def test_a_stopped_session_is_settled() -> None:
    status = told(session("a", running=False))
    assert (status.phase, status.message) == (Phase.STOPPED, "stopped by spec.state")
    assert set(truths(status)) == {"Ready", "Scheduled", "Authenticated"}
    leaving = told(session("a", deleting_since=NOW))
    assert (leaving.phase, leaving.message) == (Phase.STOPPED, "being deleted")


def test_a_session_that_moves_is_draining() -> None:
    status = told(session("a", worker="w1", releasing=True))
    assert (status.phase, status.message) == (Phase.DRAINING, "leaving worker w1")
    assert status.assignment is not None
    assert (status.assignment.worker, status.assignment.releasing) == ("w1", True)


def test_a_session_whose_worker_has_said_nothing_yet_is_assigned() -> None:
    status = told(session("a", worker="w1"))
    assert (status.phase, status.message) == (Phase.ASSIGNED, "given to worker w1")


@pytest.mark.parametrize(("age", "phase"), [(2, Phase.ASSIGNED), (4, Phase.STARTING)])
def test_a_start_that_is_over_soon_is_not_written(age: int, phase: Phase) -> None:
    owned = session("a", worker="w1")
    starting = state(owned, phase=Phase.STARTING, since=NOW.timestamp() - age)
    assert told(session("a", worker="w1", phase=Phase.ASSIGNED, state=starting)).phase is phase


def test_the_account_is_remembered_until_a_new_one_is_asked_for() -> None:
    status = told(running(Phase.CONNECTED, account=ANA))
    assert status.account is not None
    assert (status.account.phone_number, status.account.push_name) == ("5511987654321", "Ana")
    stopped = told(session("a", running=False), status)
    assert stopped.account == status.account
    assert truths(stopped)["Authenticated"] == ("True", "Linked")
    assert told(running(Phase.PAIRING), status).account is None


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = told(running(Phase.CONNECTED))
    later = NOW + timedelta(minutes=5)
    same = told(running(Phase.CONNECTED, message="still"), first, now=later)
    assert [c.last_transition_time for c in same.conditions] == [NOW] * 3
    assert same.last_transition == NOW
    changed = told(running(Phase.RECONNECTING), first, now=later)
    times = {c.type: c.last_transition_time for c in changed.conditions}
    assert times == {"Ready": later, "Scheduled": NOW, "Authenticated": NOW, "Reconciling": later}
    assert changed.last_transition == later


def test_a_status_speaks_of_the_generation_that_was_looked_at() -> None:
    status = told(session("a", generation=7))
    assert {status.observed_generation, *(c.observed_generation for c in status.conditions)} == {7}


def test_restarts_are_not_forgotten_while_nobody_runs_it() -> None:
    status = told(running(Phase.CONNECTED, restarts=4))
    assert told(session("a", running=False), status).restarts == 4


def test_a_changed_sentence_alone_is_no_changed_status() -> None:
    one, other = told(running(Phase.STARTING, message="x")), told(running(Phase.STARTING, message="y"))
    assert one != other
    assert without_wording(one) == without_wording(other)


# --- Pools


def of_pool(report: PoolReport, *, previous: PoolStatus | None = None, replicas: int = 2, **more: Any) -> PoolStatus:
    values: dict[str, Any] = {"workers": [], "loads": {}, "now": NOW, **more}
    return pool_status(pool(replicas=replicas), report, previous=previous or PoolStatus(), **values)


@pytest.mark.parametrize(
    ("report", "expected", "message"),
    [
        (PoolReport(replicas=2, ready=2), {"Ready": ("True", "WorkersReady")}, "2 of 2 workers ready"),
        (
            PoolReport(replicas=2, ready=2, pending=1),
            {"Ready": ("True", "Full")},
            "2 of 2 workers ready, 1 session waits for a place",
        ),
        (
            PoolReport(replicas=2, ready=1, pending=3),
            {"Ready": ("False", "WorkersNotReady"), "Reconciling": ("True", "WorkersNotReady")},
            "1 of 2 workers ready, 3 sessions wait for a place",
        ),
        (
            PoolReport(replicas=3, ready=2),
            {"Ready": ("False", "WorkersNotReady"), "Reconciling": ("True", "WorkersNotReady")},
            "2 of 2 workers ready",
        ),
        (
            PoolReport(replicas=2, ready=0, problems=("ErrImagePull: x",)),
            {"Ready": ("False", "WorkersFail"), "Stalled": ("True", "WorkersFail")},
            "0 of 2 workers ready, ErrImagePull: x",
        ),
    ],
)
def test_a_pool_says_how_its_workers_are(
    report: PoolReport, expected: dict[str, tuple[str, str]], message: str
) -> None:
    status = of_pool(report)
    assert truths(status) == expected
    (ready,) = [condition for condition in status.conditions if condition.type == "Ready"]
    assert ready.message == message


def test_a_pools_numbers_and_selector_are_those_of_the_plan() -> None:
    report = PoolReport(
        replicas=2, ready=1, draining=1, capacity=30, effective_capacity=20, sessions=9, pending=4
    )  # fmt: skip
    status = of_pool(report)
    assert (status.replicas, status.ready_replicas, status.draining_replicas) == (2, 1, 1)
    assert (status.capacity, status.effective_capacity, status.sessions, status.pending_sessions) == (30, 20, 9, 4)
    assert status.selector == "whatsapp.28web.io/pool=default,whatsapp.28web.io/serving=true"


def test_a_worker_is_listed_with_its_sessions_and_memory_while_its_pod_exists() -> None:
    workers = [worker("w1", memory_used=300 * MIB), worker("w2", life=Life.ENDED)]
    status = of_pool(PoolReport(), workers=workers, loads={"w1": 3})
    (entry,) = status.workers
    assert (entry.name, entry.sessions, entry.memory, entry.state) == ("w1", 3, "300Mi", WorkerState.READY)


@pytest.mark.parametrize(("used", "shown"), [(310, "300Mi"), (250, "300Mi"), (361, "361Mi"), (239, "239Mi")])
def test_a_little_more_or_less_memory_is_no_news(used: int, shown: str) -> None:
    before = of_pool(PoolReport(), workers=[worker("w1", memory_used=300 * MIB)])
    after = of_pool(PoolReport(), workers=[worker("w1", memory_used=used * MIB)], previous=before)
    assert after.workers[0].memory == shown


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, WorkerState.READY),
        ({"ready": False}, WorkerState.STARTING),
        ({"life": Life.COMING, "heartbeat": None}, WorkerState.STARTING),
        ({"life": Life.SILENT}, WorkerState.UNRESPONSIVE),
        ({"draining_since": NOW}, WorkerState.DRAINING),
        ({"deleting": True, "life": Life.SILENT}, WorkerState.TERMINATING),
    ],
)
def test_what_a_worker_does_is_one_word(changes: dict[str, Any], expected: WorkerState) -> None:
    assert worker_state(worker("w1", **changes)) is expected


def test_conditions_of_an_older_release_are_dropped() -> None:
    old = Condition(type="Old", status="True", reason="X", last_transition_time=NOW)
    assert "Old" not in truths(told(session("a"), SessionStatus(conditions=[old])))
