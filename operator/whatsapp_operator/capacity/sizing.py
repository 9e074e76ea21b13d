"""What a number of sessions needs: workers, CPU, memory, Redis, nodes, and what its headroom costs.

Owns the arithmetic. Every number that it starts from is in `Question`, whose defaults come from `figures` and from the
pool's own defaults, so that the answer speaks of the pool that a user gets. Must not print, nor read arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from session_worker.contract import INBOUND_MAX_EVENTS
from whatsapp_operator.autoscaling import session_target
from whatsapp_operator.capacity import figures
from whatsapp_operator.fleet import scaled_demand
from whatsapp_operator.pods import WORKER_CONTAINER, WorkerDefaults, pod_template
from whatsapp_operator.resources import PoolSpec, format_memory, parse_quantity

GIBI = 2**30

MOST_WORKERS = 1000
"""The CRD's limit of `spec.replicas`."""

_MEMORY_STEP = 256 * figures.MEBI
_CPU_STEP = 0.1


class CapacityError(ValueError):
    """A question that has no answer. The message names the argument and what to give instead."""


class Limit(StrEnum):
    """What decides about a count."""

    SESSIONS = "sessionsPerWorker"
    MEMORY = "memory"
    CPU = "CPU"
    MINIMUM = "minReplicas"


def _pool() -> PoolSpec:
    return PoolSpec.model_validate({})


def default_worker() -> tuple[int, float]:
    """Memory in bytes and CPU in cores that a worker pod requests when its pool says nothing."""
    template = pod_template(_pool(), WorkerDefaults(image="", redis_url=""))
    (container,) = (item for item in template["spec"]["containers"] if item["name"] == WORKER_CONTAINER)
    requests = container["resources"]["requests"]
    return parse_quantity(requests["memory"]), parse_cpu(requests["cpu"])


def parse_cpu(text: str) -> float:
    """Cores from a Kubernetes quantity: `4`, `0.5`, `500m`.

    Raises:
        ValueError: `text` is not an amount of CPU.
    """
    number, milli = (text[:-1], 1000) if text.endswith("m") else (text, 1)
    try:
        cores = float(number) / milli
    except ValueError:
        cores = math.nan
    if not (math.isfinite(cores) and cores >= 0):
        raise ValueError(f"{text!r} is not an amount of CPU such as 4, 0.5 or 500m")
    return cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be run, on what. Memory in bytes, CPU in cores."""

    sessions: int
    messages_per_hour: float = 20.0
    """Messages sent and received, for each session."""
    memory_per_session: int = int(figures.MEMORY_PER_SESSION.value)
    cpu_per_session: float = figures.CPU_PER_SESSION.value
    cpu_per_message: float = figures.CPU_PER_MESSAGE.value
    events_per_message: float = figures.EVENTS_PER_MESSAGE.value
    sessions_per_worker: int = _pool().sessions_per_worker
    memory_threshold: float = _pool().memory_threshold / 100
    target_cpu: float = _pool().autoscaling.target_cpu / 100
    min_replicas: int = _pool().autoscaling.min_replicas
    spare_sessions: int = _pool().spare_sessions
    worker_memory: int | None = None
    """None: the size that needs the fewest nodes."""
    worker_cpu: float | None = None
    """None: the default request, or what the sessions need if that is more."""
    node_memory: int = 16 * GIBI
    node_cpu: float = 4.0
    node_reserve: float = figures.NODE_RESERVE.value
    node_price: float | None = None
    """Money for one node and month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What it takes. Memory in bytes, CPU in cores."""

    question: Question
    worker_memory: int
    worker_cpu: float
    """CPU that a worker requests."""
    places: int
    """Sessions that one worker takes."""
    places_by: Limit
    target_sessions: float
    """Sessions per worker that the autoscaler aims at."""
    workers: int
    workers_by: Limit
    packed_workers: int
    """Workers that would be needed if every place were taken."""
    memory_used: int
    cpu_used: float
    redis: int
    """When every stream of events is full."""
    redis_after_a_day: int
    hours_until_streams_are_full: float | None
    """None: never, for there are no messages."""
    workers_per_node: int
    nodes: int
    packed_nodes: int

    @property
    def memory_requested(self) -> int:
        """Of all workers."""
        return self.workers * self.worker_memory

    @property
    def cpu_requested(self) -> float:
        """Of all workers."""
        return self.workers * self.worker_cpu

    @property
    def headroom(self) -> int:
        """Free places."""
        return self.workers * self.places - self.question.sessions

    @property
    def headroom_workers(self) -> int:
        """Workers beyond those that the sessions fill."""
        return self.workers - self.packed_workers

    @property
    def headroom_memory(self) -> int:
        """Memory that those workers request."""
        return self.headroom_workers * self.worker_memory

    @property
    def headroom_cpu(self) -> float:
        """CPU that those workers request."""
        return self.headroom_workers * self.worker_cpu

    @property
    def headroom_nodes(self) -> int:
        """Nodes that they take."""
        return self.nodes - self.packed_nodes

    @property
    def worker_losses(self) -> int:
        """Full workers that may fail at once without a session waiting for a new pod."""
        lost = 0
        while lost + 1 <= self.workers and (self.workers - lost - 1) * self.places >= self.question.sessions:
            lost += 1
        return lost

    @property
    def price(self) -> float | None:
        """Money a month for the nodes."""
        price = self.question.node_price
        return None if price is None else price * self.nodes

    @property
    def headroom_price(self) -> float | None:
        """The headroom's part of it."""
        price = self.question.node_price
        return None if price is None else price * self.headroom_nodes


