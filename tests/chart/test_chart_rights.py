"""The rights that the chart gives: enough for operator and gateway to do their work with them, and no more.

Both run as processes with the environment of the rendered pods and the tokens of their service accounts.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from kubeclient import KubeClient, NotFoundError, path_of
from sandbox.assets import assets_from_environment
from sandbox.cluster import Options, Part, Sandbox, free_ports
from sandbox.kube.clients import connect
from tests.chart.charts import NO_ASSETS, Helm, JsonObject, of_kind, settings_of, without_version
from tests.support.people import eventually

GROUP = "whatsapp.28web.io"
API = f"{GROUP}/v1alpha1"
Right = tuple[str, str, str, str]
"""Group, resource, verb, and the only name that it is for, or nothing."""


def rights(group: str, resources: str, verbs: str, name: str = "") -> set[Right]:
    """Rights in short: words separated by blanks."""
    return {(group, resource, verb, name) for resource in resources.split() for verb in verbs.split()}


OPERATOR = (
    rights(GROUP, "whatsappsessions", "get list watch patch")
    | rights(GROUP, "whatsappworkerpools", "get list watch")
    | rights(GROUP, "whatsappsessions/status whatsappworkerpools/status", "patch")
    | rights(GROUP, "whatsappworkerpools/finalizers", "update")
    | rights("", "pods", "get list watch create patch delete")
    | rights("", "events", "create")
    | rights("policy", "poddisruptionbudgets", "create patch")
    | rights("autoscaling", "horizontalpodautoscalers", "get list create patch delete")
    | rights("keda.sh", "scaledobjects", "get list create patch delete")
)
LEADER = rights("coordination.k8s.io", "leases", "create") | rights(
    "coordination.k8s.io", "leases", "get update", "wa-operator"
)
GATEWAY = rights(GROUP, "whatsappsessions", "list watch create patch delete") | rights(
    "", "secrets", "get patch", "whatsapp-webhook-keys"
)
EVERYBODY = {"authorization.k8s.io", "authentication.k8s.io"}
"""Groups in which every account may ask about itself."""


@dataclass
class Release:
    """A release of the chart in the sandbox, whose operator and gateway the tests run themselves."""

    client: KubeClient
    namespace: str
    directory: Path
    server: JsonObject
    stack: AsyncExitStack

    async def token(self, account: str) -> str:
        """A token of a service account, as a pod gets it."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
        path = path_of("v1", "serviceaccounts", namespace=self.namespace, name=account, subresource="token")
        answer = await self.client.create(path, body)
        return str(answer["status"]["token"])

    async def kubeconfig(self, account: str) -> Path:
        """A kubeconfig with such a token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": self.server}],
            "users": [{"name": account, "user": {"token": await self.token(account)}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": account}}],
            "current-context": "c",
        }
        path = self.directory / f"{self.namespace}-{account}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return path

    async def rights_in(self, account: str, namespace: str) -> set[Right]:
        """What an account may do in a namespace, beyond what every account may."""
        client = await connect(await self.kubeconfig(account))
        try:
            body = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectRulesReview",
                "spec": {"namespace": namespace},
            }
            answer = await client.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body)
        finally:
            await client.aclose()
        assert answer["status"]["incomplete"] is False
        return {
            (group, resource, verb, name)
            for rule in answer["status"]["resourceRules"]
            for group in rule["apiGroups"]
            if group not in EVERYBODY
            for resource in rule["resources"]
            for verb in rule["verbs"]
            for name in rule.get("resourceNames") or [""]
        }

    async def value_of(self, variable: JsonObject, pod: str) -> str | None:
        """The value of an environment variable, as a kubelet finds it."""
        source = variable.get("valueFrom")
        if source is None:
            return str(variable["value"])
        if field := source.get("fieldRef"):
            return {"metadata.name": pod, "metadata.namespace": self.namespace}[field["fieldPath"]]
        ref = source["secretKeyRef"]
        secret = await self.client.get(path_of("v1", "secrets", namespace=self.namespace, name=ref["name"]))
        text = secret["data"].get(ref["key"])
        if text is None:
            assert ref.get("optional"), f"{ref} is missing"
            return None
        return base64.b64decode(text).decode()

    async def start(self, part: str, module: str) -> tuple[Part, str]:
        """Run the operator or the gateway of the release; the part and its address."""
        name = f"wa-{part}"
        path = path_of("apps/v1", "deployments", namespace=self.namespace, name=name)
        spec = (await self.client.get(path))["spec"]["template"]["spec"]
        assert spec["serviceAccountName"] == name
        values = {
            key: value
            for key, variable in settings_of(spec).items()
            if (value := await self.value_of(variable, f"{name}-0")) is not None
        }
        port, metrics = free_ports(2)
        own = {"HOST": "127.0.0.1", "PORT": str(port), "PROMETHEUS_PORT": str(metrics)}
        kubeconfig = {"KUBECONFIG": str(await self.kubeconfig(name))}
        running = Part(f"{self.namespace}-{name}", module, {**values, **own, **kubeconfig}, self.directory)
        await running.start()
        self.stack.push_async_callback(running.stop)
        url = f"http://127.0.0.1:{port}"

        async def ready() -> bool:
            assert not running.ended or pytest.fail(running.log.read_text())
            async with aiohttp.ClientSession() as http, http.get(f"{url}/readyz") as response:
                return response.status == 200

        await eventually(f"the {part} is ready", ready)
        return running, url


@pytest.fixture(scope="module", params=["standin", pytest.param("real", marks=pytest.mark.real)])
async def sandbox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    """Redis, a node and WhatsApp around each of the API servers in turn, with neither operator nor gateway."""
    assets = None
    if request.param == "real" and (assets := assets_from_environment()) is None:
        pytest.skip(NO_ASSETS)
    directory = tmp_path_factory.mktemp("rights")
    async with Sandbox(Options(directory=directory, assets=assets, parts=False)) as running:
        yield running


@asynccontextmanager
async def released(
    helm: Helm, sandbox: Sandbox, chart: Path, namespace: str, **values: Any
) -> AsyncIterator[Release]:  # fmt: skip
    """A release in a namespace of its own; both go in the end."""
    assert sandbox.access is not None
    assert sandbox.client is not None
    client, kubeconfig = sandbox.client, Path(sandbox.access.kubeconfig)
    where: JsonObject = {"chart": str(chart), "kubeconfig": str(kubeconfig), "namespace": namespace, "name": "wa"}
    everything = {
        "crds": {"install": False},  # the sandbox has installed them
        "operator": {"replicas": 0},
        "gateway": {"replicas": 0},
        "redis": {"external": {"url": sandbox.access.redis_url}},
        "workers": {"browserUrl": f"{sandbox.access.whatsapp_url}/"},
        "defaultPool": {"replicas": 1, "profiles": {"enabled": False}, "drain": {"timeout": "10s"}},
        **values,
    }
    await helm("install", everything, **where)
    async with AsyncExitStack() as stack:
        server = yaml.safe_load(kubeconfig.read_text())["clusters"][0]["cluster"]
        yield Release(client, namespace, kubeconfig.parent, server, stack)
    await helm("uninstall", **where)
    await client.delete(path_of("v1", "namespaces", name=namespace))


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart, for servers that were built without a version, too."""
    return without_version(tmp_path_factory.mktemp("chart"))


