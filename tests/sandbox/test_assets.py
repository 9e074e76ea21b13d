"""A real control plane from a directory of binaries: what it says where something is missing, its start and its end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sandbox.assets import AssetsError, ControlPlane, assets_from_environment
from tests.sandbox.conftest import NO_ASSETS
from tests.support.kube_cluster import Api, Cluster, connected, running_node, until_ended


def fake(path: Path, script: str) -> None:
    """A program that does something else than its name says."""
    path.write_text(f"#!{sys.executable}\n{script}\n")
    path.chmod(0o755)


def test_without_the_variable_there_are_no_assets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert assets_from_environment() is None

    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert assets_from_environment() == tmp_path


async def test_missing_binaries_are_named(tmp_path: Path) -> None:
    fake(tmp_path / "etcd", "")

    with pytest.raises(AssetsError) as caught:
        await ControlPlane(tmp_path, tmp_path / "work").start()

    assert str(caught.value) == (f"{tmp_path} has no kube-apiserver; set KUBEBUILDER_ASSETS to a directory with them")


async def test_an_empty_directory_lacks_both(tmp_path: Path) -> None:
    with pytest.raises(AssetsError, match="has no etcd and no kube-apiserver"):
        await ControlPlane(tmp_path, tmp_path / "work").start()


def test_what_a_small_directory_cannot_do_is_said(tmp_path: Path) -> None:
    for name in ("etcd", "kube-apiserver"):
        fake(tmp_path / name, "")

    sentences = " ".join(ControlPlane(tmp_path, tmp_path / "work").missing)

    assert "no garbage collection" in sentences
    assert "the sandbox's own trivial scheduler" in sentences


async def test_a_binary_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    fake(tmp_path / "etcd", f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    fake(tmp_path / "kube-apiserver", "import sys\nprint('no such flag', file=sys.stderr)\nsys.exit(3)")

    with pytest.raises(AssetsError) as caught:
        async with ControlPlane(tmp_path, tmp_path / "work"):
            pass

    assert "kube-apiserver ended with exit code 3" in str(caught.value)
    assert "no such flag" in str(caught.value)
    if pid.exists():
        await until_ended(int(pid.read_text()))


async def test_a_binary_that_cannot_be_executed_is_told(tmp_path: Path) -> None:
    (tmp_path / "etcd").write_text("no program")
    (tmp_path / "kube-apiserver").write_text("no program")

    with pytest.raises(AssetsError, match="etcd cannot be started: Permission denied"):
        async with ControlPlane(tmp_path, tmp_path / "work"):
            pass


@pytest.mark.real
async def test_a_control_plane_starts_runs_pods_and_leaves_nothing(tmp_path: Path) -> None:
    assets = assets_from_environment()
    if assets is None:
        pytest.skip(NO_ASSETS)
    work = tmp_path / "work"

    async with ControlPlane(assets, work) as plane, connected("real", plane.kubeconfig, tmp_path) as cluster:
        api = Api(cluster, "default")
        assert (await api.get("/readyz")).body == "ok"
        pids = started_below(work)
        assert len(pids) >= 2
        await runs_a_pod(api, cluster, tmp_path)

    for pid in pids:
        await until_ended(pid)


async def runs_a_pod(api: Api, cluster: Cluster, directory: Path) -> None:
    """The kubelet's certificate and port are right, so that logs come through."""
    await api.until(api.path("serviceaccounts", "default"), lambda answer: answer.status == 200)
    async with running_node(cluster, "node-1", directory / "node") as node:
        (await api.create(api.path("pods"), node.pod("a", "echo hello", restartPolicy="Never"))).ok()
        await api.until(api.path("pods", "a"), lambda answer: answer.body["status"]["phase"] == "Succeeded")
        assert (await api.get(api.path("pods", "a", "log"))).ok() == "hello\n"


def started_below(work: Path) -> list[int]:
    """Processes that name a directory in their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # It ended while we looked.
            if str(work).encode() in line:
                found.append(int(entry.name))
    return found
