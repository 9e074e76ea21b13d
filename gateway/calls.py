"""Calls to sessions' pages on behalf of clients: files fetched, requests with a name done once, addresses of files.

Owns `Idempotency-Key`. A named request is claimed in Redis before it is done, and its answer kept for a day. One whose
outcome nobody knows may be repeated under its name where the message's id is ours to choose: the id is made of the
name, and a page never sends the same id twice. Where WhatsApp chooses the id, the unknown outcome stays the answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.delivery import with_media
from gateway.errors import (
    ApiError,
    BadRequestError,
    BusyError,
    NoSessionError,
    NotFoundError,
    UnknownOutcomeError,
    UnprocessableError,
)
from gateway.records import Named
from gateway.router import CALL_TIMEOUT
from session_worker.contract import Method

if TYPE_CHECKING:
    from gateway.operations import Call
    from gateway.services import Services

KEPT = 24 * 3600.0
"""Seconds for which a named request's answer is kept."""
CLAIMED = CALL_TIMEOUT + 60.0
"""Seconds after which a request that nobody ends, because its gateway died, may be tried again."""
HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
MAX_KEY = 200
NO_CONVERSION = (
    "convert: this server does not convert files; send the file as audio/ogg with opus (voice) or as video/mp4 "
    "(video), with convert: false"
)


async def ask(services: Services, call: Call, method: Method, params: dict[str, Any]) -> Any:
    """Run a call in the page of the request's session.

    Raises:
        ApiError: It was refused, or its outcome is not known.
    """
    params.pop("session", None)
    if params.get("file") is not None:
        _check_conversion(params)
        params["file"] = await services.fetcher.load(params["file"])
    if call.message_id and "id" not in params:
        params["id"] = call.message_id
    answer = await services.router.call(call.session, method, params)
    shown = params.get("downloadMedia") is not False
    return with_media(answer, services.base_url(call.request), call.session, shown=shown)


def _check_conversion(params: dict[str, Any]) -> None:
    kinds = {"voice": "audio/ogg", "video": "video/mp4"}
    wanted = kinds.get(str(params.get("kind")))
    if params.pop("convert", False) and wanted:
        given = str(params["file"].get("mimetype") or "")
        if not given.startswith(wanted):
            raise UnprocessableError(NO_CONVERSION)


# --- Requests with a name


def name_of(request: web.Request) -> str | None:
    """The name that a client has given its request; an empty one is none, for some clients send every header.

    Raises:
        BadRequestError: It is too long, or cannot be printed.
    """
    name = request.headers.get(HEADER)
    if not name:
        return None
    if len(name) > MAX_KEY or not name.isprintable():
        raise BadRequestError(f"{HEADER}: must have 1 to {MAX_KEY} printable characters")
    return hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()


def message_id(session: str, name: str) -> str:
    """The id of the message that a named request sends, in the form of WhatsApp's own."""
    digest = hashlib.sha256(f"{session}\n{name}".encode()).hexdigest()
    return f"3EB0{digest[:18].upper()}"


async def once(
    services: Services, call: Call, name: str, run: Callable[[], Awaitable[Any]], status: int, *, repeatable: bool
) -> web.Response:
    """Do a named request unless it was done before; then give the same answer again.

    Raises:
        ApiError: The name was used for another request (422), is in use (409), or the request failed.
    """
    try:
        item = await services.store.get(call.session)
    except NotFoundError:
        raise NoSessionError(call.session) from None
    key = services.store.key(item)
    fingerprint = _fingerprint(call)
    known = await services.records.claim(key, name, Named(fingerprint), CLAIMED)
    if known is not None:
        return _again(known, fingerprint)
    try:
        body = await run()
    except UnknownOutcomeError as error:
        if repeatable:
            await services.records.release(key, name)
        else:
            await services.records.settle(key, name, Named(fingerprint, error.status, error.body), KEPT)
        raise
    except ApiError:
        await services.records.release(key, name)  # it was refused, so nothing has happened
        raise
    await services.records.settle(key, name, Named(fingerprint, status, body), KEPT)
    return web.json_response(body, status=status)


def _fingerprint(call: Call) -> str:
    text = json.dumps([call.request.method, call.request.path, dict(call.request.query), call.raw], sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _again(known: Named, fingerprint: str) -> web.Response:
    if known.fingerprint != fingerprint:
        raise UnprocessableError(f"{HEADER}: was used for another request; use a new one for each message")
    if known.status is None:
        raise BusyError(f"{HEADER}: this request is being done", status=409, retry_after=2)
    return web.json_response(known.body, status=known.status, headers={REPLAYED: "true"})
