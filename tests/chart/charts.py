"""What tests of the chart share: Helm, variants of values, the objects in a rendering, and requests about them."""

from __future__ import annotations

import asyncio
import copy
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support.kube_cluster import Answer, Api

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "whatsapp-operator"
JsonObject = dict[str, Any]

NO_ASSETS = "KUBEBUILDER_ASSETS is not set to a directory with etcd and kube-apiserver"
_LINE_LIMIT = 16 * 2**20
"""Bytes of an answer of the Helm process: a rendering holds two long definitions."""

DEFINITIONS_ELSEWHERE = {
    ("monitoring.coreos.com", "v1", "PodMonitor"): "podmonitors",
    ("monitoring.coreos.com", "v1", "PrometheusRule"): "prometheusrules",
    ("gateway.networking.k8s.io", "v1", "HTTPRoute"): "httproutes",
}
"""Kinds of other projects that the chart can install: group, version, kind -> plural."""

VARIANTS: dict[str, JsonObject] = {
    "defaults": {},
    "small": {
        "operator": {"replicas": 1},
        "gateway": {"replicas": 1, "podDisruptionBudget": False},
        "redis": {"persistence": {"enabled": False}},
        "defaultPool": {"replicas": 1, "profiles": {"enabled": False}},
        "networkPolicy": {"enabled": False},
        "rbac": {"aggregate": False},
        "crds": {"keep": False},
    },
    "namespaced": {"watchNamespaces": ["team-a", "team-b"], "monitoring": {"podMonitors": {"enabled": True}}},
    "everything": {
        "fullnameOverride": "chat",
        "commonLabels": {"team": "messaging"},
        "commonAnnotations": {"example.com/owner": "messaging"},
        "images": {"registry": "registry.example.com/chat/", "tag": "1.2.3", "pullSecrets": [{"name": "login"}]},
        "operator": {
            "priorityClassName": "system-cluster-critical",
            "podLabels": {"a": "b"},
            "podAnnotations": {"c": "d"},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "x", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
            "serviceAccount": {"name": "chat-op", "annotations": {"e": "f"}},
        },
        "gateway": {
            "image": "registry.example.com/gateway@sha256:" + "0" * 64,
            "autoscaling": {"enabled": True},
            "readableSecrets": ["team-webhooks"],
            "service": {"type": "LoadBalancer", "annotations": {"g": "h"}},
            "ingress": {"enabled": True, "className": "nginx", "hosts": ["wa.example.com"], "tlsSecret": "wa-tls"},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["wa.example.com"]},
        },
        "workers": {"browserUrl": "https://web.whatsapp.example/"},
        "defaultPool": {
            "autoscaling": {"enabled": True, "maxReplicas": 20, "targetCPU": 60},
            "drain": {"maxConcurrent": 5, "timeout": "10m"},
            "browser": {"args": ["--lang=de"]},
            "resources": {"requests": {"memory": "4Gi"}, "limits": {"memory": "4Gi"}},
            "priorityClassName": "system-cluster-critical",
            "template": {
                "metadata": {"annotations": {"i": "j"}},
                "spec": {"containers": [{"name": "worker", "env": [{"name": "TZ", "value": "UTC"}]}]},
            },
            "profiles": {"storageClass": "nfs", "size": "50Gi"},
        },
        "networkPolicy": {
            "clients": [{"podSelector": {"matchLabels": {"app": "n8n"}}}],
            "workerExtraEgress": [{"ports": [{"protocol": "TCP", "port": 3128}]}],
            "gatewayExtraEgress": [{"ports": [{"protocol": "TCP", "port": 5678}]}],
        },
        "monitoring": {
            "labels": {"release": "prometheus"},
            "podMonitors": {"enabled": True},
            "rules": {"enabled": True, "extra": [{"alert": "Extra", "expr": "vector(1)"}]},
        },
    },
    "own Redis": {
        "redis": {"external": {"url": "redis+sentinel://s1:26379,s2:26379/main/0", "password": "secret"}},
        "gateway": {"apiKey": {"existingSecret": "key", "key": "api.key"}},
    },
    "own Secrets": {
        "redis": {"external": {"url": "rediss://redis.example.com:6380"}},
        "credentials": {"existingSecret": "mine"},
        "defaultPool": {"profiles": {"existingClaim": "mine"}},
        "operator": {"serviceAccount": {"create": False, "name": "mine"}},
        "rbac": {"create": False},
        "crds": {"install": False},
    },
    "operator alone": {"gateway": {"enabled": False}, "defaultPool": {"enabled": False}},
}
"""Values that the documentation speaks of."""


