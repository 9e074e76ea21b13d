"""The numbers behind every answer, each with its source.

Owns measured figures, with the date and the way they were measured, and assumptions, which say that they are none of
that. Must not calculate with them: `sizing` does, and takes another value for each of them from the command line.
"""

from __future__ import annotations

from dataclasses import dataclass

MEBI = 2**20
MEGA = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number and where it comes from."""

    what: str
    value: float
    unit: str
    source: str
    measured: str | None = None
    """Month of the measurement, `YYYY-MM`. None: nobody has measured it, it is an assumption."""


_DENSITY = (
    "proportional set size over the process trees of 1, 4 and 8 browsers, two repeats within 1 %; headless-shell 156 "
    "with the worker's launch flags, 2 vCPU, Debian 12"
)

TEST_PAGE_MEMORY = Figure(
    what="memory of one more session, test page",
    value=121 * MEGA,
    unit="bytes",
    source=f"a page with a 56 MB heap, IndexedDB and a WebSocket; {_DENSITY}",
    measured="2026-11",
)
"""Not a WhatsApp page: a floor under every estimate."""

EMPTY_ACCOUNT_MEMORY = Figure(
    what="memory of one browser with WhatsApp's code, no chats",
    value=397 * MEGA,
    unit="bytes",
    source="all of WhatsApp Web's modules and wa-js loaded offline, whole process tree; headless-shell 156",
    measured="2026-11",
)
"""One browser by itself, so it includes `FIRST_BROWSER_MEMORY`. It loads more code than a live page, and no data."""

FIRST_BROWSER_MEMORY = Figure(
    what="memory that a worker's first browser takes beyond every further one",
    value=138 * MEGA,
    unit="bytes",
    source=f"259 MB for one browser less 121 MB for one more: pages that all of them share; {_DENSITY}",
    measured="2026-11",
)

WORKER_MEMORY = Figure(
    what="memory of the worker's own process",
    value=45 * MEGA,
    unit="bytes",
    source="proportional set size of Python 3.11 with the worker's modules imported",
    measured="2026-11",
)

TEST_PAGE_CPU = Figure(
    what="CPU of a session at rest, test page",
    value=0.001,
    unit="cores",
    source=f"a WebSocket message every 5 s and a timer every second; {_DENSITY}",
    measured="2026-11",
)
"""Not a WhatsApp page: a floor under every estimate."""

REDIS_BASE = Figure(
    what="Redis itself, and the stream of state changes when it is full",
    value=1_400_000,
    unit="bytes",
    source="used_memory of Redis 7.0 without data 1.03 MB, wa:events at its limit of 10,000 entries 0.34 MB",
    measured="2026-11",
)

REDIS_PER_SESSION = Figure(
    what="Redis: state, assignment, heartbeat share and delivery mark of a session",
    value=2_400,
    unit="bytes",
    source="used_memory with 1,500 connected sessions on 100 workers, Redis 7.0: 1,275 + 593 + 128 bytes, and 400 for "
    "the delivery mark and the inbox",
    measured="2026-11",
)

REDIS_PER_EVENT = Figure(
    what="Redis: one event kept in a session's stream",
    value=595,
    unit="bytes",
    source="used_memory with 40,000 message events of 105 characters of text in WAHA's form, Redis 7.0",
    measured="2026-11",
)

_PUBLISHED = (
    "WAHA publishes for its own browsers, with another launch profile and under load "
    "(https://waha.devlike.pro/blog/waha-scaling-how-to-handle-500-sessions, 2024-08),"
)

MEMORY_PER_SESSION = Figure(
    what="memory of one more session, a real account",
    value=400 * MEBI,
    unit="bytes",
    source=f"above what WhatsApp's code takes without data; {_PUBLISHED} 250 to 400 MB; accounts with many chats may "
    "need more (--memory-per-session)",
)

CPU_PER_SESSION = Figure(
    what="CPU of a session at rest, a real account",
    value=0.03,
    unit="cores",
    source=f"the default request of a worker, 500m, over 15 sessions; {_PUBLISHED} 0.3 cores (--cpu-per-session)",
)

CPU_PER_MESSAGE = Figure(
    what="CPU for one message sent or received",
    value=0.05,
    unit="core seconds",
    source="encryption, storage and rendering of one message (--cpu-per-message)",
)

EVENTS_PER_MESSAGE = Figure(
    what="events for one message",
    value=2,
    unit="events",
    source="the message and one acknowledgement (--events-per-message)",
)

NODE_RESERVE = Figure(
    what="share of a node that the system keeps",
    value=0.15,
    unit="share",
    source="cloud providers reserve 10 to 25 % of a small node for kubelet, system and eviction (--node-reserve)",
)

ALL: tuple[Figure, ...] = (
    TEST_PAGE_MEMORY,
    EMPTY_ACCOUNT_MEMORY,
    FIRST_BROWSER_MEMORY,
    WORKER_MEMORY,
    TEST_PAGE_CPU,
    REDIS_BASE,
    REDIS_PER_SESSION,
    REDIS_PER_EVENT,
    MEMORY_PER_SESSION,
    CPU_PER_SESSION,
    CPU_PER_MESSAGE,
    EVENTS_PER_MESSAGE,
    NODE_RESERVE,
)
"""Measured ones first."""
