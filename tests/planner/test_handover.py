"""How a session goes from one owner to the next, or to none."""

from dataclasses import replace
from datetime import timedelta

import pytest

from session_worker.contract import Phase, SessionKey, WorkerKey
from tests.support.fleets import NOW, fleet, pool, session, state, worker
from whatsapp_operator.fleet import Life
from whatsapp_operator.planner import (
    PURGE_TIMEOUT,
    Action,
    Assign,
    CreateWorker,
    DeleteWorker,
    Finalize,
    Plan,
    Policy,
    Release,
    Vacate,
    after,
    plan,
)
from whatsapp_operator.resources import DeletionPolicy


def planned(*items: object) -> Plan:
    return plan(fleet(*items), Policy(), NOW)  # type: ignore[arg-type]  # the builders' union


def about(result: Plan, name: str) -> list[Action]:
    key = SessionKey("ns", name)
    return [action for action in result.session_actions if action.session == key]


def test_a_settled_fleet_has_an_empty_plan() -> None:
    items = [session(f"s{n}", worker="w1") for n in range(3)]
    result = planned(pool(replicas=1), worker("w1", sessions=items), *items)
    assert result.actions == ()
    assert result.waiting == {}


def test_a_stopped_session_is_taken_back_and_only_then_off_the_record() -> None:
    item = session("a", worker="w1", running=False)
    owner = worker("w1", sessions=[item])
    (action,) = about(planned(pool(replicas=1), owner, item), "a")
    assert action == Release(session=item.key, worker=owner.key, reason="spec.state is Stopped")
    item = after(item, action, NOW)
    assert about(planned(pool(replicas=1), owner, item), "a") == []
    owner = replace(owner, cleared=frozenset({item.key}))
    assert about(planned(pool(replicas=1), owner, item), "a") == [
        Vacate(session=item.key, reason="spec.state is Stopped")
    ]


def test_a_deleted_session_keeps_its_finalizer_until_its_worker_has_released_it() -> None:
    item = session("a", worker="w1", deleting_since=NOW, releasing=True)
    owner = worker("w1", sessions=[item])
    result = planned(pool(replicas=1), owner, item)
    assert about(result, "a") == []
    assert result.waiting[item.key] == "waiting for worker w1 to release it"
    owner = replace(owner, cleared=frozenset({item.key}))
    (action,) = about(planned(pool(replicas=1), owner, item), "a")
    assert action == Finalize(session=item.key, reason="worker w1 released it")


def test_a_deleted_session_without_owner_goes_at_once() -> None:
    item = session("a", deleting_since=NOW)
    assert about(planned(pool(), item), "a") == [Finalize(session=item.key, reason="no worker runs it")]


@pytest.mark.parametrize("policy", [DeletionPolicy.DELETE, DeletionPolicy.LOGOUT])
def test_a_profile_is_removed_before_the_session_is_taken_back(policy: DeletionPolicy) -> None:
    item = session("a", worker="w1", deleting_since=NOW, deletion_policy=policy)
    owner = worker("w1", sessions=[item])
    assert about(planned(pool(replicas=1), owner, item), "a") == []
    removed = replace(item, state=state(item, purged=True))
    assert [type(a) for a in about(planned(pool(replicas=1), owner, removed), "a")] == [Release]
    late = replace(item, deleting_since=NOW - PURGE_TIMEOUT)
    assert [type(a) for a in about(planned(pool(replicas=1), owner, late), "a")] == [Release]


def test_an_ended_worker_loses_its_sessions_at_once() -> None:
    item = session("a", worker="w1", epoch=4)
    result = planned(pool(), worker("w1", life=Life.ENDED, failed=True, ended_at=NOW), worker("w2"), item)
    assert about(result, "a") == [
        Assign(session=item.key, worker=WorkerKey("ns", "w2"), epoch=5, reason="worker w1 has ended")
    ]


def test_a_worker_of_which_nothing_is_left_counts_as_ended() -> None:
    item = session("a", worker="gone")
    (action,) = about(planned(pool(), worker("w2"), item), "a")
    assert isinstance(action, Assign)


