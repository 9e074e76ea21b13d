"""An API server with the CRDs, for the tests of the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.kube_product import ProductApi, product_api


@pytest.fixture(scope="session")
async def kube() -> AsyncIterator[ProductApi]:
    """An API server with the CRDs."""
    async with product_api() as api:
        yield api


@pytest.fixture
async def namespace(kube: ProductApi) -> str:
    """A namespace of the test's own."""
    return await kube.namespace()
