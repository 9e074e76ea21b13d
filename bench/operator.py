"""The operator under load: `python -m bench.operator --sessions 1000 [--assets DIR | --kubeconfig FILE]`.

The operator, Redis and (with `--assets` or `--kubeconfig`) the API server are the real ones; the node and the workers
are `bench.simulation`. `--planner` measures the planner alone. `docs/benchmarks.md` holds results and says what they
leave out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bench import planning
from bench.simulation import Manner, SimulatedNode
from bench.world import WRITES, Options, World, WorldError, machine_busy_seconds
from kubeclient import Change, ChangeKind, KubeClient, KubernetesError, Object, path_of
from sandbox.assets import ENVIRONMENT, AssetsError
from session_worker.contract import GROUP, POOL_PLURAL, SESSION_PLURAL, VERSION

log = logging.getLogger(__name__)

_API = f"{GROUP}/{VERSION}"
_POOL = "default"
_MEBI = 2**20
_PROGRESS_SECONDS = 5.0
_SILENCE_SECONDS = 8.0
_QUIET_SECONDS = 5.0
"""A fleet without a write for this long counts as settled."""
_QUIET_LIMIT = 60.0
_RETRY_SECONDS = 0.2


@dataclass(slots=True)
class Seen:
    """What the watch has told of one session. Times are `time.monotonic()`."""

    sent: float = 0.0
    """When its creation was asked for."""
    assigned: float = 0.0
    ready: float = 0.0
    worker: str = ""
    is_ready: bool = False
    """Whether its Ready condition is True now."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result."""

    name: str
    unit: str
    digits: int = 2
    goal: float | None = None
    """The most that it may be."""


FIGURES = {
    "apply_seconds": Figure("applying all sessions", "s"),
    "all_assigned_seconds": Figure("last apply until all are assigned", "s"),
    "all_ready_seconds": Figure("last apply until all are Ready", "s"),
    "ready_p50_seconds": Figure("creation to Ready, p50", "s"),
    "ready_p99_seconds": Figure("creation to Ready, p99", "s"),
    "object_writes_per_session": Figure("writes of a session's object until Ready", "", goal=3),
    "event_writes_per_session": Figure("Kubernetes Events per session until Ready", ""),
    "other_writes": Figure("other writes until Ready (pools, pods, budgets)", "", 0),
    "refused_writes": Figure("of all these refused by the API", "", 0),
    "settle_seconds": Figure("last Ready until the last write", "s", 1),
    "settled_writes_per_minute": Figure("writes in a settled minute", "", 1, goal=0),
    "cycles": Figure("operator cycles until Ready", "", 0),
    "mean_cycle_seconds": Figure("mean duration of one", "s", 3),
    "cpu_until_ready_seconds": Figure("operator CPU until all are Ready", "s"),
    "operator_share": Figure("  as a share of one core in that time", "%", 0),
    "machine_share": Figure("  machine busy in that time", "%", 0),
    "settled_cpu_percent": Figure("operator CPU, settled, of one core", "%", 1),
    "settled_rss_mib": Figure("operator memory (RSS), settled", "MiB", 0),
    "peak_rss_mib": Figure("operator memory (RSS), peak", "MiB", 0, goal=200),
    "killed_assigned_seconds": Figure("worker killed: its 15 sessions assigned elsewhere", "s"),
    "killed_ready_seconds": Figure("worker killed: its 15 sessions Ready elsewhere", "s", goal=2),
    "silent_assigned_seconds": Figure("worker hangs: its 15 sessions assigned elsewhere", "s", 1),
    "silent_ready_seconds": Figure("worker hangs: its 15 sessions Ready elsewhere", "s", 1),
}


class Fleet:
    """The sessions of the benchmark, as a watch tells them."""

    def __init__(self) -> None:
        self.sessions: dict[str, Seen] = {}
        self.changed = asyncio.Event()
        self.assigned = 0
        self.ready = 0

    async def follow(self, client: KubeClient, path: str) -> None:
        """Take in what happens to the collection at `path` until cancelled, through failures of the server."""
        while True:
            try:
                async for change in client.follow(path):
                    self._see(change)
            except KubernetesError as error:
                log.warning("The watch of the sessions broke and begins anew: %s", error.message)
            await asyncio.sleep(_RETRY_SECONDS)

    def _see(self, change: Change) -> None:
        now = time.monotonic()
        for item in change.objects:
            if change.kind is ChangeKind.DELETED:
                self.sessions.pop(item["metadata"]["name"], None)
            else:
                self._take(item, now)
        self.changed.set()

    def _take(self, item: Object, now: float) -> None:
        seen = self.sessions.setdefault(item["metadata"]["name"], Seen())
        status = item.get("status") or {}
        seen.worker = (status.get("assignment") or {}).get("worker") or ""
        conditions = status.get("conditions") or ()
        seen.is_ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
        if seen.worker and not seen.assigned:
            seen.assigned = now
            self.assigned += 1
        if seen.is_ready and not seen.ready:
            seen.ready = now
            self.ready += 1

    def on(self, worker: str) -> list[str]:
        """The sessions on record for a worker."""
        return [name for name, seen in self.sessions.items() if seen.worker == worker]


