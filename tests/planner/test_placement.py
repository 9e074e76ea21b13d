"""Who gets a place, on which worker, and what those are told who get none."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from session_worker.contract import Phase, SessionKey, WorkerKey
from tests.support.fleets import MIB, NOW, fleet, pool, session, worker
from whatsapp_operator.fleet import Fleet, Life
from whatsapp_operator.planner import Assign, Plan, Policy, plan
from whatsapp_operator.resources import Placement


def planned(*items: object) -> Plan:
    return plan(fleet(*items), Policy(), NOW)  # type: ignore[arg-type]  # the builders' union


def placed(result: Plan) -> dict[str, str]:
    return {a.session.name: a.worker.name for a in result.actions if isinstance(a, Assign)}


def waiting(result: Plan) -> dict[str, str]:
    return {key.name: reason for key, reason in result.waiting.items()}


def loaded(name: str, count: int) -> list[object]:
    sessions = [session(f"{name}-{n}", worker=name) for n in range(count)]
    return [worker(name, sessions=sessions), *sessions]


def test_a_new_session_gets_the_first_epoch_on_a_worker_with_room() -> None:
    result = planned(pool(replicas=1), worker("w1"), session("a"))
    assert result.actions == (
        Assign(
            session=SessionKey("ns", "a"),
            worker=WorkerKey("ns", "w1"),
            epoch=1,
            reason="worker w1 has room (0/15)",
        ),
    )
    assert result.waiting == {}


def test_pack_fills_the_fullest_worker_that_still_has_room() -> None:
    result = planned(pool(), *loaded("w1", 3), *loaded("w2", 7), session("a"), session("b"))
    assert placed(result) == {"a": "w2", "b": "w2"}


def test_spread_levels_the_workers() -> None:
    new = [session(f"n{i}") for i in range(4)]
    result = planned(pool(placement=Placement.SPREAD), *loaded("w1", 3), *loaded("w2", 1), *new)
    assert sorted(placed(result).values()) == ["w1", "w2", "w2", "w2"]


def test_one_batch_packs_as_well_as_one_at_a_time() -> None:
    workers = [worker(f"w{n:02}", created=NOW - timedelta(minutes=n)) for n in range(70)]
    sessions = [session(f"s{n:04}") for n in range(1000)]
    at_once = placed(planned(pool(replicas=70), *workers, *sessions))
    one_by_one: dict[str, str] = {}
    world = fleet(pool(replicas=70), *workers)
    for item in sessions:
        world = Fleet(pools=world.pools, workers=world.workers, sessions={**world.sessions, item.key: item})
        (action,) = [a for a in plan(world, Policy(), NOW).actions if isinstance(a, Assign)]
        one_by_one[item.key.name] = action.worker.name
        taken = replace(item, worker=action.worker.name, epoch=action.epoch, phase=Phase.CONNECTED)
        world = Fleet(pools=world.pools, workers=world.workers, sessions={**world.sessions, item.key: taken})
    assert sorted(at_once.values()) == sorted(one_by_one.values())
    assert len(set(at_once.values())) == 67  # 1000 / 15, rounded up


def test_no_worker_gets_more_than_its_sessions_and_the_rest_is_told_why() -> None:
    result = planned(pool(), *loaded("w1", 15), *loaded("w2", 14), session("a"), session("b"))
    assert placed(result) == {"a": "w2"}
    assert waiting(result) == {"b": "no worker has room: 2 of 2 full (15/15)"}


def test_a_full_pool_says_how_full() -> None:
    result = planned(pool(), *loaded("w1", 15), *loaded("w2", 15), session("a"))
    assert waiting(result) == {"a": "no worker has room: 2 of 2 full (15/15)"}


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        pytest.param([], "pool 'default' does not exist in namespace 'ns'", id="no pool"),
        pytest.param([pool(replicas=0)], "pool 'default' has no workers (spec.replicas: 0)", id="no workers"),
        pytest.param([pool(deleting=True), worker("w1")], "pool 'default' is being deleted", id="pool goes"),
        pytest.param(
            [pool(replicas=1), worker("w1", ready=False, life=Life.COMING, problem="ImagePullBackOff: no such image")],
            "no worker has room: 1 of 1 not ready (ImagePullBackOff: no such image)",
            id="not ready",
        ),
        pytest.param(
            [pool(replicas=1), worker("w1", draining_since=NOW, heartbeat=None)],
            "no worker has room: 1 of 1 draining",
            id="draining",
        ),
        pytest.param(
            [pool(replicas=1), worker("w1", memory_used=1700 * MIB, memory_limit=2048 * MIB)],
            "no worker has room: 1 of 1 at the memory threshold (0 sessions, 80% of 2048Mi allowed)",
            id="memory in use",
        ),
    ],
)
def test_every_refusal_names_its_cause(items: list[object], reason: str) -> None:
    assert waiting(planned(*items, session("a")))["a"] == reason


def test_the_estimate_counts_for_sessions_that_have_not_started_yet() -> None:
    # 2 GiB at 80 % hold 1638 MiB: sixteen sessions of 100 MiB, were the limit not fifteen.
    big = pool(replicas=1, memory_per_session=400 * MIB)
    new = [session(f"s{n}") for n in range(6)]
    result = planned(big, worker("w1", memory_limit=2048 * MIB), *new)
    assert len(placed(result)) == 4
    assert len(waiting(result)) == 2


def test_measured_memory_wins_over_a_lower_estimate() -> None:
    running = [session(f"r{n}", worker="w1") for n in range(2)]
    one = worker("w1", sessions=running, memory_used=900 * MIB, memory_limit=2048 * MIB)
    assert one.heartbeat is not None
    heavy = {key: entry.model_copy(update={"memory_bytes": 430 * MIB}) for key, entry in one.heartbeat.running.items()}
    one = replace(one, heartbeat=one.heartbeat.model_copy(update={"running": heavy}))
    result = planned(pool(replicas=1), one, *running, *[session(f"n{n}") for n in range(5)])
    assert len(placed(result)) == 1  # 1638 - 900 leaves room for one of 430


def test_a_worker_that_was_started_with_fewer_places_is_believed() -> None:
    result = planned(pool(replicas=1), worker("w1", own_capacity=1), session("a"), session("b"))
    assert len(placed(result)) == 1


def test_priority_then_age_decide_who_waits() -> None:
    items = [
        session("young", created=NOW),
        session("old", created=NOW - timedelta(days=1)),
        session("vip", created=NOW, priority=10),
    ]
    result = planned(pool(replicas=1, sessions_per_worker=2), worker("w1"), *items)
    assert set(placed(result)) == {"vip", "old"}
    assert set(waiting(result)) == {"young"}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"ready": False}, id="not ready"),
        pytest.param({"life": Life.COMING}, id="never reported"),
        pytest.param({"life": Life.SILENT}, id="silent"),
        pytest.param({"deleting": True}, id="deleted"),
        pytest.param({"draining_since": NOW}, id="draining"),
        pytest.param({"pool": "other"}, id="other pool"),
    ],
)
def test_only_ready_workers_of_the_pool_get_sessions(changes: dict[str, Any]) -> None:
    assert placed(planned(pool(replicas=1), worker("w1", **changes), session("a"))) == {}


def test_the_next_epoch_is_above_every_epoch_ever_seen() -> None:
    result = planned(pool(replicas=1), worker("w1"), session("a", epoch=3, known_epoch=7))
    (action,) = result.actions
    assert isinstance(action, Assign)
    assert action.epoch == 8


def test_a_stopped_session_wants_no_place() -> None:
    result = planned(pool(replicas=1), worker("w1"), session("a", running=False))
    assert result.actions == ()
    assert result.waiting == {}
