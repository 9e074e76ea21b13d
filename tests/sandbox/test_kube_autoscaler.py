"""HPA, resource metrics and aggregated APIs of the sandbox: the algorithm by itself, the rest on both API servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from sandbox.kube.autoscaler import Autoscaler
from sandbox.kube.clients import connect
from sandbox.kube.metrics import MetricsServer, publish
from sandbox.kube.replicas import History, MetricError, Usage, decide, external_wish, resource_wish
from tests.support.kube_cluster import Answer, Api, Kubectl, Node, is_ready

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
MIB = 2**20
JsonObject = dict[str, Any]


# --- External metrics


def external(values: Sequence[int], *, replicas: int, target: JsonObject | None = None, ready: int = 0) -> int:
    source = {"metric": {"name": "m"}, "target": target or {"type": "AverageValue", "averageValue": "13"}}
    wish = external_wish(
        source, [Decimal(v) for v in values], spec_replicas=replicas, status_replicas=replicas, ready=ready
    )
    return wish.replicas


@pytest.mark.parametrize(
    ("demand", "replicas", "wanted"),
    [
        (26, 2, 2),
        (28, 2, 2),  # 1.077: within the tolerance
        (29, 2, 3),  # 1.115
        (60, 2, 5),
        (130, 11, 11),  # 0.909: also within, and so the eleventh stays
        (128, 11, 10),  # 0.895
        (0, 2, 0),
        (5, 0, 1),
    ],
)
def test_an_average_over_all_replicas_is_acted_on_outside_the_tolerance(
    demand: int, replicas: int, wanted: int
) -> None:
    assert external([demand], replicas=replicas) == wanted


def test_the_values_of_several_series_are_summed() -> None:
    assert external([10, 20, 30], replicas=2) == 5


def test_a_plain_value_is_a_ratio_of_the_ready_pods() -> None:
    target = {"type": "Value", "value": "10"}
    assert external([20], replicas=3, target=target, ready=3) == 6
    assert external([10], replicas=3, target=target, ready=3) == 3
    assert external([25], replicas=0, target=target) == 3


# --- Resource metrics


def pod(name: str, *, phase: str = "Running", ready: bool = True, minutes: float = 60, **meta: Any) -> JsonObject:
    """A pod with two containers that ask for 1000m and 1000 MiB each."""
    started = (NOW - timedelta(minutes=minutes)).isoformat()
    container = {"resources": {"requests": {"cpu": "1", "memory": "1000Mi"}}}
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": started}
    return {
        "metadata": {"name": name, **meta},
        "spec": {"containers": [{"name": "main", **container}, {"name": "side", **container}]},
        "status": {"phase": phase, "startTime": started, "conditions": [condition]},
    }


def wanted(
    pods: list[JsonObject], usage: dict[str, int], *, resource: str = "memory", target: int = 80, replicas: int = 0
) -> int:
    metric = {
        "type": "ContainerResource",
        "containerResource": {
            "name": resource,
            "container": "main",
            "target": {"type": "Utilization", "averageUtilization": target},
        },
    }
    unit = 1 if resource == "cpu" else MIB
    samples = {name: Usage(value * unit, NOW, timedelta(seconds=15)) for name, value in usage.items()}
    return resource_wish(metric, pods, samples, replicas=replicas or len(pods), now=NOW).replicas


def test_a_container_s_use_is_compared_with_its_own_request() -> None:
    pods = [pod("a"), pod("b")]
    assert wanted(pods, {"a": 800, "b": 800}) == 2
    assert wanted(pods, {"a": 1000, "b": 1000}) == 3
    assert wanted(pods, {"a": 200, "b": 200}) == 1


def test_a_pod_that_ends_or_failed_does_not_count() -> None:
    going = pod("c", deletionTimestamp=NOW.isoformat())
    assert wanted([pod("a"), pod("b"), going], {"a": 1000, "b": 1000, "c": 0}) == 3
    assert wanted([pod("a"), pod("b"), pod("c", phase="Failed")], {"a": 1000, "b": 1000}) == 3


def test_a_pod_that_nobody_measured_is_taken_for_full_on_the_way_down_and_for_idle_on_the_way_up() -> None:
    assert wanted([pod("a"), pod("b")], {"a": 400}) == 2
    assert wanted([pod("a"), pod("b")], {"a": 1000}) == 2


def test_the_cpu_of_a_pod_that_starts_says_nothing_and_its_memory_does() -> None:
    starting = pod("b", ready=False, minutes=1)
    # With the new pod's zero the mean is below the target: no third one.
    assert wanted([pod("a"), starting], {"a": 1000, "b": 1000}, resource="cpu", target=70) == 2
    assert wanted([pod("a"), starting], {"a": 1000, "b": 1000}) == 3


def test_what_cannot_be_said_is_an_error_and_no_number() -> None:
    with pytest.raises(MetricError, match="no pods returned by selector"):
        wanted([], {}, replicas=1)
    with pytest.raises(MetricError, match="did not receive metrics for targeted pods"):
        wanted([pod("a", phase="Pending")], {"a": 1})
    bare = pod("a")
    del bare["spec"]["containers"][0]["resources"]
    with pytest.raises(MetricError, match="missing request for memory in container main of Pod a"):
        wanted([bare], {"a": 1})


# --- Behaviour


def steps(
    spec: JsonObject, wishes: Sequence[int], *, start: int, every: float = 15, history: History | None = None
) -> list[int]:
    """What becomes of wishes, one after the other."""
    known, current, result = history or History(), start, []
    for index, wish in enumerate(wishes):
        now = NOW + timedelta(seconds=index * every)
        decision = decide({"minReplicas": 2, "maxReplicas": 10, **spec}, wish, current, known, now)
        if decision.replicas != current:
            known.scaled(current, decision.replicas, now)
        current = decision.replicas
        result.append(current)
    return result


def test_without_a_behaviour_it_doubles_or_adds_four_and_waits_five_minutes_to_shrink() -> None:
    assert steps({}, [10, 10, 10], start=2) == [6, 10, 10]
    assert steps({"maxReplicas": 100}, [100, 100, 100], start=10) == [20, 40, 80]
    down = steps({}, [8, *[2] * 21], start=8)
    assert down[:20] == [8] * 20
    assert down[21] == 2


def test_a_drop_that_is_shorter_than_the_window_changes_nothing() -> None:
    assert steps({}, [8, 2, 2, 2, 8, 2, 2], start=8) == [8] * 7


def test_scaling_in_goes_by_its_policies() -> None:
    policies = [
        {"type": "Pods", "value": 1, "periodSeconds": 60},
        {"type": "Percent", "value": 10, "periodSeconds": 60},
    ]
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": policies}}
    assert steps({"behavior": behavior}, [2] * 9, start=5) == [4, 4, 4, 4, 3, 3, 3, 3, 2]
    few = {"scaleDown": {**behavior["scaleDown"], "selectPolicy": "Disabled"}}
    assert steps({"behavior": few}, [2] * 3, start=5) == [5, 5, 5]
    slow = {"scaleDown": {**behavior["scaleDown"], "selectPolicy": "Min"}}
    assert steps({"behavior": slow, "maxReplicas": 100}, [2], start=100) == [99]


def test_scaling_out_can_be_made_to_wait_too() -> None:
    behavior = {"scaleUp": {"stabilizationWindowSeconds": 30}}
    assert steps({"behavior": behavior}, [3, 5, 5, 5], start=3, history=History([(NOW, 3)])) == [3, 3, 5, 5]


@pytest.mark.parametrize(
    ("wish", "current", "reason"),
    [
        (13, 9, "TooManyReplicas"),
        (13, 10, "TooManyReplicas"),
        (1, 2, "TooFewReplicas"),
        (10, 2, "ScaleUpLimit"),
        (5, 4, "DesiredWithinRange"),
    ],
)
def test_a_limit_says_which_one_it_is(wish: int, current: int, reason: str) -> None:
    decision = decide({"minReplicas": 2, "maxReplicas": 10}, wish, current, History(), NOW)
    assert (decision.limited_reason, decision.limited) == (reason, reason != "DesiredWithinRange")


# --- The controller


DEPLOYMENTS, HPAS = "apps/v1/deployments", "autoscaling/v2/horizontalpodautoscalers"


def deployment(replicas: int) -> JsonObject:
    labels = {"app": "a"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec}


def hpa(**spec: Any) -> JsonObject:
    target = {"type": "AverageValue", "averageValue": "1"}
    metric = {"type": "External", "external": {"metric": {"name": "m"}, "target": target}}
    body = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "a"},
        "minReplicas": 2,
        "maxReplicas": 4,
        "metrics": [metric],
        **spec,
    }
    return {"metadata": {"name": "a"}, "spec": body}


def said(answer: Answer, kind: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    found = (answer.body.get("status") or {}).get("conditions") or []
    return next(((item["status"], item["reason"]) for item in found if item["type"] == kind), ("", ""))


async def look(api: Api) -> Answer:
    """Let the controller look once; the autoscaler afterwards."""
    client = await connect(api.cluster.kubeconfig)
    try:
        await Autoscaler(client).look()
    finally:
        await client.aclose()
    return await api.get(api.path(HPAS, "a"))


@pytest.mark.parametrize(("replicas", "after"), [(1, 2), (6, 4), (3, 3), (0, 0)])
async def test_the_bounds_hold_whatever_the_metrics_say(standin_api: Api, replicas: int, after: int) -> None:
    api = standin_api
    (await api.create(api.path(DEPLOYMENTS), deployment(replicas))).ok()
    await api.until(api.path(DEPLOYMENTS, "a"), lambda answer: answer.body.get("status", {}).get("observedGeneration"))
    (await api.create(api.path(HPAS), hpa())).ok()
    found = await look(api)
    assert (await api.get(api.path(DEPLOYMENTS, "a"))).body["spec"]["replicas"] == after
    expected = {1: ("", ""), 6: ("", ""), 3: ("False", "FailedGetExternalMetric"), 0: ("False", "ScalingDisabled")}
    assert said(found, "ScalingActive") == expected[replicas]


async def test_a_target_that_is_not_there_is_told(standin_api: Api) -> None:
    (await standin_api.create(standin_api.path(HPAS), hpa())).ok()
    assert said(await look(standin_api), "AbleToScale") == ("False", "FailedGetScale")


# --- Resource metrics and aggregation, on both servers


@pytest.fixture
async def metrics(api: Api) -> AsyncIterator[Api]:
    """An API server with a metrics server."""
    client = await connect(api.cluster.kubeconfig)
    try:
        async with MetricsServer(client, period=0.5):
            yield api
    finally:
        await client.delete("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io")
        await client.aclose()


async def test_what_a_pod_uses_is_told_by_the_metrics_api(metrics: Api, node: Node, kubectl: Kubectl) -> None:
    body = node.pod("busy", "while :; do :; done", metadata={"labels": {"app": "busy"}})
    (await metrics.create(metrics.path("pods"), body)).ok()
    await metrics.until(metrics.path("pods", "busy"), is_ready)
    path = metrics.path("metrics.k8s.io/v1beta1/pods")

    def works(answer: Answer) -> bool:
        if answer.status != 200 or not answer.body["items"]:
            return False
        (item,) = answer.body["items"]
        usage = item["containers"][0]["usage"]
        return int(usage["cpu"].removesuffix("n")) > 0 and int(usage["memory"].removesuffix("Ki")) > 0

    await metrics.until(path, works)
    assert (await metrics.get(path, labelSelector="app=busy")).ok()["items"]
    assert not (await metrics.get(path, labelSelector="app=idle")).ok()["items"]
    assert (await metrics.get(f"{path}/busy")).ok()["kind"] == "PodMetrics"
    assert (await metrics.get(f"{path}/nobody")).status == 404
    await metrics.until("/apis", lambda a: any(g["name"] == "metrics.k8s.io" for g in a.body["groups"]))
    assert "busy" in await kubectl("top", "pods")


async def test_an_api_service_without_a_server_is_not_available(api: Api) -> None:
    client = await connect(api.cluster.kubeconfig)
    name, group = "v1.nowhere.example.test", "nowhere.example.test"
    spec = {"group": group, "version": "v1", "groupPriorityMinimum": 10, "versionPriority": 10}
    path = "/apis/apiregistration.k8s.io/v1/apiservices"
    try:
        await publish(client, api.namespace, "nobody", 1)
        service = {"namespace": api.namespace, "name": "nobody", "port": 1}
        (await api.create(path, {"metadata": {"name": name}, "spec": {**spec, "service": service}})).ok()
        await api.until(f"{path}/{name}", lambda answer: said(answer, "Available")[0] == "False")
        assert (await api.get(f"/apis/{group}/v1")).status == 503
    finally:
        await api.delete(f"{path}/{name}")
        await client.aclose()