class HelmRefusedError(Exception):
    """Helm ended with an error; the text is what it said."""


class Helm:
    """Helm, in a process of its own. Use it as an async context manager."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._rendered: dict[str, list[JsonObject]] = {}

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.chart.helm_process"),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()  # the process ends with its input
        await self._process.communicate()

    async def __call__(self, action: str, values: JsonObject | None = None, **more: Any) -> Any:
        """Carry out an action on the chart.

        Raises:
            HelmRefusedError: Helm would not.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        request = {"action": action, "chart": str(CHART), "values": values or {}, **more}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        async with asyncio.timeout(120):
            line = await process.stdout.readline()
        assert line, "the Helm process has ended"
        reply = json.loads(line)
        if "error" in reply:
            raise HelmRefusedError(reply["error"])
        return reply["result"]

    async def objects(self, values: JsonObject, namespace: str = "ns", name: str = "wa") -> list[JsonObject]:
        """What the chart renders to, hooks and tests included; rendered once for the same question."""
        question = json.dumps((values, namespace, name))
        if question not in self._rendered:
            self._rendered[question] = list(documents(await self("render", values, namespace=namespace, name=name)))
        return copy.deepcopy(self._rendered[question])


def without_version(directory: Path) -> Path:
    """A copy of the chart that asks for no version of Kubernetes: servers built for tests may have none."""
    copied = directory / CHART.name
    shutil.copytree(CHART, copied)
    lines = (copied / "Chart.yaml").read_text().splitlines(keepends=True)
    (copied / "Chart.yaml").write_text("".join(line for line in lines if not line.startswith("kubeVersion:")))
    return copied


def documents(rendered: Mapping[str, str]) -> Iterator[JsonObject]:
    """The objects of a rendering."""
    for path, text in sorted(rendered.items()):
        if path.endswith(".yaml"):
            yield from (item for item in yaml.safe_load_all(text) if item)


def of_kind(objects: list[JsonObject], kind: str) -> dict[str, JsonObject]:
    """The objects of a kind, by name."""
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def pod_templates(objects: list[JsonObject]) -> dict[str, JsonObject]:
    """The pod specs in a rendering, by kind and name of what holds them."""
    found = {}
    for item in objects:
        label = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            found[label] = item["spec"]
        elif "template" in item.get("spec", {}) and item["kind"] in {"Deployment", "StatefulSet", "Job", "DaemonSet"}:
            found[label] = item["spec"]["template"]["spec"]
    return found


def settings_of(spec: JsonObject) -> dict[str, JsonObject]:
    """The environment variables of a pod's first container, by name."""
    return {variable["name"]: variable for variable in spec["containers"][0].get("env", [])}


def definition(group: str, version: str, kind: str, plural: str) -> JsonObject:
    """A definition of another project's kind, as far as the server has to know it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            # The server wants this where a group is Kubernetes' own.
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test's"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    },
                }
            ],
        },
    }


async def path_of_object(api: Api, item: JsonObject) -> str:
    """Where an object belongs, by the server's own discovery."""
    version = item["apiVersion"]
    root = "/api/v1" if version == "v1" else f"/apis/{version}"
    resources = (await api.get(root)).ok()["resources"]
    found = next(entry for entry in resources if entry["kind"] == item["kind"] and "/" not in entry["name"])
    meta = item["metadata"]
    middle = f"/namespaces/{meta.get('namespace', api.namespace)}" if found["namespaced"] else ""
    return f"{root}{middle}/{found['name']}/{meta['name']}"


async def dry_run(api: Api, item: JsonObject) -> Answer:
    """Apply an object without consequences."""
    return await api.apply(await path_of_object(api, item), item, "tests", dryRun="All", force="true")
