"""Redis and Kubernetes for the tests of the gateway, and a gateway in a namespace of each test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.gateway_world import Gateway
from tests.support.kube_product import ProductApi, product_api
from tests.support.people import Receiver
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
async def redis_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A server that stays up."""
    async with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
async def kube() -> AsyncIterator[ProductApi]:
    """An API server with the CRDs."""
    async with product_api() as api:
        yield api


@pytest.fixture
async def namespace(kube: ProductApi) -> str:
    """A namespace of the test's own."""
    return await kube.namespace()


@pytest.fixture
async def gateway(kube: ProductApi, redis_server: RedisServer, namespace: str) -> AsyncIterator[Gateway]:
    """A gateway of the test's namespace."""
    async with Gateway(kube, redis_server.url, namespace) as running:
        yield running


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Somebody's webhook server."""
    async with Receiver() as server:
        yield server
