"""The table of a session's life: complete, free of traps, and what the page's account of itself means."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_worker.contract import Phase
from session_worker.lifecycle import (
    BLOCKS,
    PHASES,
    TABLE,
    TIMEOUTS,
    Effect,
    IllegalSignalError,
    Signal,
    Snapshot,
    Stage,
    classify,
    step,
)

BROWSER = {
    Signal.BROWSER_UP, Signal.BROWSER_DOWN, Signal.PAGE_CRASHED, Signal.NAVIGATED, Signal.UNLINKED, Signal.LINKED,
    Signal.ONLINE, Signal.OFFLINE, Signal.BLOCKED, Signal.UNHEALTHY, Signal.EXHAUSTED,
}  # fmt: skip
"""What a browser may say whatever the session is doing: it does not know."""
ASKED = {Signal.HIBERNATE, Signal.WAKE, Signal.RESTART, Signal.PURGE, Signal.STOP}
"""What people, the operator and the memory manager may ask at any time."""
TIMED = {*TIMEOUTS, Stage.PAIRING}
"""Stages with a clock that gives them TIMEOUT; WAITING's clock gives RETRY."""
WITH_BROWSER = {
    Stage.LAUNCHING, Stage.LOADING, Stage.PAIRING, Stage.SYNCING, Stage.CONNECTED, Stage.RECONNECTING,
}  # fmt: skip
LAUNCHES = {Effect.LAUNCH, Effect.CLOSE_AND_LAUNCH}
CLOSES = {Effect.CLOSE, Effect.CLOSE_AND_WAIT, Effect.PURGE, Effect.FINISH}

Pair = tuple[Stage, Signal]


def may_come(stage: Stage) -> set[Signal]:
    """The signals that a session feeds to the table in a stage."""
    clock = {Signal.TIMEOUT} if stage in TIMED else {Signal.RETRY} if stage is Stage.WAITING else set()
    ended = {Signal.ENDED} if stage in {Stage.CLOSING, Stage.CLOSED} else set()
    return BROWSER | ASKED | clock | ended


@pytest.mark.parametrize("stage", Stage)
def test_every_signal_that_may_come_has_an_entry(stage: Stage) -> None:
    assert {signal for signal in may_come(stage) if (stage, signal) not in TABLE} == set()


@pytest.mark.parametrize("pair", sorted(set(product(Stage, Signal)) - TABLE.keys()), ids=" ".join)
def test_a_signal_without_an_entry_is_a_bug_of_the_caller(pair: Pair) -> None:
    stage, signal = pair
    assert signal not in may_come(stage)
    with pytest.raises(IllegalSignalError, match=f"{signal} in stage {stage}"):
        step(stage, signal)


def test_every_stage_can_be_reached() -> None:
    reached: set[Stage] = set()
    frontier = {Stage.LAUNCHING}
    while frontier:
        reached |= frontier
        frontier = {TABLE[stage, signal].stage for stage in frontier for signal in may_come(stage)} - reached
    assert reached == set(Stage)


def test_every_stage_has_a_phase_that_workers_report() -> None:
    assert PHASES.keys() == set(Stage)
    assert not {Phase.PENDING, Phase.ASSIGNED} & set(PHASES.values())


def test_no_stage_lasts_for_ever_unless_it_is_a_settled_one() -> None:
    assert set(Stage) - TIMED - {Stage.WAITING} == {Stage.CONNECTED, Stage.HIBERNATED, Stage.CLOSED}


@pytest.mark.parametrize("signal", sorted(signal for stage, signal in TABLE if stage is Stage.CLOSED))
def test_nothing_leads_out_of_closed(signal: Signal) -> None:
    found = step(Stage.CLOSED, signal)
    assert (found.stage, found.effect) == (Stage.CLOSED, Effect.NONE)


@pytest.mark.parametrize("stage", sorted(set(Stage) - {Stage.CLOSING, Stage.CLOSED}))
def test_stop_ends_it_from_everywhere(stage: Stage) -> None:
    closing = step(stage, Signal.STOP)
    assert (closing.stage, closing.effect) == (Stage.CLOSING, Effect.FINISH)
    assert step(Stage.CLOSING, Signal.ENDED).stage is Stage.CLOSED
    assert step(Stage.CLOSING, Signal.TIMEOUT).stage is Stage.CLOSED


