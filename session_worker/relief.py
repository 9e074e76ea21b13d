"""What to do when memory is short: the decision, as values.

Owns the thresholds and the order of the means: first what costs nobody anything (garbage and caches), then the sessions
that were idle longest go to sleep, and no more of them than needed. Must not read memory or a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from session_worker.contract import SessionKey

TIGHT = 0.85
"""Share of the limit above which memory is made free. The kernel kills at 1, and a browser grows by 100 MB at once."""
ROOMY = 0.75
"""Share of the limit that a session which was put to sleep for memory must leave when it is woken again."""
TIDY_EVERY = 300.0
"""Seconds for which a page that has given back its garbage has no more worth collecting."""


@dataclass(frozen=True, slots=True)
class Awake:
    """A session with a browser."""

    key: SessionKey
    memory: int
    """Bytes; 0 when not measured yet."""
    idle: float | None
    """Seconds without a message or call; None while it must not be put to sleep."""
    tidied: float | None
    """Seconds since it has given back its garbage; None when it never has."""


@dataclass(frozen=True, slots=True)
class Relief:
    """What to do now."""

    tidy: tuple[SessionKey, ...] = ()
    """Pages that are to give back garbage and caches."""
    sleep: tuple[SessionKey, ...] = ()
    """Sessions that are to go to sleep."""
    wake: SessionKey | None = None
    """A session that has slept for want of memory and has room again."""


def relieve(
    used: int, limit: int, awake: Iterable[Awake], asleep: Mapping[SessionKey, int], *, session_timeout: float
) -> Relief:
    """Decide.

    Args:
        used: Bytes in use by the worker.
        limit: Bytes that it may use; 0 when there is no limit, and then nothing is done.
        awake: Sessions with a browser.
        asleep: Sessions that were put to sleep for want of memory, with the bytes that each had then, the one that
            sleeps longest first.
        session_timeout: Seconds of idleness before a session may be put to sleep.
    """
    if not limit:
        return Relief()
    if used <= TIGHT * limit:
        # One at a time: what it really takes shows at the next reading. Nobody would tell its messages otherwise.
        key = next(iter(asleep), None)
        return Relief(wake=key if key is not None and used + asleep[key] <= ROOMY * limit else None)
    sessions = list(awake)
    untidy = tuple(one.key for one in sessions if one.tidied is None or one.tidied >= TIDY_EVERY)
    if untidy:
        return Relief(tidy=untidy)
    candidates = [(one.idle, one) for one in sessions if one.idle is not None and one.idle >= session_timeout]
    candidates.sort(key=lambda candidate: candidate[0], reverse=True)
    excess, chosen = used - TIGHT * limit, list[SessionKey]()
    for _, one in candidates:
        if excess <= 0:
            break
        chosen.append(one.key)
        if not one.memory:
            break  # what it frees shows at the next reading
        excess -= one.memory
    return Relief(sleep=tuple(chosen))
