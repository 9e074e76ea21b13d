"""A whole sandbox: control plane, node, Redis, WhatsApp stand-in, and optionally operator and gateway.

Owns the order in which the parts start and stop, their ports and their directory. Each part is started by the class
that knows it; the operator and the gateway run as processes of this machine with the sandbox's kubeconfig.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

import aiohttp
import yaml

from kubeclient import KubeClient, PatchKind, path_of
from sandbox.assets import ControlPlane
from sandbox.kube import KubeStandIn
from sandbox.kube.autoscaler import Autoscaler
from sandbox.kube.clients import connect
from sandbox.kube.metrics import MetricsServer, publish
from sandbox.kube.scheduler import Scheduler
from sandbox.kubelet import PodRunner
from sandbox.kubelet.container import Settings as RunnerSettings
from sandbox.kubelet.logs import ContainerLog
from sandbox.kubelet.node import NodeSpec
from sandbox.kubelet.process import ContainerProcess
from sandbox.whatsapp.server import WhatsAppServer
from sandbox.whatsapp.settings import Settings as WhatsAppSettings

_LOG: Final = logging.getLogger(__name__)
ROOT: Final = Path(__file__).resolve().parents[1]
STATE_FILE: Final = "sandbox.json"
LOCK_FILE: Final = "sandbox.lock"
_HOST: Final = "127.0.0.1"
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 40.0
_POLL_SECONDS: Final = 0.1
_SOURCE: Final = "operator-external-metrics"
"""Service of the operator's own metric source."""
_NODE: Final = {"cpu": "64", "memory": "256Gi", "pods": "250"}
"""What the node promises: more than the machine has, since idle sessions use little of what their pods request."""


class SandboxError(Exception):
    """The sandbox cannot be started; the text says what is missing or what failed."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach a running sandbox; kept in `sandbox.json` in its directory."""

    directory: str
    kubeconfig: str
    redis_url: str
    whatsapp_url: str
    gateway_url: str
    api_key: str
    operator_url: str

    def save(self) -> None:
        """Write the file, readable by its owner only."""
        path = Path(self.directory) / STATE_FILE
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self), indent=2))

    @classmethod
    def load(cls, directory: Path) -> Access:
        """Read the file.

        Raises:
            SandboxError: No sandbox runs in this directory.
        """
        try:
            return cls(**json.loads((directory / STATE_FILE).read_text()))
        except (OSError, TypeError, ValueError) as error:
            raise SandboxError(f"no sandbox runs in {directory} (start one with: python -m sandbox up)") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What kind of sandbox is wanted."""

    directory: Path
    """For data, logs and certificates; made where it is missing."""
    assets: Path | None = None
    """A real control plane's binaries instead of the stand-in."""
    kubeconfig: Path | None = None
    """An API server that runs already, instead of either. The pod runner becomes one of its nodes."""
    whatsapp: WhatsAppSettings = field(default_factory=WhatsAppSettings)
    runner: RunnerSettings = field(default_factory=RunnerSettings)
    parts: bool = True
    """Whether operator and gateway are started too."""
    gateway_port: int = 0
    """0: any free one."""
    whatsapp_port: int = 0
    autoscaler_period: int = 15
    """Seconds between two looks of the HPA controller, and between two measurements of what pods use."""


