"""Starts a gateway: `python -m gateway`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from aiohttp import web

from gateway.app import build, build_metrics
from gateway.config import GatewayConfig
from gateway.metrics import GatewayMetrics
from gateway.router import Router
from gateway.services import Services
from gateway.store import SessionStore
from gateway.webhooks import WebhookDispatcher
from kubeclient import KubeClient
from session_worker import logs
from session_worker.environment import ConfigurationError
from session_worker.logs import fields
from session_worker.registry import Registry

log = logging.getLogger(__name__)

SHUTDOWN = 20.0
"""Seconds that requests under way get to end: less than a pod gets, together with `DRAIN_SECONDS`."""


async def run(config: GatewayConfig) -> None:
    """Run until SIGTERM or SIGINT; then accept nothing new, answer what is under way, and end."""
    registry = Registry.connect(config.redis_url, config.redis_password)
    client = await KubeClient.connect()
    store = SessionStore(client, namespace=config.namespace, pool=config.pool, secret=config.hmac_secret)
    router = Router(registry, store, config.worker_token)
    metrics = GatewayMetrics()
    services = Services(config=config, registry=registry, store=store, router=router, metrics=metrics)
    dispatcher = WebhookDispatcher(registry, store, metrics, services.postman)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await store.start()
    await router.start()
    await dispatcher.start()
    runners = []
    for app, port in ((build(services), config.port), (build_metrics(services), config.metrics_port)):
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN)
        await runner.setup()
        await web.TCPSite(runner, config.host, port).start()
        runners.append(runner)
    log.info("Gateway started", extra=fields(port=config.port, namespace=config.namespace))
    await ended.wait()
    # Not ready any more: whoever balances the load learns it before the port closes.
    services.leaving = True
    log.info("Gateway ends", extra=fields(drain=config.drain))
    await asyncio.sleep(config.drain)
    for runner in runners:
        await runner.cleanup()
    await dispatcher.stop()
    await router.stop()
    await store.stop()
    await registry.aclose()
    log.info("Gateway ended")


def main() -> None:
    """Read the environment and run; what is wrong with it ends the gateway with a sentence."""
    try:
        config = GatewayConfig.from_env(os.environ)
    except ConfigurationError as error:
        sys.exit(f"configuration: {error}")
    logs.configure("gateway", config.log_level)
    asyncio.run(run(config))


if __name__ == "__main__":
    main()
