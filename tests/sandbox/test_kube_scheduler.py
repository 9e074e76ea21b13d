"""The trivial scheduler and the controllers of the stand-in, on a cluster of their own where pods find nodes."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.kube import KubeStandIn
from sandbox.kube.clients import connect
from sandbox.kube.scheduler import Scheduler
from tests.support.kube_cluster import Answer, Api, connected, new_namespace, ready_pod


@pytest.fixture(scope="module")
async def scheduled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A stand-in with a scheduler and a node of 2 cores, 1 GiB and the label disk=fast, which nobody runs."""
    directory = tmp_path_factory.mktemp("scheduled")
    async with KubeStandIn() as kube:
        kube.write_kubeconfig(directory / "kubeconfig")
        client = await connect(directory / "kubeconfig")
        scheduler = asyncio.create_task(Scheduler(client).run())
        try:
            async with connected("standin", directory / "kubeconfig", directory) as cluster:
                api = Api(cluster, "default")
                node = {"metadata": {"name": "one", "labels": {"disk": "fast"}}}
                (await api.create("/api/v1/nodes", node)).ok()
                room = {"cpu": "2", "memory": "1Gi", "pods": "10"}
                status = {
                    "capacity": room,
                    "allocatable": room,
                    "conditions": [{"type": "Ready", "status": "True"}],
                }
                (await api.patch("/api/v1/nodes/one/status", {"status": status})).ok()
                yield api
        finally:
            scheduler.cancel()
            await asyncio.gather(scheduler, return_exceptions=True)
            await client.aclose()


@pytest.fixture
async def api(scheduled: Api) -> AsyncIterator[Api]:
    """A namespace whose pods are gone after the test, so that they take no room from the next one."""
    api = Api(scheduled.cluster, await new_namespace(scheduled.cluster))
    yield api
    (await api.delete(f"/api/v1/namespaces/{api.namespace}", gracePeriodSeconds=0)).ok()
    for pod in (await api.get(api.path("pods"))).ok()["items"]:
        await api.delete(api.path("pods", pod["metadata"]["name"]), gracePeriodSeconds=0)
    await api.until_gone(f"/api/v1/namespaces/{api.namespace}")


def asking(api: Api, name: str, **requests: str) -> dict[str, Any]:
    """A pod that requests resources."""
    container = {"name": "main", "image": "example/main:1", "resources": {"requests": requests}}
    return api.pod(name, containers=[container])


async def bound(api: Api, name: str) -> dict[str, Any]:
    """A pod, once it has a node."""
    return await api.until(api.path("pods", name), lambda answer: bool(answer.body["spec"].get("nodeName")))


async def refused(api: Api, name: str) -> str:
    """Why a pod gets no node."""

    def told(answer: Answer) -> bool:
        return any(item.get("reason") == "Unschedulable" for item in answer.body["status"].get("conditions") or [])

    pod = await api.until(api.path("pods", name), told)
    [condition] = [item for item in pod["status"]["conditions"] if item["type"] == "PodScheduled"]
    assert condition["status"] == "False"
    return str(condition["message"])


async def test_a_pod_gets_a_ready_node(api: Api) -> None:
    await api.create(api.path("pods"), api.pod("a", nodeSelector={"disk": "fast"}))

    pod = await bound(api, "a")

    assert pod["spec"]["nodeName"] == "one"
    [condition] = pod["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("PodScheduled", "True")


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ({"memory": "2Gi"}, "0/1 nodes are available: 1 Insufficient memory."),
        ({"cpu": "2500m"}, "0/1 nodes are available: 1 Insufficient cpu."),
        ({"cpu": "3", "memory": "2Gi"}, "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory."),
    ],
)
async def test_a_pod_that_fits_nowhere_is_told_why(api: Api, requests: dict[str, str], message: str) -> None:
    await api.create(api.path("pods"), asking(api, "a", **requests))

    assert (await refused(api, "a")).startswith(message)
    await api.until(
        api.path("events"), lambda answer: any(e["reason"] == "FailedScheduling" for e in answer.body["items"])
    )


async def test_a_pod_waits_for_room_and_gets_it(api: Api) -> None:
    await api.create(api.path("pods"), asking(api, "first", memory="700Mi"))
    await bound(api, "first")
    await api.create(api.path("pods"), asking(api, "second", memory="700Mi"))
    await refused(api, "second")

    await api.delete(api.path("pods", "first"), gracePeriodSeconds=0)

    await bound(api, "second")


