"""A Kubernetes API with the product's custom resources, for tests of the parts that live on one."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config_from_dict

from kubeclient import KubeClient, KubernetesError, Object, path_of
from sandbox.kube import KubeStandIn
from session_worker.contract import GROUP, POOL_PLURAL, SESSION_PLURAL, VERSION
from tests.support.people import eventually

CRDS = Path(__file__).parents[2] / "crds"
API_VERSION = f"{GROUP}/{VERSION}"
_names = itertools.count(1)


class ProductApi:
    """An administrator of an API server that has the CRDs."""

    def __init__(self, standin: KubeStandIn, client: KubeClient) -> None:
        self._standin = standin
        self.client = client

    async def connect(self) -> KubeClient:
        """One more connection; whoever gets it closes it."""
        return await _connect(self._standin)

    async def namespace(self) -> str:
        """A namespace that nobody has used."""
        name = f"test-{next(_names)}"
        await self.client.create("/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def path(self, namespace: str, name: str | None = None, *, pool: bool = False, status: bool = False) -> str:
        """The path of sessions, or of pools."""
        plural = POOL_PLURAL if pool else SESSION_PLURAL
        return path_of(API_VERSION, plural, namespace=namespace, name=name, subresource="status" if status else None)

    def body(self, name: str, *, pool: bool = False, **spec: Any) -> Object:
        """A session, or a pool."""
        kind = "WhatsAppWorkerPool" if pool else "WhatsAppSession"
        return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}

    async def create(self, namespace: str, name: str, *, pool: bool = False, **spec: Any) -> Object:
        """Apply a manifest for the first time."""
        return await self.client.create(self.path(namespace, pool=pool), self.body(name, pool=pool, **spec))

    async def get(self, namespace: str, name: str) -> Object:
        """A session as it is."""
        return await self.client.get(self.path(namespace, name))

    async def patch(self, namespace: str, name: str, patch: Any) -> Object:
        """Change a session as a person would with kubectl."""
        return await self.client.patch(self.path(namespace, name), patch)

    async def give(self, namespace: str, name: str, worker: str, epoch: int = 1) -> Object:
        """Put a session on record for a worker, as the operator does."""
        assignment = {"worker": worker, "epoch": epoch, "since": "2026-01-01T00:00:00Z"}
        status = {"status": {"assignment": assignment, "phase": "Assigned"}}
        return await self.client.patch(self.path(namespace, name, status=True), status)


@asynccontextmanager
async def product_api() -> AsyncIterator[ProductApi]:
    """An API server with the CRDs of the repository."""
    async with KubeStandIn(tls=False) as standin:
        client = await _connect(standin)
        try:
            api = ProductApi(standin, client)
            for file in sorted(CRDS.glob("*.yaml")):
                path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
                await client.create(path, yaml.safe_load(file.read_text()))
            await eventually("the CRDs are served", lambda: _served(api))
            yield api
        finally:
            await client.aclose()


async def _served(api: ProductApi) -> bool:
    try:
        for pool in (False, True):
            await api.client.list(api.path("default", pool=pool))
    except KubernetesError:
        return False
    return True


async def _connect(standin: KubeStandIn) -> KubeClient:
    configuration = Configuration()
    await load_kube_config_from_dict(standin.kubeconfig(), client_configuration=configuration)
    return KubeClient(ApiClient(configuration))
