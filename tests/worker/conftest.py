"""A Redis of their own for the tests of the worker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from session_worker.registry import Registry
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
async def redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A server that stays up; tests that stop theirs start one of their own."""
    async with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def registry(redis_server: RedisServer) -> AsyncIterator[Registry]:
    """A connection to it. Tests keep apart by the names of their sessions and workers."""
    connection = Registry.connect(redis_server.url)
    yield connection
    await connection.aclose()
