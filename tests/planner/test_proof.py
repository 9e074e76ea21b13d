"""What proves that a worker's browsers are closed, and what only looks like it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from session_worker.contract import HEARTBEAT_KEPT, LEASE_DURATION, Beat, Heartbeat, Phase, Running, WorkerKey
from tests.support.fleets import NOW, fleet, pool, session, worker
from whatsapp_operator.fleet import Life
from whatsapp_operator.ledger import Page, turn
from whatsapp_operator.observation import Sight, Tombstone, has_ended, heard_at, remains_of, tombstone_of, worker_of
from whatsapp_operator.planner import Assign, DrainWorker, Finalize, Policy, Release, plan
from whatsapp_operator.pods import DRAINING_ANNOTATION

KEPT = HEARTBEAT_KEPT.total_seconds()
LEASE = LEASE_DURATION.total_seconds()
RUNNING = {"name": "worker", "state": {"running": {}}}
TERMINATED = {"name": "worker", "state": {"terminated": {"exitCode": 1}}}


def pod(
    *containers: dict[str, Any], phase: str = "Running", node: str | None = "n1", **metadata: Any
) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "ns", "name": "w1", "uid": "u1", "creationTimestamp": "2026-01-01T00:00:00Z", **metadata,
        },
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, **({"containerStatuses": list(containers)} if containers else {})},
    }  # fmt: skip


def beat(age: float = 0.0, **changes: Any) -> Beat:
    values: dict[str, Any] = {"uid": "u1", "address": "a", "version": "1", "capacity": 15, "revision": 1}
    return Beat(Heartbeat(**{**values, **changes}), age)


# --- The pod


def test_a_phase_that_the_garbage_collector_wrote_proves_nothing_while_the_container_runs() -> None:
    lost = pod(RUNNING, phase="Failed")
    assert not has_ended(lost)
    assert not tombstone_of(lost).ended
    assert worker_of(lost, Sight(beat(age=0.4))).life is Life.LIVE


def test_the_kubelet_s_word_on_the_worker_s_container_is_enough_whatever_a_sidecar_does() -> None:
    sidecar = {"name": "proxy", "state": {"running": {}}}
    assert has_ended(pod(TERMINATED, sidecar))
    assert not has_ended(pod(RUNNING, {"name": "proxy", "state": {"terminated": {}}}))


def test_a_pod_that_no_node_has_taken_never_ran() -> None:
    assert has_ended(pod(node=None, phase="Pending"))
    assert not has_ended(pod(phase="Pending"))


def test_a_pod_that_its_node_has_refused_has_ended() -> None:
    assert worker_of(pod(phase="Failed"), Sight()).life is Life.ENDED


# --- Silence


@pytest.mark.parametrize("owns", [True, False])
def test_a_worker_that_once_lived_is_silent_when_nothing_is_heard_and_one_that_starts_is_not(*, owns: bool) -> None:
    dark = worker_of(pod(RUNNING), Sight(unheard_for=2 * LEASE + 1, owns=owns))
    assert dark.life is (Life.SILENT if owns else Life.COMING)


def test_a_pod_on_a_dead_node_gives_its_sessions_up_when_its_worker_must_have_stopped_itself() -> None:
    dark = pod(RUNNING, deletionTimestamp="2026-01-01T00:00:00Z")
    early = worker_of(dark, Sight(unheard_for=KEPT - 1, owns=True))
    late = worker_of(dark, Sight(unheard_for=KEPT + 1, owns=True))
    key = session("a").key
    assert early.may_run(key)
    assert not late.may_run(key)
    assert late.exists


def test_a_heartbeat_that_is_still_kept_means_that_the_deadline_has_not_passed() -> None:
    assert worker_of(pod(RUNNING), Sight(beat(age=KEPT - 1), unheard_for=KEPT + 5, owns=True)).may_run(session("a").key)


def test_a_worker_without_a_pod_is_waited_for_until_it_said_goodbye_or_was_not_heard_for_long_enough() -> None:
    key, empty = WorkerKey("ns", "w1"), frozenset[Any]()

    def left(found: Beat | None, unheard_for: float) -> bool:
        stone = Tombstone("default", ended=False)
        return remains_of(key, stone, found, empty, unheard_for=unheard_for, now=NOW) is not None

    assert left(None, 0)
    assert left(beat(age=20), KEPT + 1)
    assert not left(None, KEPT + 1)
    assert not left(beat(stopped=True), 0)


def test_an_annotation_that_is_no_time_does_no_harm() -> None:
    for text in ("yesterday", "2026-01-01T00:00:00"):
        found = worker_of(pod(RUNNING, annotations={DRAINING_ANNOTATION: text}), Sight(beat()))
        assert found.draining_since == datetime(1970, 1, 1, tzinfo=UTC)


def test_only_a_new_heartbeat_moves_the_time_at_which_a_worker_was_heard() -> None:
    key = WorkerKey("ns", "w1")
    first = heard_at({}, {key: 30.0}, clock=100.0, since_last_look=None)
    assert first == {key: 100.0}  # whoever is new to us counts as heard now
    assert heard_at(first, {key: 1.0}, clock=110.0, since_last_look=2.0) == {key: 109.0}
    # A clock of Redis that jumps makes a heartbeat look old, or its key vanish; neither takes back what was heard.
    assert heard_at(first, {key: 500.0}, clock=110.0, since_last_look=2.0) == first
    assert heard_at(first, {key: None}, clock=110.0, since_last_look=2.0) == first


def test_time_in_which_the_operator_did_not_listen_is_no_silence() -> None:
    key = WorkerKey("ns", "w1")
    assert heard_at({key: 100.0}, {key: None}, clock=190.0, since_last_look=80.0) == {key: 180.0}
    assert heard_at({key: 100.0}, {key: None}, clock=190.0, since_last_look=LEASE) == {key: 100.0}


# --- What follows from it


def test_the_sessions_of_a_dead_node_go_on_elsewhere_and_a_deleted_one_goes() -> None:
    dark = worker("w1", life=Life.SILENT, deleting=True, self_stopped=True, heartbeat=None)
    moving = session("a", worker="w1", releasing=True)
    deleted = session("b", worker="w1", releasing=True, deleting_since=NOW)
    actions = plan(fleet(pool(), dark, worker("w2"), moving, deleted), Policy(), NOW).session_actions
    assert {type(action) for action in actions} == {Assign, Finalize}


def test_a_pod_that_does_not_answer_does_not_hold_up_a_rollout() -> None:
    dark = worker("w0", life=Life.SILENT, deleting=True, heartbeat=None)
    old, new = worker("w1", template="t0"), worker("w2")
    actions = plan(fleet(pool(replicas=1), dark, old, new), Policy(), NOW).worker_actions
    assert [action.worker for action in actions if isinstance(action, DrainWorker)] == [old.key]


def test_an_owner_whose_epoch_has_passed_gives_the_session_back() -> None:
    """As after a deletion and a new object of the same name, or a restored backup: Redis refuses what it writes."""
    made_anew = replace(session("a", worker="w1"), known_epoch=3)
    (action,) = plan(fleet(pool(replicas=1), worker("w1"), made_anew), Policy(), NOW).session_actions
    assert isinstance(action, Release)
    free = worker("w1", cleared=frozenset({made_anew.key}))
    released = replace(made_anew, releasing=True)
    (action,) = plan(fleet(pool(replicas=1), free, released), Policy(), NOW).session_actions
    assert isinstance(action, Assign)
    assert action.epoch == 4


def test_a_new_object_waits_for_the_browser_of_an_old_one_of_its_name() -> None:
    old = worker("w1")
    assert old.heartbeat is not None
    running = {"ns/a": Running(epoch=2, phase=Phase.CONNECTED)}
    old = replace(old, heartbeat=old.heartbeat.model_copy(update={"running": running}))
    found = plan(fleet(pool(), old, worker("w2"), session("a")), Policy(), NOW)
    assert found.session_actions == []
    assert found.waiting[session("a").key] == "waiting for worker w1 to end its browser of this name"


def test_a_session_without_our_finalizer_is_left_to_whoever_holds_it() -> None:
    item = session("a", worker="w1", releasing=True, deleting_since=NOW, finalizer=False)
    free = worker("w1", cleared=frozenset({item.key}))
    assert plan(fleet(pool(replicas=1), free, item), Policy(), NOW).session_actions == []


def test_a_page_of_another_term_is_published_again_though_nothing_has_changed() -> None:
    """So that what its author was about to write to it comes too late."""
    page = Page(revision=5, term=1)
    assert turn(page, {}, (), None, clock=0, term=1).revision == 5
    mine = turn(page, {}, (), None, clock=0, term=2)
    assert (mine.revision, mine.term) == (6, 2)
