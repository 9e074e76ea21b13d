"""The HTTP server: keys, errors, request ids, metrics, and the routes of `gateway.api`.

Owns everything that happens to every request. Must not know what an operation does.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest

from gateway.api import ALL
from gateway.api.observability import health_response, problems
from gateway.delivery import environment
from gateway.errors import ApiError, UnauthorizedError
from gateway.operations import bind
from gateway.services import Services
from session_worker.logs import fields

log = logging.getLogger(__name__)

MAX_BODY = 100 * 2**20
"""Bytes of a request: media come in base64."""
OPEN_PATHS = {"/ping", "/livez", "/readyz"}
"""Paths that need no key: WAHA's ping, and Kubernetes' probes."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(services: Services) -> web.Application:
    """The application with all routes."""
    app = web.Application(
        client_max_size=MAX_BODY, middlewares=[_measured(services), _answered, _authenticated(services)]
    )
    for operation in ALL:
        # Without a name of its own a route cannot be told apart in the metrics.
        name = operation.operation_id.replace(".", "_")
        app.router.add_route(operation.method, operation.path, bind(operation, services), name=name)
    app.router.add_get("/livez", _alive, name="livez")
    app.router.add_get("/readyz", _ready(services), name="readyz")
    return app


def build_metrics(services: Services) -> web.Application:
    """The application of the metrics port."""

    async def show(_: web.Request) -> web.Response:
        text = generate_latest(services.metrics.registry)
        return web.Response(body=text, content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.router.add_get("/metrics", show)
    return app


async def _alive(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def _ready(services: Services) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        return health_response(await problems(services))

    return handle


def key_matches(expected: str, given: str) -> bool:
    """Whether a presented key is the configured one, plain or `sha512:<hex>`, in constant time."""
    # A header may hold any bytes; aiohttp keeps those that are no UTF-8 as surrogates.
    presented = given.encode(errors="surrogateescape")
    if expected.startswith("sha512:"):
        return hmac.compare_digest(hashlib.sha512(presented).hexdigest(), expected.removeprefix("sha512:"))
    return hmac.compare_digest(presented, expected.encode())


def _authenticated(services: Services) -> Any:
    expected = services.config.api_key

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if expected is not None and request.path not in OPEN_PATHS:
            given = request.headers.get("X-Api-Key") or request.query.get("x-api-key") or ""
            if not key_matches(expected, given):
                raise UnauthorizedError
        return await handler(request)

    return middleware


@web.middleware
async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure becomes an answer in WAHA's form."""
    try:
        return await handler(request)
    except ApiError as error:
        return web.json_response(error.body, status=error.status, headers=error.headers)
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        message = f"Cannot {request.method} {request.path}"
        return web.json_response({"message": message, "error": "Not Found", "statusCode": 404}, status=404)
    except web.HTTPException as error:
        return web.json_response({"message": error.reason, "statusCode": error.status}, status=error.status)
    except Exception as error:
        log.exception("A request failed by a bug", extra=fields(method=request.method, route=_route(request)))
        return web.json_response(_server_error(request, error), status=500)


def _server_error(request: web.Request, error: Exception) -> dict[str, Any]:
    stack = "".join(traceback.format_exception_only(error)).strip()
    return {
        "statusCode": 500,
        "timestamp": datetime.now(UTC).isoformat(),
        "exception": {"name": type(error).__name__, "message": str(error), "stack": stack},
        "request": {"path": request.path, "method": request.method, "body": None, "query": dict(request.query)},
        "version": environment(),
    }


def _measured(services: Services) -> Any:
    metrics = services.metrics

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        request_id = request.headers.get("X-Request-Id", "")[:64] or uuid.uuid4().hex
        response = await handler(request)
        response.headers["X-Request-Id"] = request_id
        seconds, route = time.monotonic() - started, _route(request)
        metrics.requests.labels(route, response.status).inc()
        metrics.latency.labels(route).observe(seconds)
        log.info(
            "Request",
            extra=fields(
                method=request.method, route=route, status=response.status, ms=round(seconds * 1000), request=request_id
            ),
        )
        return response

    return middleware


def _route(request: web.Request) -> str:
    """The operation's name: paths hold phone numbers, which belong neither into logs nor into metrics."""
    return request.match_info.route.name or "unknown"
