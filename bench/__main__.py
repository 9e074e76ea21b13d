"""Speed of the planner, as ratios against a baseline in the same run.

The baseline is what no operator can avoid: one pass of the same sessions through JSON. A ratio above a few times
that would mean that planning, not the API, limits the fleet. Medians of several rounds; nothing here is a test.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from session_worker.contract import Heartbeat, Phase, Running, SessionKey, WorkerKey
from whatsapp_operator.fleet import Fleet, Life, Pool, PoolKey, Session, Worker
from whatsapp_operator.planner import Policy, plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROUNDS = 9
PER_WORKER = 15


def fleet(sessions: int, *, assigned: bool) -> Fleet:
    """Sessions on workers of fifteen each, or the same number of sessions waiting for empty workers."""
    workers = -(-sessions // PER_WORKER)
    pool = Pool(
        key=PoolKey("ns", "default"),
        uid="pool",
        generation=1,
        replicas=workers,
        template="t",
        sessions_per_worker=PER_WORKER,
    )
    items = [
        Session(
            key=SessionKey("ns", f"s{n}"),
            uid=f"s{n}",
            generation=1,
            created=NOW - timedelta(hours=1),
            pool="default",
            finalizer=True,
            worker=f"w{n // PER_WORKER}" if assigned else None,
            epoch=int(assigned),
            phase=Phase.CONNECTED if assigned else None,
            assigned_since=NOW - timedelta(minutes=30) if assigned else None,
        )
        for n in range(sessions)
    ]
    running: dict[str, dict[str, Running]] = {}
    for item in items:
        if item.worker:
            running.setdefault(item.worker, {})[str(item.key)] = Running(epoch=1, phase=Phase.CONNECTED)
    pods = [
        Worker(
            key=WorkerKey("ns", f"w{n}"),
            pool="default",
            uid=f"w{n}",
            created=NOW - timedelta(hours=1),
            life=Life.LIVE,
            ready=True,
            template="t",
            heartbeat=Heartbeat(
                uid=f"w{n}",
                address="10.0.0.1:3001",
                version="1",
                capacity=PER_WORKER,
                revision=1,
                running=running.get(f"w{n}", {}),
            ),
        )
        for n in range(workers)
    ]
    return Fleet(
        pools={pool.key: pool},
        workers={worker.key: worker for worker in pods},
        sessions={item.key: item for item in items},
    )


def median(step: Callable[[], Any]) -> float:
    """Seconds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Print one line for each size and case."""
    sys.stdout.write(f"{'sessions':>9} {'case':<10} {'plan ms':>9} {'JSON ms':>9} {'ratio':>6}\n")
    for sessions in (100, 1_000, 10_000):
        document = [
            {"metadata": {"name": f"s{n}"}, "spec": {"poolRef": {"name": "default"}}, "status": {"phase": "Connected"}}
            for n in range(sessions)
        ]
        baseline = median(lambda document=document: json.loads(json.dumps(document)))  # type: ignore[misc]  # a default binds the loop's value
        for case, assigned in (("settled", True), ("pending", False)):
            world = fleet(sessions, assigned=assigned)
            actions = len(plan(world, Policy(), NOW).actions)
            if actions != (0 if assigned else sessions):
                sys.exit(f"{case}: {actions} actions are not what this fleet needs")
            seconds = median(lambda world=world: plan(world, Policy(), NOW))  # type: ignore[misc]  # as above
            sys.stdout.write(
                f"{sessions:>9} {case:<10} {seconds * 1e3:>9.2f} {baseline * 1e3:>9.2f} {seconds / baseline:>6.1f}\n"
            )


if __name__ == "__main__":
    main()
