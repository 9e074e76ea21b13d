"""API servers for tests: the stand-in, and a real one where there are assets. The same tests run on both."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest

from sandbox.assets import ControlPlane, assets_from_environment
from sandbox.kube import KubeStandIn
from tests.support.kube_cluster import (
    Api,
    Cluster,
    Kubectl,
    Node,
    connected,
    install_widgets,
    new_namespace,
    running_node,
)

NO_ASSETS = "KUBEBUILDER_ASSETS is not set to a directory with etcd and kube-apiserver"


@pytest.fixture(scope="session")
async def standin(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """The stand-in, with widgets."""
    directory = tmp_path_factory.mktemp("standin")
    async with KubeStandIn(history=200, bookmark_seconds=2) as kube:
        kube.write_kubeconfig(directory / "kubeconfig")
        async with connected("standin", directory / "kubeconfig", directory) as cluster:
            cluster.standin = kube
            await install_widgets(cluster)
            yield cluster


@pytest.fixture(scope="session")
async def control_plane(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ControlPlane]:
    """A real control plane."""
    assets = assets_from_environment()
    if assets is None:
        pytest.skip(NO_ASSETS)
    async with ControlPlane(assets, tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="session")
async def real(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """A real kube-apiserver, with widgets."""
    directory = tmp_path_factory.mktemp("real")
    async with connected("real", control_plane.kubeconfig, directory) as cluster:
        await install_widgets(cluster)
        yield cluster


@pytest.fixture(scope="session", params=["standin", pytest.param("real", marks=pytest.mark.real)])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Each of the API servers in turn."""
    found: Cluster = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
async def node(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A node of each of the API servers, for pods that name it."""
    async with running_node(cluster, "node-1", tmp_path_factory.mktemp("node")) as found:
        yield found


@pytest.fixture
async def api(cluster: Cluster) -> Api:
    """Requests to each of the API servers in turn, in a namespace of the test's own."""
    return Api(cluster, await new_namespace(cluster))


@pytest.fixture
async def standin_api(standin: Cluster) -> Api:
    """Requests to the stand-in."""
    return Api(standin, await new_namespace(standin))


@pytest.fixture
def kubectl(api: Api, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """kubectl for each of the API servers in turn."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl in PATH")
    return Kubectl(api, tmp_path_factory.mktemp("home"))
