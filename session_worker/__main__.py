"""Starts a worker: `python -m session_worker`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from session_worker import logs
from session_worker.chromium import BrowserSettings, find_browser, find_wa_js
from session_worker.config import WorkerConfig
from session_worker.environment import ConfigurationError
from session_worker.http import ControlServer
from session_worker.logs import fields
from session_worker.metrics import WorkerMetrics
from session_worker.profiles import ProfileStore, ProfileUnusableError
from session_worker.registry import Registry
from session_worker.session import Services
from session_worker.supervisor import Supervisor

log = logging.getLogger(__name__)


async def run(config: WorkerConfig) -> None:
    """Run until SIGTERM or SIGINT, then hand the sessions over; a second signal cuts that short."""
    executable, version = await find_browser(config.browser_executable)
    profiles = ProfileStore(config.profile_dir)
    profiles.check()
    services = Services(
        config=config,
        registry=Registry.connect(config.redis_url, config.redis_password),
        profiles=profiles,
        browser=BrowserSettings(
            executable=executable,
            url=config.browser_url,
            sandbox=config.browser_sandbox,
            args=config.browser_args,
            wa_js=find_wa_js(config.wa_js),
            version=version,
            cache_dir=config.cache_dir,
        ),
        metrics=WorkerMetrics(),
    )
    supervisor = Supervisor(services)
    server = ControlServer(services, supervisor)
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    await supervisor.start()
    await server.start()
    log.info("Worker started", extra=fields(worker=config.worker, browser=version, address=config.address))
    await signals.get()
    draining = asyncio.create_task(supervisor.drain(), name="drain")
    hurry = asyncio.create_task(signals.get(), name="second-signal")
    await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurry):
        task.cancel()
    await asyncio.gather(draining, hurry, return_exceptions=True)
    await supervisor.stop()
    await server.stop()
    await services.registry.aclose()
    log.info("Worker ended", extra=fields(worker=config.worker))


def main() -> None:
    """Read the environment and run; what is wrong with it ends the worker with a sentence."""
    try:
        config = WorkerConfig.from_env(os.environ)
        logs.configure("worker", config.log_level)
        asyncio.run(run(config))
    except (ConfigurationError, ProfileUnusableError, FileNotFoundError) as error:
        sys.exit(f"configuration: {error}")


if __name__ == "__main__":
    main()