async def test_a_pod_for_other_nodes_waits(api: Api) -> None:
    await api.create(api.path("pods"), api.pod("a", nodeSelector={"disk": "slow"}))

    assert "didn't match Pod's node affinity/selector" in await refused(api, "a")


async def test_a_cordoned_node_takes_no_pods_until_it_is_uncordoned(api: Api) -> None:
    await api.patch("/api/v1/nodes/one", {"spec": {"unschedulable": True}})
    await api.create(api.path("pods"), api.pod("a"))
    assert "1 node(s) were unschedulable" in await refused(api, "a")

    await api.patch("/api/v1/nodes/one", {"spec": {"unschedulable": None}})

    await bound(api, "a")


# --- Controllers ------------------------------------------------------------------------------------------------------


def template(**spec: Any) -> dict[str, Any]:
    """A pod template with the label app=web."""
    container = {"name": "main", "image": "example/main:1"}
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container], **spec}}


async def pod_names(api: Api, count: int) -> list[str]:
    """The pods of the namespace, once there are so many."""
    listed = await api.until(api.path("pods"), lambda answer: len(answer.body["items"]) == count)
    return [item["metadata"]["name"] for item in listed["items"]]


async def test_a_deployment_has_its_pods_and_rolls_to_new_ones(api: Api) -> None:
    spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template()}
    path = api.path("apps/v1/deployments", "web")
    (await api.create(api.path("apps/v1/deployments"), {"metadata": {"name": "web"}, "spec": spec})).ok()
    for name in await pod_names(api, 2):
        await ready_pod(api, name)
    await api.until(path, lambda answer: answer.body["status"].get("availableReplicas") == 2)

    image = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "example/main:2"}]}}}}
    (await api.patch(path, image, "strategic-merge")).ok()

    async with asyncio.timeout(30):
        while True:
            pods = (await api.get(api.path("pods"))).ok()["items"]
            images = [item["spec"]["containers"][0]["image"] for item in pods]
            if images == ["example/main:2"] * 2:
                break
            for item in pods:
                if item["metadata"].get("deletionTimestamp"):
                    # Nobody runs this node, so nobody ends its pods.
                    await api.delete(api.path("pods", item["metadata"]["name"]), gracePeriodSeconds=0)
                elif item["status"]["phase"] == "Pending":
                    await ready_pod(api, item["metadata"]["name"])
            await asyncio.sleep(0.02)
    owners = {item["metadata"]["ownerReferences"][0]["kind"] for item in pods}
    assert owners == {"ReplicaSet"}


async def test_a_job_is_complete_when_its_pod_has_succeeded(api: Api) -> None:
    job = {"metadata": {"name": "once"}, "spec": {"template": template(restartPolicy="Never")}}
    (await api.create(api.path("batch/v1/jobs"), job)).ok()
    [name] = await pod_names(api, 1)

    (await api.patch(api.path("pods", name, "status"), {"status": {"phase": "Succeeded"}})).ok()

    done = await api.until(
        api.path("batch/v1/jobs", "once"), lambda answer: bool(answer.body.get("status", {}).get("completionTime"))
    )
    assert done["status"]["succeeded"] == 1


async def test_a_service_lists_the_ready_pods_behind_it(api: Api) -> None:
    service = {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}
    (await api.create(api.path("services"), service)).ok()
    await api.create(api.path("pods"), api.pod("a", metadata={"labels": {"app": "web"}}))
    await bound(api, "a")

    await ready_pod(api, "a")

    def lists_it(answer: Answer) -> bool:
        subsets = answer.body.get("subsets") or [] if answer.status == 200 else []
        return [item["ip"] for subset in subsets for item in subset.get("addresses") or []] == ["127.0.9.9"]

    await api.until(api.path("endpoints", "web"), lists_it)


# --- Alone ------------------------------------------------------------------------------------------------------------


async def test_the_stand_in_runs_alone_until_it_is_stopped(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandbox.kube", "--port", "0", "--kubeconfig", str(kubeconfig)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        said = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert str(kubeconfig) in said
        async with connected("standin", kubeconfig, tmp_path) as cluster:
            assert (await Api(cluster, "default").get("/readyz")).body == "ok"
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
