"""What the operations work with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from aiohttp import web

from gateway.config import GatewayConfig
from gateway.keys import KeyRing
from gateway.metrics import GatewayMetrics
from gateway.records import Records
from gateway.router import Router
from gateway.store import SessionStore
from gateway.targets import Fetcher, Rules
from gateway.webhooks import Postman
from session_worker.registry import Registry


@dataclass(slots=True, kw_only=True)
class Services:
    """The parts of one gateway process."""

    config: GatewayConfig
    registry: Registry
    store: SessionStore
    router: Router
    metrics: GatewayMetrics
    records: Records = field(init=False)
    keys: KeyRing = field(init=False)
    fetcher: Fetcher = field(init=False)
    postman: Postman = field(init=False)
    started: float = field(init=False, default_factory=time.time)
    """Unix time in seconds."""
    leaving: bool = field(init=False, default=False)
    """The process is about to end: it is not ready for anything new."""

    def __post_init__(self) -> None:
        config = self.config
        self.records = Records.beside(self.registry)
        self.keys = KeyRing(self.store, config.api_key)
        self.fetcher = Fetcher(
            Rules(private=config.media_private), max_bytes=config.media_max_bytes, timeout=config.media_timeout
        )
        self.postman = Postman(
            self.store, self.metrics, rules=Rules(private=config.webhook_private), base_url=config.base_url
        )

    async def aclose(self) -> None:
        """Close what was opened here."""
        await self.fetcher.aclose()
        await self.postman.aclose()

    def base_url(self, request: web.Request) -> str:
        """Where the client of a request reaches this gateway."""
        return self.config.base_url or f"{request.scheme}://{request.host}"
