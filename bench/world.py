"""Everything around the operator in its benchmark: an API server, Redis, the custom resources, the operator's process.

Owns starting, stopping and looking at them from outside: requests from the API server's own metrics, processor time and
memory from /proc. Must not know what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp
import yaml

from bench.standin import METRIC
from kubeclient import KubeClient, NotFoundError, PatchKind, path_of
from sandbox.assets import ControlPlane
from sandbox.cluster import ROOT, Part, free_ports
from sandbox.kube.clients import connect
from sandbox.kubelet.logs import ContainerLog
from sandbox.kubelet.process import ContainerProcess
from session_worker.contract import GROUP

_HOST = "127.0.0.1"
_START_SECONDS = 90.0
_STOP_SECONDS = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE = re.compile(rf"^{METRIC}{{(.*)}} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

WRITES = {
    "sessions: finalizer": (GROUP, "whatsappsessions", ""),
    "sessions: status": (GROUP, "whatsappsessions", "status"),
    "pools: status": (GROUP, "whatsappworkerpools", "status"),
    "disruption budgets": ("policy", "poddisruptionbudgets", ""),
    "pods": ("", "pods", ""),
    "events": ("", "events", ""),
}
"""What the operator writes -> group, resource, subresource."""
_OPERATOR_VERBS = {"PATCH", "APPLY", "PUT", "DELETE"}
_OPERATOR_CREATES = {"pods", "events"}
"""Resources whose POST requests are the operator's; sessions and pools are posted by the benchmark."""


class WorldError(Exception):
    """Something did not come up; the text says what."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a process has used since it started."""

    cpu_seconds: float
    rss_bytes: int
    peak_rss_bytes: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Read /proc.

        Raises:
            OSError: The process is gone.
        """
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        pairs = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        sizes = {name: value.split() for name, _, value in pairs if name in ("VmRSS", "VmHWM")}
        return cls(
            (int(stat[11]) + int(stat[12])) / _TICKS, int(sizes["VmRSS"][0]) * 1024, int(sizes["VmHWM"][0]) * 1024
        )


def machine_busy_seconds() -> float:
    """Processor seconds that this machine has worked since it started, all processors together."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / _TICKS  # without idle and iowait


