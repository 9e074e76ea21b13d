"""When a session that was taken away from a worker counts as given up."""

from session_worker.contract import Assignment, Heartbeat, Phase, Running, SessionKey, WorkerSpec
from whatsapp_operator.ledger import Page, cleared, turn

A = SessionKey("ns", "a")
ASSIGNED = {A: Assignment(epoch=3, uid="u", generation=1, spec=WorkerSpec())}


def heartbeat(revision: int, *running: SessionKey) -> Heartbeat:
    entries = {str(key): Running(epoch=3, phase=Phase.CONNECTED) for key in running}
    return Heartbeat(uid="u", address="a", version="1", capacity=15, revision=revision, running=entries)


def test_a_session_is_given_up_when_the_worker_has_seen_the_set_without_it_and_does_not_run_it() -> None:
    page = turn(Page(5, assignments=ASSIGNED), {}, [A], heartbeat(5), clock=0)
    assert page.revision == 6
    assert cleared(page, heartbeat(6)) == {A}


def test_a_heartbeat_from_before_the_set_proves_nothing() -> None:
    """The worker may be about to act on an earlier set that still had the session."""
    page = turn(Page(5, assignments=ASSIGNED), {}, [A], heartbeat(4), clock=0)
    assert cleared(page, heartbeat(4)) == frozenset()
    assert cleared(page, heartbeat(5)) == frozenset()


def test_a_session_that_is_being_closed_is_not_given_up_yet() -> None:
    page = turn(Page(5, assignments=ASSIGNED), {}, [A], heartbeat(5), clock=0)
    assert cleared(page, heartbeat(6, A)) == frozenset()


def test_a_silent_worker_has_given_up_nothing() -> None:
    assert cleared(turn(Page(5, assignments=ASSIGNED), {}, [A], heartbeat(5), clock=0), None) == frozenset()


def test_a_set_that_redis_has_lost_is_published_above_everything_the_worker_has_confirmed() -> None:
    """Otherwise its old confirmation would count for the new set."""
    page = turn(Page(), {}, [A], heartbeat(90), clock=7)
    assert page.revision == 91
    assert cleared(page, heartbeat(90)) == frozenset()


def test_an_unchanged_set_is_not_published_again_and_waits_for_no_new_confirmation() -> None:
    """So a restarted operator, which reads the page back, goes on where the old one stopped."""
    page = turn(Page(6, assignments={}), {}, [A], heartbeat(6), clock=99)
    assert page.revision == 6
    assert cleared(page, heartbeat(6)) == {A}


def test_a_set_that_the_worker_has_declared_void_is_published_again() -> None:
    beat = heartbeat(5).model_copy(update={"void_revision": 5})
    again = turn(Page(5, assignments=ASSIGNED), ASSIGNED, [A], beat, clock=0)
    assert again.revision == 6
    assert turn(again, ASSIGNED, [A], beat, clock=0).revision == 6


def test_a_session_that_is_off_the_record_is_forgotten() -> None:
    page = turn(Page(5, assignments=ASSIGNED), {}, [A], heartbeat(5), clock=0)
    assert turn(page, {}, [], heartbeat(6), clock=0).left_out == {}
