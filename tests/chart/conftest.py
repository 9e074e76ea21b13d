"""API servers for tests of the chart, with the kinds of other projects that it can use, and Helm."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import yaml

from sandbox.assets import ControlPlane, assets_from_environment
from sandbox.kube import KubeStandIn
from tests.chart.charts import CHART, DEFINITIONS_ELSEWHERE, NO_ASSETS, ROOT, Helm, definition, without_version
from tests.support.kube_cluster import Api, Cluster, connected

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
async def helm() -> AsyncIterator[Helm]:
    """Helm."""
    async with Helm() as running:
        yield running


@pytest.fixture(scope="session", params=["standin", pytest.param("real", marks=pytest.mark.real)])
async def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Each of the API servers in turn."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "standin":
        async with KubeStandIn() as kube:
            kube.write_kubeconfig(directory / "kubeconfig")
            async with connected("standin", directory / "kubeconfig", directory) as found:
                yield found
        return
    assets = assets_from_environment()
    if assets is None:
        pytest.skip(NO_ASSETS)
    async with (
        ControlPlane(assets, directory / "control-plane") as plane,
        connected("real", plane.kubeconfig, directory) as found,
    ):
        yield found


@pytest.fixture(scope="session")
async def chart(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The chart; where a server was built without a version, a copy that asks for none."""
    if (await Api(cluster, "default").get("/version")).ok()["gitVersion"].startswith("v0.0.0"):
        return str(without_version(tmp_path_factory.mktemp("chart")))
    return str(CHART)


@pytest.fixture(scope="session")
async def elsewhere(cluster: Cluster) -> Cluster:
    """An API server that knows the kinds of other projects."""
    api = Api(cluster, "default")
    for (group, version, kind), plural in DEFINITIONS_ELSEWHERE.items():
        await _define(api, definition(group, version, kind, plural))
        await api.until(f"/apis/{group}/{version}/{plural}", lambda answer: answer.status == 200)
    return cluster


@pytest.fixture
async def defined(elsewhere: Cluster) -> Cluster:
    """An API server that knows our kinds, too, without a release of the chart."""
    api = Api(elsewhere, "default")
    for path in sorted((ROOT / "crds").glob("*.yaml")):
        await _define(api, yaml.safe_load(path.read_text()))
    return elsewhere


async def _define(api: Api, body: dict[str, object]) -> None:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{metadata['name']}"
    (await api.apply(path, body, "tests", force="true")).ok()
    await api.until(
        path,
        lambda answer: any(
            item["type"] == "Established" and item["status"] == "True"
            for item in (answer.body.get("status") or {}).get("conditions") or []
        ),
    )


@pytest.fixture
def namespace_of() -> Callable[[Cluster], Awaitable[Api]]:
    """Makes namespaces that enforce the Pod Security Standard `restricted`, and warn of pods that break it."""

    async def make(cluster: Cluster, name: str = "") -> Api:
        name = name or f"chart-{next(_numbers)}"
        labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        api = Api(cluster, name)
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        (await api.apply(f"/api/v1/namespaces/{name}", body, "tests")).ok()
        await api.until(api.path("serviceaccounts", "default"), lambda answer: answer.status == 200)
        return api

    return make
