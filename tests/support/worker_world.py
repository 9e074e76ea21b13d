"""A session worker with real browsers for tests: on a real Redis, in front of the WhatsApp stand-in.

Owns the worker's parts and who stands around it: the operator, who publishes assignments, phones, and a caller of the
control API. Everything speaks to the worker as the product's other parts do: through Redis and HTTP.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from sandbox.whatsapp import Phone, WhatsAppServer
from session_worker.chromium import BrowserSettings, find_browser, find_wa_js
from session_worker.config import WorkerConfig
from session_worker.contract import (
    Assignment,
    CallRequest,
    Command,
    InboundEvent,
    Method,
    PairingOffer,
    Phase,
    RuntimeState,
    SessionKey,
    WorkerSpec,
    call_path,
    command_path,
)
from session_worker.http import ControlServer
from session_worker.metrics import WorkerMetrics
from session_worker.profiles import ProfileStore
from session_worker.registry import Publication, Registry, RegistryUnavailableError
from session_worker.session import Services, Session
from session_worker.supervisor import Supervisor, Timing
from tests.support import people
from tests.support.redis_server import RedisServer
from tests.support.whatsapp_browser import executable

TOKEN = "worker-token"
PATIENCE = 30.0
"""Seconds that a test may wait for one step of a worker on a busy machine."""


async def eventually(what: str, look: Callable[[], Awaitable[Any]]) -> Any:
    """The first true thing that `look` returns."""
    return await people.eventually(what, look, within=PATIENCE)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def worker_environment(directory: Path, name: str, *, redis_url: str, whatsapp_url: str) -> dict[str, str]:
    """The variables of a worker pod; profiles are shared by all workers of a directory."""
    return {
        "POD_NAME": name,
        "POD_NAMESPACE": "team",
        "POD_UID": f"uid-{name}",
        "POD_IP": "127.0.0.1",
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "PROMETHEUS_PORT": str(free_port()),
        "REDIS_URL": redis_url,
        "WORKER_TOKEN": TOKEN,
        "PROFILE_DIR": str(directory / "profiles"),
        "CACHE_DIR": str(directory),
        "BROWSER_URL": f"{whatsapp_url}/",
        "BROWSER_EXECUTABLE": executable(),
        "HEALTH_CHECK_INTERVAL": "1000",
        "DRAIN_TIMEOUT_SECONDS": "0",
    }


@dataclass(frozen=True, slots=True)
class Reply:
    """What the control API said."""

    status: int
    body: Any


class Worker:
    """A worker in this process. Use it as an async context manager."""

    def __init__(self, variables: Mapping[str, str], timing: Timing | None = None) -> None:
        self.config = WorkerConfig.from_env(variables)
        self._timing = timing
        self._stack = AsyncExitStack()
        self._revision = 0
        self.supervisor: Supervisor
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        config = self.config
        path, version = await find_browser(config.browser_executable)
        registry = Registry.connect(config.redis_url)
        services = Services(
            config=config,
            registry=registry,
            profiles=ProfileStore(config.profile_dir),
            browser=BrowserSettings(
                executable=path,
                url=config.browser_url,
                wa_js=find_wa_js(config.wa_js),
                version=version,
                cache_dir=config.cache_dir,
            ),
            metrics=WorkerMetrics(),
        )
        self.supervisor = Supervisor(services, self._timing)
        server = ControlServer(services, self.supervisor)
        self._stack.push_async_callback(registry.aclose)
        await self.supervisor.start()
        self._stack.push_async_callback(self.supervisor.stop)
        await server.start()
        self._stack.push_async_callback(server.stop)
        self._http = await self._stack.enter_async_context(aiohttp.ClientSession())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def session(self, key: SessionKey) -> Session:
        """A session that runs here."""
        return self.supervisor.sessions[key]

    async def get(self, path: str, *, metrics: bool = False) -> Reply:
        """GET on the control port, or on the metrics port."""
        port = self.config.metrics_port if metrics else self.config.port
        async with self._http.get(f"http://127.0.0.1:{port}{path}") as response:
            return Reply(response.status, await (response.text() if metrics else response.json()))

    async def post(self, path: str, body: str, *, token: str | None = TOKEN) -> Reply:
        """POST on the control port."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"http://127.0.0.1:{self.config.port}{path}"
        async with self._http.post(url, data=body, headers=headers) as response:
            return Reply(response.status, await response.json())

    async def call(self, key: SessionKey, method: Method, epoch: int = 1, **params: Any) -> Reply:
        """Call a session's page as the gateway does."""
        return await self.post(call_path(key, method), CallRequest(epoch=epoch, params=params).to_json())

    async def command(self, key: SessionKey, command: Command, epoch: int = 1, **params: Any) -> Reply:
        """Ask a session's supervisor as the gateway does."""
        return await self.post(command_path(key, command), CallRequest(epoch=epoch, params=params).to_json())


