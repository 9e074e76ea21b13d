"""The pace of outgoing messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_worker.pacing import TokenBucket

RATES = st.floats(1, 600)
BURSTS = st.integers(1, 100)
PAUSES = st.lists(st.floats(0, 600), min_size=1, max_size=60)


def test_after_a_rest_a_burst_goes_at_once_and_then_one_per_interval() -> None:
    bucket = TokenBucket.full(per_minute=20, burst=3, now=100)
    assert [bucket.take(100) for _ in range(5)] == [0, 0, 0, 3, 6]


def test_asking_for_the_wait_takes_no_turn() -> None:
    bucket = TokenBucket.full(per_minute=60, burst=1, now=0)
    assert [bucket.wait(0), bucket.wait(0)] == [0, 0]
    bucket.take(0)
    assert [bucket.wait(0), bucket.wait(0.25)] == [1, 0.75]


def test_a_longer_rest_gives_no_more_than_the_burst() -> None:
    bucket = TokenBucket.full(per_minute=60, burst=2, now=0)
    assert [bucket.take(10_000) for _ in range(3)] == [0, 0, 1]


def test_a_changed_pace_holds_for_those_who_wait() -> None:
    bucket = TokenBucket.full(per_minute=60, burst=1, now=0)
    for _ in range(3):
        bucket.take(0)
    bucket.adjust(per_minute=6, burst=1, now=0)
    assert bucket.wait(0) == pytest.approx(30)


def test_a_larger_burst_is_not_given_at_once() -> None:
    bucket = TokenBucket.full(per_minute=60, burst=1, now=0)
    bucket.adjust(per_minute=60, burst=100, now=0)
    assert [bucket.take(0), bucket.take(0)] == [0, 1]


@given(RATES, BURSTS, PAUSES)
def test_in_no_window_go_more_messages_than_the_burst_and_the_rate_allow(
    per_minute: float, burst: int, pauses: list[float]
) -> None:
    bucket = TokenBucket.full(per_minute=per_minute, burst=burst, now=0)
    now, sent = 0.0, []
    for pause in pauses:
        now += pause
        sent.append(now + bucket.take(now))
    assert sent == sorted(sent)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            allowed = burst + (sent[last] - sent[first]) * per_minute / 60
            assert last - first + 1 <= allowed + 1e-6


@given(RATES, BURSTS, PAUSES)
def test_nobody_waits_longer_than_the_rate_demands(per_minute: float, burst: int, pauses: list[float]) -> None:
    bucket = TokenBucket.full(per_minute=per_minute, burst=burst, now=0)
    now = 0.0
    for before, pause in enumerate(pauses):
        now += pause
        announced = bucket.wait(now)
        assert bucket.take(now) == announced
        assert announced <= max(0.0, (before + 1 - burst) * 60 / per_minute) + 1e-6


@given(RATES, BURSTS, RATES, BURSTS, st.integers(0, 150))
def test_a_changed_pace_gives_no_message_away(
    per_minute: float, burst: int, new_rate: float, new_burst: int, taken: int
) -> None:
    bucket = TokenBucket.full(per_minute=per_minute, burst=burst, now=0)
    for _ in range(taken):
        bucket.take(0)
    left = burst - taken
    bucket.adjust(per_minute=new_rate, burst=new_burst, now=0)
    at_once = sum(bucket.take(0) <= 1e-9 for _ in range(300))
    assert at_once == max(0, min(left, new_burst))
