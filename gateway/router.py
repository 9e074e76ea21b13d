"""From a session to the worker that owns it.

Owns the requests to workers. A session's owner is looked up in Redis for every call, and named by its epoch, so a
worker that has lost the session refuses instead of acting; the call is then tried on the new owner. Must never try a
call again whose outcome is unknown.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any

import aiohttp

from gateway import translation
from gateway.errors import (
    BadRequestError,
    BusyError,
    NoSessionError,
    NotFoundError,
    NotImplementedByEngineError,
    StatusError,
    UnknownOutcomeError,
    UnprocessableError,
)
from gateway.store import SessionStore
from kubeclient import Object
from session_worker.contract import (
    WAHA_STATUS,
    CallError,
    CallRequest,
    Command,
    Method,
    PairingOffer,
    Phase,
    Refusal,
    RuntimeState,
    SessionKey,
    WahaStatus,
    call_path,
    command_path,
)
from session_worker.registry import Registry, RegistryUnavailableError

CALL_TIMEOUT = 120.0
"""Seconds for a whole call: pacing may hold a message for 30, the page may take 60 for one with a file."""
CONNECT_TIMEOUT = 3.0
MOVE_WAIT = 8.0
"""Seconds to wait for a session that is moving to another worker before the client is told to come back."""
_MOVE_POLL = 0.25


class Router:
    """Calls sessions wherever they are. `start` and `stop` it with the server."""

    def __init__(self, registry: Registry, store: SessionStore, token: str | None) -> None:
        self._registry = registry
        self._store = store
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool."""
        timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT, sock_connect=CONNECT_TIMEOUT)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        self._http = aiohttp.ClientSession(timeout=timeout, connector=connector, headers=self._headers)

    async def stop(self) -> None:
        """Close the connection pool."""
        if self._http is not None:
            await self._http.close()

    # --- Looking up

    async def state(self, item: Object) -> RuntimeState | None:
        """What the owner of a session says of it, if it has one."""
        key = self._store.key(item)
        return (await self.states([item])).get(key)

    async def states(self, items: list[Object]) -> dict[SessionKey, RuntimeState]:
        """The same for many sessions at once."""
        try:
            return await self._registry.states([self._store.key(item) for item in items])
        except RegistryUnavailableError as error:
            raise BusyError(str(error)) from error

    async def offer(self, item: Object, wait: float) -> PairingOffer | None:
        """The pairing code on show; between two codes, wait a little for the next."""
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            try:
                found = await self._registry.offer(self._store.key(item))
            except RegistryUnavailableError as error:
                raise BusyError(str(error)) from error
            if found is not None or asyncio.get_running_loop().time() >= deadline:
                return found
            await asyncio.sleep(_MOVE_POLL)

    # --- Calling

    async def call(self, session: str, method: Method, params: dict[str, Any]) -> Any:
        """Run a call in a session's page.

        Raises:
            ApiError: It was refused, or its outcome is not known.
        """
        try:
            item = await self._store.get(session)
        except NotFoundError:
            raise NoSessionError(session) from None
        if not translation.is_wanted(item):
            raise NoSessionError(session)
        path = call_path(self._store.key(item), method)
        return await self._ask_owner(session, path, params, [WahaStatus.WORKING])

    async def command(self, session: str, command: Command, params: dict[str, Any] | None = None) -> Any:
        """Ask a session's supervisor.

        Raises:
            ApiError: It was refused.
        """
        item = await self._store.get(session)
        path = command_path(self._store.key(item), command)
        return await self._ask_owner(session, path, params or {}, [WahaStatus.SCAN_QR_CODE])

    async def _ask_owner(self, session: str, path: str, params: dict[str, Any], expected: list[WahaStatus]) -> Any:
        deadline = asyncio.get_running_loop().time() + MOVE_WAIT
        while True:
            item = await self._store.get(session)
            state = await self.state(item)
            phase = translation.phase_of(item, state)
            if phase in {Phase.STOPPED, Phase.PENDING}:
                raise StatusError(session, WAHA_STATUS[phase], expected)
            if state is not None and phase not in {Phase.ASSIGNED, Phase.DRAINING}:
                try:
                    return await self._ask(session, state, path, params, expected)
                except _MovedError:
                    pass  # the next look at Redis finds the new owner
            if asyncio.get_running_loop().time() >= deadline:
                raise BusyError(f"Session '{session}' is moving to another worker", retry_after=2)
            await asyncio.sleep(_MOVE_POLL)

    async def _ask(
        self, session: str, state: RuntimeState, path: str, params: dict[str, Any], expected: list[WahaStatus]
    ) -> Any:
        assert self._http is not None
        # A stream, because aiohttp would write a large text in one go and hold up everybody else.
        body = io.BytesIO(CallRequest(epoch=state.epoch, params=params).to_json().encode())
        headers = {"Content-Type": "application/json"}
        try:
            async with self._http.post(f"http://{state.address}{path}", data=body, headers=headers) as response:
                if response.status == 200:
                    return (await response.json())["result"]
                error = CallError.model_validate_json(await response.read())
        except aiohttp.ClientConnectorError as failure:
            # Nothing was sent: the worker is gone, and the session will be somewhere else.
            raise _MovedError from failure
        except (aiohttp.ClientError, TimeoutError, ValueError) as failure:
            raise UnknownOutcomeError(f"The worker did not answer: {type(failure).__name__}") from failure
        raise _refused(session, error, expected)


class _MovedError(Exception):
    """The worker does not have the session (any more), and did nothing."""


def _refused(session: str, error: CallError, expected: list[WahaStatus]) -> Exception:
    match error.refusal:
        case Refusal.NOT_HERE:
            return _MovedError()
        case Refusal.WRONG_PHASE:
            return StatusError(session, WAHA_STATUS[error.phase or Phase.STARTING], expected)
        case Refusal.BAD_REQUEST:
            return BadRequestError(error.message)
        case Refusal.TOO_FAST:
            return BusyError(error.message, status=429, retry_after=error.retry_after or 1)
        case Refusal.PAGE:
            return UnprocessableError(error.message)
        case Refusal.NOT_FOUND:
            return NotFoundError(error.message)
        case Refusal.NOT_IMPLEMENTED:
            return NotImplementedByEngineError()
        case Refusal.UNKNOWN:
            return UnknownOutcomeError(error.message)