class WorkerWorld:
    """Redis, WhatsApp, and the operator's and people's side of workers. Use it as an async context manager."""

    def __init__(self, directory: Path, redis: RedisServer, whatsapp: WhatsAppServer) -> None:
        self.directory = directory
        self.redis = redis
        self.whatsapp = whatsapp
        self.registry = Registry.connect(redis.url)
        self._stack = AsyncExitStack()
        self._assigned: dict[str, dict[SessionKey, Assignment]] = {}
        self._revisions: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(self.registry.aclose)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def environment(self, name: str) -> dict[str, str]:
        """The variables of a worker in this world."""
        return worker_environment(self.directory, name, redis_url=self.redis.url, whatsapp_url=self.whatsapp.url)

    def phone(self, number: str) -> Phone:
        """Somebody's phone."""
        phone = Phone(self.whatsapp.url, number)
        self._stack.push_async_callback(phone.aclose)
        return phone

    # --- The operator

    async def assign(self, worker: WorkerConfig, key: SessionKey, epoch: int = 1, **spec: Any) -> None:
        """Give a session to a worker, or change what it is to do with it."""
        spec = {"messages_per_minute": 600, "burst": 100, **spec}
        entry = Assignment(epoch=epoch, uid=f"uid-{key.name}", generation=1, spec=WorkerSpec(**spec))
        self._assigned.setdefault(worker.worker.name, {})[key] = entry
        await self.publish(worker)

    async def release(self, worker: WorkerConfig, key: SessionKey) -> None:
        """Take a session away from a worker."""
        del self._assigned[worker.worker.name][key]
        await self.publish(worker)

    async def publish(self, worker: WorkerConfig) -> int:
        """Write a worker's whole set again, as the operator does when Redis has lost it; its number."""
        name = worker.worker.name
        self._revisions[name] = self._revisions.get(name, 0) + 1
        publication = Publication(self._revisions[name], self._assigned.get(name, {}))
        assert await self.registry.publish(worker.worker, publication) == 0
        return self._revisions[name]

    # --- What Redis says

    async def state(self, key: SessionKey) -> RuntimeState | None:
        """What the owner of a session has said last."""
        return (await self.registry.states([key])).get(key)

    async def until(self, key: SessionKey, phase: Phase, **expected: object) -> RuntimeState:
        """Wait until a session says of itself to be in a phase, with more values if given."""

        async def look() -> RuntimeState | None:
            with suppress(RegistryUnavailableError):
                state = await self.state(key)
                assert state is not None
                found = {name: getattr(state, name) for name in expected}
                assert (state.phase, found) == (phase, expected), state
                return state
            return None

        state: RuntimeState = await eventually(f"{key} {phase}", look)
        return state

    async def offer(self, key: SessionKey) -> PairingOffer:
        """The code on show, as soon as there is one."""
        offer: PairingOffer = await eventually(f"a code of {key}", lambda: self.registry.offer(key))
        return offer

    async def events(self, key: SessionKey, name: str) -> list[InboundEvent]:
        """Everything of one name that a session has told."""
        return [event for _, event in await self.registry.inbound(key, "0-0", 1000) if event.event == name]

    async def pair(self, worker: WorkerConfig, key: SessionKey, number: str, **spec: Any) -> Phone:
        """Give a session to a worker and scan its code; returns when it is connected."""
        await self.assign(worker, key, **spec)
        phone = self.phone(number)
        await phone.scan((await self.offer(key)).code)
        await self.until(key, Phase.CONNECTED)
        return phone


def processes_of(directory: Path) -> list[int]:
    """Processes that name a directory on their command line: the browsers whose profiles or caches lie there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it ended while we were looking
                if str(directory).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found