@pytest.mark.parametrize("life", [Life.SILENT, Life.VANISHED])
def test_a_worker_that_may_still_live_keeps_its_sessions_until_it_cannot(life: Life) -> None:
    item = session("a", worker="w1")
    owner = worker("w1", sessions=[item], life=life)
    result = planned(pool(), owner, worker("w2"), item)
    (action,) = about(result, "a")
    assert isinstance(action, Release)
    item = after(item, action, NOW)
    assert about(planned(pool(), owner, worker("w2"), item), "a") == []


def test_a_silent_worker_is_deleted() -> None:
    actions = planned(pool(), worker("w1", life=Life.SILENT), worker("w2"), worker("w3")).worker_actions
    assert DeleteWorker(worker=WorkerKey("ns", "w1"), reason="its heartbeat has stopped", grace_seconds=30) in actions


def test_a_released_session_without_a_place_gives_its_old_one_back() -> None:
    item = session("a", worker="w1", releasing=True)
    owner = worker("w1", draining_since=NOW, cleared=frozenset({item.key}))
    result = planned(pool(replicas=1), owner, item)
    (action,) = about(result, "a")
    assert isinstance(action, Vacate)
    assert "draining" in result.waiting[item.key]


def test_sessions_leave_a_draining_worker_a_few_at_a_time() -> None:
    items = [session(f"s{n}", worker="w1") for n in range(10)]
    leaving = worker("w1", sessions=items, draining_since=NOW)
    result = planned(pool(replicas=1, max_concurrent_moves=3), leaving, worker("w2"), *items)
    assert len(result.session_actions) == 3
    assert all(isinstance(action, Release) for action in result.session_actions)


def test_moves_in_flight_count_until_they_are_up() -> None:
    items = [session(f"s{n}", worker="w1") for n in range(5)]
    starting = [
        session(f"m{n}", worker="w2", epoch=2, phase=Phase.STARTING, assigned_since=NOW - timedelta(seconds=5))
        for n in range(2)
    ]
    leaving = worker("w1", sessions=items, draining_since=NOW)
    common = (pool(replicas=1, max_concurrent_moves=3), leaving, worker("w2", sessions=starting))
    assert len(planned(*common, *items, *starting).session_actions) == 1
    stuck = [replace(item, assigned_since=NOW - timedelta(minutes=2)) for item in starting]
    assert len(planned(*common, *items, *stuck).session_actions) == 3


def test_a_drain_waits_for_places() -> None:
    items = [session(f"s{n}", worker="w1") for n in range(5)]
    full = [session(f"f{n}", worker="w2") for n in range(14)]
    leaving = worker("w1", sessions=items, draining_since=NOW)
    result = planned(pool(replicas=1), leaving, worker("w2", sessions=full), *items, *full)
    assert len(result.session_actions) == 1


def test_places_of_sessions_on_the_move_are_kept_for_them() -> None:
    moving = session("m", worker="w1", releasing=True)
    full = [session(f"f{n}", worker="w2") for n in range(14)]
    leaving = worker("w1", sessions=[moving], draining_since=NOW)
    result = planned(pool(replicas=1), leaving, worker("w2", sessions=full), moving, *full, session("new", priority=99))
    assert about(result, "new") == []
    assert result.waiting[SessionKey("ns", "new")].endswith("1 of 2 kept for sessions on the move (14/15)")


def test_a_pod_under_deletion_gives_its_sessions_up_even_without_a_place() -> None:
    item = session("a", worker="w1")
    leaving = worker("w1", sessions=[item], deleting=True)
    (action,) = about(planned(pool(replicas=1), leaving, item), "a")
    assert action == Release(session=item.key, worker=leaving.key, reason="worker w1 is being deleted")


def test_a_session_follows_its_pool() -> None:
    item = session("a", worker="w1", pool="other")
    owner = worker("w1", sessions=[item])
    (action,) = about(planned(pool(), pool("other"), owner, worker("w2", pool="other"), item), "a")
    assert action == Release(session=item.key, worker=owner.key, reason="it moved to pool other")


# --- Workers


def kinds(result: Plan) -> list[tuple[str, str]]:
    return [
        (type(a).__name__, a.pool.name if isinstance(a, CreateWorker) else a.worker.name) for a in result.worker_actions
    ]


