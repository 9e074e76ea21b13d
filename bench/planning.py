"""Speed of the planner alone, by size and by what there is to do.

Owns the made-up fleets. Nothing here talks to anything: what is measured is `planner.plan` as the operator calls it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from session_worker.contract import Heartbeat, Phase, Running, SessionKey, WorkerKey
from whatsapp_operator.fleet import Fleet, Life, Pool, PoolKey, Session, Worker
from whatsapp_operator.planner import Plan, Policy, plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = ((1_000, 70), (5_000, 350), (10_000, 700))
"""Sessions and workers."""
ROUNDS = 7
GOAL_MS = 250.0
"""For the largest size."""
_NAMESPACE = "bench"
_PER_WORKER = 15
_MEBI = 2**20


@dataclass(frozen=True, slots=True)
class Timing:
    """One line of the table."""

    sessions: int
    workers: int
    case: str
    actions: int
    median_ms: float
    worst_ms: float


def settled(sessions: int, workers: int) -> Fleet:
    """Every session Connected on a worker, filled up to fifteen one after the other."""
    pool = Pool(
        key=PoolKey(_NAMESPACE, "default"),
        uid="pool",
        generation=1,
        replicas=workers,
        template="t",
        sessions_per_worker=_PER_WORKER,
    )
    items = {
        key: Session(
            key=key,
            uid=key.name,
            generation=1,
            created=NOW - timedelta(hours=1),
            pool="default",
            finalizer=True,
            worker=f"w{n // _PER_WORKER}",
            epoch=1,
            phase=Phase.CONNECTED,
            assigned_since=NOW - timedelta(minutes=30),
        )
        for n in range(sessions)
        for key in (SessionKey(_NAMESPACE, f"s{n}"),)
    }
    running: dict[str, dict[str, Running]] = {}
    for key, item in items.items():
        entry = Running(epoch=1, phase=Phase.CONNECTED, memory_bytes=100 * _MEBI)
        running.setdefault(item.worker or "", {})[str(key)] = entry
    pods = {
        key: Worker(
            key=key,
            pool="default",
            uid=key.name,
            created=NOW - timedelta(hours=1),
            life=Life.LIVE,
            ready=True,
            template="t",
            heartbeat=_heartbeat(key, running.get(key.name, {})),
        )
        for n in range(workers)
        for key in (WorkerKey(_NAMESPACE, f"w{n}"),)
    }
    return Fleet(pools={pool.key: pool}, workers=pods, sessions=items)


def _heartbeat(worker: WorkerKey, running: dict[str, Running]) -> Heartbeat:
    return Heartbeat(
        uid=worker.name,
        address="10.0.0.1:3001",
        version="1",
        capacity=_PER_WORKER,
        revision=1,
        running=running,
        memory_used_bytes=(50 + 100 * len(running)) * _MEBI,
        memory_limit_bytes=2048 * _MEBI,
    )


def pending(fleet: Fleet) -> Fleet:
    """The same sessions a moment after they were applied: none has a worker, and every worker is empty."""
    sessions = {
        key: replace(session, worker=None, epoch=0, phase=None, assigned_since=None, finalizer=False)
        for key, session in fleet.sessions.items()
    }
    workers = {key: replace(worker, heartbeat=_heartbeat(key, {})) for key, worker in fleet.workers.items()}
    return Fleet(pools=fleet.pools, workers=workers, sessions=sessions)


def bereaved(fleet: Fleet) -> Fleet:
    """One worker has just died."""
    victim = next(iter(fleet.workers))
    ended = replace(fleet.workers[victim], life=Life.ENDED, failed=True, ended_at=NOW)
    return Fleet(pools=fleet.pools, workers={**fleet.workers, victim: ended}, sessions=fleet.sessions)


def draining(fleet: Fleet) -> Fleet:
    """A tenth of the workers are being deleted, as when their nodes are drained."""
    workers = {
        key: replace(worker, deleting=n % 10 == 0, draining_since=NOW if n % 10 == 0 else None)
        for n, (key, worker) in enumerate(fleet.workers.items())
    }
    return Fleet(pools=fleet.pools, workers=workers, sessions=fleet.sessions)


CASES: dict[str, Callable[[Fleet], Fleet]] = {
    "settled": lambda fleet: fleet,
    "all pending": pending,
    "a worker died": bereaved,
    "a tenth drains": draining,
}


def measure() -> Iterator[Timing]:
    """Every case in every size."""
    for sessions, workers in SIZES:
        base = settled(sessions, workers)
        for name, case in CASES.items():
            fleet = case(base)
            times = []
            result = Plan()
            for _ in range(ROUNDS):
                # A fleet keeps what it has computed once; the operator makes a new one in every cycle.
                fresh = Fleet(pools=fleet.pools, workers=fleet.workers, sessions=fleet.sessions)
                began = time.perf_counter()
                result = plan(fresh, Policy(), NOW)
                times.append((time.perf_counter() - began) * 1e3)
            yield Timing(sessions, workers, name, len(result.actions), statistics.median(times), max(times))


def run(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Print the table while it grows; its lines as JSON objects."""
    say(f"{'sessions':>9} {'workers':>8}  {'case':<16} {'actions':>8} {'median ms':>10} {'worst ms':>9}")
    lines = []
    for line in measure():
        say(
            f"{line.sessions:>9} {line.workers:>8}  {line.case:<16} {line.actions:>8} "
            f"{line.median_ms:>10.1f} {line.worst_ms:>9.1f}"
        )
        lines.append(asdict(line))
    largest = max(line["median_ms"] for line in lines if line["sessions"] == SIZES[-1][0])
    say(f"Slowest case of the largest fleet: {largest:.0f} ms; the goal is below {GOAL_MS:.0f} ms.")
    return lines
