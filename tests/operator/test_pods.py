"""Worker pods: what every one of them is, and how a pool's overlay changes it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.kube_product import ProductApi
from whatsapp_operator.pods import (
    Manifest,
    WorkerDefaults,
    disruption_budget,
    merge,
    pod_template,
    pool_selector,
    selector_text,
    template_hash,
    worker_pod,
)
from whatsapp_operator.resources import PoolSpec

DEFAULTS = WorkerDefaults(image="example/worker:1", redis_url="redis://redis:6379/0", secret_name="whatsapp")


def pod(defaults: WorkerDefaults = DEFAULTS, **spec: Any) -> Manifest:
    template = pod_template(PoolSpec.model_validate(spec), defaults)
    return worker_pod(name="default-abc12", pool="default", pool_uid="pool-uid", namespace="team", template=template)


def container(manifest: Manifest) -> Manifest:
    (found,) = [entry for entry in manifest["spec"]["containers"] if entry["name"] == "worker"]
    result: Manifest = found
    return result


def environment(manifest: Manifest) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(manifest)["env"]}


async def test_an_api_server_takes_the_pod_and_the_budget_as_they_are(kube: ProductApi, namespace: str) -> None:
    pool = await kube.create(namespace, "default", pool=True)
    uid = pool["metadata"]["uid"]
    template = pod_template(PoolSpec.model_validate(pool["spec"]), DEFAULTS)
    made = worker_pod(name="default-1", pool="default", pool_uid=uid, namespace=namespace, template=template)
    kept = await kube.client.create(f"/api/v1/namespaces/{namespace}/pods", made)
    assert kept["metadata"]["labels"] == made["metadata"]["labels"]
    budget = disruption_budget(pool="default", pool_uid=uid, namespace=namespace)
    path = f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets"
    found = await kube.client.create(path, budget)
    assert found["spec"]["maxUnavailable"] == 1
    assert made["metadata"]["labels"].items() >= found["spec"]["selector"]["matchLabels"].items()


def test_a_worker_can_do_nothing_to_its_node_or_its_cluster() -> None:
    manifest = pod()
    assert manifest["spec"]["automountServiceAccountToken"] is False
    assert manifest["spec"]["enableServiceLinks"] is False
    security = manifest["spec"]["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"] > 0) == (True, True)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    for host in ("hostNetwork", "hostPID", "hostIPC"):
        assert host not in manifest["spec"]
    # With a root that cannot be written, everything that a browser writes has a place.
    mounts = {mount["mountPath"] for mount in container(manifest)["volumeMounts"]}
    assert {environment(manifest)["PROFILE_DIR"], "/tmp", "/dev/shm"} <= mounts


def test_memory_is_promised_in_full_and_the_worker_knows_its_limit() -> None:
    manifest = pod()
    resources = container(manifest)["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "2Gi"
    assert "cpu" not in resources["limits"]
    assert environment(manifest)["MEMORY_LIMIT_BYTES"] == {
        "resourceFieldRef": {"containerName": "worker", "resource": "limits.memory"}
    }


def test_a_worker_is_told_what_its_pool_says() -> None:
    variables = environment(
        pod(
            sessionsPerWorker=7,
            drain={"timeout": "2m"},
            browser={"url": "https://example.test/", "args": ["--lang=de"], "sandbox": True, "executable": "/b"},
        )
    )
    assert variables["MAX_SESSIONS_PER_INSTANCE"] == "7"
    assert variables["DRAIN_TIMEOUT_SECONDS"] == "120"
    assert (variables["BROWSER_URL"], variables["BROWSER_ARGS"]) == ("https://example.test/", '["--lang=de"]')
    assert (variables["BROWSER_SANDBOX"], variables["BROWSER_EXECUTABLE"]) == ("true", "/b")
    assert variables["REDIS_URL"] == "redis://redis:6379/0"
    assert variables["POD_UID"] == {"fieldRef": {"fieldPath": "metadata.uid"}}


def test_the_pod_gets_the_time_that_a_drain_may_take_and_a_little_more() -> None:
    assert pod(drain={"timeout": "2m"})["spec"]["terminationGracePeriodSeconds"] > 120
    assert pod()["spec"]["restartPolicy"] == "Never"


def test_secrets_come_from_a_secret_and_stand_in_no_manifest() -> None:
    assert container(pod())["envFrom"] == [{"secretRef": {"name": "whatsapp", "optional": True}}]
    assert "envFrom" not in container(pod(WorkerDefaults(image="x", redis_url="redis://r")))


@pytest.mark.parametrize(
    ("profiles", "volume"),
    [({}, {"emptyDir": {}}), ({"volumeClaimName": "c"}, {"persistentVolumeClaim": {"claimName": "c"}})],
)
def test_profiles_lie_where_the_pool_says(profiles: dict[str, str], volume: dict[str, Any]) -> None:
    volumes = {entry.pop("name"): entry for entry in pod(profiles=profiles)["spec"]["volumes"]}
    assert volumes["profiles"] == volume


def test_a_pod_belongs_to_its_pool_and_serves() -> None:
    manifest = pod()
    assert manifest["metadata"]["labels"].items() >= pool_selector("default").items()
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("WhatsAppWorkerPool", "default", "pool-uid")
    assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, True)
    assert selector_text({"b": "2", "a": "1"}) == "a=1,b=2"


# --- The overlay


def test_an_overlay_changes_what_it_names_and_leaves_the_rest() -> None:
    overlay = {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "x"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [
                {"name": "worker", "resources": {"limits": {"memory": "4Gi"}}, "env": [{"name": "TZ", "value": "UTC"}]},
                {"name": "sidecar", "image": "example/sidecar:1"},
            ],
            "volumes": [{"name": "more", "emptyDir": {}}],
        },
    }
    manifest = pod(template=overlay)
    assert manifest["metadata"]["labels"]["team"] == "a"
    assert manifest["metadata"]["annotations"] == {"note": "x"}
    assert [entry["name"] for entry in manifest["spec"]["containers"]] == ["worker", "sidecar"]
    assert container(manifest)["resources"] == {
        "requests": {"cpu": "500m", "memory": "2Gi"},
        "limits": {"memory": "4Gi"},
    }
    assert container(manifest)["image"] == "example/worker:1"
    assert environment(manifest).keys() >= {"TZ", "REDIS_URL"}
    assert [entry["name"] for entry in manifest["spec"]["volumes"]] == ["profiles", "tmp", "shm", "more"]
    assert manifest["spec"]["securityContext"]["runAsNonRoot"] is True


def test_an_overlay_cannot_take_a_pod_out_of_its_pool() -> None:
    overlay = {"metadata": {"labels": {**pool_selector("other"), "app.kubernetes.io/name": "other"}}}
    labels = pod(template=overlay)["metadata"]["labels"]
    assert labels.items() >= pool_selector("default").items()
    assert labels["app.kubernetes.io/name"] == "whatsapp-worker"


def test_a_variable_may_come_from_elsewhere_in_the_overlay() -> None:
    source = {"secretKeyRef": {"name": "redis", "key": "url"}}
    overlay = {"spec": {"containers": [{"name": "worker", "env": [{"name": "REDIS_URL", "valueFrom": source}]}]}}
    (entry,) = [entry for entry in container(pod(template=overlay))["env"] if entry["name"] == "REDIS_URL"]
    assert entry == {"name": "REDIS_URL", "valueFrom": source}


@pytest.mark.parametrize(
    ("base", "overlay", "result"),
    [
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": {"b": 1}}, {"a": None}, {}),
        ({"args": ["x"]}, {"args": ["y"]}, {"args": ["y"]}),
        (
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]},
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}]},
        ),
        (
            {"volumes": [{"name": "p", "emptyDir": {}}]},
            {"volumes": [{"name": "p", "emptyDir": None, "hostPath": {"path": "/x"}}]},
            {"volumes": [{"name": "p", "hostPath": {"path": "/x"}}]},
        ),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}, {"tolerations": [{"key": "b"}]}),
    ],
)
def test_maps_merge_named_lists_merge_by_their_key_and_null_removes(
    base: Manifest, overlay: Manifest, result: Manifest
) -> None:
    before = str(base)
    assert merge(base, overlay) == result
    assert str(base) == before


def test_a_template_has_another_hash_when_anything_in_it_changes() -> None:
    def hashed(**spec: Any) -> str:
        return template_hash(pod_template(PoolSpec.model_validate(spec), DEFAULTS))

    assert hashed() == hashed(replicas=9, spareSessions=3)  # which is no business of a pod
    changed = [hashed(sessionsPerWorker=5), hashed(template={"spec": {"priorityClassName": "x"}}), hashed()]
    assert len(set(changed)) == 3
    assert pod()["metadata"]["labels"]["whatsapp.28web.io/template"] == hashed()
