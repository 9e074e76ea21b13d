"""The operator's HTTP ports: `/healthz` and `/readyz` on one, `/metrics` on the other.

Owns what healthy and ready mean. Alive: the loop still turns, whatever it meets. Ready: the last cycle went through,
so the API and Redis both answered.
"""

from __future__ import annotations

import time

from aiohttp import web
from prometheus_client import generate_latest

from whatsapp_operator.config import OperatorConfig
from whatsapp_operator.metrics import OperatorMetrics
from whatsapp_operator.reconciler import Pulse

STUCK_AFTER = 60.0
"""Seconds without a successful cycle after which the operator is not ready."""
DEAD_AFTER = 600.0
"""Seconds without a successful cycle after which a restart is worth trying."""


class ProbeServer:
    """Serves the probes; `start` and `stop` it with the operator."""

    def __init__(self, pulse: Pulse, metrics: OperatorMetrics, config: OperatorConfig) -> None:
        self._pulse = pulse
        self._metrics = metrics
        self._config = config
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Open both ports."""
        probes, metrics = web.Application(), web.Application()
        probes.router.add_get("/healthz", self._healthz)
        probes.router.add_get("/readyz", self._readyz)
        metrics.router.add_get("/metrics", self._serve_metrics)
        for app, port in ((probes, self._config.port), (metrics, self._config.metrics_port)):
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, self._config.host, port).start()
            self._runners.append(runner)

    async def stop(self) -> None:
        """Close both ports."""
        for runner in self._runners:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        return self._answer(dead=time.monotonic() - self._pulse.cycled > DEAD_AFTER)

    async def _readyz(self, _: web.Request) -> web.Response:
        return self._answer(dead=bool(self._pulse.problem) or time.monotonic() - self._pulse.cycled > STUCK_AFTER)

    def _answer(self, *, dead: bool) -> web.Response:
        age = time.monotonic() - self._pulse.cycled
        body = {"lastCycleSeconds": round(age, 1), "problem": self._pulse.problem}
        return web.json_response(body, status=503 if dead else 200)

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), content_type="text/plain", charset="utf-8")
