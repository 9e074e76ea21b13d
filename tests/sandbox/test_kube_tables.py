"""Tables, which `kubectl get` prints: columns and cells, on the stand-in and on a real API server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.kube_cluster import WIDGET, Api, Cluster, ready_pod

TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


class Table:
    """The answer to a request for a table."""

    def __init__(self, body: dict[str, Any]) -> None:
        assert (body["kind"], body["apiVersion"]) == ("Table", "meta.k8s.io/v1")
        self.body = body

    @property
    def narrow(self) -> list[str]:
        """Names of the columns that are always shown."""
        return [column["name"] for column in self.body["columnDefinitions"] if not column["priority"]]

    @property
    def wide(self) -> list[str]:
        """Names of the columns that `-o wide` adds."""
        return [column["name"] for column in self.body["columnDefinitions"] if column["priority"]]

    def row(self, name: str) -> dict[str, Any]:
        """The cells of an object, by column."""
        names = [column["name"] for column in self.body["columnDefinitions"]]
        rows = [row for row in self.body["rows"] if row["object"]["metadata"]["name"] == name]
        assert len(rows) == 1
        return dict(zip(names, rows[0]["cells"], strict=True))


async def table(api: Api, path: str, **query: Any) -> Table:
    """A path as a table."""
    return Table((await api.request("GET", path, headers=TABLE, **query)).ok())


def ago(**duration: float) -> str:
    """A time in the past."""
    return (datetime.now(UTC) - timedelta(**duration)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize(
    ("path", "narrow", "wide"),
    [
        (
            "/api/v1/pods",
            ["Name", "Ready", "Status", "Restarts", "Age"],
            ["IP", "Node", "Nominated Node", "Readiness Gates"],
        ),
        (
            "/api/v1/nodes",
            ["Name", "Status", "Roles", "Age", "Version"],
            ["Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"],
        ),
        ("/api/v1/namespaces", ["Name", "Status", "Age"], []),
        (
            "/api/v1/services",
            ["Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age"],
            ["Selector"],
        ),
        ("/api/v1/configmaps", ["Name", "Data", "Age"], []),
        ("/api/v1/secrets", ["Name", "Type", "Data", "Age"], []),
        ("/api/v1/serviceaccounts", ["Name", "Age"], []),
        (
            "/api/v1/events",
            ["Last Seen", "Type", "Reason", "Object", "Message"],
            ["Subobject", "Source", "First Seen", "Count", "Name"],
        ),
        (
            "/api/v1/persistentvolumeclaims",
            [
                "Name",
                "Status",
                "Volume",
                "Capacity",
                "Access Modes",
                "StorageClass",
                "VolumeAttributesClass",
                "Age",
            ],
            ["VolumeMode"],
        ),
        (
            "/apis/apps/v1/deployments",
            ["Name", "Ready", "Up-to-date", "Available", "Age"],
            ["Containers", "Images", "Selector"],
        ),
        (
            "/apis/apps/v1/replicasets",
            ["Name", "Desired", "Current", "Ready", "Age"],
            ["Containers", "Images", "Selector"],
        ),
        ("/apis/apps/v1/statefulsets", ["Name", "Ready", "Age"], ["Containers", "Images"]),
        (
            "/apis/apps/v1/daemonsets",
            ["Name", "Desired", "Current", "Ready", "Up-to-date", "Available", "Node Selector", "Age"],
            ["Containers", "Images", "Selector"],
        ),
        (
            "/apis/batch/v1/jobs",
            ["Name", "Status", "Completions", "Duration", "Age"],
            ["Containers", "Images", "Selector"],
        ),
        (
            "/apis/policy/v1/poddisruptionbudgets",
            ["Name", "Min Available", "Max Unavailable", "Allowed Disruptions", "Age"],
            [],
        ),
        (
            "/apis/autoscaling/v2/horizontalpodautoscalers",
            ["Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"],
            [],
        ),
        ("/apis/coordination.k8s.io/v1/leases", ["Name", "Holder", "Age"], []),
        ("/apis/rbac.authorization.k8s.io/v1/roles", ["Name", "Created At"], []),
        (
            "/apis/rbac.authorization.k8s.io/v1/rolebindings",
            ["Name", "Role", "Age"],
            ["Users", "Groups", "ServiceAccounts"],
        ),
        ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", ["Name", "Created At"], []),
        ("/apis/example.test/v1/widgets", ["Name", "Color", "Since", "Age"], ["Size"]),
    ],
    ids=lambda value: value.rpartition("/")[2] if isinstance(value, str) else "",
)  # fmt: skip
async def test_columns_are_those_of_the_real_server(
    cluster: Cluster, path: str, narrow: list[str], wide: list[str]
) -> None:
    found = await table(Api(cluster, "default"), path, limit=1)

    assert found.narrow == narrow
    assert set(found.wide) == set(wide)


async def test_pods_show_readiness_state_and_restarts(api: Api) -> None:
    path = api.path("pods")
    for name in ("pending", "running", "crashing", "done"):
        await api.create(path, api.pod(name))
    await ready_pod(api, "running", restarts=2, last_end=ago(minutes=5, seconds=2))
    await api.patch(
        api.path("pods", "crashing", "status"),
        {
            "status": {
                "phase": "Running",
                "containerStatuses": [
                    {
                        "name": "main",
                        "image": "example/main:1",
                        "imageID": "x",
                        "ready": False,
                        "restartCount": 3,
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    }
                ],
            }
        },
    )
    await api.patch(
        api.path("pods", "done", "status"),
        {
            "status": {
                "phase": "Succeeded",
                "containerStatuses": [
                    {
                        "name": "main",
                        "image": "example/main:1",
                        "imageID": "x",
                        "ready": False,
                        "restartCount": 0,
                        "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
                    }
                ],
            }
        },
    )

    found = await table(api, path)

    def shown(name: str) -> list[str]:
        row = found.row(name)
        return [row["Ready"], row["Status"], row["Restarts"]]

    assert shown("pending") == ["0/1", "Pending", "0"]
    assert shown("running") in (["1/1", "Running", "2 (5m2s ago)"], ["1/1", "Running", "2 (5m3s ago)"])
    assert shown("crashing") == ["0/1", "CrashLoopBackOff", "3"]
    assert shown("done") == ["0/1", "Completed", "0"]
    assert (found.row("running")["IP"], found.row("pending")["IP"]) == ("127.0.9.9", "<none>")
    assert found.row("pending")["Node"] == "<none>"


async def test_a_pod_with_a_deletion_time_is_terminating(api: Api) -> None:
    await api.create(api.path("pods"), api.pod("a", metadata={"finalizers": ["example.test/hold"]}))
    await api.delete(api.path("pods", "a"))

    assert (await table(api, api.path("pods", "a"))).row("a")["Status"] == "Terminating"
    await api.patch(api.path("pods", "a"), {"metadata": {"finalizers": None}})


async def test_nodes_show_state_cordon_and_roles(api: Api) -> None:
    name = f"node-{api.namespace}"
    await api.create(
        "/api/v1/nodes",
        {
            "metadata": {"name": name, "labels": {"node-role.kubernetes.io/worker": ""}},
            "spec": {"unschedulable": True},
        },
    )
    body = {
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "nodeInfo": {
                "kubeletVersion": "v1.36.0",
                "osImage": "Linux",
                "kernelVersion": "6.1",
                "containerRuntimeVersion": "process://1",
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
        }
    }
    (await api.patch(f"/api/v1/nodes/{name}/status", body, "strategic-merge")).ok()

    row = (await table(api, f"/api/v1/nodes/{name}")).row(name)

    await api.delete(f"/api/v1/nodes/{name}")
    assert (row["Status"], row["Roles"], row["Version"]) == ("Ready,SchedulingDisabled", "worker", "v1.36.0")
    assert (row["Internal-IP"], row["External-IP"], row["OS-Image"]) == ("127.0.0.1", "<none>", "Linux")


async def test_custom_columns_show_what_their_paths_find(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a", size=3))
    await api.patch(api.path(WIDGET, "a", "status"), {"status": {"since": ago(hours=3, seconds=5)}})

    row = (await table(api, api.path(WIDGET))).row("a")

    assert (row["Color"], row["Size"], row["Since"]) == ("blue", 3, "3h")
    assert row["Age"].endswith("s")


async def test_a_path_that_finds_nothing_leaves_its_cell_empty(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    assert (await table(api, api.path(WIDGET))).row("a")["Since"] is None


async def test_events_show_object_and_times(api: Api) -> None:
    await api.create(
        api.path("events"),
        {
            "metadata": {"name": "a.1"},
            "involvedObject": {
                "kind": "Pod",
                "apiVersion": "v1",
                "name": "a",
                "namespace": api.namespace,
                "fieldPath": "spec.containers{main}",
            },
            "type": "Warning",
            "reason": "BackOff",
            "message": "Back-off\nrestarting",
            "source": {"component": "kubelet", "host": "one"},
            "firstTimestamp": ago(minutes=30, seconds=10),
            "lastTimestamp": ago(minutes=2, seconds=5),
            "count": 4,
        },
    )

    row = (await table(api, api.path("events"))).row("a.1")

    assert row["Last Seen"] in {"2m5s", "2m6s", "2m7s"}
    assert (row["First Seen"], row["Count"]) == ("30m", 4)
    assert (row["Type"], row["Reason"], row["Object"]) == ("Warning", "BackOff", "pod/a")
    assert (row["Subobject"], row["Source"]) == ("spec.containers{main}", "kubelet, one")
    assert row["Message"] == "Back-off\nrestarting"


async def test_services_claims_and_budgets_show_their_essentials(api: Api) -> None:
    await api.create(
        api.path("services"),
        {
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}, {"name": "s", "port": 443}]},
        },
    )
    await api.create(
        api.path("persistentvolumeclaims"),
        {
            "metadata": {"name": "data"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "storageClassName": "none",
                "volumeName": "elsewhere",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    )
    await api.create(
        api.path("policy/v1/poddisruptionbudgets"),
        {"metadata": {"name": "web"}, "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}}},
    )

    web = (await table(api, api.path("services"))).row("web")
    data = (await table(api, api.path("persistentvolumeclaims"))).row("data")
    budget = (await table(api, api.path("policy/v1/poddisruptionbudgets"))).row("web")

    assert (web["Type"], web["External-IP"], web["Port(s)"]) == ("ClusterIP", "<none>", "80/TCP,443/TCP")
    assert web["Selector"] == "app=web"
    assert (data["Volume"], data["StorageClass"]) == ("elsewhere", "none")
    assert (budget["Min Available"], budget["Max Unavailable"]) == ("50%", "N/A")


@pytest.mark.parametrize("included", ["None", "Metadata", "Object"])
async def test_rows_bring_as_much_of_their_object_as_is_asked_for(api: Api, included: str) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    found = await table(api, api.path(WIDGET), includeObject=included)

    brought = found.body["rows"][0].get("object")
    kinds = {"None": None, "Metadata": "PartialObjectMetadata", "Object": "Widget"}
    assert (brought or {}).get("kind") == kinds[included]


async def test_a_watch_sends_tables_with_columns_in_the_first_one_only(api: Api) -> None:
    async with api.watch(api.path(WIDGET), accept=TABLE["Accept"]) as events:
        await api.create(api.path(WIDGET), api.widget("a"))
        first = await events.next()
        await api.patch(api.path(WIDGET, "a"), {"spec": {"size": 7}})
        second = await events.next()

    assert (first["type"], second["type"]) == ("ADDED", "MODIFIED")
    assert [column["name"] for column in first["object"]["columnDefinitions"]][:2] == ["Name", "Color"]
    assert not second["object"]["columnDefinitions"]
    assert second["object"]["rows"][0]["cells"][:3] == ["a", "blue", 7]
