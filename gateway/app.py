"""The HTTP server: keys, limits, errors, request ids, metrics, and the routes of `gateway.api`.

Owns everything that happens to every request. Must not know what an operation does.
"""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest

from gateway import limits
from gateway.api import ALL
from gateway.api.observability import health_response, problems
from gateway.delivery import environment
from gateway.errors import ApiError, BusyError, UnauthorizedError
from gateway.events import EventHub
from gateway.keys import Scope
from gateway.openapi import document
from gateway.operations import ACCESS, bind
from gateway.services import Services
from session_worker.logs import fields
from session_worker.registry import RegistryUnavailableError

log = logging.getLogger(__name__)

MAX_BODY = 100 * 2**20
"""Bytes of a request: media come in base64."""
DOCS = {"/": "index.html", "/-docs.js": "docs.js", "/-docs.css": "docs.css"}
"""The page that shows the API, and the files of `gateway/page` that it is made of."""
OPEN_PATHS = {"/ping", "/livez", "/readyz", "/-json", *DOCS}
"""Paths that need no key: WAHA's ping, Kubernetes' probes, and the description of the API."""
COMPRESSED = 2048
"""Bytes above which JSON is compressed for those who take it so."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
}
"""What answers say unless they say otherwise themselves."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build(services: Services) -> web.Application:
    """The application with all routes."""
    app = web.Application(
        client_max_size=MAX_BODY, middlewares=[_measured(services), _answered, _authenticated(services)]
    )
    # A path that is spelt out goes before one with a session's name in its place.
    for operation in sorted(ALL, key=lambda one: one.path.count("{")):
        # Without a name of its own a route cannot be told apart in the metrics.
        name = operation.operation_id.replace(".", "_")
        app.router.add_route(operation.method, operation.path, bind(operation, services), name=name)
    app.router.add_get("/livez", _alive, name="livez")
    app.router.add_get("/readyz", _ready(services), name="readyz")
    if services.config.api_docs:
        _add_docs(app, services)
    hub = EventHub(services)

    async def websocket(request: web.Request) -> web.StreamResponse:
        access = request[ACCESS]
        access.check(Scope.READ, None if (name := request.query.get("session", "*")) == "*" else name)
        return await hub.serve(request, access)

    async def end_websockets(_: web.Application) -> None:
        await hub.stop()

    async def own(_: web.Application) -> AsyncIterator[None]:
        yield
        await services.aclose()

    app.router.add_get("/ws", websocket, name="websocket")
    app.on_shutdown.append(end_websockets)
    app.cleanup_ctx.append(own)
    return app


def _add_docs(app: web.Application, services: Services) -> None:
    folder = Path(__file__).with_name("page")

    async def describe(request: web.Request) -> web.Response:
        return web.json_response(
            document(ALL, services.base_url(request)), headers={"Access-Control-Allow-Origin": "*"}
        )

    async def show(request: web.Request) -> web.FileResponse:
        return web.FileResponse(folder / DOCS[request.path])

    app.router.add_get("/-json", describe, name="openapi")
    for path, name in DOCS.items():
        app.router.add_get(path, show, name=name.replace(".", "-"))


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
        return health_response(await problems(services), leaving=services.leaving)

    return handle


def _authenticated(services: Services) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in OPEN_PATHS:
            given = request.headers.get("X-Api-Key") or request.query.get("x-api-key") or ""
            access = await services.keys.access(given)
            await limits.count(request, services.config, services.records, access.key_id if access else None)
            if access is None:
                raise UnauthorizedError
            request[ACCESS] = access
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
    except RegistryUnavailableError as error:
        busy = BusyError(str(error))
        return web.json_response(busy.body, status=busy.status, headers=busy.headers)
    except web.HTTPException as error:
        body = {"message": error.reason, "error": error.reason, "statusCode": error.status}
        return web.json_response(body, status=error.status)
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
        request_id = _request_id(request)
        response = await handler(request)
        if not response.prepared:  # a websocket has said its headers long ago
            _finish(response, request_id)
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


def _request_id(request: web.Request) -> str:
    """The client's own, where it is one that can be said again."""
    given = request.headers.get("X-Request-Id", "")[:64]
    return given if given.isascii() and given.isprintable() and given else uuid.uuid4().hex


def _finish(response: web.StreamResponse, request_id: str) -> None:
    response.headers["X-Request-Id"] = request_id
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    body = getattr(response, "body", None)
    if isinstance(body, bytes) and len(body) > COMPRESSED and response.content_type == "application/json":
        response.enable_compression()
        response.headers["Vary"] = "Accept-Encoding"


def _route(request: web.Request) -> str:
    """The operation's name: paths hold phone numbers, which belong neither into logs nor into metrics."""
    return request.match_info.route.name or "unknown"
