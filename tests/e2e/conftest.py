"""A sandbox for the stories: on the stand-in, and on a real control plane where there are assets or a cluster."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandbox.assets import assets_from_environment
from sandbox.cluster import Options, Sandbox
from tests.support.people import Client, Receiver, World

NOWHERE = "no real control plane: set KUBEBUILDER_ASSETS to a directory with etcd and kube-apiserver, or KUBECONFIG"


@pytest.fixture(scope="session", params=["stand-in", pytest.param("real", marks=pytest.mark.real)])
async def sandbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    """A sandbox with operator and gateway."""
    assets, kubeconfig = None, None
    if request.param == "real":
        assets, named = assets_from_environment(), os.environ.get("KUBECONFIG")
        if assets is None and not named:
            pytest.skip(NOWHERE)
        kubeconfig = Path(named) if named and assets is None else None
    directory = tmp_path_factory.mktemp("sandbox")
    async with Sandbox(
        Options(directory=directory, assets=assets, kubeconfig=kubeconfig, autoscaler_period=2)
    ) as running:
        yield running


@pytest.fixture(scope="session")
async def everybody(sandbox: Sandbox) -> AsyncIterator[World]:
    """The people around the sandbox."""
    assert sandbox.access is not None
    async with Client(sandbox.access) as client, Receiver() as receiver:
        world = World(sandbox.access, client, receiver)
        await world.kubectl.apply(world.claim())
        yield world


@pytest.fixture
async def world(everybody: World) -> AsyncIterator[World]:
    """The people with nothing applied yet; what a test applies is removed after it."""
    everybody.receiver.requests.clear()
    everybody.receiver.status = 200
    yield everybody
    await everybody.clear()
