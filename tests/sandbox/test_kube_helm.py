"""Helm, as a library, against the stand-in and a real API server: a chart's life from install to uninstall."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest

from tests.support.kube_cluster import Api

FILES = {
    "Chart.yaml": "{apiVersion: v2, name: demo, version: 0.1.0, appVersion: '1'}",
    "values.yaml": "{color: blue, replicas: 0, failing: false}",
    "crds/gadgets.yaml": """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: helmgadgets.example.test}
spec:
  group: example.test
  scope: Namespaced
  names: {plural: helmgadgets, singular: helmgadget, kind: HelmGadget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {color: {type: string, enum: [blue, red]}}}
""",
    "templates/all.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-config, labels: {release: {{ .Release.Name }}}}
data:
  color: {{ .Values.color }}
  revision: "{{ .Release.Revision }}"
  known: "{{ (lookup "v1" "ConfigMap" .Release.Namespace "kube-root-ca.crt").metadata.name }}"
  kube: "{{ .Capabilities.KubeVersion.Minor }}"
---
apiVersion: v1
kind: Secret
metadata: {name: {{ .Release.Name }}-secret}
stringData: {word: hidden}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: {{ .Release.Name }}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: {{ .Release.Name }}}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: {{ .Release.Name }}}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .Release.Name }}}
subjects: [{kind: ServiceAccount, name: {{ .Release.Name }}, namespace: {{ .Release.Namespace }}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      serviceAccountName: {{ .Release.Name }}
      containers: [{name: main, image: "example/main:{{ .Values.color }}"}]
---
apiVersion: example.test/v1
kind: HelmGadget
metadata: {name: {{ .Release.Name }}}
spec: {color: {{ .Values.color }}}
""",
}
MADE = [
    ("configmaps", "demo-config"),
    ("secrets", "demo-secret"),
    ("serviceaccounts", "demo"),
    ("rbac.authorization.k8s.io/v1/roles", "demo"),
    ("rbac.authorization.k8s.io/v1/rolebindings", "demo"),
    ("apps/v1/deployments", "demo"),
    ("example.test/v1/helmgadgets", "demo"),
]


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    root = tmp_path / "demo"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


class Helm:
    """Helm in the test's namespace. It blocks, so it runs in a thread; the stand-in answers from this one."""

    def __init__(self, config: Any) -> None:
        self._config = config

    async def __call__(self, name: str, *words: Any, **options: Any) -> Any:
        action: Callable[..., Any] = getattr(self._config, name)
        return await asyncio.to_thread(action, *words, **options)


@pytest.fixture
def release(api: Api) -> Iterator[Helm]:
    config = helm.Config(kubeconfig_path=api.cluster.kubeconfig, namespace=api.namespace)
    with config:
        yield Helm(config)


async def release_secrets(api: Api) -> dict[str, dict[str, Any]]:
    """The releases that are stored in the namespace, by the name of their Secret."""
    listed = (await api.get(api.path("secrets"), labelSelector="owner=helm")).ok()["items"]
    assert {item["type"] for item in listed} <= {"helm.sh/release.v1"}
    return {
        item["metadata"]["name"]: json.loads(
            gzip.decompress(base64.b64decode(base64.b64decode(item["data"]["release"])))
        )
        for item in listed
    }


async def test_a_chart_is_installed_upgraded_rolled_back_and_uninstalled(api: Api, release: Helm, chart: Path) -> None:
    async def config() -> Any:
        return (await api.get(api.path("configmaps", "demo-config"))).ok()["data"]

    async def image() -> Any:
        deployment = (await api.get(api.path("apps/v1/deployments", "demo"))).ok()
        return deployment["spec"]["template"]["spec"]["containers"][0]["image"]

    await release("install", chart, "demo", {"replicas": 0}, wait="legacy", timeout=60)

    for plural, name in MADE:
        found = (await api.get(api.path(plural, name))).ok()
        assert found["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert found["metadata"]["annotations"]["meta.helm.sh/release-name"] == "demo"
    assert await config() == {"color": "blue", "revision": "1", "known": "kube-root-ca.crt", "kube": "36"}
    assert set(await release_secrets(api)) == {"sh.helm.release.v1.demo.v1"}

    await release("upgrade", chart, "demo", {"color": "red"}, wait="legacy", timeout=60)

    assert ((await config())["color"], (await config())["revision"]) == ("red", "2")
    assert await image() == "example/main:red"
    gadget = (await api.get(api.path("example.test/v1/helmgadgets", "demo"))).ok()
    assert gadget["spec"] == {"color": "red"}
    states = {name: item["info"]["status"] for name, item in (await release_secrets(api)).items()}
    assert states == {"sh.helm.release.v1.demo.v1": "superseded", "sh.helm.release.v1.demo.v2": "deployed"}

    await release("rollback", "demo", version=1, wait="legacy", timeout=60)

    assert (await config())["color"] == "blue"
    assert await image() == "example/main:blue"
    [listed] = await release("list")
    assert listed["name"] == "demo"
    assert len(await release("history", "demo")) == 3

    await release("uninstall", "demo", wait="legacy", timeout=60)

    for plural, name in MADE:
        await api.until_gone(api.path(plural, name))
    assert await release_secrets(api) == {}
    assert await release("list") == []
    definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/helmgadgets.example.test"
    assert (await api.delete(definition)).status == 200
    await api.until_gone(definition)


async def test_what_the_server_refuses_fails_the_install(api: Api, release: Helm, chart: Path) -> None:
    (chart / "crds" / "gadgets.yaml").unlink()
    (chart / "templates" / "all.yaml").write_text(
        "apiVersion: example.test/v1\nkind: Widget\nmetadata: {name: demo}\nspec: {color: {{ .Values.color }}}\n"
    )

    with pytest.raises(helm.HelmError) as caught:
        await release("install", chart, "demo", {"color": "pink"})

    assert 'Unsupported value: "pink": supported values: "red", "green", "blue"' in str(caught.value)
    [stored] = (await release_secrets(api)).values()
    assert stored["info"]["status"] == "failed"


async def test_a_dry_run_stores_nothing(api: Api, release: Helm, chart: Path) -> None:
    (chart / "crds" / "gadgets.yaml").unlink()
    (chart / "templates" / "all.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: demo}\n")

    await release("install", chart, "demo", dry_run="server")

    assert await release_secrets(api) == {}
    assert (await api.get(api.path("configmaps", "demo"))).status == 404
