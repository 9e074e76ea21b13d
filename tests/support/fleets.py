"""Builders of fleets for tests of the planner: short names, whole objects."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from session_worker.contract import Heartbeat, Phase, Running, RuntimeState, SessionKey, WorkerKey
from whatsapp_operator.fleet import Fleet, Life, Pool, PoolKey, Session, Worker

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
MIB = 2**20


def pool(name: str = "default", **changes: Any) -> Pool:
    values: dict[str, Any] = {"replicas": 2, "template": "t1"}
    return Pool(key=PoolKey("ns", name), uid=f"uid-{name}", generation=1, **{**values, **changes})


def worker(name: str, *, sessions: list[Session] | None = None, **changes: Any) -> Worker:
    """A ready worker; `sessions` are in its heartbeat."""
    running = {str(s.key): Running(epoch=s.epoch, phase=Phase.CONNECTED) for s in sessions or []}
    values: dict[str, Any] = {
        "pool": "default",
        "uid": f"uid-{name}",
        "created": NOW - timedelta(hours=1),
        "life": Life.LIVE,
        "ready": True,
        "template": "t1",
        "heartbeat": Heartbeat(
            uid=f"uid-{name}",
            address="10.0.0.1:3001",
            version="1",
            capacity=changes.pop("own_capacity", 200),
            revision=1,
            running=running,
            memory_used_bytes=changes.pop("memory_used", 0),
            memory_limit_bytes=changes.pop("memory_limit", 0),
        ),
    }
    return Worker(key=WorkerKey("ns", name), **{**values, **changes})


def session(name: str, **changes: Any) -> Session:
    values: dict[str, Any] = {
        "uid": f"uid-{name}",
        "generation": 1,
        "created": NOW - timedelta(minutes=10),
        "pool": "default",
        "finalizer": True,
    }
    if changes.get("worker"):
        values |= {"epoch": 1, "phase": Phase.CONNECTED, "assigned_since": NOW - timedelta(minutes=5)}
    return Session(key=SessionKey("ns", name), **{**values, **changes})


def state(item: Session, **changes: Any) -> RuntimeState:
    values: dict[str, Any] = {
        "epoch": item.epoch,
        "phase": Phase.CONNECTED,
        "worker": item.worker or "",
        "address": "10.0.0.1:3001",
        "since": NOW.timestamp(),
        "last_activity": NOW.timestamp(),
    }
    return RuntimeState(**{**values, **changes})


def fleet(*items: Pool | Worker | Session) -> Fleet:
    return Fleet(
        pools={item.key: item for item in items if isinstance(item, Pool)},
        workers={item.key: item for item in items if isinstance(item, Worker)},
        sessions={item.key: item for item in items if isinstance(item, Session)},
    )
