"""The websocket `/ws`: the events of sessions as they happen, in the envelopes of webhooks.

Owns one reader of the events' streams for all websockets of a process, which runs while there is a websocket. A
websocket gets what happens while it is there; webhooks are for those who must not miss anything.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import WSCloseCode, web

from gateway import translation
from gateway.delivery import envelope
from gateway.keys import Access
from session_worker.contract import InboundEvent, SessionKey
from session_worker.logs import fields
from session_worker.registry import RegistryUnavailableError

if TYPE_CHECKING:
    from gateway.services import Services

log = logging.getLogger(__name__)

HEARTBEAT = 10.0
"""Seconds between two pings."""
POLL = 0.25
"""Seconds between two looks for events."""
BATCH = 200
QUEUE = 1_000
"""Frames that wait for a slow client before it is let go."""
HIDDEN_FROM_ALL = {"engine.event"}
"""Events that `*` does not mean here, as in WAHA."""
FAILURE_DELAY = 2.0


@dataclass(eq=False, slots=True)
class Listener:
    """One websocket."""

    session: str
    """A session's name, or `*`."""
    events: frozenset[str]
    access: Access
    frames: asyncio.Queue[str | None] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    """None ends it."""

    def wants(self, session: str, event: str) -> bool:
        """Whether an event is for it."""
        if self.session not in {"*", session} or not self.access.sees(session):
            return False
        return event in self.events or ("*" in self.events and event not in HIDDEN_FROM_ALL)


class EventHub:
    """Reads events for all websockets."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._listeners: dict[Listener, web.WebSocketResponse] = {}
        self._positions: dict[SessionKey, str] = {}
        self._task: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """End all websockets."""
        for socket in list(self._listeners.values()):
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server ends")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def serve(self, request: web.Request, access: Access) -> web.StreamResponse:
        """Serve one websocket until its end."""
        events = [name for text in request.query.getall("events", ["*"]) for name in text.split(",") if name]
        listener = Listener(request.query.get("session", "*"), frozenset(events), access)
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT)
        await self._begin()  # what happens from here on is told, also while the handshake is under way
        self._listeners[listener] = socket
        writer: asyncio.Task[None] | None = None
        try:
            await socket.prepare(request)
            writer = asyncio.create_task(_write(socket, listener.frames), name="websocket")
            async for _ in socket:
                pass  # clients have nothing to say
        finally:
            del self._listeners[listener]
            if writer is not None:
                writer.cancel()
                await asyncio.gather(writer, return_exceptions=True)
        return socket

    async def _begin(self) -> None:
        if self._task is not None and not self._task.done():
            return
        await self._services.store.listed()
        self._positions = {}
        self._positions = await self._services.records.ends(self._keys())
        self._task = asyncio.create_task(self._read(), name="events")

    def _keys(self) -> list[SessionKey]:
        return [self._services.store.key(item) for item in self._services.store.all()]

    async def _read(self) -> None:
        idle = 0.0
        while self._listeners or idle < HEARTBEAT:
            idle = 0.0 if self._listeners else idle + POLL
            try:
                await self._look()
                await asyncio.sleep(POLL)
            except RegistryUnavailableError as error:
                log.warning("Websockets wait for Redis", extra=fields(error=error))
                await asyncio.sleep(FAILURE_DELAY)

    async def _look(self) -> None:
        # A session that was not there at the last look begins with its first event.
        self._positions = {key: self._positions.get(key, "0-0") for key in self._keys()}
        for key, entries in (await self._services.records.since(self._positions, BATCH)).items():
            for _, event in entries:
                self._tell(key, event)
            self._positions[key] = entries[-1][0]

    def _tell(self, key: SessionKey, event: InboundEvent) -> None:
        item = self._services.store.by_key(key)
        if item is None:
            return
        session = translation.session_name(item)
        text = ""
        for listener in [one for one in self._listeners if one.wants(session, event.event)]:
            if not text:
                metadata = item["spec"].get("metadata") or {}
                text = json.dumps(envelope(event, session, metadata, self._services.config.base_url))
            try:
                listener.frames.put_nowait(text)
            except asyncio.QueueFull:
                _let_go(listener)


def _let_go(listener: Listener) -> None:
    """A client that does not read gets an end rather than a gap that it cannot see."""
    while not listener.frames.empty():
        listener.frames.get_nowait()
    listener.frames.put_nowait(None)


async def _write(socket: web.WebSocketResponse, frames: asyncio.Queue[str | None]) -> None:
    try:
        while (text := await frames.get()) is not None:
            await socket.send_str(text)
        await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=b"read faster: events were lost")
    except ConnectionError:
        return  # the reader of the websocket sees it too