class Part:
    """The operator or the gateway as a process that can be started, stopped and killed."""

    def __init__(self, name: str, module: str, environment: dict[str, str], directory: Path) -> None:
        self.name = name
        self._module = module
        self._environment = environment
        self._directory = directory
        self._runs = 0
        self._process: ContainerProcess | None = None

    @property
    def log(self) -> Path:
        """The log of the present run."""
        return self._directory / "logs" / f"{self.name}-{self._runs}.log"

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, f"the {self.name} does not run"
        return self._process.pid

    async def start(self) -> None:
        """Start it, with a log of its own."""
        self._runs += 1
        inherited = {key: os.environ[key] for key in ("PATH", "HOME", "LANG") if key in os.environ}
        self._process = await ContainerProcess.start(
            [sys.executable, "-m", self._module], {**inherited, **self._environment}, ROOT, ContainerLog(self.log)
        )

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help."""
        process, self._process = self._process, None
        if process is not None:
            await process.stop(_STOP_SECONDS)

    async def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await asyncio.shield(process.ended)

    @property
    def ended(self) -> bool:
        """Whether it is not running, by our will or not."""
        return self._process is None or self._process.ended.done()


class Sandbox:
    """A running sandbox. Use it as an async context manager, or call `start` and `aclose`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._directory = options.directory
        self._stack = contextlib.AsyncExitStack()
        self.access: Access | None = None
        self.whatsapp: WhatsAppServer | None = None
        self.client: KubeClient | None = None
        self.redis: ContainerProcess | None = None
        self.operator: Part | None = None
        self.gateway: Part | None = None
        self.notes: list[str] = []
        """What a person should know of this sandbox."""

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Start everything and wait until it answers.

        Raises:
            SandboxError: Something is missing or did not come up.
        """
        self._take_directory()
        redis_url, kubeconfig, whatsapp_url = await asyncio.gather(
            self._start_redis(), self._start_control_plane(), self._start_whatsapp()
        )
        self.client = await connect(kubeconfig)
        self._stack.push_async_callback(self.client.aclose)
        await self._install_definitions()
        images = {"whatsapp-worker": [sys.executable, "-m", "session_worker"]}
        await self._stack.enter_async_context(
            PodRunner(
                kubeconfig,
                images=images,
                node=NodeSpec(capacity=_NODE),
                directory=self._directory / "node",
                settings=self._options.runner,
            )
        )
        gateway_port, gateway_metrics, operator_port, operator_metrics, source_port = free_ports(5)
        gateway_port = self._options.gateway_port or gateway_port
        self.access = Access(
            directory=str(self._directory.resolve()),
            kubeconfig=str(kubeconfig.resolve()),
            redis_url=redis_url,
            whatsapp_url=whatsapp_url,
            gateway_url=f"http://{_HOST}:{gateway_port}",
            api_key=secrets.token_urlsafe(24),
            operator_url=f"http://{_HOST}:{operator_port}",
        )
        self.access.save()
        common = {"KUBECONFIG": self.access.kubeconfig, "REDIS_URL": redis_url, "HOST": _HOST}
        extras = await self._serve_metrics(source_port, operator_metrics) if self._options.kubeconfig is None else {}
        self.operator = self._operator("operator", operator_port, operator_metrics, extras)
        self.gateway = Part(
            "gateway",
            "gateway",
            {
                **common,
                "WAHA_API_KEY": self.access.api_key,
                "PORT": str(gateway_port),
                "PROMETHEUS_PORT": str(gateway_metrics),
            },
            self._directory,
        )
        if self._options.parts:
            await asyncio.gather(self.operator.start(), self.gateway.start())
            self._stack.push_async_callback(self._stop_parts)
            await asyncio.gather(
                self._wait_for(f"{self.access.operator_url}/readyz", self.operator),
                self._wait_for(f"{self.access.gateway_url}/readyz", self.gateway),
            )

    def _take_directory(self) -> None:
        """Make the directory ours alone, and empty."""
        self._directory.mkdir(parents=True, exist_ok=True)
        lock = self._directory / LOCK_FILE
        if not lock.exists() and any(self._directory.iterdir()):
            raise SandboxError(f"{self._directory} is not empty, and no sandbox's: choose another directory")
        held = self._stack.enter_context(lock.open("w"))
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SandboxError(f"a sandbox runs in {self._directory} already: stop it, or choose another") from None
        for found in self._directory.iterdir():
            if found.is_dir():
                shutil.rmtree(found)
            elif found != lock:
                found.unlink()

    async def _serve_metrics(self, port: int, metrics_port: int) -> dict[str, str]:
        """Measure pods, and let the API server find the operator's own metric; its variables for that.

        A cluster that runs already may have providers of both.
        """
        assert self.client is not None
        await self._stack.enter_async_context(MetricsServer(self.client, period=self._options.autoscaler_period))
        await publish(self.client, "default", _SOURCE, port)
        return {
            "DEMAND_URL": f"http://{_HOST}:{metrics_port}",
            "EXTERNAL_METRICS": "true",
            "EXTERNAL_METRICS_PORT": str(port),
            "EXTERNAL_METRICS_SERVICE": _SOURCE,
            "EXTERNAL_METRICS_SERVICE_PORT": str(port),
            "POD_NAMESPACE": "default",
        }

    def _operator(self, name: str, port: int, metrics_port: int, extras: Mapping[str, str] | None = None) -> Part:
        assert self.access is not None
        environment = {
            **(extras or {}),
            "KUBECONFIG": self.access.kubeconfig,
            "REDIS_URL": self.access.redis_url,
            "HOST": _HOST,
            "WORKER_IMAGE": "whatsapp-worker",
            "POD_NAME": name,
            "BROWSER_URL": f"{self.access.whatsapp_url}/",
            "PORT": str(port),
            "PROMETHEUS_PORT": str(metrics_port),
        }
        return Part(name, "whatsapp_operator", environment, self._directory)

    async def another_operator(self) -> Part:
        """Start a second operator, which stands by. Stop it before the sandbox."""
        port, metrics_port = free_ports(2)
        part = self._operator("second-operator", port, metrics_port)
        await part.start()
        await self._wait_for(f"http://{_HOST}:{port}/readyz", part)
        return part

    async def aclose(self) -> None:
        """Stop everything, the last started first; no process stays behind."""
        if self.access is not None:
            (self._directory / STATE_FILE).unlink(missing_ok=True)
        await self._stack.aclose()

    async def _stop_parts(self) -> None:
        await asyncio.gather(*(part.stop() for part in (self.operator, self.gateway) if part is not None))

    async def _start_redis(self) -> str:
        binary = shutil.which("redis-server")
        if binary is None:
            raise SandboxError("redis-server is not installed (Debian: apt-get install redis-server)")
        (port,) = free_ports(1)
        data = self._directory / "redis"
        data.mkdir(exist_ok=True)
        argv = [
            binary,
            "--bind",
            _HOST,
            "--port",
            str(port),
            "--dir",
            str(data.resolve()),
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        log = ContainerLog(self._directory / "logs" / "redis.log")
        process = await ContainerProcess.start(argv, {"PATH": os.environ["PATH"]}, data, log)
        self.redis = process
        self._stack.push_async_callback(process.stop, _STOP_SECONDS)
        await _until_open(port, process)
        return f"redis://{_HOST}:{port}/0"

    async def _start_control_plane(self) -> Path:
        options = self._options
        if options.kubeconfig is not None:
            self.notes.append(f"The API server is the one of {options.kubeconfig}.")
            return options.kubeconfig
        if options.assets is not None:
            period = f"--horizontal-pod-autoscaler-sync-period={options.autoscaler_period}s"
            plane = await self._stack.enter_async_context(
                ControlPlane(
                    options.assets,
                    self._directory / "control-plane",
                    flags={"kube-controller-manager": [period]},
                )
            )
            self.notes += ["The API server is a real kube-apiserver with etcd.", *plane.missing]
            return plane.kubeconfig
        kubeconfig = self._directory / "kubeconfig"
        stand_in = await self._stack.enter_async_context(KubeStandIn())
        stand_in.write_kubeconfig(kubeconfig)
        client = await connect(kubeconfig)
        self._stack.push_async_callback(client.aclose)
        loops = {
            "scheduler": Scheduler(client).run(),
            "autoscaler": Autoscaler(client, period=options.autoscaler_period).run(),
        }
        for name, loop in loops.items():
            self._stack.push_async_callback(_cancel, asyncio.create_task(loop, name=name))
        self.notes.append("The API server is the sandbox's stand-in; its limits are in sandbox/README.md.")
        return kubeconfig

    async def _start_whatsapp(self) -> str:
        port = self._options.whatsapp_port
        server = WhatsAppServer(host=_HOST, port=port, settings=self._options.whatsapp)
        self.whatsapp = await self._stack.enter_async_context(server)
        return self.whatsapp.url

    async def _install_definitions(self) -> None:
        assert self.client is not None
        for file in sorted((ROOT / "crds").glob("*.yaml")):
            definition = yaml.safe_load(file.read_text())
            name = definition["metadata"]["name"]
            path = path_of("apiextensions.k8s.io/v1", "customresourcedefinitions", name=name)
            await self.client.patch(path, definition, PatchKind.APPLY, fieldManager="sandbox", force="true")
            await _until(lambda path=path: self._is_established(path))  # type: ignore[misc]  # a default binds the loop's value

    async def _is_established(self, path: str) -> bool:
        assert self.client is not None
        conditions = (await self.client.get(path)).get("status", {}).get("conditions")  # null at first
        return any(item["type"] == "Established" and item["status"] == "True" for item in conditions or [])

    async def _wait_for(self, url: str, part: Part) -> None:
        """Return when a part says that it is ready."""
        async with aiohttp.ClientSession() as http:

            async def ready() -> bool:
                if part.ended:
                    raise SandboxError(f"the {part.name} ended at once; its log: {_tail(part.log)}")
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(url) as response:
                        return response.status == 200
                return False

            try:
                await _until(ready)
            except TimeoutError:
                raise SandboxError(f"the {part.name} did not get ready; its log: {_tail(part.log)}") from None


def free_ports(count: int) -> list[int]:
    """Ports that are free now. All are held until all are found, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind((_HOST, 0))
        return [int(item.getsockname()[1]) for item in sockets]


def _tail(path: Path, lines: int = 5) -> str:
    return " | ".join(path.read_text().splitlines()[-lines:]) if path.exists() else "empty"


async def _until_open(port: int, process: ContainerProcess) -> None:
    async def is_open() -> bool:
        if process.ended.done():
            raise SandboxError("redis-server ended at once; see logs/redis.log")
        try:
            _, writer = await asyncio.open_connection(_HOST, port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    await _until(is_open)


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until the answer is yes; what is waited for are other programs, which send us no events."""
    async with asyncio.timeout(_START_SECONDS):
        while not await condition():  # noqa: ASYNC110  # as said
            await asyncio.sleep(_POLL_SECONDS)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
