"""Observability: is it there, is it well."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from gateway.delivery import WORKER_ID, environment
from gateway.keys import Scope
from gateway.models import (
    AppsQuery,
    EnvironmentQuery,
    HealthResponse,
    PingResponse,
    ServerStatusResponse,
    WAHAEnvironment,
    WorkerInfo,
)
from gateway.operations import Call, Operations
from gateway.services import Services
from session_worker.registry import RegistryUnavailableError

OPERATIONS = Operations("🔍 Observability")
APPS = Operations("🧩 Apps")


@OPERATIONS.route("GET", "/ping", "PingController_ping", result=PingResponse, scope=Scope.OPEN)
async def ping(_services: Services, _call: Call) -> PingResponse:
    """Ping the server."""
    return PingResponse()


@OPERATIONS.route("GET", "/health", "HealthController_check", result=HealthResponse, scope=Scope.OPEN)
async def health(services: Services, _call: Call) -> web.Response:
    """Check the health of the server."""
    return health_response(await problems(services), leaving=services.leaving)


@OPERATIONS.route("GET", "/api/server/version", "ServerController_get", result=WAHAEnvironment, scope=Scope.OPEN)
async def version(_services: Services, _call: Call) -> WAHAEnvironment:
    """Get the version of the server."""
    return WAHAEnvironment.model_validate(environment())


@OPERATIONS.route(
    "GET", "/api/version", "VersionController_get", result=WAHAEnvironment, scope=Scope.OPEN, deprecated=True
)
async def old_version(_services: Services, _call: Call) -> WAHAEnvironment:
    """Get the server version."""
    return WAHAEnvironment.model_validate(environment())


@OPERATIONS.route(
    "GET", "/api/server/environment", "ServerController_environment",
    query=EnvironmentQuery, result=dict[str, str], scope=Scope.ADMIN,
)  # fmt: skip
async def settings(services: Services, _call: Call) -> dict[str, str]:
    """Get the server's settings, secrets left out."""
    config = services.config
    return {
        "NAMESPACE": config.namespace,
        "DEFAULT_POOL": config.pool,
        "WAHA_BASE_URL": config.base_url,
        "WEBHOOK_PRIVATE_TARGETS": str(config.webhook_private).lower(),
        "MEDIA_PRIVATE_TARGETS": str(config.media_private).lower(),
        "MEDIA_MAX_BYTES": str(config.media_max_bytes),
        "RATE_LIMIT_WINDOW_MS": str(round(config.rate_window * 1000)),
        "RATE_LIMIT_MAX_REQUESTS": str(config.rate_limit),
        "LOG_LEVEL": config.log_level,
    }


@OPERATIONS.route("GET", "/api/server/status", "ServerController_status", result=ServerStatusResponse, scope=Scope.OPEN)
async def status(services: Services, _call: Call) -> ServerStatusResponse:
    """Get the server status."""
    return ServerStatusResponse(
        startTimestamp=int(services.started * 1000),
        uptime=int((time.time() - services.started) * 1000),
        worker=WorkerInfo(id=WORKER_ID),
    )


_BY_KUBERNETES = "Kubernetes starts and stops the gateway's pods"
_NO_PROFILER = "profiles and traces of the processes are no part of the public API"
OPERATIONS.absent("POST", "/api/server/stop", "ServerController_stop", "Stop (and restart) the server",
                  _BY_KUBERNETES, scope=Scope.ADMIN)  # fmt: skip
OPERATIONS.absent("GET", "/api/server/debug/cpu", "ServerDebugController_cpuProfile", "Collect a CPU profile",
                  _NO_PROFILER, scope=Scope.ADMIN)  # fmt: skip
OPERATIONS.absent("GET", "/api/server/debug/heapsnapshot", "ServerDebugController_heapsnapshot",
                  "Return a heapsnapshot", _NO_PROFILER, scope=Scope.ADMIN)  # fmt: skip
OPERATIONS.absent("GET", "/api/server/debug/browser/trace/{session}", "ServerDebugController_browserTrace",
                  "Collect a trace of the browser", _NO_PROFILER, scope=Scope.ADMIN)  # fmt: skip

_NO_APPS = "the gateway has no built-in integrations; use webhooks or the websocket"


@APPS.route("GET", "/api/apps", "AppsController_list", query=AppsQuery, result=list[dict[str, Any]], scope=Scope.APP)
async def apps(services: Services, call: Call) -> list[dict[str, Any]]:
    """List all apps for a session: there are none."""
    await services.store.get(call.session)
    return []


APPS.absent("POST", "/api/apps", "AppsController_create", "Create a new app", _NO_APPS, scope=Scope.APP)
APPS.absent("GET", "/api/apps/{id}", "AppsController_get", "Get app by id", _NO_APPS, scope=Scope.APP)
APPS.absent("PUT", "/api/apps/{id}", "AppsController_update", "Update an app", _NO_APPS, scope=Scope.APP)
APPS.absent("DELETE", "/api/apps/{id}", "AppsController_delete", "Delete an app", _NO_APPS, scope=Scope.APP)
APPS.absent("POST", "/mcp", "McpController_post", "Model Context Protocol", _NO_APPS, scope=Scope.APP)


async def problems(services: Services) -> dict[str, str]:
    """Every part that the gateway needs -> what is wrong with it, empty when nothing is."""
    redis = ""
    try:
        await services.registry.ping()
    except RegistryUnavailableError as error:
        redis = str(error)
    return {"redis": redis, "kubernetes": services.store.problem}


def health_response(found: dict[str, str], *, leaving: bool = False) -> web.Response:
    """The answer in the form that WAHA's framework gives it."""
    details: dict[str, Any] = {
        part: {"status": "down", "message": problem} if problem else {"status": "up"} for part, problem in found.items()
    }
    down = {part: detail for part, detail in details.items() if detail["status"] == "down"}
    body = {
        "status": "shutting_down" if leaving else "error" if down else "ok",
        "info": {part: detail for part, detail in details.items() if part not in down},
        "error": down,
        "details": details,
    }
    return web.json_response(body, status=503 if down or leaving else 200)