def test_missing_workers_are_made() -> None:
    assert kinds(planned(pool(replicas=3), worker("w1"))) == [("CreateWorker", "default")] * 2


def test_scale_in_takes_the_emptiest_worker() -> None:
    items = [session("a", worker="w1"), session("b", worker="w3")]
    result = planned(pool(), worker("w1", sessions=items[:1]), worker("w2"), worker("w3", sessions=items[1:]), *items)
    assert kinds(result) == [("DrainWorker", "w2")]


def test_a_drained_worker_goes_when_it_is_empty_and_not_before() -> None:
    item = session("a", worker="w2")
    common = (pool(replicas=1), worker("w1"))
    assert kinds(planned(*common, worker("w2", sessions=[item], draining_since=NOW), item)) == []
    assert kinds(planned(*common, worker("w2", draining_since=NOW))) == [("DeleteWorker", "w2")]


def test_a_drain_ends_at_its_deadline() -> None:
    item = session("a", worker="w2")
    late = worker("w2", sessions=[item], draining_since=NOW - timedelta(minutes=6))
    assert ("DeleteWorker", "w2") in kinds(planned(pool(replicas=1), worker("w1"), late, item))


def test_a_rollout_makes_one_worker_more_then_drains_one_old_one_then_the_next() -> None:
    old = [worker("w1", template="t0"), worker("w2", template="t0")]
    assert kinds(planned(pool(), *old)) == [("CreateWorker", "default")]
    coming = worker("n1", life=Life.COMING, ready=False)
    assert kinds(planned(pool(), *old, coming)) == []
    (kind, victim) = kinds(planned(pool(), *old, worker("n1")))[0]
    assert kind == "DrainWorker"
    assert victim in {"w1", "w2"}
    # While w1 is being emptied, its replacement is made, and w2 is left alone.
    draining = replace(old[0], draining_since=NOW)
    item = session("a", worker="w1")
    result = planned(pool(), draining, old[1], worker("n1"), item)
    assert kinds(result) == [("CreateWorker", "default")]
    assert kinds(planned(pool(), draining, old[1], worker("n1"), worker("n2"), item)) == []


def test_a_rollout_that_does_not_get_ready_stops_there() -> None:
    old = [worker("w1", template="t0"), worker("w2", template="t0")]
    broken = worker("n1", life=Life.COMING, ready=False, problem="ImagePullBackOff")
    result = planned(pool(), *old, broken)
    assert kinds(result) == []
    assert result.pools[pool().key].problems == ("ImagePullBackOff",)


def test_pods_that_keep_failing_are_replaced_ever_more_slowly() -> None:
    def failed(name: str, seconds_ago: float) -> object:
        end = NOW - timedelta(seconds=seconds_ago)
        return worker(name, life=Life.ENDED, failed=True, ended_at=end, ready=False)

    assert kinds(planned(pool(replicas=1), failed("w1", 1))) == [("CreateWorker", "default")]
    assert kinds(planned(pool(replicas=1), failed("w1", 30), failed("w2", 1))) == []
    assert kinds(planned(pool(replicas=1), failed("w1", 60), failed("w2", 11))) == [("CreateWorker", "default")]
    three = (failed("w1", 60), failed("w2", 40), failed("w3", 15))
    assert kinds(planned(pool(replicas=1), *three)) == []


def test_failed_pods_are_kept_for_their_logs_and_then_removed() -> None:
    end = NOW - timedelta(minutes=11)
    old = worker("w1", life=Life.ENDED, failed=True, ended_at=end, ready=False)
    assert kinds(planned(pool(replicas=1), old, worker("w2"))) == [("DeleteWorker", "w1")]


def test_a_pool_under_deletion_makes_no_workers() -> None:
    assert kinds(planned(pool(deleting=True))) == []


def test_the_report_counts_each_session_once_wherever_it_is() -> None:
    moving = session("m", worker="w1", releasing=True)
    result = planned(pool(spare_sessions=2), worker("w1", sessions=[moving]), worker("w2"), moving, session("new"))
    report = result.pools[pool().key]
    assert (report.demand, report.sessions, report.replicas, report.ready, report.capacity) == (4, 1, 2, 2, 30)
