"""Observability: is it there, is it well."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from gateway.models import PingResponse
from gateway.operations import Call, Operations
from gateway.services import Services
from session_worker.registry import RegistryUnavailableError

OPERATIONS = Operations("🔍 Observability")


@OPERATIONS.route("GET", "/ping", "PingController_ping")
async def ping(_services: Services, _call: Call) -> PingResponse:
    """Ping the server."""
    return PingResponse()


@OPERATIONS.route("GET", "/health", "HealthController_check")
async def health(services: Services, _call: Call) -> web.Response:
    """Check the health of the server."""
    return health_response(await problems(services))


async def problems(services: Services) -> dict[str, str]:
    """Every part that the gateway needs -> what is wrong with it, empty when nothing is."""
    redis = ""
    try:
        await services.registry.ping()
    except RegistryUnavailableError as error:
        redis = str(error)
    return {"redis": redis, "kubernetes": services.store.problem}


def health_response(found: dict[str, str]) -> web.Response:
    """The answer in the form that WAHA's framework gives it."""
    details: dict[str, Any] = {
        part: {"status": "down", "message": problem} if problem else {"status": "up"} for part, problem in found.items()
    }
    down = {part: detail for part, detail in details.items() if detail["status"] == "down"}
    body = {
        "status": "error" if down else "ok",
        "info": {part: detail for part, detail in details.items() if part not in down},
        "error": down,
        "details": details,
    }
    return web.json_response(body, status=503 if down else 200)
