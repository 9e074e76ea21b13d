"""The chart on API servers: what they accept, and what a release does in its life."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

import pytest

from tests.chart.charts import (
    VARIANTS,
    Helm,
    HelmRefusedError,
    JsonObject,
    dry_run,
    of_kind,
    path_of_object,
)
from tests.support.kube_cluster import Api, Cluster
from whatsapp_operator.pods import WorkerDefaults, pod_template, worker_pod
from whatsapp_operator.resources import PoolSpec

Namespaces = Callable[..., Awaitable[Api]]
POOL = "whatsapp.28web.io/v1alpha1/whatsappworkerpools"
SESSION = "whatsapp.28web.io/v1alpha1/whatsappsessions"


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_server_accepts_every_object(
    helm: Helm, defined: Cluster, namespace_of: Namespaces, variant: str
) -> None:
    api = await namespace_of(defined)
    for name in ("team-a", "team-b"):
        await namespace_of(defined, name)

    refused = {}
    for item in await helm.objects(VARIANTS[variant], namespace=api.namespace):
        answer = await dry_run(api, item)
        # The real server warns of pods that break the standard, of fields that it does not know and of old versions.
        if answer.status >= 300 or answer.warnings:
            refused[f"{item['kind']}/{item['metadata']['name']}"] = (answer.body, answer.warnings)
    assert refused == {}


async def test_a_restricted_namespace_admits_the_worker_pods(
    helm: Helm, defined: Cluster, namespace_of: Namespaces
) -> None:
    api = await namespace_of(defined)
    pool = of_kind(await helm.objects(VARIANTS["everything"]), "WhatsAppWorkerPool")["default"]
    defaults = WorkerDefaults(image="whatsapp-worker:1", redis_url="redis://r", secret_name="s")
    template = pod_template(PoolSpec.model_validate(pool["spec"]), defaults)
    pod = worker_pod(name="w-1", pool="default", pool_uid="u", namespace=api.namespace, template=template)

    answer = await api.create(api.path("pods"), pod, dryRun="All")

    assert answer.status == 201, answer.body
    assert answer.warnings == []
    if defined.real:
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        refused = await api.create(api.path("pods"), pod, dryRun="All")
        assert 'violates PodSecurity "restricted' in refused.message


async def remove_definitions(api: Api) -> None:
    """Take our kinds away, as on a cluster that has never seen them."""
    for plural in ("whatsappsessions", "whatsappworkerpools"):
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.whatsapp.28web.io"
        await api.delete(path)
        await api.until_gone(path)


async def secret(api: Api, name: str) -> dict[str, str]:
    """The values of a Secret."""
    data = (await api.get(api.path("secrets", name))).ok()["data"]
    return {key: base64.b64decode(text).decode() for key, text in data.items()}


async def test_a_release_lives_and_leaves_only_data_behind(
    helm: Helm, chart: str, elsewhere: Cluster, namespace_of: Namespaces
) -> None:
    api = await namespace_of(elsewhere)
    await remove_definitions(api)
    where: JsonObject = {
        "chart": chart,
        "kubeconfig": str(elsewhere.kubeconfig),
        "namespace": api.namespace,
        "name": "wa",
    }

    installed = await helm("install", {"operator": {"replicas": 1}}, **where)

    assert installed["status"] == "deployed"
    pool = (await api.get(api.path(POOL, "default"))).ok()
    assert pool["spec"]["replicas"] == 2
    before = {**await secret(api, "wa-credentials"), **await secret(api, "wa-api-key")}
    assert all(len(value) == 40 for value in before.values())
    session = {"apiVersion": "whatsapp.28web.io/v1alpha1", "kind": "WhatsAppSession", "metadata": {"name": "sales"}}
    (await api.create(api.path(SESSION), session)).ok()
    kept = {"data": {"sales.hmac": base64.b64encode(b"from a client").decode()}}
    (await api.patch(api.path("secrets", "whatsapp-webhook-keys"), kept)).ok()

    changed = {"defaultPool": {"replicas": 3, "sessionsPerWorker": 10}}
    upgraded = await helm("upgrade", changed, **where)

    assert upgraded["revision"] == 2
    after = {**await secret(api, "wa-credentials"), **await secret(api, "wa-api-key")}
    assert after == before
    assert await secret(api, "whatsapp-webhook-keys") == {"sales.hmac": "from a client"}
    now = (await api.get(api.path(POOL, "default"))).ok()
    assert (now["metadata"]["uid"], now["spec"]["replicas"], now["spec"]["sessionsPerWorker"]) == (
        pool["metadata"]["uid"],
        3,
        10,
    )

    # The first revision knows the pool as a hook only; going back to it must not take the pool away.
    await helm("rollback", version=1, **where)
    assert (await api.get(api.path(POOL, "default"))).ok()["metadata"]["uid"] == pool["metadata"]["uid"]
    assert await secret(api, "wa-api-key") == {"WAHA_API_KEY": before["WAHA_API_KEY"]}

    gone = await helm("uninstall", **where)

    assert "whatsappsessions.whatsapp.28web.io" in gone["info"]
    await api.until_gone(api.path(POOL, "default"))
    left = await leftovers(api, await helm.objects({}, namespace=api.namespace))
    assert left == {
        "CustomResourceDefinition/whatsappsessions.whatsapp.28web.io",
        "CustomResourceDefinition/whatsappworkerpools.whatsapp.28web.io",
        "PersistentVolumeClaim/wa-profiles",
        "Secret/whatsapp-webhook-keys",
    }
    assert (await api.get(api.path(SESSION, "sales"))).status == 200

    # What was kept is taken up again by a release of the same name, and goes at once without any upgrade between.
    await helm("install", {}, **where)
    assert await secret(api, "whatsapp-webhook-keys") == {"sales.hmac": "from a client"}
    await helm("uninstall", **where)
    await api.until_gone(api.path(POOL, "default"))


async def leftovers(api: Api, objects: list[JsonObject]) -> set[str]:
    """The objects of a rendering that exist, once those that are being deleted are gone."""
    left = set()
    for item in objects:
        path = await path_of_object(api, item)
        answer = await api.get(path)
        if answer.status == 200 and answer.body["metadata"].get("deletionTimestamp"):
            await api.until_gone(path)
        elif answer.status == 200:
            left.add(f"{item['kind']}/{item['metadata']['name']}")
    return left


async def test_a_first_release_that_goes_at_once_takes_its_pool_with_it(
    helm: Helm, chart: str, elsewhere: Cluster, namespace_of: Namespaces
) -> None:
    api = await namespace_of(elsewhere)
    await remove_definitions(api)
    where: JsonObject = {
        "chart": chart,
        "kubeconfig": str(elsewhere.kubeconfig),
        "namespace": api.namespace,
        "name": "wa",
    }

    await helm("install", {}, **where)
    (await api.get(api.path(POOL, "default"))).ok()
    await helm("uninstall", **where)

    await api.until_gone(api.path(POOL, "default"))


async def test_a_refused_upgrade_changes_nothing(
    helm: Helm, chart: str, defined: Cluster, namespace_of: Namespaces
) -> None:
    api = await namespace_of(defined)
    where: JsonObject = {
        "chart": chart,
        "kubeconfig": str(defined.kubeconfig),
        "namespace": api.namespace,
        "name": "wa",
    }
    await helm("install", {"crds": {"install": False}}, **where)
    before = (await api.get(api.path("apps/v1/deployments", "wa-operator"))).ok()["metadata"]["generation"]

    with pytest.raises(HelmRefusedError, match="additional properties 'replica' not allowed"):
        await helm("upgrade", {"operator": {"replica": 3}}, **where)

    after = (await api.get(api.path("apps/v1/deployments", "wa-operator"))).ok()["metadata"]["generation"]
    assert after == before
    await helm("uninstall", **where)
