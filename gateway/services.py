"""What the operations work with."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config import GatewayConfig
from gateway.metrics import GatewayMetrics
from gateway.router import Router
from gateway.store import SessionStore
from session_worker.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of one gateway process."""

    config: GatewayConfig
    registry: Registry
    store: SessionStore
    router: Router
    metrics: GatewayMetrics
