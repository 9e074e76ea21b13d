"""Gateways for tests: on a real Redis and an API server with the CRDs.

Owns a gateway's parts put together as `gateway.__main__` does, and a worker that answers calls with what a test says.
"""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web

from gateway.app import build, build_metrics
from gateway.config import GatewayConfig
from gateway.metrics import GatewayMetrics
from gateway.router import Router
from gateway.services import Services
from gateway.store import SessionStore
from gateway.webhooks import WebhookDispatcher
from session_worker.contract import InboundEvent, Phase, RuntimeState, SessionKey
from session_worker.registry import Registry
from tests.support.kube_product import ProductApi
from tests.support.people import Answer, eventually

API_KEY = "an-api-key"
PATIENCE = 30.0


@dataclass(slots=True)
class Asked:
    """One request that reached a worker."""

    path: str
    body: Any
    authorization: str


@dataclass(slots=True)
class OtherWorker:
    """The HTTP side of a worker elsewhere. Use it as an async context manager."""

    status: int = 200
    body: Any = field(default_factory=lambda: {"result": {}})
    requests: list[Asked] = field(default_factory=list)
    address: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.address = f"127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(Asked(request.path, await request.json(), request.headers.get("Authorization", "")))
        return web.json_response(self.body, status=self.status)


class Gateway:
    """One gateway of a namespace. Use it as an async context manager; it is a client of itself."""

    def __init__(self, api: ProductApi, redis_url: str, namespace: str, **variables: str) -> None:
        self.config = GatewayConfig.from_env(
            {
                "REDIS_URL": redis_url,
                "WAHA_API_KEY": API_KEY,
                "NAMESPACE": namespace,
                "WORKER_TOKEN": "worker-token",
                "HOST": "127.0.0.1",
                **variables,
            }
        )
        self._api = api
        self._stack = AsyncExitStack()
        self.registry: Registry
        self.store: SessionStore
        self.metrics_url = ""
        self.url = ""
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        config = self.config
        self.registry = Registry.connect(config.redis_url)
        self._stack.push_async_callback(self.registry.aclose)
        self.store = SessionStore(
            await self._api.connect(), namespace=config.namespace, pool=config.pool, secret=config.hmac_secret
        )
        router = Router(self.registry, self.store, config.worker_token)
        metrics = GatewayMetrics()
        services = Services(config=config, registry=self.registry, store=self.store, router=router, metrics=metrics)
        dispatcher = WebhookDispatcher(self.registry, self.store, metrics)
        for part in (self.store, router, dispatcher):
            await part.start()
            self._stack.push_async_callback(part.stop)
        addresses = []
        for app in (build(services), build_metrics(services)):
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            self._stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, config.host, 0).start()
            addresses.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        self.url, self.metrics_url = addresses
        self._http = await self._stack.enter_async_context(aiohttp.ClientSession())
        await self.store.listed()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it; twice is no error."""
        await self._stack.aclose()

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """One request, with the key unless other headers are given; JSON is read, anything else kept as bytes."""
        options.setdefault("headers", {"X-Api-Key": API_KEY})
        url = path if path.startswith("http") else self.url + path
        data = body if isinstance(body, (str, bytes)) or body is None else json.dumps(body)
        async with self._http.request(method, url, data=data, **options) as response:
            raw = await response.read()
            is_json = "json" in response.headers.get("Content-Type", "")
            return Answer(response.status, json.loads(raw) if is_json else raw, dict(response.headers))

    def key(self, name: str) -> SessionKey:
        """The key of a session by its object's name."""
        return SessionKey(self.config.namespace, name)

    async def knows(self, session: str, value: str = "", *path: str) -> dict[str, Any]:
        """Wait until the gateway shows a session, with a value at a path of its answer if given."""

        async def look() -> Any:
            answer = await self("GET", f"/api/sessions/{session}")
            assert answer.status == 200, str(answer)
            found = answer.body
            for step in path:
                found = found[step]
            assert not path or found == value, str(answer.body)
            return answer.body

        body: dict[str, Any] = await eventually(f"{session} {value}", look, within=PATIENCE)
        return body

    async def say(self, name: str, phase: Phase, *, worker: str = "w1", epoch: int = 1, **more: Any) -> None:
        """Write what a session's owner says of it."""
        now = time.time()
        values = {"epoch": epoch, "phase": phase, "worker": worker, "since": now, "last_activity": now}
        state = RuntimeState.model_validate({**values, "address": "127.0.0.1:1", **more})
        assert await self.registry.write_state(self.key(name), state)

    async def happen(self, name: str, event: str, *, worker: str = "w1", epoch: int = 1, **payload: Any) -> str:
        """An event of a session, as its owner tells it; its id."""
        entry = InboundEvent.new(event, payload, now=time.time())
        assert await self.registry.append_inbound(self.key(name), epoch=epoch, worker=worker, event=entry)
        return entry.id
