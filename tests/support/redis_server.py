"""A real Redis for tests: on a free port, without persistence, ended with the test that needs it.

Owns the process. `stop` and `start` again keep the port, so that clients can see an outage and its end.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path
from typing import Self

import pytest

_STARTS = 5
"""Tries to find a port that nobody else takes in the moment before Redis does."""
_PATIENCE = 20.0
_ORDINARY = ("--save", "", "--appendonly", "no")


class RedisServer:
    """One server. Use it as an async context manager, or call `start` and `stop`."""

    def __init__(self, directory: Path, *options: str, sentinel: Path | None = None) -> None:
        """Prepare a server; with the configuration file `sentinel` it is a Sentinel instead."""
        self._options = [str(sentinel), "--sentinel"] if sentinel else [*_ORDINARY, "--dir", str(directory), *options]
        self._ready = b"+monitor" if sentinel else b"Ready to accept connections"
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """`REDIS_URL` of this server."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it, on the port that it had if it had one; returns when it accepts connections."""
        for _ in range(_STARTS):
            if await self._started(self.port or _free_port()):
                return
        raise AssertionError("redis-server did not start")

    async def _started(self, port: int) -> bool:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("there is no redis-server here")
        self._process = await asyncio.create_subprocess_exec(
            binary, *self._options, "--port", str(port), "--bind", "127.0.0.1", stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            while line := await self._process.stdout.readline():
                if self._ready in line:
                    self._drain = asyncio.create_task(self._process.stdout.read())
                    self.port = port
                    return True
            await self._process.wait()
        return False

    async def stop(self) -> None:
        """End it; what it held is lost."""
        if self._process is None or self._drain is None:
            return
        process, self._process = self._process, None
        process.kill()
        async with asyncio.timeout(_PATIENCE):
            await process.wait()
            await self._drain

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