def target(sessions_per_worker: int) -> float:
    """The HPA's target for the session metric, as the operator writes it for a pool without a target of its own."""
    text = session_target(PoolSpec.model_validate({"sessionsPerWorker": sessions_per_worker}))
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def workers_for(demand: int, places: int, sessions_per_worker: int) -> int:
    """Workers that the HPA asks for when so many places are needed and workers hold `places`."""
    metric = scaled_demand(demand, sessions_per_worker=sessions_per_worker, ready=1, effective_capacity=places)
    return math.ceil(metric / target(sessions_per_worker))


def base_memory() -> int:
    """Bytes that a worker takes before its sessions: its own process, and what browsers share."""
    return int(figures.WORKER_MEMORY.value + figures.FIRST_BROWSER_MEMORY.value)


def places_in(memory: int, question: Question) -> tuple[int, Limit]:
    """Sessions that a worker of so much memory takes: the planner's rule, with the memory that is expected."""
    usable = int(memory * question.memory_threshold) - base_memory()
    by_memory = max(0, usable // question.memory_per_session)
    if by_memory < question.sessions_per_worker:
        return by_memory, Limit.MEMORY
    return question.sessions_per_worker, Limit.SESSIONS


def memory_for(places: int, question: Question) -> int:
    """Memory of a worker that takes so many sessions, in whole steps of 256Mi."""
    needed = (places * question.memory_per_session + base_memory()) / question.memory_threshold
    return math.ceil(needed / _MEMORY_STEP) * _MEMORY_STEP


def answer(question: Question) -> Answer:
    """Size a fleet.

    Raises:
        CapacityError: An argument is out of range, or no worker fits on the node.
    """
    _check(question)
    if question.worker_memory is not None:
        return _answer_for(question, question.worker_memory)
    sizes = sorted({memory_for(places, question) for places in range(1, question.sessions_per_worker + 1)})
    usable = _usable(question.node_memory, question)
    fitting = [size for size in sizes if size <= usable]
    if not fitting:
        raise CapacityError(
            f"--node-memory {format_memory(question.node_memory)}: a worker for one session of "
            f"{format_memory(question.memory_per_session)} needs {format_memory(sizes[0])}, and the system keeps "
            f"{question.node_reserve:.0%}; give nodes of at least "
            f"{format_memory(math.ceil(sizes[0] / (1 - question.node_reserve)))}"
        )
    answers = []
    problem: CapacityError | None = None
    for size in fitting:
        try:
            answers.append(_answer_for(question, size))
        except CapacityError as error:
            problem = error
    if not answers and problem is not None:
        raise problem
    return min(answers, key=lambda found: (found.nodes, found.workers, found.worker_memory))


def alternatives(question: Question, sizes: Sequence[int]) -> list[Answer]:
    """The answers for workers of other sizes; those that do not work are left out."""
    found = []
    for size in sizes:
        try:
            found.append(answer(replace(question, worker_memory=size)))
        except CapacityError:
            continue
    return found


def _answer_for(question: Question, worker_memory: int) -> Answer:
    places, places_by = places_in(worker_memory, question)
    if places == 0:
        raise CapacityError(
            f"--worker-memory {format_memory(worker_memory)}: no session of "
            f"{format_memory(question.memory_per_session)} fits below {question.memory_threshold:.0%} of it; give at "
            f"least {format_memory(memory_for(1, question))}"
        )
    per_worker = question.sessions_per_worker
    aim = target(per_worker) * places / per_worker
    demand = question.sessions + question.spare_sessions
    session_cpu = question.cpu_per_session + question.messages_per_hour / 3600 * question.cpu_per_message
    worker_cpu = question.worker_cpu
    if worker_cpu is None:
        fitted = math.ceil(round(aim * session_cpu / question.target_cpu / _CPU_STEP, 6)) * _CPU_STEP
        worker_cpu = max(default_worker()[1], round(fitted, 1))
    wanted = {
        Limit.SESSIONS if places_by is Limit.SESSIONS else Limit.MEMORY: workers_for(demand, places, per_worker),
        Limit.CPU: math.ceil(round(question.sessions * session_cpu / (question.target_cpu * worker_cpu), 6)),
        Limit.MINIMUM: question.min_replicas,
    }
    workers_by = max(wanted, key=lambda limit: wanted[limit])
    workers = wanted[workers_by]
    packed = math.ceil(question.sessions / places)
    per_node = _per_node(question, worker_memory, worker_cpu)
    per_hour = question.messages_per_hour * question.events_per_message
    return Answer(
        question=question,
        worker_memory=worker_memory,
        worker_cpu=worker_cpu,
        places=places,
        places_by=places_by,
        target_sessions=aim,
        workers=workers,
        workers_by=workers_by,
        packed_workers=packed,
        memory_used=question.sessions * question.memory_per_session + workers * base_memory(),
        cpu_used=question.sessions * session_cpu,
        redis=_redis(question.sessions, INBOUND_MAX_EVENTS if per_hour else 0),
        redis_after_a_day=_redis(question.sessions, min(INBOUND_MAX_EVENTS, 24 * per_hour)),
        hours_until_streams_are_full=INBOUND_MAX_EVENTS / per_hour if per_hour else None,
        workers_per_node=per_node,
        nodes=math.ceil(workers / per_node),
        packed_nodes=math.ceil(packed / per_node),
    )


def _usable(amount: float, question: Question) -> float:
    return amount * (1 - question.node_reserve)


def _per_node(question: Question, memory: int, cpu: float) -> int:
    by_memory = int(_usable(question.node_memory, question) // memory)
    by_cpu = int(_usable(question.node_cpu, question) // cpu)
    if by_memory == 0:
        raise CapacityError(
            f"--node-memory {format_memory(question.node_memory)}: less than a worker of {format_memory(memory)} once "
            f"the system keeps {question.node_reserve:.0%}; give larger nodes or a smaller --worker-memory"
        )
    if by_cpu == 0:
        raise CapacityError(
            f"--node-cpu {question.node_cpu:g}: less than a worker's {cpu:g} cores once the system keeps "
            f"{question.node_reserve:.0%}; give larger nodes or a smaller --worker-cpu"
        )
    return min(by_memory, by_cpu)


def _redis(sessions: int, events: float) -> int:
    per_session = figures.REDIS_PER_SESSION.value + events * figures.REDIS_PER_EVENT.value
    return int(figures.REDIS_BASE.value + sessions * per_session)


def _check(question: Question) -> None:
    """Refuse values that no pool or node can have."""
    least: list[tuple[str, float | None, float]] = [
        ("--sessions", question.sessions, 1),
        ("--messages-per-hour", question.messages_per_hour, 0),
        ("--memory-per-session", question.memory_per_session, figures.MEBI),
        ("--cpu-per-session", question.cpu_per_session, 0),
        ("--cpu-per-message", question.cpu_per_message, 0),
        ("--events-per-message", question.events_per_message, 0),
        ("--sessions-per-worker", question.sessions_per_worker, 1),
        ("--spare-sessions", question.spare_sessions, 0),
        ("--min-replicas", question.min_replicas, 1),
        ("--worker-cpu", question.worker_cpu, 0.01),
        ("--node-price", question.node_price, 0),
    ]
    for name, value, lowest in least:
        if value is not None and not (math.isfinite(value) and value >= lowest):
            raise CapacityError(f"{name} {value:g}: give a number of at least {lowest:g}")
    if question.sessions_per_worker > 200:
        raise CapacityError(f"--sessions-per-worker {question.sessions_per_worker}: a pool allows at most 200")
    if not 0 <= question.node_reserve < 1:
        raise CapacityError(f"--node-reserve {question.node_reserve:g}: give a share from 0 to below 1, such as 0.15")
    if not 0.1 <= question.memory_threshold <= 1:
        raise CapacityError(
            f"--memory-threshold {question.memory_threshold * 100:g}: a pool allows 10 to 100 (percent)"
        )


# --- For comparison -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleOfThumb:
    """A row of the first sizing table of this project: 15 sessions to a worker, 50 to 100 MB for a session."""

    fewest: int
    most: int

    @property
    def workers(self) -> tuple[int, int]:
        """For the fewest and for the most sessions."""
        return math.ceil(self.fewest / 15), math.ceil(self.most / 15)

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes: the fewest sessions at 50 MB and the most at 100 MB."""
        return self.fewest * 50 * figures.MEGA, self.most * 100 * figures.MEGA


RULES_OF_THUMB = (RuleOfThumb(10, 20), RuleOfThumb(50, 100), RuleOfThumb(200, 500))
