"""The fleet follows the sessions: out and in, at its limit, and while its metric is away."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.cluster import Sandbox
from tests.support.people import World, eventually

pytestmark = pytest.mark.e2e

HPA = "whatsapp-pool-default"
SOURCE = "operator-external-metrics"
QUICK = {
    "stabilizationWindowSeconds": 0,
    "policies": [{"type": "Pods", "value": 10, "periodSeconds": 15}],
}
"""What somebody in a hurry writes into the HPA."""


@pytest.fixture(autouse=True)
def source(sandbox: Sandbox) -> None:
    """In a cluster that runs already, who serves metrics is not ours to say."""
    if any("The API server is the one of" in note for note in sandbox.notes):
        pytest.skip("the cluster has metric providers of its own")


def scaled(world: World, *, per_worker: int = 2, most: int = 3, **fields: Any) -> dict[str, Any]:
    """The manifest of a pool that is scaled."""
    scaling = {
        "enabled": True,
        "source": "builtin",
        "minReplicas": 1,
        "maxReplicas": most,
        "targetSessions": per_worker,
    }
    return world.pool(sessionsPerWorker=per_worker, autoscaling=scaling, **fields)


async def hurry(world: World) -> None:
    """Edit the HPA as a user may."""

    async def edited() -> bool:
        patch = json.dumps({"spec": {"behavior": {"scaleDown": QUICK}}})
        await world.kubectl("patch", "hpa", HPA, "--type=merge", "-p", patch)
        return True

    await eventually("the HPA is there", edited)


async def pool_of(world: World) -> dict[str, Any]:
    return await world.kubectl.get("wapool", "default")


async def settled(world: World, workers: int) -> None:
    """Return when the pool has so many workers, and none that leaves."""

    async def look() -> bool:
        pool = await pool_of(world)
        status = pool["status"]
        found = (pool["spec"]["replicas"], status["replicas"], status["readyReplicas"], status["drainingReplicas"])
        assert found == (workers, workers, workers, 0), str(found)
        return True

    await eventually(f"{workers} workers", look)


async def told(world: World, *expected: tuple[str, str]) -> None:
    """Return when the pool's condition is one of these."""

    async def look() -> bool:
        conditions = {item["type"]: item for item in (await pool_of(world))["status"]["conditions"]}
        found = conditions.get("Autoscaling", {})
        assert (found.get("status"), found.get("reason")) in expected, str(found)
        return True

    await eventually(f"Autoscaling is one of {expected}", look)


async def test_the_pool_grows_with_its_sessions_and_shrinks_without_losing_one(world: World, sandbox: Sandbox) -> None:
    await world.kubectl.apply(scaled(world))
    await hurry(world)
    await settled(world, 1)
    await told(world, ("True", "Active"))
    names = [f"auto{number}" for number in range(5)]
    await world.kubectl.apply(*(world.session(name) for name in names))
    await world.pair(*names)
    await settled(world, 3)
    assert sandbox.operator is not None
    applied = sandbox.operator.log.read_text().count("Applied an autoscaler")

    sessions = {item["metadata"]["name"]: item["status"]["assignment"] for item in await world.kubectl.all("wa")}
    # One stays on each of two workers, so that one of the two has to move.
    first = names[0]
    second = next(name for name in names if sessions[name]["worker"] != sessions[first]["worker"])
    gone = [name for name in names if name not in (first, second)]
    await world.kubectl("delete", "wa", *gone, "--wait=false")
    too_early: list[str] = []

    async def shrunk() -> bool:
        # Read in this order, a pod that the selector still finds must still be counted.
        status = (await pool_of(world))["status"]
        found = await world.kubectl.all("pods", status["selector"])
        if len(found) > status["replicas"]:
            too_early.append(f"{len(found)} pods in the selector, {status['replicas']} in the status")
        assert (status["replicas"], status["readyReplicas"], status["drainingReplicas"]) == (1, 1, 0), str(status)
        return True

    await eventually("one worker", shrunk)
    assert too_early == []
    await world.kubectl.in_phase("Connected", first, second)
    for name in (first, second):
        after = (await world.kubectl.get("wa", name))["status"]
        assert after["assignment"]["epoch"] <= sessions[name]["epoch"] + 1
        assert after["restarts"] == 0
    assert await world.overlaps() == {}
    # What the API server keeps is what was applied: nothing is written again and again.
    assert sandbox.operator.log.read_text().count("Applied an autoscaler") == applied
    kept = (await world.kubectl.get("hpa", HPA))["spec"]
    assert kept["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 0
    assert [metric["type"] for metric in kept["metrics"]] == ["ContainerResource", "ContainerResource", "External"]


async def test_at_the_limit_sessions_wait_and_pool_and_session_say_why(world: World) -> None:
    await world.kubectl.apply(scaled(world, per_worker=1, most=1), world.session("one"), world.session("two"))
    await told(world, ("True", "AtMaxReplicas"))

    async def waits() -> bool:
        found = {item["metadata"]["name"]: item["status"] for item in await world.kubectl.all("wa")}
        waiting = [status["message"] for status in found.values() if status.get("phase") == "Pending"]
        assert len(waiting) == 1, str(found)
        assert waiting[0].endswith("autoscaling.maxReplicas is 1"), waiting[0]
        return True

    await eventually("one session waits", waits)
    assert "AtMaxReplicas" in await world.kubectl.events("default")


async def test_without_its_metric_the_pool_does_not_shrink_and_says_so(world: World) -> None:
    service = await world.kubectl.get("service", SOURCE)
    manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SOURCE},
        "spec": {key: service["spec"][key] for key in ("type", "externalName", "ports")},
    }
    await world.kubectl("delete", "service", SOURCE)
    try:
        await world.kubectl.apply(scaled(world, replicas=2))
        await hurry(world)
        # Which of them sees it first does not matter.
        await told(
            world,
            ("False", "FailedGetExternalMetric"),
            ("False", "SessionMetricMissing"),
            ("False", "BuiltinSourceUnavailable"),
        )

        async def frozen() -> bool:
            conditions = (await world.kubectl.get("hpa", HPA))["status"]["conditions"]
            found = {item["type"]: (item["status"], item["reason"]) for item in conditions}
            return found["ScalingActive"] == ("False", "FailedGetExternalMetric")

        await eventually("the HPA has tried", frozen)
        assert (await pool_of(world))["spec"]["replicas"] == 2
    finally:
        await world.kubectl.apply(manifest)
    await told(world, ("True", "Active"))
    await settled(world, 1)
