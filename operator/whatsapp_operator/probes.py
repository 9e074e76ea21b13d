"""The operator's HTTP ports: `/livez` and `/readyz` on one, `/metrics` and `/demand` on the other.

Owns what healthy and ready mean. Alive: the loop still turns, whatever it meets. Ready: the last cycle went through,
so the API and Redis both answered. One that stands by is ready while the API answers it.
"""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web
from prometheus_client import generate_latest

from kubeclient import KubernetesError
from whatsapp_operator.config import OperatorConfig
from whatsapp_operator.demand import Demand
from whatsapp_operator.fleet import PoolKey
from whatsapp_operator.leader import Elector
from whatsapp_operator.metrics import OperatorMetrics
from whatsapp_operator.reconciler import Pulse

STUCK_AFTER = 60.0
"""Seconds without a successful cycle after which the operator is not ready."""
DEAD_AFTER = 600.0
"""Seconds without a successful cycle after which a restart is worth trying."""


class ProbeServer:
    """Serves the probes; `start` and `stop` it with the operator."""

    def __init__(
        self, pulse: Pulse, elector: Elector | None, metrics: OperatorMetrics, config: OperatorConfig, demand: Demand
    ) -> None:
        self._pulse = pulse
        self._demand = demand
        self._elector = elector
        self._metrics = metrics
        self._config = config
        self._started = time.monotonic()
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        """Open both ports."""
        probes, metrics = web.Application(), web.Application()
        probes.router.add_get("/livez", self._livez)
        probes.router.add_get("/readyz", self._readyz)
        metrics.router.add_get("/metrics", self._serve_metrics)
        metrics.router.add_get("/demand/{namespace}/{pool}", self._serve_demand)
        for app, port in ((probes, self._config.port), (metrics, self._config.metrics_port)):
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, self._config.host, port).start()
            self._runners.append(runner)

    async def stop(self) -> None:
        """Close both ports."""
        for runner in self._runners:
            await runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return self._answer(limit=DEAD_AFTER)

    async def _readyz(self, _: web.Request) -> web.Response:
        return self._answer(limit=STUCK_AFTER, problem=self._pulse.problem)

    def _answer(self, *, limit: float, problem: str = "") -> web.Response:
        now, elector = time.monotonic(), self._elector
        body: dict[str, Any] = {"leader": elector is None or elector.leads}
        if body["leader"] or elector is None:
            last = self._pulse.cycled
            body |= {"lastCycleSeconds": round(now - last, 1), "problem": self._pulse.problem}
        else:
            last, problem = elector.heard or self._started, ""
            body |= {"lastAnswerSeconds": round(now - last, 1)}
        if self._pulse.seen is not None:
            body["lastWatchEventSeconds"] = round(now - self._pulse.seen, 1)
        return web.json_response(body, status=503 if problem or now - last > limit else 200)

    async def _serve_demand(self, request: web.Request) -> web.Response:
        """For KEDA's metrics-api trigger: `{"demand": 7}`."""
        key = PoolKey(request.match_info["namespace"], request.match_info["pool"])
        try:
            demand = (await self._demand.of(key.namespace)).get(key)
        except KubernetesError as error:
            return web.json_response({"error": error.message}, status=503)
        if demand is None:
            return web.json_response({"error": f"there is no pool {key}"}, status=404)
        return web.json_response({"namespace": key.namespace, "pool": key.name, "demand": demand})

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), content_type="text/plain", charset="utf-8")
