"""What the gateways remember together, in Redis: named requests, clients' rates, dead letters, readers of events.

Owns these commands, which only gateways use, on the registry's connection. Must not decide anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from session_worker.contract import InboundEvent, SessionKey, dead_key, idempotency_key, inbound_key, rate_key
from session_worker.registry import (
    Registry,
    _converted,  # the one place that knows Redis' errors; a copy would drift away from it
)

_ALLOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
if redis.call('ZCARD', KEYS[1]) >= limit then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  return math.max(1, oldest[2] + window - now)
end
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('PEXPIRE', KEYS[1], window)
return 0
"""
"""Counts a request in a window that moves with time; answers 0, or the milliseconds until there is room again."""


@dataclass(frozen=True, slots=True)
class Named:
    """A request that a client has given a name."""

    fingerprint: str
    status: int | None = None
    """None while it is being done."""
    body: Any = None

    def to_json(self) -> str:
        """The JSON text."""
        return json.dumps({"fingerprint": self.fingerprint, "status": self.status, "body": self.body})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the JSON text."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter."""

    id: str
    receiver: str
    """Name of the receiver, see `delivery.Receiver`."""
    reason: str
    event: InboundEvent

    @property
    def timestamp(self) -> int:
        """When it was given up, Unix time in milliseconds."""
        return int(self.id.partition("-")[0])


class Records(Registry):
    """The registry with what gateways add to it. Make it with `beside`; it closes nothing."""

    @classmethod
    def beside(cls, registry: Registry) -> Self:
        """On the connection of a registry, which stays its owner."""
        return cls(registry._client)  # noqa: SLF001  # its own class, one level up

    # --- Named requests

    async def claim(self, session: SessionKey, key: str, request: Named, life: float) -> Named | None:
        """Take a name for a request for `life` seconds; the request that has it already, if there is one."""
        name = idempotency_key(session, key)
        with _converted():
            if await self._client.set(name, request.to_json(), px=int(life * 1000), nx=True):
                return None
            found = await self._client.get(name)
        # It may have run out between the two commands: then it is as if it had been there a moment longer.
        return Named.from_json(str(found)) if found else Named(request.fingerprint)

    async def settle(self, session: SessionKey, key: str, request: Named, life: float) -> None:
        """Keep what became of a named request for `life` seconds."""
        with _converted():
            await self._client.set(idempotency_key(session, key), request.to_json(), px=int(life * 1000))

    async def release(self, session: SessionKey, key: str) -> None:
        """Give a name free: nothing has happened under it that another try could repeat."""
        with _converted():
            await self._client.delete(idempotency_key(session, key))

    # --- Rates

    async def count_request(self, client: str, request: str, *, window: float, limit: int) -> float:
        """Count a request of a client; 0, or the seconds until it may come again."""
        with _converted():
            script = self._client.register_script(_ALLOW)
            wait: Any = await script(keys=[rate_key(client)], args=[int(window * 1000), limit, request])
        return float(wait) / 1000

    # --- Dead letters

    async def letters(self, session: SessionKey, count: int) -> list[Letter]:
        """Dead letters of a session, the oldest first."""
        with _converted():
            found: Any = await self._client.xrange(dead_key(session), count=count)
            return [_letter(entry, values) for entry, values in found]

    async def letter(self, session: SessionKey, entry: str) -> Letter | None:
        """One dead letter."""
        with _converted():
            found: Any = await self._client.xrange(dead_key(session), min=entry, max=entry)
            return next((_letter(name, values) for name, values in found), None)

    async def remove_letter(self, session: SessionKey, entry: str) -> None:
        """Take a dead letter away."""
        with _converted():
            await self._client.xdel(dead_key(session), entry)

    # --- Readers of events

    async def ends(self, sessions: list[SessionKey]) -> dict[SessionKey, str]:
        """Where each session's events end now."""
        with _converted():
            pipeline = self._client.pipeline(transaction=False)
            for session in sessions:
                pipeline.xrevrange(inbound_key(session), count=1)
            answers: list[Any] = await pipeline.execute() if sessions else []
        return {
            session: str(answer[0][0]) if answer else "0-0" for session, answer in zip(sessions, answers, strict=True)
        }

    async def since(
        self, positions: Mapping[SessionKey, str], count: int
    ) -> dict[SessionKey, list[tuple[str, InboundEvent]]]:
        """Events of many sessions after a position in each, oldest first; sessions without any are left out."""
        with _converted():
            pipeline = self._client.pipeline(transaction=False)
            for session, position in positions.items():
                pipeline.xrange(inbound_key(session), min=f"({position}", count=count)
            answers: list[Any] = await pipeline.execute() if positions else []
            return {
                session: [(str(entry), InboundEvent.model_validate_json(values["event"])) for entry, values in answer]
                for session, answer in zip(positions, answers, strict=True)
                if answer
            }


def _letter(entry: Any, values: dict[str, str]) -> Letter:
    event = InboundEvent.model_validate_json(values["event"])
    return Letter(str(entry), values["receiver"], values["reason"], event)