class Round:
    """One run of the whole benchmark in a world of its own."""

    def __init__(self, arguments: argparse.Namespace, world: World, say: Callable[[str], None]) -> None:
        self._arguments = arguments
        self._world = world
        self._say = say
        self._count: int = arguments.sessions
        self._workers = math.ceil(self._count / arguments.per_worker) + arguments.spare_workers
        self._fleet = Fleet()
        self._sessions_path = path_of(_API, SESSION_PLURAL, namespace=world.namespace)
        manner = Manner(
            redis_url=world.redis_url, capacity=arguments.per_worker, connect_seconds=arguments.connect_seconds
        )
        self._node = SimulatedNode(world.client, world.namespace, manner)

    async def run(self) -> dict[str, float]:
        """Measure everything; figures by the names of `FIGURES`."""
        await self._node.start()
        follower = asyncio.create_task(self._fleet.follow(self._world.client, self._sessions_path))
        try:
            await self._make_pool()
            figures = await self._bring_up()
            figures |= await self._settle()
            figures |= await self._fail_over("killed", self._node.kill)
            if not self._arguments.skip_silent:
                figures |= await self._fail_over("silent", self._node.freeze)
            figures["peak_rss_mib"] = self._world.operator().peak_rss_bytes / _MEBI
            if self._arguments.kubeconfig is not None:
                await self._clear()
            return figures
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
            await self._node.aclose()

    # --- Steps

    async def _make_pool(self) -> None:
        template = {"spec": {"nodeName": self._node.name}}
        pool = {
            "apiVersion": _API,
            "kind": "WhatsAppWorkerPool",
            "metadata": {"name": _POOL},
            "spec": {
                "replicas": self._workers,
                "sessionsPerWorker": self._arguments.per_worker,
                "drain": {"timeout": "30s"},
                "template": template,
            },
        }
        await self._world.client.create(path_of(_API, POOL_PLURAL, namespace=self._world.namespace), pool)
        self._say(f"making a pool of {self._workers} workers; the operator is process {self._world.operator_pid}")
        await self._until(
            "all workers are ready", lambda: self._node.ready == self._workers, lambda: f"{self._node.ready} workers"
        )
        await self._quiet()

    async def _bring_up(self) -> dict[str, float]:
        before, cycles_before = await self._world.writes(), await self._world.cycles()
        used, busy, began = self._world.operator(), machine_busy_seconds(), time.monotonic()
        self._say(f"applying {self._count} sessions")
        names = [f"s{n:05}" for n in range(self._count)]
        applying = asyncio.create_task(self._apply(names))
        fleet = self._fleet
        await self._until(
            "all sessions are Ready",
            lambda: applying.done() and fleet.ready >= self._count,
            lambda: f"{len(fleet.sessions)} applied, {fleet.assigned} assigned, {fleet.ready} Ready",
        )
        applied = await applying
        used_after, busy_after = self._world.operator(), machine_busy_seconds()
        cycles_after = await self._world.cycles()
        # Events and the pool's status come after a session's Ready condition; they belong to it all the same.
        settle_seconds = await self._quiet()
        after = await self._world.writes()
        seen = list(fleet.sessions.values())
        last_ready = max(entry.ready for entry in seen)
        lives = [entry.ready - entry.sent for entry in seen]
        writes = after - before
        own = sum(writes[name] for name in WRITES if name.startswith("sessions"))
        cpu, elapsed, cycles = used_after.cpu_seconds - used.cpu_seconds, last_ready - began, cycles_after[0]
        cycles -= cycles_before[0]
        return {
            "apply_seconds": applied - began,
            "all_assigned_seconds": max(0.0, max(entry.assigned for entry in seen) - applied),
            "all_ready_seconds": max(0.0, last_ready - applied),
            "ready_p50_seconds": quantile(lives, 0.50),
            "ready_p99_seconds": quantile(lives, 0.99),
            "object_writes_per_session": own / self._count,
            "event_writes_per_session": writes["events"] / self._count,
            "other_writes": sum(
                writes[name] for name in WRITES if not name.startswith("sessions") and name != "events"
            ),
            "refused_writes": writes["refused"],
            "settle_seconds": settle_seconds,
            "cycles": cycles,
            "mean_cycle_seconds": (cycles_after[1] - cycles_before[1]) / max(1, cycles),
            "cpu_until_ready_seconds": cpu,
            "operator_share": 100 * cpu / elapsed,
            "machine_share": 100 * (busy_after - busy) / elapsed / (os.cpu_count() or 1),
        }

    async def _apply(self, names: list[str]) -> float:
        """Create all sessions as fast as the API takes them; the time at which the last one was there."""
        slots = asyncio.Semaphore(self._arguments.concurrency)

        async def one(name: str) -> None:
            body = {
                "apiVersion": _API,
                "kind": "WhatsAppSession",
                "metadata": {"name": name},
                "spec": {"poolRef": {"name": _POOL}},
            }
            async with slots:
                self._fleet.sessions.setdefault(name, Seen()).sent = time.monotonic()
                await self._world.client.create(self._sessions_path, body)

        await asyncio.gather(*(one(name) for name in names))
        return time.monotonic()

    async def _settle(self) -> dict[str, float]:
        before, used = await self._world.writes(), self._world.operator()
        began = time.monotonic()
        ends = began + self._arguments.settle
        while (left := ends - time.monotonic()) > 0:
            self._say(f"settled; {left:.0f} s to watch")
            await asyncio.sleep(min(left, _PROGRESS_SECONDS))
        after, used_after, elapsed = await self._world.writes(), self._world.operator(), time.monotonic() - began
        written = after - before
        if written:
            self._say(f"written meanwhile: {dict(written)}")
        total = sum(count for name, count in written.items() if name != "refused")
        return {
            "settled_writes_per_minute": total * 60 / elapsed,
            "settled_cpu_percent": 100 * (used_after.cpu_seconds - used.cpu_seconds) / elapsed,
            "settled_rss_mib": used_after.rss_bytes / _MEBI,
        }

    async def _fail_over(self, name: str, harm: Callable[[str], Any]) -> dict[str, float]:
        """Harm a full worker, and wait until its sessions are Ready elsewhere."""
        loads = Counter(seen.worker for seen in self._fleet.sessions.values())
        victim, load = loads.most_common(1)[0]
        lost = self._fleet.on(victim)
        self._say(f"{name}: worker {victim} with {load} sessions")
        told = await harm(victim)
        moved: dict[str, float] = {}
        back: dict[str, float] = {}

        def all_back() -> bool:
            now = time.monotonic()
            for session in lost:
                seen = self._fleet.sessions[session]
                if seen.worker not in ("", victim):
                    moved.setdefault(session, now)
                    if seen.is_ready:
                        back.setdefault(session, now)
            return len(back) == load

        await self._until(
            f"the sessions of {victim} are Ready elsewhere",
            all_back,
            lambda: f"{len(moved)} of {load} moved, {len(back)} Ready again",
        )
        await self._until(
            "all workers are ready again",
            lambda: self._node.ready >= self._workers,
            lambda: f"{self._node.ready} of {self._workers} workers",
        )
        await self._quiet()
        return {
            f"{name}_assigned_seconds": max(moved.values()) - told,
            f"{name}_ready_seconds": max(back.values()) - told,
        }

    async def _clear(self) -> None:
        """Leave an API server that is not ours as it was, but for the definitions of the custom resources."""
        client, namespace = self._world.client, self._world.namespace
        await client.request("DELETE", self._sessions_path)
        await self._until(
            "all sessions are gone", lambda: not self._fleet.sessions, lambda: f"{len(self._fleet.sessions)} left"
        )
        await client.delete(path_of(_API, POOL_PLURAL, namespace=namespace, name=_POOL))
        await self._until("all pods are gone", lambda: not self._node.pods, lambda: f"{self._node.pods} left")
        await client.delete(path_of("v1", "namespaces", name=namespace))
        await client.delete(path_of("v1", "nodes", name=self._node.name))

    # --- Waiting

    async def _until(self, what: str, done: Callable[[], bool], progress: Callable[[], str]) -> None:
        """Return when `done`, looked at whenever a session changes; say how far it is meanwhile."""
        began = told = time.monotonic()
        while not done():
            now = time.monotonic()
            if now - began > self._arguments.limit:
                raise WorldError(f"not within {self._arguments.limit:.0f} s: {what} ({progress()})")
            if now - told >= _PROGRESS_SECONDS:
                told = now
                self._say(f"waiting until {what}: {progress()}")
            self._fleet.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.25):  # workers get ready without any session changing
                    await self._fleet.changed.wait()

    async def _quiet(self) -> float:
        """Wait until the operator writes nothing any more; how long it went on, in seconds."""
        self._say("waiting until nothing is written any more")
        began = last = time.monotonic()
        writes = await self._world.writes()
        while time.monotonic() - last < _QUIET_SECONDS and time.monotonic() - began < _QUIET_LIMIT:
            await asyncio.sleep(0.5)
            now = await self._world.writes()
            if now != writes:
                writes, last = now, time.monotonic()
        return last - began


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class Progress:
    """Lines that say how far a round is. As a context manager it also speaks when nobody else does."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = self._spoke = time.monotonic()
        self._text = ""
        self._task: asyncio.Task[None] | None = None

    def __call__(self, text: str) -> None:
        """Print a line."""
        self._text, self._spoke = text, time.monotonic()
        _say(f"[{self._spoke - self._began:6.1f} s] {self._name}: {text}")

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(max(0.1, self._spoke + _SILENCE_SECONDS - time.monotonic()))
            if time.monotonic() - self._spoke >= _SILENCE_SECONDS:
                self(self._text)


@dataclass(slots=True)
class Report:
    """What is printed and written."""

    sessions: int
    workers: int
    api: str
    machine: str
    rounds: list[dict[str, float]] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        """The table: medians, ranges where there are several rounds, and goals."""
        yield f"{self.sessions} sessions on {self.workers} workers; API: {self.api}; {self.machine}"
        yield f"{'':<52} {'median':>9}  {'range':<19} {'goal':>6}"
        for key, figure in FIGURES.items():
            values = [found[key] for found in self.rounds if key in found]
            if not values:
                continue
            middle = statistics.median(values)
            low, high = (f"{value:.{figure.digits}f}" for value in (min(values), max(values)))
            span = f"{low} … {high}" if len(values) > 1 else ""
            goal = "" if figure.goal is None else f"≤ {figure.goal:g}"
            verdict = "" if figure.goal is None else "  met" if middle <= figure.goal else "  NOT MET"
            name = f"{figure.name} [{figure.unit}]" if figure.unit else figure.name
            yield f"{name:<52} {middle:>9.{figure.digits}f}  {span:<19} {goal:>6}{verdict}".rstrip()


async def bench(arguments: argparse.Namespace) -> Report:
    """Run all rounds."""
    api = "stand-in"
    if arguments.kubeconfig is not None:
        api = "given by kubeconfig"
    elif arguments.assets is not None:
        api = "kube-apiserver with etcd"
    workers = math.ceil(arguments.sessions / arguments.per_worker) + arguments.spare_workers
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"
    report = Report(arguments.sessions, workers, api, machine)
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    _say(f"data and logs{'' if arguments.keep else ' until the end'}: {directory}")
    try:
        for number in range(arguments.rounds):
            say = Progress(f"round {number + 1}")
            say("starting the API server, Redis and the operator")
            options = Options(
                directory=directory / str(number), assets=arguments.assets, kubeconfig=arguments.kubeconfig
            )
            async with say, World(options) as world:
                report.rounds.append(await Round(arguments, world, say).run())
    finally:
        if not arguments.keep:
            shutil.rmtree(directory)
    return report


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.operator", description="The operator under load.")
    add = parser.add_argument
    add("--sessions", type=int, default=1000)
    add("--per-worker", type=int, default=15, help="sessions per worker")
    add("--spare-workers", type=int, default=2, help="workers beyond those needed, for failover")
    add("--rounds", type=int, default=1, help="runs, each from nothing; medians are shown")
    add("--connect-seconds", type=float, default=0.2, help="what a simulated session takes to connect")
    add("--concurrency", type=int, default=32, help="sessions applied at a time")
    add("--settle", type=float, default=60.0, help="seconds to watch the settled fleet")
    add("--skip-silent", action="store_true", help="leave out the worker that hangs, which takes a minute")
    add("--limit", type=float, default=900.0, help="seconds that one step may take")
    where = parser.add_mutually_exclusive_group()
    assets = os.environ.get(ENVIRONMENT)
    where.add_argument(
        "--assets",
        type=Path,
        default=Path(assets) if assets else None,
        help=f"directory with etcd and kube-apiserver (default: {ENVIRONMENT})",
    )
    where.add_argument("--kubeconfig", type=Path, help="an API server that runs already; a namespace of it is used")
    where.add_argument(
        "--stand-in", action="store_true", help=f"the sandbox's stand-in even where {ENVIRONMENT} is set"
    )
    add("--planner", action="store_true", help="measure the planner alone, and nothing else")
    add("--json", type=Path, metavar="FILE", help="write the figures of every round")
    add("--keep", action="store_true", help="keep data and logs")
    return parser


def main() -> None:
    """Parse the command line, run, print."""
    arguments = _parser().parse_args()
    if arguments.stand_in:
        arguments.assets = None
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    result: Any
    if arguments.planner:
        result = planning.run(_say)
    else:
        try:
            report = asyncio.run(bench(arguments))
        except (WorldError, AssetsError, KubernetesError) as error:
            sys.exit(f"bench: {error}")
        _say("")
        for line in report.lines():
            _say(line)
        result = asdict(report)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
