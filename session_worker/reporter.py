"""What one session tells the registry, in order.

Owns the queue between a session and Redis: states, codes and events are written one after the other, and tried again
until Redis takes them, so that a short outage neither loses nor reorders anything. Must not decide what is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from session_worker.contract import InboundEvent, PairingOffer, RuntimeState, SessionKey
from session_worker.logs import fields
from session_worker.registry import Registry, RegistryUnavailableError

log = logging.getLogger(__name__)

MAX_WAITING = 20_000
"""Entries kept while Redis is away; a session that is not stopped by then loses its oldest events."""
_RETRY = 1.0


@dataclass(frozen=True, slots=True)
class Message:
    """A message to tell once, whoever owned the session when it came."""

    id: str
    at: float
    """Its own Unix time."""
    since: float
    """Unix time up to which everything is told with it."""
    events: tuple[InboundEvent, ...]


@dataclass(frozen=True, slots=True)
class Since:
    """Everything up to this Unix time is told, or is history."""

    since: float


@dataclass(frozen=True, slots=True)
class Sent:
    """A message is about to be sent over the API."""

    id: str
    at: float


Entry = RuntimeState | PairingOffer | InboundEvent | Message | Since | Sent | None
"""None takes the code on show away."""


class Reporter:
    """Writes for one owner of one session. `on_refused` is called once when a newer owner is found."""

    def __init__(
        self, session: SessionKey, *, epoch: int, worker: str, registry: Registry, on_refused: Callable[[], None]
    ) -> None:
        self._session = session
        self._epoch = epoch
        self._worker = worker
        self._registry = registry
        self._on_refused = on_refused
        self._entries: deque[Entry] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._task: asyncio.Task[None] | None = None
        self.refused = False
        self.told_since: float | None = None
        """Unix time up to which Redis has taken all messages."""

    @property
    def backlog(self) -> int:
        """Entries that Redis has not taken yet."""
        return len(self._entries)

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name=f"reporter-{self._session}")

    async def settled(self, limit: float) -> bool:
        """Whether Redis has answered to all that was put, for which it gets `limit` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._emptied.wait()
        return self._emptied.is_set()

    async def stop(self, limit: float) -> None:
        """Write what waits, for at most `limit` seconds, and end."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(limit):
                await self._emptied.wait()
        except TimeoutError:
            log.warning("Redis did not take a session's last words", extra=fields(session=self._session))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    def put(self, entry: Entry) -> None:
        """Write `entry` after all that was put before it."""
        if self.refused:
            return
        if len(self._entries) >= MAX_WAITING:
            self._entries.popleft()
            log.error("An event was dropped: Redis is away for too long", extra=fields(session=self._session))
        self._entries.append(entry)
        self._emptied.clear()
        self._filled.set()

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            while self._entries:
                try:
                    accepted = await self._write(self._entries[0])
                except RegistryUnavailableError as error:
                    log.warning("Redis is away", extra=fields(session=self._session, error=error))
                    await asyncio.sleep(_RETRY)
                    continue
                if not accepted:
                    self.refused = True
                    self._entries.clear()
                    self._on_refused()
                    break
                entry = self._entries.popleft()
                if isinstance(entry, Message | Since):
                    self.told_since = max(self.told_since or 0.0, entry.since)
            self._filled.clear()
            self._emptied.set()

    async def _write(self, entry: Entry) -> bool:
        session, epoch, worker = self._session, self._epoch, self._worker
        match entry:
            case RuntimeState():
                return await self._registry.write_state(session, entry)
            case InboundEvent():
                return await self._registry.append_inbound(session, epoch=epoch, worker=worker, event=entry)
            case Message(message_id, at, since, events):
                return await self._registry.append_message(
                    session, events, epoch=epoch, worker=worker, message_id=message_id, at=at, since=since
                )
            case Since(since):
                return await self._registry.note_since(session, epoch=epoch, worker=worker, since=since)
            case Sent(message_id, at):
                return await self._registry.note_sent(session, epoch=epoch, worker=worker, message_id=message_id, at=at)
            case _:
                life = max(0.0, entry.expires - time.time()) if entry else 0.0
                return await self._registry.write_offer(session, epoch=epoch, worker=worker, offer=entry, life=life)
