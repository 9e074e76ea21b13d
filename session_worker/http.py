"""The worker's HTTP ports: health for Kubernetes, calls for the gateway, metrics for Prometheus.

Owns what healthy means for a worker, and the translation of refusals into status codes. Must not be reachable from
outside the cluster: the calls act in the accounts' names.
"""

from __future__ import annotations

import hmac
import time
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest
from pydantic import ValidationError

from session_worker.contract import (
    LEASE_DURATION,
    REFUSAL_STATUS,
    CallError,
    CallRequest,
    Command,
    Method,
    Phase,
    Refusal,
    SessionKey,
)
from session_worker.session import RefusedError, Services, Session
from session_worker.supervisor import Supervisor

MAX_BODY = 100 * 2**20
"""Bytes of a request: media come in base64."""
MEMORY_TIGHT = 0.85
"""Share of the memory limit above which the worker is degraded."""
BACKLOG_TIGHT = 1_000
"""Entries of one session that Redis has not taken, above which the worker is degraded."""


class ControlServer:
    """Serves both ports."""

    def __init__(self, services: Services, supervisor: Supervisor) -> None:
        self._services = services
        self._supervisor = supervisor
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Open both ports."""
        config = self._services.config
        control = web.Application(client_max_size=MAX_BODY, middlewares=[self._authenticate])
        control.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/health", self._health),
                web.post("/v1/sessions/{namespace}/{name}/call/{method}", self._call),
                web.post("/v1/sessions/{namespace}/{name}/command/{command}", self._command),
            ]
        )
        metrics = web.Application()
        metrics.router.add_get("/metrics", self._metrics)
        for app, port in ((control, config.port), (metrics, config.metrics_port)):
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, config.host, port).start()
            self._runners.append(runner)

    async def stop(self) -> None:
        """Close both ports, once the requests under way are answered."""
        for runner in self._runners:
            await runner.cleanup()

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        token = self._services.config.token
        if token is not None and request.path.startswith("/v1/"):
            given = request.headers.get("Authorization", "")
            # A header may hold any bytes; aiohttp keeps those that are no UTF-8 as surrogates.
            if not hmac.compare_digest(given.encode(errors="surrogateescape"), f"Bearer {token}".encode()):
                return web.json_response({"message": "WORKER_TOKEN is missing or wrong"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    # --- Health

    async def _livez(self, _: web.Request) -> web.Response:
        """Alive: the event loop turns. What a restart cannot mend is not asked here."""
        return web.json_response({"uptime": self._uptime()})

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready: the lease is valid, so the operator may give this worker sessions."""
        age = self._supervisor.lease_age
        ready = age is not None and age < LEASE_DURATION.total_seconds()
        return web.json_response({"leaseAge": age}, status=200 if ready else 503)

    async def _health(self, _: web.Request) -> web.Response:
        """The whole picture, for people and dashboards."""
        usage, sessions = self._supervisor.usage, self._supervisor.sessions
        age = self._supervisor.lease_age
        redis_up = age is not None and age < LEASE_DURATION.total_seconds()
        share = usage.used / usage.limit if usage.limit else 0.0
        failed = self._supervisor.count(Phase.FAILED)
        checks = {
            "redis": redis_up,
            "memory": share < MEMORY_TIGHT,
            "sessions": failed == 0,
            "queue": all(session.backlog < BACKLOG_TIGHT for session in sessions.values()),
        }
        status = "unhealthy" if not redis_up else "healthy" if all(checks.values()) else "degraded"
        body = {
            "status": status,
            "uptime": self._uptime(),
            "memory": {"used": usage.used, "total": usage.limit, "percentage": round(share * 100, 1)},
            "sessions": {"active": len(sessions), "max": self._services.config.max_sessions},
            "checks": checks,
        }
        return web.json_response(body, status=503 if status == "unhealthy" else 200)

    def _uptime(self) -> float:
        return round(time.monotonic() - self._supervisor.started, 1)

    async def _metrics(self, _: web.Request) -> web.Response:
        text = generate_latest(self._services.metrics.registry)
        return web.Response(body=text, content_type="text/plain", charset="utf-8")

    # --- Calls

    async def _call(self, request: web.Request) -> web.Response:
        async def run(session: Session, asked: CallRequest) -> Any:
            return await session.call(Method(request.match_info["method"]), asked.params)

        return await self._on_session(request, run)

    async def _command(self, request: web.Request) -> web.Response:
        async def run(session: Session, asked: CallRequest) -> Any:
            return await session.command(Command(request.match_info["command"]), asked.params)

        return await self._on_session(request, run)

    async def _on_session(self, request: web.Request, run: Any) -> web.Response:
        try:
            asked = CallRequest.model_validate_json(await request.read())
            session = self._owned(request, asked)
            return web.json_response({"result": await run(session, asked)})
        except RefusedError as error:
            return _refusal(error)
        except (ValidationError, ValueError) as error:
            return _refusal(RefusedError(Refusal.BAD_REQUEST, str(error)))

    def _owned(self, request: web.Request, asked: CallRequest) -> Session:
        key = SessionKey(request.match_info["namespace"], request.match_info["name"])
        session = self._supervisor.sessions.get(key)
        if session is None or session.assignment.epoch != asked.epoch or session.phase is Phase.DRAINING:
            raise RefusedError(Refusal.NOT_HERE, f"session {key} with epoch {asked.epoch} is not on this worker")
        return session


def _refusal(error: RefusedError) -> web.Response:
    body = CallError(
        refusal=error.refusal, message=str(error), phase=error.phase, retry_after=error.retry_after or None
    )
    return web.Response(text=body.to_json(), status=REFUSAL_STATUS[error.refusal], content_type="application/json")