@pytest.mark.parametrize("stage", sorted(set(Stage) - {Stage.PURGED, Stage.CLOSING, Stage.CLOSED}))
def test_purge_removes_the_profile_from_everywhere(stage: Stage) -> None:
    found = step(stage, Signal.PURGE)
    assert (found.stage, found.effect) == (Stage.PURGED, Effect.PURGE)


def test_a_purged_session_comes_back_by_no_signal() -> None:
    for signal in may_come(Stage.PURGED) - {Signal.STOP}:
        assert step(Stage.PURGED, signal).stage is Stage.PURGED
    assert step(Stage.PURGED, Signal.TIMEOUT).effect is Effect.PURGE


def test_a_stage_that_begins_with_a_browser_starts_one_and_no_other_does() -> None:
    for (before, signal), found in TABLE.items():
        begins = found.stage is Stage.LAUNCHING and (before, found.effect) != (Stage.LAUNCHING, Effect.NONE)
        assert begins == (found.effect in LAUNCHES), (before, signal)


def test_no_browser_is_left_behind_in_a_stage_without_one() -> None:
    for (before, signal), found in TABLE.items():
        if before in WITH_BROWSER and found.stage not in WITH_BROWSER:
            assert found.effect in CLOSES, (before, signal)
        if before in WITH_BROWSER and found.stage is Stage.LAUNCHING:
            assert found.effect in {Effect.CLOSE_AND_LAUNCH, Effect.NONE}, (before, signal)


@given(st.data())
def test_no_sequence_of_signals_that_may_come_is_illegal_or_loses_track_of_the_browser(data: st.DataObject) -> None:
    stage, browser, purged = Stage.LAUNCHING, True, False
    for _ in range(data.draw(st.integers(1, 40))):
        signal = data.draw(st.sampled_from(sorted(may_come(stage))))
        found = step(stage, signal)
        if found.effect in LAUNCHES:
            browser = True
        elif found.effect in CLOSES:
            browser = False
        purged = purged or found.effect is Effect.PURGE
        stage = found.stage
        assert browser == (stage in WITH_BROWSER), (stage, signal)
        assert not (purged and stage not in {Stage.PURGED, Stage.CLOSING, Stage.CLOSED})


def page(**account: object) -> Snapshot:
    return Snapshot.model_validate({"injected": True, **account})


LINKED = {"registered": True, "mode": "MAIN", "socket": "CONNECTED", "stream": "CONNECTED"}


@pytest.mark.parametrize(
    ("account", "meaning"),
    [
        ({}, None),
        ({"injected": False, "registered": True, "mode": "MAIN", "stream": "CONNECTED"}, None),
        ({"mode": "QR"}, Signal.UNLINKED),
        ({"mode": "QR", "socket": "UNPAIRED", "stream": "CONNECTED"}, Signal.UNLINKED),
        ({"socket": "UNPAIRED_IDLE"}, Signal.UNLINKED),
        # Without credentials MAIN means nothing: the page says so on the QR screen too.
        ({"mode": "MAIN", "stream": "CONNECTED"}, None),
        ({"registered": True, "mode": "SYNCING", "stream": "CONNECTED"}, Signal.LINKED),
        (LINKED, Signal.ONLINE),
        # A page that lost its network goes on saying MAIN.
        ({**LINKED, "stream": "DISCONNECTED"}, Signal.OFFLINE),
        ({**LINKED, "stream": "RESUMING"}, Signal.OFFLINE),
        ({**LINKED, "mode": "OFFLINE"}, Signal.OFFLINE),
        # Another browser took over.
        ({**LINKED, "mode": "CONFLICT"}, Signal.OFFLINE),
        # The old mode stays for a moment after the phone has scanned.
        ({"registered": True, "mode": "QR"}, None),
        ({**LINKED, "mode": "SOMETHING_NEW"}, None),
        ({"mode": "DEPRECATED_VERSION"}, Signal.BLOCKED),
        ({**LINKED, "mode": "TOS_BLOCK"}, Signal.BLOCKED),
        ({**LINKED, "socket": "PROXYBLOCK"}, Signal.BLOCKED),
    ],
)
def test_what_the_page_says_of_itself_means(account: dict[str, object], meaning: Signal | None) -> None:
    assert classify(page(**account)) is meaning


@pytest.mark.parametrize("mode", sorted(BLOCKS))
def test_a_block_counts_whether_linked_or_not(mode: str) -> None:
    assert classify(page(mode=mode)) is Signal.BLOCKED
    assert classify(page(**{**LINKED, "mode": mode})) is Signal.BLOCKED