def writes_in(metrics: str) -> Counter[str]:
    """The operator's writes so far, by the names of `WRITES`, from the text of an API server's `/metrics`.

    The metric does not say who asked; verb and resource do, for nobody else here makes these requests. Answers of 400
    and more count too, and a second time under `refused`.
    """
    kinds = {kind: name for name, kind in WRITES.items()}
    found: Counter[str] = Counter()
    for labels_text, value in _SAMPLE.findall(metrics):
        labels = dict(_LABEL.findall(labels_text))
        name = kinds.get((labels["group"], labels["resource"], labels["subresource"]))
        if name is None:
            continue
        creates = labels["verb"] == "POST" and labels["resource"] in _OPERATOR_CREATES
        if creates or labels["verb"] in _OPERATOR_VERBS:
            found[name] += int(float(value))
            if int(labels["code"]) >= 400:
                found["refused"] += int(float(value))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What kind of API server is wanted; the stand-in where neither is given."""

    directory: Path
    assets: Path | None = None
    kubeconfig: Path | None = None


class World:
    """Use it as an async context manager."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stack = contextlib.AsyncExitStack()
        self._client: KubeClient | None = None
        self._operator: Part | None = None
        self._metrics_url = ""
        self.redis_url = ""
        self.namespace = f"whatsapp-bench-{secrets.token_hex(3)}"

    @property
    def client(self) -> KubeClient:
        """The administrator's connection."""
        assert self._client is not None
        return self._client

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self._options.directory.mkdir(parents=True, exist_ok=True)
        await self._start_redis()
        kubeconfig = await self._start_api()
        self._client = await connect(kubeconfig)
        self._stack.push_async_callback(self._client.aclose)
        await self._install_definitions()
        await self._make_namespace()
        port, metrics_port = free_ports(2)
        self._metrics_url = f"http://{_HOST}:{metrics_port}/metrics"
        self._operator = Part(
            "operator",
            "whatsapp_operator",
            {
                "KUBECONFIG": str(kubeconfig.resolve()),
                "REDIS_URL": self.redis_url,
                "HOST": _HOST,
                "PORT": str(port),
                "PROMETHEUS_PORT": str(metrics_port),
                "WORKER_IMAGE": "whatsapp-worker",
                "WATCH_NAMESPACES": self.namespace,
            },
            self._options.directory,
        )
        await self._operator.start()
        self._stack.push_async_callback(self._operator.stop)
        async with aiohttp.ClientSession() as http:
            await _until("the operator is ready", lambda: self._is_ready(http, f"http://{_HOST}:{port}/readyz"))

    # --- Looking

    @property
    def operator_pid(self) -> int:
        """Process id of the operator, for profilers."""
        assert self._operator is not None
        return self._operator.pid

    def operator(self) -> Use:
        """What the operator has used."""
        return Use.of(self.operator_pid)

    async def writes(self) -> Counter[str]:
        """The operator's writes so far, as the API server has counted them."""
        async with self.client.stream("/metrics", {}) as response:
            return writes_in(await response.text())

    async def cycles(self) -> tuple[float, float]:
        """How many cycles the operator has gone through, and how many seconds they took together."""
        async with aiohttp.ClientSession() as http, http.get(self._metrics_url) as response:
            text = await response.text()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        name = "whatsapp_operator_cycle_seconds"
        return float(values[f"{name}_count"]), float(values[f"{name}_sum"])

    # --- Starting

    async def _run(self, name: str, argv: list[str]) -> ContainerProcess:
        inherited = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        log = ContainerLog(self._options.directory / "logs" / f"{name}.log")
        process = await ContainerProcess.start(argv, inherited, ROOT, log)
        self._stack.push_async_callback(process.stop, _STOP_SECONDS)
        return process

    async def _start_redis(self) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise WorldError("redis-server is not installed (Debian: apt-get install redis-server)")
        (port,) = free_ports(1)
        flags = ["--bind", _HOST, "--port", str(port), "--dir", str(self._options.directory.resolve())]
        process = await self._run("redis", [binary, *flags, "--save", "", "--appendonly", "no"])
        self.redis_url = f"redis://{_HOST}:{port}/0"

        async def answers() -> bool:
            if process.ended.done():
                raise WorldError("redis-server ended at once; see logs/redis.log")
            try:
                _, writer = await asyncio.open_connection(_HOST, port)
            except OSError:
                return False
            writer.close()
            await writer.wait_closed()
            return True

        await _until("Redis answers", answers)

    async def _start_api(self) -> Path:
        options = self._options
        if options.kubeconfig is not None:
            return options.kubeconfig
        if options.assets is not None:
            plane = ControlPlane(options.assets, options.directory / "control-plane")
            await self._stack.enter_async_context(plane)
            return plane.kubeconfig
        kubeconfig = options.directory / "kubeconfig"
        # A process of its own, as a server has: in ours its work would delay the workers' clocks.
        process = await self._run("stand-in", [sys.executable, "-m", "bench.standin", "--kubeconfig", str(kubeconfig)])

        async def is_there() -> bool:
            if process.ended.done():
                raise WorldError("the API stand-in ended at once; see logs/stand-in.log")
            return kubeconfig.exists()

        await _until("the API stand-in answers", is_there)
        return kubeconfig

    async def _install_definitions(self) -> None:
        for file in sorted((ROOT / "crds").glob("*.yaml")):
            definition = yaml.safe_load(file.read_text())
            name = definition["metadata"]["name"]
            path = path_of("apiextensions.k8s.io/v1", "customresourcedefinitions", name=name)
            await self.client.patch(path, definition, PatchKind.APPLY, fieldManager="bench", force="true")
            await _until(f"{name} is established", lambda path=path: self._is_established(path))  # type: ignore[misc]  # a default binds the loop's value

    async def _is_established(self, path: str) -> bool:
        conditions = (await self.client.get(path)).get("status", {}).get("conditions") or ()
        return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)

    async def _make_namespace(self) -> None:
        await self.client.create(path_of("v1", "namespaces"), {"metadata": {"name": self.namespace}})
        account = path_of("v1", "serviceaccounts", namespace=self.namespace, name="default")

        async def has_account() -> bool:
            try:
                await self.client.get(account)
            except NotFoundError:
                return False
            return True

        await _until(f"namespace {self.namespace} has its service account", has_account)

    async def _is_ready(self, http: aiohttp.ClientSession, url: str) -> bool:
        assert self._operator is not None
        if self._operator.ended:
            raise WorldError(f"the operator ended at once; see {self._operator.log}")
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(url) as response:
                return response.status == 200
        return False


async def _until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until the answer is yes; what is waited for are other programs, which send us no events."""
    ends = time.monotonic() + _START_SECONDS
    while not await condition():
        if time.monotonic() > ends:
            raise WorldError(f"not within {_START_SECONDS:.0f} s: {what}")
        await asyncio.sleep(0.1)