def complaints(part: Part) -> list[str]:
    """What a part has logged of refused requests, and its errors."""
    return [
        line
        for line in part.log.read_text().splitlines()
        if "forbidden" in line.lower() or '"level": "ERROR"' in line or "Traceback" in line
    ]


async def exit_code_of_test(helm: Helm, release: Release, url: str) -> int:
    """The exit code of the chart's own test, against a gateway that is somewhere else."""
    pod = of_kind(await helm.objects({}, namespace=release.namespace), "Pod")["wa-gateway-test"]
    container = pod["spec"]["containers"][0]
    key = await release.value_of(settings_of(pod["spec"])["WAHA_API_KEY"], "")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *container["command"][1:], *container["args"], env={"URL": url, "WAHA_API_KEY": str(key)}
    )
    return await process.wait()


@pytest.mark.parametrize("watched", [[], ["own"]], ids=["cluster-wide", "namespaced"])
async def test_the_rights_suffice_for_a_whole_session(
    helm: Helm, sandbox: Sandbox, chart: Path, watched: list[str]
) -> None:
    namespace = f"rights-{'own' if watched else 'all'}"
    async with released(helm, sandbox, chart, namespace, watchNamespaces=[namespace] if watched else []) as release:
        sessions = path_of(API, "whatsappsessions", namespace=namespace)
        pool = path_of(API, "whatsappworkerpools", namespace=namespace, name="default")
        operator, _ = await release.start("operator", "whatsapp_operator")
        gateway, url = await release.start("gateway", "gateway")
        assert await exit_code_of_test(helm, release, url) == 0
        key = await release.value_of({"valueFrom": {"secretKeyRef": {"name": "wa-api-key", "key": "WAHA_API_KEY"}}}, "")

        async with aiohttp.ClientSession(headers={"X-Api-Key": str(key)}) as http:
            # A key of a webhook goes into the gateway's Secret: made, read and forgotten.
            hook = {"url": "http://127.0.0.1:9/", "events": ["session.status"], "hmac": {"key": "signing-key"}}
            body = {"name": "sales", "start": True, "config": {"webhooks": [hook]}}
            async with http.post(f"{url}/api/sessions", json=body) as response:
                assert response.status == 201, await response.text()
            keys = path_of("v1", "secrets", namespace=namespace, name="whatsapp-webhook-keys")
            assert (await release.client.get(keys))["data"]

            async def assigned() -> bool:
                item = await release.client.get(f"{sessions}/sales")
                return bool((item.get("status") or {}).get("assignment", {}).get("worker"))

            await eventually("the session has a worker", assigned)
            async with http.put(f"{url}/api/sessions/sales", json={"config": {"webhooks": [hook]}}) as response:
                assert response.status == 200, await response.text()
            async with http.delete(f"{url}/api/sessions/sales") as response:
                assert response.status == 200, await response.text()

        async def deleted() -> bool:
            try:
                await release.client.get(f"{sessions}/sales")
            except NotFoundError:
                return True
            return False

        await eventually("the session is gone", deleted)
        # A smaller pool drains and deletes a worker.
        await release.client.patch(pool, {"spec": {"replicas": 0}})

        async def emptied() -> bool:
            pods, _ = await release.client.list(path_of("v1", "pods", namespace=namespace))
            return not pods

        await eventually("the workers are gone", emptied)
        events, _ = await release.client.list(path_of("v1", "events", namespace=namespace))
        assert "Assigned" in {event["reason"] for event in events}
        budgets, _ = await release.client.list(path_of("policy/v1", "poddisruptionbudgets", namespace=namespace))
        assert [budget["metadata"]["name"] for budget in budgets] == ["whatsapp-pool-default"]
        lease = path_of("coordination.k8s.io/v1", "leases", namespace=namespace, name="wa-operator")
        assert (await release.client.get(lease))["spec"]["holderIdentity"] == "wa-operator-0"
        for part in (operator, gateway):
            assert complaints(part) == []


