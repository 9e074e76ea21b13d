"""Discovery, OpenAPI, version and health, as clients read them, on the stand-in and on a real API server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.kube_cluster import Api

AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList,application/json"


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
async def test_health_is_told(api: Api, path: str) -> None:
    answer = await api.get(path)

    assert (answer.status, answer.body) == (200, "ok")


async def test_the_version_is_told(api: Api) -> None:
    version = (await api.get("/version")).ok()

    assert (version["major"], version["minor"]) == ("1", "36")
    assert version["gitVersion"].startswith("v")


async def test_the_core_group_has_one_version(api: Api) -> None:
    found = (await api.get("/api")).ok()

    assert (found["kind"], found["versions"]) == ("APIVersions", ["v1"])


@pytest.mark.parametrize(
    "group",
    [
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "apps",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "autoscaling",
        "batch",
        "coordination.k8s.io",
        "discovery.k8s.io",
        "events.k8s.io",
        "example.test",
        "networking.k8s.io",
        "policy",
        "rbac.authorization.k8s.io",
        "scheduling.k8s.io",
        "storage.k8s.io",
    ],
)
async def test_groups_are_listed_with_their_versions(api: Api, group: str) -> None:
    listed = {item["name"]: item for item in (await api.get("/apis")).ok()["groups"]}
    one = (await api.get(f"/apis/{group}")).ok()

    assert listed[group]["preferredVersion"] == one["preferredVersion"]
    assert one["preferredVersion"] in one["versions"]


@pytest.mark.parametrize(
    "group_version",
    [
        "/api/v1",
        "/apis/apps/v1",
        "/apis/apiextensions.k8s.io/v1",
        "/apis/autoscaling/v1",
        "/apis/autoscaling/v2",
        "/apis/batch/v1",
        "/apis/coordination.k8s.io/v1",
        "/apis/policy/v1",
        "/apis/rbac.authorization.k8s.io/v1",
        "/apis/authorization.k8s.io/v1",
    ],
)
async def test_what_the_stand_in_has_is_described_as_on_a_real_server(api: Api, group_version: str) -> None:
    """Kinds that the stand-in lacks are a limit; those that it has must not differ."""
    found = {item["name"]: item for item in (await api.get(group_version)).ok()["resources"]}

    shared = {name: item for name, item in EXPECTED.items() if item[0] == group_version and name.partition(" ")[2]}
    for key, (_, kind, namespaced, short_names, verbs) in shared.items():
        item = found[key.partition(" ")[2]]
        assert (item["kind"], item["namespaced"]) == (kind, namespaced)
        assert item.get("shortNames", []) == short_names
        assert sorted(item["verbs"]) == sorted(verbs)


ALL = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
SOME = ["get", "patch", "update"]
EXPECTED: dict[str, tuple[str, str, bool, list[str], list[str]]] = {
    f"{row[0]} {row[1]}": (row[0], *row[2:])
    for row in [
        ("/api/v1", "pods", "Pod", True, ["po"], ALL),
        ("/api/v1", "pods/status", "Pod", True, [], SOME),
        ("/api/v1", "pods/log", "Pod", True, [], ["get"]),
        ("/api/v1", "pods/eviction", "Eviction", True, [], ["create"]),
        ("/api/v1", "pods/binding", "Binding", True, [], ["create"]),
        ("/api/v1", "namespaces", "Namespace", False, ["ns"], ["create", "delete", *SOME, "list", "watch"]),
        ("/api/v1", "namespaces/finalize", "Namespace", False, [], ["update"]),
        ("/api/v1", "nodes", "Node", False, ["no"], ALL),
        ("/api/v1", "configmaps", "ConfigMap", True, ["cm"], ALL),
        ("/api/v1", "serviceaccounts/token", "TokenRequest", True, [], ["create"]),
        ("/api/v1", "events", "Event", True, ["ev"], ALL),
        ("/apis/apps/v1", "deployments", "Deployment", True, ["deploy"], ALL),
        ("/apis/apps/v1", "deployments/scale", "Scale", True, [], SOME),
        ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition", False,
         ["crd", "crds"], ALL),
        ("/apis/autoscaling/v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", True, ["hpa"], ALL),
        ("/apis/autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", True, ["hpa"], ALL),
        ("/apis/batch/v1", "jobs", "Job", True, [], ALL),
        ("/apis/coordination.k8s.io/v1", "leases", "Lease", True, [], ALL),
        ("/apis/policy/v1", "poddisruptionbudgets", "PodDisruptionBudget", True, ["pdb"], ALL),
        ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", False, [], ALL),
        ("/apis/authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False, [],
         ["create"]),
    ]
}  # fmt: skip


async def test_a_custom_kind_is_listed_with_its_names_and_subresources(api: Api) -> None:
    found = {item["name"]: item for item in (await api.get("/apis/example.test/v1")).ok()["resources"]}

    widget = found["widgets"]
    assert (widget["singularName"], widget["shortNames"], widget["categories"]) == ("widget", ["wd"], ["gadgets"])
    assert sorted(widget["verbs"]) == ALL
    scale = found["widgets/scale"]
    assert (scale["group"], scale["version"], scale["kind"]) == ("autoscaling", "v1", "Scale")
    assert found["widgets/status"]["kind"] == "Widget"


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
async def test_everything_is_told_in_one_document(api: Api, version: str) -> None:
    answer = await api.request("GET", "/apis", headers={"Accept": AGGREGATED.format(version)})
    if api.cluster.real and version == "v2beta1":
        return  # The real server has stopped to serve it; older clients still ask for it.

    groups = {item["metadata"]["name"]: item for item in answer.ok()["items"]}

    assert answer.body["apiVersion"] == f"apidiscovery.k8s.io/{version}"
    [served] = groups["example.test"]["versions"]
    [widget] = [item for item in served["resources"] if item["resource"] == "widgets"]
    assert widget["responseKind"] == {"group": "example.test", "version": "v1", "kind": "Widget"}
    assert (widget["scope"], widget["singularResource"], widget["shortNames"]) == ("Namespaced", "widget", ["wd"])
    assert {item["subresource"] for item in widget["subresources"]} == {"status", "scale"}


async def test_what_is_not_served_is_not_found(api: Api) -> None:
    assert (await api.get("/apis/nobody.test")).status == 404
    assert (await api.get("/apis/apps/v9")).status == 404
    assert (await api.get("/apis/apps/v1/namespaces/default/things")).status == 404


async def test_openapi_three_has_a_document_for_each_version(api: Api) -> None:
    index = (await api.get("/openapi/v3")).ok()
    # The real server sends the index without a media type.
    paths = (json.loads(index) if isinstance(index, str) else index)["paths"]

    document = (await api.get(paths["apis/example.test/v1"]["serverRelativeURL"].partition("?")[0])).ok()

    schema = document["components"]["schemas"]["test.example.v1.Widget"]
    assert schema["x-kubernetes-group-version-kind"] == [{"group": "example.test", "version": "v1", "kind": "Widget"}]
    assert schema["properties"]["spec"]["properties"]["color"]["enum"] == ["red", "green", "blue"]
    path = "/apis/example.test/v1/namespaces/{namespace}/widgets/{name}"
    patch = document["paths"][path]["patch"]
    assert "fieldValidation" in {item["name"] for item in patch["parameters"]}
    assert patch["x-kubernetes-group-version-kind"] == {"group": "example.test", "version": "v1", "kind": "Widget"}


@pytest.mark.parametrize("path", ["api/v1", "apis/apps/v1", "apis/apiextensions.k8s.io/v1"])
async def test_references_in_openapi_three_lead_somewhere(api: Api, path: str) -> None:
    document = (await api.get(f"/openapi/v3/{path}")).ok()
    known = document["components"]["schemas"]

    assert {item.rpartition("/")[2] for item in references(document)} <= known.keys()


def references(value: Any) -> set[str]:
    """All `$ref` of a document."""
    found: set[str] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            if isinstance(current.get("$ref"), str):
                found.add(current["$ref"])
            pending += current.values()
        elif isinstance(current, list):
            pending += current
    return found


async def test_openapi_two_describes_built_in_and_custom_kinds(api: Api) -> None:
    await api.until("/openapi/v2", lambda answer: "test.example.v1.Widget" in answer.body["definitions"])
    document = (await api.get("/openapi/v2")).ok()

    assert document["swagger"] == "2.0"
    definitions = document["definitions"]
    gvk = {"group": "", "version": "v1", "kind": "Pod"}
    [pod] = [item for item in definitions.values() if item.get("x-kubernetes-group-version-kind") == [gvk]]
    spec = definitions[pod["properties"]["spec"]["$ref"].rpartition("/")[2]]
    assert spec["properties"]["containers"]["x-kubernetes-patch-merge-key"] == "name"
    widget = definitions["test.example.v1.Widget"]
    assert widget["properties"]["spec"]["type"] == "object"


@pytest.mark.parametrize("version", ["@v1.0", ".v1.0"])
async def test_openapi_two_is_served_in_protobuf(api: Api, version: str) -> None:
    accept = f"application/com.github.proto-openapi.spec.v2{version}+protobuf"

    async with api.cluster.session.get(f"{api.cluster.url}/openapi/v2", headers={"Accept": accept}) as response:
        body = await response.read()

    assert response.status == 200
    assert response.headers["Content-Type"] == "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    assert body.startswith(b"\x0a\x032.0")
    assert b"test.example.v1.Widget" in body
