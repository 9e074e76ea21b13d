"""The CRDs: made from the models, and what an API server makes of manifests with them."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeclient import Object, RejectedError
from tests.support.kube_product import CRDS, ProductApi
from whatsapp_operator.resources import PoolSpec, SessionSpec

HOOK = {"url": "http://example.test/", "events": ["*"]}


async def test_the_files_are_what_the_models_make(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "whatsapp_operator.crds", str(tmp_path), stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text() for file in CRDS.glob("*.yaml")}, "run `make crds`"


async def refused(kube: ProductApi, namespace: str, spec: dict[str, Any], *, pool: bool) -> str:
    """The sentence with which a manifest is refused."""
    with pytest.raises(RejectedError) as caught:
        await kube.create(namespace, "a", pool=pool, **spec)
    assert caught.value.status == 422
    return caught.value.message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"pairing": {"method": "PairingCode"}},
            "spec.pairing: Invalid value: phoneNumber is required when method is PairingCode: give the account's",
        ),
        ({"pairing": {"timeout": "59s"}}, "timeout must be between 60s and 24h"),
        ({"pairing": {"timeout": "24h1s"}}, "timeout must be between 60s and 24h"),
        ({"pairing": {"timeout": "soon"}}, "spec.pairing.timeout"),
        ({"pairing": {"phoneNumber": "+5511"}}, "spec.pairing.phoneNumber"),
        ({"hibernateAfter": "30s"}, "hibernateAfter must be at least 60s"),
        ({"state": "Paused"}, 'supported values: "Running", "Stopped"'),
        ({"priority": 1001}, "spec.priority"),
        ({"webhooks": [{**HOOK, "events": []}]}, "spec.webhooks[0].events"),
        ({"webhooks": [{**HOOK, "events": ["dance"]}]}, "spec.webhooks[0].events[0]"),
        ({"webhooks": [{**HOOK, "url": "example.test"}]}, "spec.webhooks[0].url"),
        ({"webhooks": [{**HOOK, "retries": {"attempts": 0}}]}, "spec.webhooks[0].retries.attempts"),
        ({"webhooks": [{**HOOK, "hmacSecretRef": {"name": "x"}}]}, "spec.webhooks[0].hmacSecretRef.key"),
        ({"throttle": {"messagesPerMinute": 0}}, "spec.throttle.messagesPerMinute"),
        ({"metadata": {"a": "x" * 1025}}, "spec.metadata"),
        ({"deletionPolicy": "Forget"}, "spec.deletionPolicy"),
    ],
)
async def test_a_wrong_session_is_refused_with_what_is_wrong(
    kube: ProductApi, namespace: str, spec: dict[str, Any], message: str
) -> None:
    assert message in (await refused(kube, namespace, spec, pool=False)).replace('"object": ', "")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"autoscaling": {"minReplicas": 5, "maxReplicas": 4}}, "minReplicas must not exceed maxReplicas"),
        ({"autoscaling": {"minReplicas": 0}}, "minReplicas 0 needs source keda: the HPA itself cannot scale to zero"),
        (
            {"sessionsPerWorker": 5, "autoscaling": {"targetSessions": 6}},
            "autoscaling.targetSessions must not exceed sessionsPerWorker",
        ),
        ({"drain": {"timeout": "9s"}}, "timeout must be between 10s and 1h"),
        ({"drain": {"timeout": "61m"}}, "timeout must be between 10s and 1h"),
        (
            {"browser": {"args": ["--user-data-dir=/x"]}},
            "args must not set --user-data-dir or --remote-debugging-*: the worker owns them",
        ),
        ({"browser": {"args": ["--remote-debugging-port=1"]}}, "args must not set"),
        ({"browser": {"args": ["lang=de"]}}, "spec.browser.args[0]"),
        ({"profiles": {"url": "s3://b"}}, "url is not supported yet: give volumeClaimName"),
        ({"profiles": {"volumeClaimName": "a", "url": "s3://b"}}, "give volumeClaimName or url, not both"),
        (
            {"profiles": {"url": "s3://b"}},
            "url needs encryptionKeySecretRef: a profile is the account, and is never stored in clear",
        ),
        ({"replicas": -1}, "spec.replicas"),
        ({"memoryPerSession": "lots"}, "spec.memoryPerSession"),
        ({"placement": "Anywhere"}, "spec.placement"),
    ],
)
async def test_a_wrong_pool_is_refused_with_what_is_wrong(
    kube: ProductApi, namespace: str, spec: dict[str, Any], message: str
) -> None:
    assert message in await refused(kube, namespace, spec, pool=True)


def rules() -> list[str]:
    """The message of every CEL rule in the CRDs."""

    def walk(node: Any) -> list[str]:
        if isinstance(node, list):
            return [message for item in node for message in walk(item)]
        if not isinstance(node, dict):
            return []
        own = [rule["message"] for rule in node.get("x-kubernetes-validations", []) if isinstance(rule, dict)]
        return own + [message for value in node.values() for message in walk(value)]

    return [message for file in CRDS.glob("*.yaml") for message in walk(yaml.safe_load(file.read_text()))]


def test_every_rule_has_been_broken_by_a_test() -> None:
    tests = Path(__file__).read_text()
    assert [rule for rule in rules() if rule[:40] not in tests.replace("\\.", ".")] == []


async def test_a_name_that_cannot_be_a_label_is_refused(kube: ProductApi, namespace: str) -> None:
    for pool in (False, True):
        await kube.create(namespace, "x" * 63, pool=pool)
        with pytest.raises(RejectedError, match=r"metadata\.name must have at most 63 characters: it becomes a label"):
            await kube.create(namespace, "x" * 64, pool=pool)


async def test_a_running_session_cannot_change_its_pool_and_a_stopped_one_can(kube: ProductApi, namespace: str) -> None:
    await kube.create(namespace, "a", poolRef={"name": "one"})
    move = {"spec": {"poolRef": {"name": "two"}}}
    with pytest.raises(RejectedError, match="poolRef is immutable while state is Running: set state to Stopped"):
        await kube.patch(namespace, "a", move)
    await kube.patch(namespace, "a", {"spec": {"state": "Stopped"}})
    await kube.patch(namespace, "a", move)
    started = await kube.patch(namespace, "a", {"spec": {"state": "Running"}})
    assert started["spec"]["poolRef"]["name"] == "two"


async def test_an_empty_manifest_gets_every_default(kube: ProductApi, namespace: str) -> None:
    for pool, model in ((False, SessionSpec), (True, PoolSpec)):
        body = kube.body("empty", pool=pool)
        del body["spec"]
        made = await kube.client.create(kube.path(namespace, pool=pool), body)
        assert made["spec"] == model().model_dump(mode="json", by_alias=True, exclude_none=True)


async def test_a_partial_manifest_gets_the_defaults_of_what_it_leaves_out(kube: ProductApi, namespace: str) -> None:
    spec: dict[str, Any] = {
        "pairing": {"method": "QRCode"},
        "webhooks": [{"url": "http://example.test/", "retries": {"attempts": 3}}],
    }
    made = (await kube.create(namespace, "partial", **spec))["spec"]
    assert made["pairing"] == {"method": "QRCode", "timeout": "10m"}
    (webhook,) = made["webhooks"]
    assert webhook["events"] == ["*"]
    assert webhook["retries"] == {"policy": "constant", "delaySeconds": 2, "attempts": 3}
    assert made == SessionSpec.model_validate(spec).model_dump(mode="json", by_alias=True, exclude_none=True)


@pytest.mark.parametrize("pool", [False, True])
async def test_a_new_object_does_not_pass_for_a_settled_one(kube: ProductApi, namespace: str, *, pool: bool) -> None:
    """Tools that go by observedGeneration wait until the operator has looked at it."""
    made = await kube.create(namespace, "new", pool=pool)
    assert made["status"]["observedGeneration"] == -1
    assert made["metadata"]["generation"] == 1


async def test_the_status_is_written_on_its_own_path_only(kube: ProductApi, namespace: str) -> None:
    await kube.create(namespace, "a")
    assert "phase" not in (await kube.patch(namespace, "a", {"status": {"phase": "Connected"}}))["status"]
    changed = await kube.give(namespace, "a", "w1")
    assert changed["status"]["assignment"]["worker"] == "w1"
    assert changed["metadata"]["generation"] == 1


async def test_a_pool_is_scaled_through_its_scale_subresource(kube: ProductApi, namespace: str) -> None:
    await kube.create(namespace, "p", pool=True)
    path = kube.path(namespace, "p", pool=True)
    status = {"status": {"replicas": 2, "selector": "a=b"}}
    await kube.client.patch(f"{path}/status", status)
    scale = await kube.client.patch(f"{path}/scale", {"spec": {"replicas": 7}})
    assert (scale["spec"]["replicas"], scale["status"]) == (7, {"replicas": 2, "selector": "a=b"})
    assert (await kube.client.get(path))["spec"]["replicas"] == 7


def columns(file: str) -> list[str]:
    crd: Object = yaml.safe_load((CRDS / file).read_text())
    found = crd["spec"]["versions"][0]["additionalPrinterColumns"]
    return [column["name"] for column in found if not column.get("priority")]


def test_kubectl_get_shows_what_one_looks_for_first() -> None:
    assert columns("whatsappsessions.yaml") == ["Phase", "Account", "Worker", "Restarts", "Age", "Message"]
    assert columns("whatsappworkerpools.yaml") == [
        "Desired", "Ready", "Sessions", "Capacity", "Pending", "Age", "Message",
    ]  # fmt: skip


@pytest.mark.parametrize(("file", "short"), [("whatsappsessions.yaml", "wa"), ("whatsappworkerpools.yaml", "wapool")])
def test_the_kinds_have_the_names_that_people_type(file: str, short: str) -> None:
    names = yaml.safe_load((CRDS / file).read_text())["spec"]["names"]
    assert (names["shortNames"], names["categories"]) == ([short], ["whatsapp"])
