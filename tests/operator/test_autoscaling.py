"""The objects that scale a pool: what is in them, whose fields they are, and what their status means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeclient import KubeClient, NotFoundError, Object, path_of
from sandbox.kube.replicas import History, decide, external_wish
from session_worker.contract import Heartbeat, Phase, Running
from tests.support.fleets import MIB, NOW, fleet, pool, session, worker
from tests.support.kube_product import ProductApi
from whatsapp_operator import autoscaling
from whatsapp_operator.autoscaling import METRIC, Verdict, conclude, holds, session_target, yielding
from whatsapp_operator.capacity.autoscaler import Autoscaler, Behavior, Utilization
from whatsapp_operator.cluster import MANAGER, Cluster
from whatsapp_operator.fleet import Fleet, Measured, PoolKey, Session, Worker, scaled_demand
from whatsapp_operator.observation import pool_spec
from whatsapp_operator.planner import Plan, Policy, PoolReport, plan
from whatsapp_operator.resources import PoolSpec
from whatsapp_operator.scalers import Scalers

URL = "http://operator.example.svc:9090"


def spec_of(**fields: Any) -> PoolSpec:
    scaling = {"enabled": True, **fields.pop("autoscaling", {})}
    return PoolSpec.model_validate({"autoscaling": scaling, **fields})


def hpa_of(spec: PoolSpec, **status: Any) -> Object:
    made = autoscaling.horizontal_pod_autoscaler(pool="p", pool_uid="u", namespace="ns", spec=spec)
    return {**made, "status": status}


# --- What is in them


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        ({}, "13"),
        ({"sessionsPerWorker": 1}, "909m"),
        ({"sessionsPerWorker": 2}, "1"),
        ({"sessionsPerWorker": 11}, "10"),
        ({"sessionsPerWorker": 200}, "181"),
        ({"autoscaling": {"targetSessions": 15}}, "15"),
    ],
)
def test_the_target_leaves_room_for_the_tolerance_of_the_hpa(fields: dict[str, Any], target: str) -> None:
    assert session_target(spec_of(**fields)) == target


def test_no_number_of_workers_hides_a_waiting_session_behind_the_tolerance() -> None:
    """Whenever there are more sessions than places, the ratio is above 1.1, so the HPA acts."""
    for places in range(1, 201):
        text = session_target(spec_of(sessionsPerWorker=places))
        target = int(text[:-1]) / 1000 if text.endswith("m") else int(text)
        assert all((places * workers + 1) / (target * workers) > 1.1 for workers in (1, 2, 7, 1000))


def test_an_hpa_is_made_from_the_pool() -> None:
    spec = hpa_of(spec_of(autoscaling={"minReplicas": 3, "maxReplicas": 30, "targetCPU": 60, "targetMemory": 75}))[
        "spec"
    ]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 30)
    assert spec["scaleTargetRef"] == {
        "apiVersion": "whatsapp.28web.io/v1alpha1",
        "kind": "WhatsAppWorkerPool",
        "name": "p",
    }
    cpu, memory, sessions = spec["metrics"]
    assert [metric["containerResource"]["container"] for metric in (cpu, memory)] == ["worker", "worker"]
    assert [metric["containerResource"]["target"]["averageUtilization"] for metric in (cpu, memory)] == [60, 75]
    assert sessions["external"] == {
        "metric": {"name": METRIC, "selector": {"matchLabels": {"namespace": "ns", "pool": "p"}}},
        "target": {"type": "AverageValue", "averageValue": "13"},
    }


def test_scaling_in_waits_for_at_least_one_drain() -> None:
    for timeout, window in (("1m", 300), ("10m", 600)):
        behavior = hpa_of(spec_of(drain={"timeout": timeout}))["spec"]["behavior"]
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] == window
        assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0


def test_keda_asks_the_operator_and_scales_to_zero() -> None:
    spec = spec_of(autoscaling={"source": "keda", "minReplicas": 0}, sessionsPerWorker=1)
    made = autoscaling.wanted_scaler(pool="p", pool_uid="u", namespace="ns", spec=spec, demand_url=f"{URL}/")
    assert made is not None
    assert made["kind"] == "ScaledObject"
    assert (made["spec"]["minReplicaCount"], made["spec"]["cooldownPeriod"]) == (0, 300)
    trigger = made["spec"]["triggers"][0]
    assert trigger["metadata"]["url"] == f"{URL}/demand/ns/p"
    # KEDA parses this one as a floating-point number.
    assert float(trigger["metadata"]["targetValue"]) == pytest.approx(0.909)


# --- What they mean


ACTIVE = [
    {"type": "AbleToScale", "status": "True", "reason": "ReadyForNewScale"},
    {"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound"},
]
SEEN = [{"type": "External", "external": {"metric": {"name": METRIC}, "current": {"averageValue": "5"}}}]


@pytest.mark.parametrize(
    ("status", "pending", "verdict"),
    [
        ({}, 0, ("Unknown", "NotSeen")),
        ({"conditions": ACTIVE, "currentMetrics": SEEN}, 0, ("True", "Active")),
        ({"conditions": ACTIVE, "currentMetrics": SEEN}, 4, ("True", "AtMaxReplicas")),
        ({"conditions": ACTIVE, "currentMetrics": [{"type": ""}]}, 4, ("False", "SessionMetricMissing")),
        (
            {"conditions": [{"type": "ScalingActive", "status": "False", "reason": "FailedGetExternalMetric"}]},
            0,
            ("False", "FailedGetExternalMetric"),
        ),
        (
            {"conditions": [{"type": "AbleToScale", "status": "False", "reason": "AmbiguousSelector"}]},
            0,
            ("False", "AmbiguousSelector"),
        ),
    ],
)
def test_what_the_hpa_says_is_told_of_the_pool(status: Object, pending: int, verdict: tuple[str, str]) -> None:
    spec = spec_of()
    found = conclude(hpa_of(spec, **status), spec, replicas=10, ready=2, pending=pending)
    assert (found.status, found.reason) == verdict


def test_a_pool_without_workers_has_nothing_to_measure_and_nothing_wrong() -> None:
    spec = spec_of()
    failed = {"type": "ScalingActive", "status": "False", "reason": "FailedGetContainerResourceMetric"}
    live = hpa_of(spec, conditions=[failed])
    assert conclude(live, spec, replicas=2, ready=0, pending=0).reason == "NoWorkersYet"
    assert conclude(live, spec, replicas=2, ready=1, pending=0).reason == "FailedGetContainerResourceMetric"


def test_sessions_that_wait_below_the_maximum_are_no_limit() -> None:
    spec = spec_of()
    live = hpa_of(spec, conditions=ACTIVE, currentMetrics=SEEN)
    assert conclude(live, spec, replicas=9, ready=9, pending=4).reason == "Active"


@pytest.mark.parametrize(
    ("conditions", "verdict"),
    [
        ([], ("Unknown", "NotSeen")),
        ([{"type": "Ready", "status": "True"}], ("True", "Active")),
        ([{"type": "Ready", "status": "False", "reason": "TriggerError"}], ("False", "TriggerError")),
        ([{"type": "Ready", "status": "True"}, {"type": "Paused", "status": "True"}], ("False", "Paused")),
    ],
)
def test_what_keda_says_is_told_of_the_pool(conditions: list[Object], verdict: tuple[str, str]) -> None:
    spec = spec_of(autoscaling={"source": "keda"})
    live = {"kind": "ScaledObject", "metadata": {"name": "x"}, "status": {"conditions": conditions}}
    found = conclude(live, spec, replicas=2, ready=2, pending=0)
    assert (found.status, found.reason) == verdict


def test_fields_that_others_have_set_are_theirs_only_where_users_may() -> None:
    made = hpa_of(spec_of())
    fields: Object = {
        "f:spec": {
            "f:maxReplicas": {},
            "f:behavior": {"f:scaleDown": {"f:stabilizationWindowSeconds": {}}, "f:scaleUp": {"f:policies": {}}},
        }
    }
    entry = {"manager": "kubectl-edit", "operation": "Update", "fieldsV1": fields}
    ours = yielding(made, {"metadata": {"managedFields": [entry]}}, MANAGER)["spec"]
    assert ours["maxReplicas"] == 10
    assert ours["behavior"]["scaleDown"].keys() == {"selectPolicy", "policies"}
    assert ours["behavior"]["scaleUp"].keys() == {"stabilizationWindowSeconds", "selectPolicy"}
    mine = {**entry, "manager": MANAGER, "operation": "Apply"}
    assert yielding(made, {"metadata": {"managedFields": [mine]}}, MANAGER) == made


@pytest.mark.parametrize(
    ("live", "wanted", "answer"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 2}, {"a": 1}, False),
        ({}, {"a": None}, False),
        ({"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 1}]}, True),
        ({"a": [1, 2]}, {"a": [1]}, False),
    ],
)
def test_more_than_what_is_wanted_is_no_difference(live: Object, wanted: Object, *, answer: bool) -> None:
    assert holds(live, wanted) is answer


@given(demands=st.lists(st.integers(0, 200), min_size=1, max_size=60), most=st.integers(2, 40))
@settings(deadline=None)
def test_the_simulator_s_model_and_the_sandbox_s_controller_scale_alike(demands: list[int], most: int) -> None:
    """Two accounts of one algorithm, with the behaviour that pools get."""
    spec = hpa_of(spec_of(autoscaling={"maxReplicas": most}))["spec"]
    model = Autoscaler(target=13, min_replicas=2, max_replicas=most, behavior=Behavior.of(spec["behavior"]))
    history, idle = History([(NOW, 2)]), Utilization(total=0.0, ready=2)
    ours = theirs = 2
    for step, demand in enumerate(demands):
        now = NOW + timedelta(seconds=15 * step)
        wish = external_wish(
            spec["metrics"][2]["external"], [Decimal(demand)], spec_replicas=ours, status_replicas=ours, ready=ours
        )
        before, ours = ours, decide(spec, wish.replicas, ours, history, now).replicas
        if ours != before:
            history.scaled(before, ours, now)
        theirs = model.sync(15.0 * step, metric=demand, spec_replicas=theirs, status_replicas=theirs, use=idle)
        assert ours == theirs


# --- Effective capacity


def crowded(name: str, used: int, sessions: list[Session]) -> Worker:
    """A worker of 1000 MiB whose sessions take 200 MiB each."""
    running = {str(s.key): Running(epoch=1, phase=Phase.CONNECTED, memory_bytes=200 * MIB) for s in sessions}
    beat = Heartbeat(
        uid=f"uid-{name}",
        address="10.0.0.1:3001",
        version="1",
        capacity=15,
        revision=1,
        running=running,
        memory_used_bytes=used * MIB,
        memory_limit_bytes=1000 * MIB,
    )
    return replace(worker(name), heartbeat=beat)


def reported(world: Fleet, seconds: float = 0) -> tuple[Plan, PoolReport]:
    made = plan(world, Policy(), NOW + timedelta(seconds=seconds))
    return made, made.pools[PoolKey("ns", "default")]


def test_where_memory_holds_fewer_sessions_the_metric_asks_for_as_many_workers_as_it_takes() -> None:
    held = [session(f"s{i}", worker="w1") for i in range(4)]
    waiting = [session(f"t{i}") for i in range(8)]
    made, report = reported(fleet(pool(replicas=1), crowded("w1", 800, held), *held, *waiting))
    # 80 % of 1000 MiB are four sessions of 200 MiB, of the 15 that the pool's spec allows.
    assert (report.capacity, report.effective_capacity, report.session_bytes) == (15, 4, 200 * MIB)
    # 12 sessions are three workers, and so says the metric.
    assert report.demand == 12 * 15 // 4 == 3 * 15
    assert len(made.waiting) == 8


def test_a_measurement_is_believed_slowly_and_kept_while_there_is_none() -> None:
    held = [session(f"s{i}", worker="w1") for i in range(4)]
    believed = Measured(NOW, session_bytes=0.0, share=1.0)
    full = fleet(pool(replicas=1, measured=believed), crowded("w1", 800, held), *held)
    shares = [reported(full, seconds)[1].effective_capacity for seconds in (0, 60, 600)]
    assert shares[0] == 15
    assert 4 < shares[1] < 15
    assert shares[2] == 4
    _, report = reported(full, 600)
    assert report.measured is not None
    empty = fleet(pool(replicas=1, measured=report.measured), replace(worker("w1"), ready=False))
    _, later = reported(empty, 3600)
    assert later.measured is not None
    assert (later.measured.session_bytes, later.measured.share) == pytest.approx((200 * MIB, 4 / 15), rel=0.01)


def test_sessions_that_wait_show_the_whole_measurement_at_once() -> None:
    held = [session(f"s{i}", worker="w1") for i in range(4)]
    believed = Measured(NOW, session_bytes=200.0 * MIB, share=1.0)
    _, report = reported(fleet(pool(replicas=1, measured=believed), crowded("w1", 800, held), *held, session("t")))
    assert (report.effective_capacity, report.pending) == (4, 1)
    # Five sessions, one worker: the HPA (target 13) sees more than a tenth too many, and acts.
    assert report.demand > 1.1 * 13


@pytest.mark.parametrize(
    ("wanted", "ready", "effective", "metric"),
    [(0, 2, 8, 0), (7, 0, 0, 7), (7, 2, 30, 7), (7, 2, 35, 7), (8, 2, 8, 30), (9, 2, 8, 34)],
)
def test_the_metric_counts_in_places_of_the_spec(wanted: int, ready: int, effective: int, metric: int) -> None:
    found = scaled_demand(wanted, sessions_per_worker=15, ready=ready, effective_capacity=effective)
    assert found == metric


# --- Scaling in, rolling out, and the most there may be


def test_a_worker_that_is_drained_is_counted_until_it_is_relabelled() -> None:
    """The plan that drains still counts it; the cycle relabels before it writes that status."""
    world = fleet(pool(replicas=1), worker("w1"), worker("w2"))
    made, report = reported(world)
    assert [type(action).__name__ for action in made.actions] == ["DrainWorker"]
    assert report.replicas == 2
    drained = replace(worker("w2"), draining_since=NOW)
    _, after = reported(fleet(pool(replicas=1), worker("w1"), drained))
    assert (after.replicas, after.draining) == (1, 1)


def test_demand_stays_the_same_while_sessions_move() -> None:
    going = [session(f"s{i}", worker="w2", releasing=i < 2) for i in range(4)]
    drained = replace(worker("w2", sessions=going), draining_since=NOW)
    _, report = reported(fleet(pool(replicas=1), worker("w1"), drained, *going))
    assert report.demand == 4


def test_the_worker_that_a_rollout_adds_is_none_that_an_autoscaler_sees() -> None:
    old = [replace(worker(f"w{i}"), template="t0") for i in range(2)]
    _, report = reported(fleet(pool(replicas=2), *old, worker("w3")))
    assert (report.replicas, report.surge) == (2, 1)


def test_sessions_that_wait_at_the_maximum_say_so() -> None:
    world = fleet(pool(replicas=1, sessions_per_worker=1, max_replicas=1), worker("w1"), session("a"), session("b"))
    made, report = reported(world)
    assert report.pending == 1
    (reason,) = made.waiting.values()
    assert reason == "no worker has room: 1 of 1 full (1/1); autoscaling.maxReplicas is 1"


# --- In a cluster


@pytest.fixture
async def cluster(kube: ProductApi, namespace: str) -> AsyncIterator[Cluster]:
    hands = Cluster(await kube.connect(), (namespace,))
    yield hands
    await hands.aclose()


async def pools_of(kube: ProductApi, namespace: str) -> dict[PoolKey, tuple[Object, PoolSpec]]:
    items, _ = await kube.client.list(kube.path(namespace, pool=True))
    return {PoolKey(namespace, item["metadata"]["name"]): (item, pool_spec(item)) for item in items}


def hpa_path(namespace: str, name: str = "whatsapp-pool-p") -> str:
    return path_of("autoscaling/v2", "horizontalpodautoscalers", namespace=namespace, name=name)


async def switch(kube: ProductApi, namespace: str, **fields: Any) -> None:
    await kube.client.patch(kube.path(namespace, "p", pool=True), {"spec": {"autoscaling": fields}})


async def test_an_hpa_comes_follows_its_pool_and_goes(kube: ProductApi, cluster: Cluster, namespace: str) -> None:
    item = await kube.create(namespace, "p", pool=True, autoscaling={"enabled": True})
    scalers = Scalers(cluster)
    await scalers.tend(await pools_of(kube, namespace))
    made = await kube.client.get(hpa_path(namespace))
    assert made["metadata"]["ownerReferences"][0]["uid"] == item["metadata"]["uid"]
    await switch(kube, namespace, maxReplicas=4)
    await scalers.tend(await pools_of(kube, namespace))
    assert (await kube.client.get(hpa_path(namespace)))["spec"]["maxReplicas"] == 4
    await switch(kube, namespace, enabled=False)
    await scalers.tend(await pools_of(kube, namespace))
    with pytest.raises(NotFoundError):
        await kube.client.get(hpa_path(namespace))
    assert (
        scalers.verdict(
            PoolKey(namespace, "p"), spec_of(autoscaling={"enabled": False}), replicas=2, ready=2, pending=0
        )
        is None
    )


async def test_a_settled_hpa_is_not_written_again(kube: ProductApi, cluster: Cluster, namespace: str) -> None:
    await kube.create(namespace, "p", pool=True, autoscaling={"enabled": True})
    for _ in range(2):
        # Also not after a restart beyond the one apply that makes sure of it.
        scalers = Scalers(cluster, look_every=0)
        await scalers.tend(await pools_of(kube, namespace))
        before = await kube.client.get(hpa_path(namespace))
        writes = cluster.writes
        await scalers.tend(await pools_of(kube, namespace))
        assert cluster.writes == writes
        assert (await kube.client.get(hpa_path(namespace)))["metadata"] == before["metadata"]


async def test_what_a_user_edits_survives_and_what_is_the_pool_s_comes_back(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    await kube.create(namespace, "p", pool=True, autoscaling={"enabled": True})
    scalers = Scalers(cluster, look_every=0)
    await scalers.tend(await pools_of(kube, namespace))
    edit = {
        "metadata": {"annotations": {"example.test/note": "mine"}},
        "spec": {"maxReplicas": 99, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}},
    }
    await kube.client.patch(hpa_path(namespace), edit, fieldManager="kubectl-edit")
    for again in (scalers, Scalers(cluster)):
        await again.tend(await pools_of(kube, namespace))
        now = await kube.client.get(hpa_path(namespace))
        assert now["spec"]["maxReplicas"] == 10
        assert now["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 5
        assert len(now["spec"]["behavior"]["scaleDown"]["policies"]) == 2
        assert now["metadata"]["annotations"] == {"example.test/note": "mine"}


async def test_replicas_are_the_autoscaler_s_alone(kube: ProductApi, cluster: Cluster, namespace: str) -> None:
    await kube.create(namespace, "p", pool=True, replicas=3, autoscaling={"enabled": True})
    await Scalers(cluster).tend(await pools_of(kube, namespace))
    path = f"{kube.path(namespace, 'p', pool=True)}/scale"
    await kube.client.patch(path, {"spec": {"replicas": 7}})
    await Scalers(cluster).tend(await pools_of(kube, namespace))
    assert (await kube.client.get(path))["spec"]["replicas"] == 7


async def test_without_keda_the_pool_says_so_and_gets_no_hpa_beside_it(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    await kube.create(namespace, "p", pool=True, autoscaling={"enabled": True, "source": "keda"})
    scalers = Scalers(cluster, demand_url=URL)
    pools = await pools_of(kube, namespace)
    await scalers.tend(pools)
    (key, (_, spec)), *_ = pools.items()
    assert scalers.verdict(key, spec, replicas=2, ready=2, pending=0) == Verdict(
        "False", "KedaNotInstalled", "there is no KEDA in this cluster"
    )
    with pytest.raises(NotFoundError):
        await kube.client.get(hpa_path(namespace))


async def test_changing_the_source_replaces_the_hpa_by_a_scaled_object(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    await kube.create(namespace, "p", pool=True, autoscaling={"enabled": True})
    async with keda(kube.client):
        scalers = Scalers(cluster, demand_url=URL)
        await scalers.tend(await pools_of(kube, namespace))
        await switch(kube, namespace, source="keda", minReplicas=0)
        await scalers.tend(await pools_of(kube, namespace))
        with pytest.raises(NotFoundError):
            await kube.client.get(hpa_path(namespace))
        path = path_of("keda.sh/v1alpha1", "scaledobjects", namespace=namespace, name="whatsapp-pool-p")
        assert (await kube.client.get(path))["spec"]["minReplicaCount"] == 0
        await switch(kube, namespace, source="builtin", minReplicas=1)
        await scalers.tend(await pools_of(kube, namespace))
        with pytest.raises(NotFoundError):
            await kube.client.get(path)
        assert (await kube.client.get(hpa_path(namespace)))["spec"]["minReplicas"] == 1


async def test_a_source_that_the_operator_does_not_serve_is_told_of_the_pool(
    kube: ProductApi, cluster: Cluster, namespace: str
) -> None:
    await kube.create(namespace, "p", pool=True, autoscaling={"enabled": True, "source": "builtin"})
    scalers = Scalers(cluster)
    pools = await pools_of(kube, namespace)
    await scalers.tend(pools)
    (key, (_, spec)), *_ = pools.items()
    found = scalers.verdict(key, spec, replicas=2, ready=2, pending=0)
    assert found is not None
    assert (found.status, found.reason) == ("False", "BuiltinSourceUnavailable")
    await switch(kube, namespace, source="keda")
    pools = await pools_of(kube, namespace)
    async with keda(kube.client):
        await scalers.tend(pools)
    found = scalers.verdict(key, pools[key][1], replicas=2, ready=2, pending=0)
    assert found is not None
    assert found.reason == "NotConfigured"


class keda:  # noqa: N801  # reads as the verb that it is: with KEDA installed
    """KEDA's kind, as open as can be: what is in a ScaledObject is KEDA's to check."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._path = path_of("apiextensions.k8s.io/v1", "customresourcedefinitions")

    async def __aenter__(self) -> None:
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"kind": "ScaledObject", "plural": "scaledobjects"}
        spec = {"group": "keda.sh", "scope": "Namespaced", "names": names, "versions": [version]}
        await self._client.create(self._path, {"metadata": {"name": "scaledobjects.keda.sh"}, "spec": spec})
        await self._until(served=True)

    async def __aexit__(self, *_: object) -> None:
        await self._client.delete(f"{self._path}/scaledobjects.keda.sh")
        await self._until(served=False)

    async def _until(self, *, served: bool) -> None:
        async with asyncio.timeout(30):
            while True:
                try:
                    await self._client.list("/apis/keda.sh/v1alpha1/scaledobjects")
                except NotFoundError:
                    found = False
                else:
                    found = True
                if found is served:
                    return
                await asyncio.sleep(0.05)
