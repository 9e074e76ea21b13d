"""What a simulated day is made of, and what is told of it.

Owns the knobs of a day with their meaning, the refusal of days that cannot be played, and the form of the result. Must
not play it: `day` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from session_worker.contract import HEARTBEAT_INTERVAL
from whatsapp_operator.autoscaling import horizontal_pod_autoscaler
from whatsapp_operator.capacity.autoscaler import SYNC_SECONDS, Behavior
from whatsapp_operator.capacity.figures import MEMORY_PER_SESSION
from whatsapp_operator.capacity.sizing import (
    MOST_WORKERS,
    CapacityError,
    Question,
    memory_for,
    places_in,
    workers_for,
)
from whatsapp_operator.resources import PoolSpec

STEP = HEARTBEAT_INTERVAL.total_seconds()
"""Seconds between two plans. The operator plans when something changes; what it hears of a worker is up to this old."""
LARGE_STEP = SYNC_SECONDS
"""The same for fleets of more than `LARGE` sessions, so that a day of them takes about a minute."""
LARGE = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A day. Times in seconds, pairs are the ends of an even distribution."""

    sessions: int = 500
    """Accounts that appear during the day; most, not all of them, at the same time."""
    hours: float = 24.0
    """The day's shape is stretched to it."""
    seed: int = 1
    sessions_per_worker: int = 15
    memory_per_session: int = int(MEMORY_PER_SESSION.value)
    worker_memory: int | None = None
    """None: enough for `sessions_per_worker`."""
    spare_sessions: int = 0
    min_replicas: int = 2
    max_replicas: int | None = None
    """None: a fifth more than all sessions at once ask for."""
    behavior: Behavior | None = None
    """None: what the operator writes into the pool's HPA."""
    metric_delay: float = 30.0
    """Age of the session metric when the autoscaler reads it: a scrape interval for Prometheus, 0 for `builtin`."""
    kills: int = 12
    """Workers that die in the day: process and browsers gone, no drain."""
    overnight: float = 0.3
    """Share of the sessions that are there from the start."""
    burst: float = 0.15
    """Share of the sessions that come within a minute before noon, as when a customer applies all at once."""
    idle: float = 0.4
    """Share of the sessions that are stopped once for an hour to four, and started again."""
    leave: float = 0.7
    """Share of the sessions that are deleted in the evening."""
    pod_start: tuple[float, float] = (8.0, 20.0)
    """From the creation of a pod until it is ready, on a node that is there and has the image."""
    connect: tuple[float, float] = (3.0, 10.0)
    """From an assignment until the session is connected."""
    close: tuple[float, float] = (0.5, 3.0)
    """From a release until the worker has closed the browser and put the profile away."""

    @property
    def step(self) -> float:
        """Seconds between two plans; waiting times are exact to it."""
        return STEP if self.sessions <= LARGE else LARGE_STEP


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment."""

    time: float
    wanted: int
    """Sessions that are to run."""
    placed: int
    """Of them, those with a worker."""
    places: int
    """Of all ready workers that serve."""
    waiting: int
    """The most since the sample before."""
    replicas: int
    """`spec.replicas`, as the autoscaler wrote it."""
    workers: int
    """Pods, those starting and draining included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the day was like. Times in seconds."""

    scenario: Scenario
    samples: list[Sample]
    moves: list[float]
    """When sessions were taken from a worker that was going away, one entry for each."""
    kills: list[float]
    peak_sessions: int
    peak_workers: int
    places_per_worker: int
    placements: int
    worst_pending: float
    p99_pending: float
    mean_pending: float
    waited: int
    """Placements that were not made in the first plan after they were asked for."""
    still_pending: int
    """Sessions without a place at the end of the day."""
    moves_per_session: float
    most_moves: int
    worst_move: float
    """Longest time that a moved session was without a connected browser."""
    cut: int
    """Sessions that a worker still ran when its drain's deadline and its grace period were over."""
    orphaned: int
    """Sessions that lost their worker to a kill."""
    replica_changes: int
    direction_changes: int
    stabilization: float
    """The window within which changes of direction were counted."""
    plans: int
    audits: int


def check(scenario: Scenario) -> None:
    """Refuse a scenario that cannot be played.

    Raises:
        CapacityError: With the argument and what to give instead.
    """
    if scenario.sessions < 1:
        raise CapacityError(f"--sessions {scenario.sessions}: give at least 1")
    if not 0.5 <= scenario.hours <= 24 * 7:
        raise CapacityError(f"--hours {scenario.hours:g}: give 0.5 to 168 (the day's shape is stretched to it)")
    if scenario.kills < 0:
        raise CapacityError(f"--kills {scenario.kills}: give 0 or more")
    if not 0 <= scenario.metric_delay <= 600:
        raise CapacityError(f"--metric-delay {scenario.metric_delay:g}: give 0 to 600 seconds")
    if not 1 <= scenario.sessions_per_worker <= 200:
        raise CapacityError(f"--sessions-per-worker {scenario.sessions_per_worker}: a pool allows 1 to 200")
    highest = max_replicas(scenario)
    if not 1 <= scenario.min_replicas <= highest:
        raise CapacityError(
            f"--min-replicas {scenario.min_replicas}: give 1 to --max-replicas, which is {highest} here"
        )
    if highest > MOST_WORKERS:
        raise CapacityError(
            f"--sessions {scenario.sessions}: {highest} workers of {places(scenario)} places are more than the "
            f"{MOST_WORKERS} that a pool allows; give more --sessions-per-worker or --worker-memory, or divide the "
            f"sessions among several pools and simulate one of them"
        )
    if places(scenario) == 0:
        raise CapacityError(
            f"--worker-memory: no session fits; give at least {memory_for(1, _question(scenario)) // 2**20}Mi"
        )


def _question(scenario: Scenario) -> Question:
    return Question(
        sessions=scenario.sessions,
        memory_per_session=scenario.memory_per_session,
        sessions_per_worker=scenario.sessions_per_worker,
    )


def worker_memory(scenario: Scenario) -> int:
    """Bytes of a worker pod."""
    return scenario.worker_memory or memory_for(scenario.sessions_per_worker, _question(scenario))


def places(scenario: Scenario) -> int:
    """Sessions that a worker takes."""
    return places_in(worker_memory(scenario), _question(scenario))[0]


def max_replicas(scenario: Scenario) -> int:
    """`autoscaling.maxReplicas`."""
    if scenario.max_replicas is not None:
        return scenario.max_replicas
    demand = scenario.sessions + scenario.spare_sessions
    most = workers_for(demand, max(1, places(scenario)), scenario.sessions_per_worker)
    return max(scenario.min_replicas, -(-most * 6 // 5))


def behavior(scenario: Scenario) -> Behavior:
    """How fast the HPA may go."""
    if scenario.behavior is not None:
        return scenario.behavior
    limits = {"minReplicas": scenario.min_replicas, "maxReplicas": max_replicas(scenario)}
    spec = PoolSpec.model_validate({"autoscaling": {"enabled": True, **limits}})
    hpa = horizontal_pod_autoscaler(pool="default", pool_uid="", namespace="", spec=spec)
    return Behavior.of(hpa["spec"]["behavior"])
