"""Client libraries against the stand-in and a real API server: the official client, blocking and not, and kopf."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes import aio, dynamic
from kubernetes import watch as blocking_watch

from tests.support.kube_cluster import WIDGET, Api

GROUP = ("example.test", "v1")


# --- The official client, not blocking --------------------------------------------------------------------------------


@pytest.fixture
async def client(api: Api) -> AsyncIterator[aio.client.ApiClient]:
    configuration = aio.client.Configuration()
    await aio.config.load_kube_config(config_file=str(api.cluster.kubeconfig), client_configuration=configuration)
    async with aio.client.ApiClient(configuration) as opened:
        yield opened


async def test_the_aio_client_works_on_typed_objects(api: Api, client: aio.client.ApiClient) -> None:
    core = aio.client.CoreV1Api(client)
    body = aio.client.V1ConfigMap(metadata=aio.client.V1ObjectMeta(name="a"), data={"k": "v"})

    made = await core.create_namespaced_config_map(api.namespace, body)
    made.data["k"] = "w"
    replaced = await core.replace_namespaced_config_map("a", api.namespace, made)
    patched = await core.patch_namespaced_config_map("a", api.namespace, {"data": {"more": "x"}})
    listed = await core.list_namespaced_config_map(api.namespace, label_selector="!none", limit=10)
    await core.delete_namespaced_config_map("a", api.namespace)
    with pytest.raises(aio.client.ApiException) as caught:
        await core.read_namespaced_config_map("a", api.namespace)

    assert (replaced.data, patched.data) == ({"k": "w"}, {"k": "w", "more": "x"})
    assert "a" in {item.metadata.name for item in listed.items}
    assert (caught.value.status, caught.value.reason) == (404, "Not Found")


async def test_the_aio_client_tells_of_conflicts(api: Api, client: aio.client.ApiClient) -> None:
    core = aio.client.CoreV1Api(client)
    body = aio.client.V1ConfigMap(metadata=aio.client.V1ObjectMeta(name="a"))
    stale = await core.create_namespaced_config_map(api.namespace, body)
    await core.patch_namespaced_config_map("a", api.namespace, {"data": {"k": "v"}})

    with pytest.raises(aio.client.ApiException) as caught:
        await core.replace_namespaced_config_map("a", api.namespace, stale)

    assert caught.value.status == 409


async def test_the_aio_client_works_on_custom_objects(api: Api, client: aio.client.ApiClient) -> None:
    custom = aio.client.CustomObjectsApi(client)
    where = (*GROUP, api.namespace, "widgets")

    await custom.create_namespaced_custom_object(*where, api.widget("a", size=1))
    await custom.patch_namespaced_custom_object(
        *where, "a", {"spec": {"size": 2}}, _content_type="application/merge-patch+json"
    )
    await custom.patch_namespaced_custom_object_status(
        *where, "a", {"status": {"phase": "Ready"}}, _content_type="application/merge-patch+json"
    )
    found = await custom.get_namespaced_custom_object(*where, "a")
    await custom.delete_namespaced_custom_object(*where, "a")

    assert (found["spec"]["size"], found["status"]["phase"]) == (2, "Ready")
    assert (await custom.list_namespaced_custom_object(*where))["items"] == []


async def test_the_aio_client_watches(api: Api, client: aio.client.ApiClient) -> None:
    core = aio.client.CoreV1Api(client)
    version = (await core.list_namespaced_config_map(api.namespace)).metadata.resource_version
    (await api.create(api.path("configmaps"), api.config_map("a", data={"k": "v"}))).ok()
    (await api.delete(api.path("configmaps", "a"))).ok()

    # This client has no watch helper; its users read the lines themselves.
    response = await core.list_namespaced_config_map(
        api.namespace, watch=True, resource_version=version, timeout_seconds=10, _preload_content=False
    )
    async with response, asyncio.timeout(20):
        events = [json.loads(await response.content.readline()) for _ in range(2)]

    seen = [(event["type"], event["object"]["metadata"]["name"]) for event in events]
    assert seen == [("ADDED", "a"), ("DELETED", "a")]


# --- The official client, blocking ------------------------------------------------------------------------------------


@contextlib.contextmanager
def blocking(api: Api) -> Iterator[Any]:
    """The blocking client; to be used in a thread, because the stand-in answers from this one."""
    configuration = kubernetes.client.Configuration()
    kubernetes.config.load_kube_config(config_file=str(api.cluster.kubeconfig), client_configuration=configuration)
    with kubernetes.client.ApiClient(configuration) as opened:
        yield opened


@pytest.mark.filterwarnings("ignore:HTTPResponse.getheader:DeprecationWarning")  # between the client and urllib3
async def test_the_blocking_client_creates_patches_and_watches(api: Api) -> None:
    def work() -> tuple[Any, list[tuple[str, str]]]:
        with blocking(api) as client:
            core = kubernetes.client.CoreV1Api(client)
            version = core.list_namespaced_secret(api.namespace).metadata.resource_version
            meta = kubernetes.client.V1ObjectMeta(name="a", labels={"x": "y"})
            core.create_namespaced_secret(
                api.namespace, kubernetes.client.V1Secret(metadata=meta, string_data={"k": "v"})
            )
            patched = core.patch_namespaced_secret("a", api.namespace, {"metadata": {"labels": {"x": None}}})
            core.delete_namespaced_secret("a", api.namespace)
            watch = blocking_watch.Watch()
            stream = watch.stream(
                core.list_namespaced_secret, api.namespace, resource_version=version, timeout_seconds=10
            )
            seen = []
            for event in stream:
                seen.append((event["type"], event["object"].metadata.name))
                if event["type"] == "DELETED":
                    watch.stop()
            return patched, seen

    patched, seen = await asyncio.to_thread(work)

    assert (patched.data, patched.metadata.labels) == ({"k": "dg=="}, None)
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


@pytest.mark.filterwarnings("ignore:HTTPResponse.getheader:DeprecationWarning")  # between the client and urllib3
async def test_the_blocking_client_finds_kinds_by_discovery(api: Api) -> None:
    def work() -> Any:
        with blocking(api) as client:
            widgets = dynamic.DynamicClient(client).resources.get(api_version="example.test/v1", kind="Widget")
            widgets.create(body=api.widget("a"), namespace=api.namespace)
            return widgets.get(name="a", namespace=api.namespace)

    found = await asyncio.to_thread(work)

    assert (found.spec.color, found.status.observedGeneration) == ("blue", -1)


# --- kopf -------------------------------------------------------------------------------------------------------------

OPERATOR = textwrap.dedent(
    """
    import kopf

    @kopf.on.startup()
    def configure(settings, **_):
        settings.posting.enabled = True
        settings.persistence.finalizer = "example.test/operator"

    @kopf.on.event("example.test", "v1", "widgets")
    def told(event, name, **_):
        print("event", event["type"], name, flush=True)

    @kopf.on.create("example.test", "v1", "widgets")
    def create(spec, patch, body, **_):
        patch.status["phase"] = "Painted " + spec["color"]
        kopf.info(body, reason="Painted", message="it is " + spec["color"])

    @kopf.on.delete("example.test", "v1", "widgets")
    def delete(name, **_):
        print("deleting", name, flush=True)
    """
)


@contextlib.asynccontextmanager
async def operator(api: Api, directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A kopf operator in a process of its own."""
    script = directory / "operator.py"
    script.write_text(OPERATOR)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kopf", "run", "--standalone", "--namespace", api.namespace, str(script)),
        env={"KUBECONFIG": str(api.cluster.kubeconfig), "HOME": str(directory)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 30)


async def test_an_operator_made_with_kopf_sees_handles_and_releases_its_objects(api: Api, tmp_path: Path) -> None:
    path = api.path(WIDGET, "a")
    (await api.create(api.path(WIDGET), api.widget("a"))).ok()

    async with operator(api, tmp_path) as process:
        assert process.stdout is not None
        painted = await api.until(path, lambda answer: answer.body.get("status", {}).get("phase") == "Painted blue")
        assert painted["metadata"]["finalizers"] == ["example.test/operator"]
        await api.until(
            api.path("events"),
            lambda answer: any(item["reason"] == "Painted" for item in answer.body["items"]),
        )
        (await api.delete(path)).ok()
        await api.until_gone(path)
        lines: list[str] = []
        async with asyncio.timeout(20):
            while not lines or lines[-1] != "event DELETED a":
                lines.append((await process.stdout.readline()).decode().strip())

    assert lines[0] == "event None a"
    assert "deleting a" in lines