@pytest.mark.parametrize("watched", [[], ["own"]], ids=["cluster-wide", "namespaced"])
async def test_nobody_has_more_rights_than_those_listed(
    helm: Helm, sandbox: Sandbox, chart: Path, watched: list[str]
) -> None:
    namespace = f"list-{'own' if watched else 'all'}"
    async with released(helm, sandbox, chart, namespace, watchNamespaces=[namespace] if watched else []) as release:
        found = {
            account: (await release.rights_in(account, namespace), await release.rights_in(account, "default"))
            for account in ("wa-operator", "wa-gateway", "wa-worker")
        }

    assert found == {
        "wa-operator": (OPERATOR | LEADER, set() if watched else OPERATOR),
        "wa-gateway": (GATEWAY, set()),
        "wa-worker": (set(), set()),
    }


async def test_the_clusters_own_roles_view_and_edit_sessions_but_not_their_status(
    helm: Helm, sandbox: Sandbox, chart: Path
) -> None:
    namespace = "aggregated"
    async with released(helm, sandbox, chart, namespace) as release:
        for role in ("view", "edit"):
            binding = {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "RoleBinding",
                "metadata": {"name": role},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"{role}er"}],
            }
            collection = path_of("rbac.authorization.k8s.io/v1", "rolebindings", namespace=namespace)
            await release.client.create(collection, binding)

        async def may(user: str, verb: str, subresource: str = "") -> bool:
            asked = {
                "namespace": namespace,
                "group": GROUP,
                "resource": "whatsappsessions",
                "verb": verb,
                "subresource": subresource,
            }
            body = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {"user": user, "resourceAttributes": asked},
            }
            answer = await release.client.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
            return bool(answer["status"]["allowed"])

        # A controller gathers the rules of aggregated roles.
        await eventually("viewers may look", lambda: may("viewer", "list"))
        await eventually("editors may change", lambda: may("editer", "patch"))
        assert await may("editer", "get", "status")
        assert not await may("viewer", "patch")
        assert not await may("editer", "patch", "status")
        assert not await may("editer", "update", "status")
