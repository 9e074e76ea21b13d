"""Sessions stay connected while everything around them changes: scaling, rollout, drain, failover, two operators."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio as redis

from sandbox.cluster import Part, Sandbox
from sandbox.whatsapp import seed
from tests.support.people import DEADLINE, KubectlError, World, eventually

pytestmark = pytest.mark.e2e

ECHO = f"{seed.ECHO}@c.us"
WORKERS = "app.kubernetes.io/name=whatsapp-worker"


async def status_of(world: World, name: str) -> dict[str, Any]:
    status: dict[str, Any] = (await world.kubectl.get("wa", name))["status"]
    return status


async def owner_of(world: World, name: str) -> str:
    return str((await status_of(world, name))["assignment"]["worker"])


def connected_elsewhere(world: World, former: dict[str, str]) -> Callable[[], Awaitable[bool]]:
    """Whether each session is connected on another worker than its former one."""

    async def look() -> bool:
        for name, worker in former.items():
            status = await status_of(world, name)
            assert status["phase"] == "Connected", str(status)
            assert status["assignment"]["worker"] != worker, str(status)
        return True

    return look


async def moved_without_a_scan(world: World, numbers: dict[str, str], former: dict[str, str]) -> None:
    await eventually("connected elsewhere", connected_elsewhere(world, former))
    for name, number in numbers.items():
        assert (await status_of(world, name))["account"]["phoneNumber"] == number
        await world.client.send(name, ECHO, f"{name} has moved")
    assert await world.overlaps() == {}


async def test_scaling_in_moves_the_sessions_of_the_pod_that_goes(world: World) -> None:
    await world.kubectl.apply(world.pool(placement="Spread"))
    # The first session would go to the first worker that is ready, and so would the second.
    await world.kubectl("wait", "--for=condition=Ready", "wapool/default", f"--timeout={DEADLINE:.0f}s")
    await world.kubectl.apply(world.session("olaf"), world.session("pia"))
    await world.pair("olaf", "pia")
    assert await owner_of(world, "olaf") != await owner_of(world, "pia")
    await world.kubectl("scale", "wapool/default", "--replicas=1")

    async def together() -> bool:
        pool = (await world.kubectl.get("wapool", "default"))["status"]
        assert (pool["replicas"], pool["readyReplicas"], pool["drainingReplicas"]) == (1, 1, 0), str(pool)
        assert len(await world.kubectl.all("pods", WORKERS)) == 1
        assert await world.kubectl.phase("olaf") == await world.kubectl.phase("pia") == "Connected"
        return await owner_of(world, "olaf") == await owner_of(world, "pia")

    await eventually("both on one worker", together)
    assert sorted([(await status_of(world, name))["assignment"]["epoch"] for name in ("olaf", "pia")]) == [1, 2]
    assert await world.overlaps() == {}


async def test_a_changed_template_rolls_the_pods_and_keeps_every_session(world: World) -> None:
    await world.kubectl.apply(world.pool(replicas=1), world.session("quin"), world.session("rosa"))
    numbers = await world.pair("quin", "rosa")
    former = {name: await owner_of(world, name) for name in numbers}
    await world.kubectl.apply(world.pool(replicas=1, template={"metadata": {"labels": {"release": "two"}}}))
    await moved_without_a_scan(world, numbers, former)

    async def rolled() -> bool:
        (pod,) = await world.kubectl.all("pods", WORKERS)
        return bool(pod["metadata"]["labels"].get("release") == "two")

    await eventually("only new pods", rolled)
    pool = (await world.kubectl.get("wapool", "default"))["status"]
    assert (pool["replicas"], pool["sessions"]) == (1, 2)


async def test_an_evicted_worker_hands_its_sessions_over_before_it_ends(world: World) -> None:
    await world.kubectl.apply(world.pool(), world.session("sven"), world.session("tina"))
    numbers = await world.pair("sven", "tina")
    former = {name: await owner_of(world, name) for name in numbers}
    worker = former["sven"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": worker, "namespace": "default"}}
    path = f"/api/v1/namespaces/default/pods/{worker}/eviction"
    await world.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    await moved_without_a_scan(world, numbers, former)
    # In order: the old worker let go before the new one began, so the browsers were closed and not cut off.
    for name in numbers:
        assert (await status_of(world, name))["restarts"] == 0


async def test_a_pod_deleted_by_force_is_a_failover(world: World) -> None:
    await world.kubectl.apply(world.pool(), world.session("uwe"))
    numbers = await world.pair("uwe")
    former = {"uwe": await owner_of(world, "uwe")}
    await world.kubectl("delete", "pod", former["uwe"], "--force", "--grace-period=0")
    await moved_without_a_scan(world, numbers, former)


async def test_an_emptied_redis_is_written_again_and_no_browser_restarts(world: World) -> None:
    await world.kubectl.apply(world.pool(replicas=1), world.session("vera"))
    await world.pair("vera")
    before = await status_of(world, "vera")
    client = redis.from_url(world.access.redis_url, decode_responses=True)
    try:
        await client.flushall()

        async def rebuilt() -> bool:
            keys = {key async for key in client.scan_iter("wa:*")}
            worker = before["assignment"]["worker"]
            kept = {
                f"wa:assigned:{{default/{worker}}}",
                f"wa:worker:{{default/{worker}}}",
                "wa:session:{default/vera}",
            }
            assert kept <= keys, str(keys)
            return True

        # The state is written again at the session's next change: a message is one.
        await eventually("a send through the new Redis", lambda: _sent(world, "vera"))
        await eventually("Redis is filled again", rebuilt)
    finally:
        await client.aclose()
    after = await status_of(world, "vera")
    assert (after["assignment"], after["restarts"]) == (before["assignment"], before["restarts"])
    assert await world.overlaps() == {}


async def _sent(world: World, name: str) -> bool:
    answer = await world.client("POST", "/api/sendText", {"session": name, "chatId": ECHO, "text": "again"})
    assert answer.status == 201, str(answer)
    return True


async def test_a_stopped_session_keeps_its_login_and_a_deleted_one_loses_it_only_if_asked(world: World) -> None:
    await world.kubectl.apply(world.pool(replicas=1), world.session("wim"))
    number = (await world.pair("wim"))["wim"]
    await world.kubectl.apply(world.session("wim", state="Stopped"))
    await world.kubectl.in_phase("Stopped", "wim")
    await world.kubectl("delete", "wa", "wim", "--timeout=60s")
    # Retain is the default: an object of the same name goes on with the login.
    await world.kubectl.apply(world.session("wim"))
    await world.kubectl.in_phase("Connected", "wim")
    assert (await status_of(world, "wim"))["account"]["phoneNumber"] == number
    # A stopped session that is to be removed with its profile gets a worker for that.
    await world.kubectl.apply(world.session("wim", state="Stopped", deletionPolicy="Delete"))
    await world.kubectl.in_phase("Stopped", "wim")
    await world.kubectl("delete", "wa", "wim", "--timeout=60s")
    await world.kubectl.apply(world.session("wim"))
    await world.kubectl.in_phase("Pairing", "wim")


async def test_sessions_wait_when_their_pool_is_deleted_and_come_back_with_it(world: World) -> None:
    await world.kubectl.apply(world.pool(replicas=1), world.session("xena"))
    number = (await world.pair("xena"))["xena"]
    await world.kubectl("delete", "wapool", "default", "--timeout=60s")
    await world.kubectl.in_phase("Pending", "xena")
    assert "pool 'default' does not exist" in (await status_of(world, "xena"))["message"]
    await world.kubectl.apply(world.pool(replicas=1))
    await world.kubectl.in_phase("Connected", "xena")
    assert (await status_of(world, "xena"))["account"]["phoneNumber"] == number
    assert await world.overlaps() == {}


async def test_a_pool_whose_pods_cannot_start_says_why_and_leaves_the_others_alone(world: World) -> None:
    nowhere = {"spec": {"containers": [{"name": "worker", "image": "registry.example.com/nothing:1"}]}}
    await world.kubectl.apply(
        world.pool(replicas=1), world.session("fine"),
        world.pool("broken", replicas=1, template=nowhere), world.session("stuck", pool="broken"),
    )  # fmt: skip
    await world.kubectl.in_phase("Pairing", "fine")

    async def explained() -> bool:
        conditions = (await world.kubectl.get("wapool", "broken"))["status"]["conditions"]
        (ready,) = [condition for condition in conditions if condition["type"] == "Ready"]
        assert ready["status"] == "False"
        assert "ImagePull" in ready["message"], ready["message"]
        status = await status_of(world, "stuck")
        return bool(status["phase"] == "Pending" and "not ready" in status["message"])

    await eventually("the reason", explained)
    # Mended, it goes on by itself.
    await world.kubectl.apply(world.pool("broken", replicas=1))
    await world.kubectl.in_phase("Pairing", "stuck")


async def test_a_changed_spec_takes_effect_without_a_new_browser(world: World) -> None:
    await world.kubectl.apply(world.pool(replicas=1), world.session("ida"))
    await world.pair("ida")
    before = await status_of(world, "ida")
    await world.kubectl.apply(world.session("ida", throttle={"messagesPerMinute": 1, "burst": 1}))

    async def slowed() -> bool:
        answer = await world.client("POST", "/api/sendText", {"session": "ida", "chatId": ECHO, "text": "one more"})
        assert answer.status in {201, 429}
        return answer.status == 429

    await eventually("the throttle", slowed)
    after = await status_of(world, "ida")
    assert (after["assignment"], after["restarts"]) == (before["assignment"], before["restarts"])
    assert after["observedGeneration"] == 2


async def test_a_namespace_with_sessions_can_be_deleted(world: World) -> None:
    await world.kubectl("create", "namespace", "tenant")
    apart = type(world.kubectl)(world.access.kubeconfig, "tenant")
    # Kubernetes looks at a namespace whose pods are still ending again after half their grace period.
    pool = world.pool(replicas=1, drain={"timeout": "10s"})
    del pool["spec"]["profiles"]
    await apart.apply(pool, world.session("yuri"))
    await apart.in_phase("Pairing", "yuri")
    await world.kubectl("delete", "namespace", "tenant", "--timeout=90s")
    with pytest.raises(KubectlError, match="not found"):
        await world.kubectl("get", "namespace", "tenant")


async def test_a_handover_survives_ten_deaths_of_the_operator(world: World, sandbox: Sandbox) -> None:
    assert sandbox.operator is not None
    await world.kubectl.apply(world.pool(), world.session("zoe"))
    numbers = await world.pair("zoe")
    epoch = (await status_of(world, "zoe"))["assignment"]["epoch"]
    for death in range(10):
        worker = await owner_of(world, "zoe")
        await world.kubectl("delete", "pod", worker, "--wait=false")
        # Each time a little later in the handover.
        await asyncio.sleep(0.08 * death)
        await sandbox.operator.kill()
        await sandbox.operator.start()
        await eventually("connected elsewhere", connected_elsewhere(world, {"zoe": worker}))
        after = (await status_of(world, "zoe"))["assignment"]["epoch"]
        assert after > epoch
        epoch = after
    assert (await status_of(world, "zoe"))["account"]["phoneNumber"] == numbers["zoe"]
    assert await world.overlaps() == {}


async def test_a_second_operator_takes_over_from_a_dead_and_from_a_paused_one(world: World, sandbox: Sandbox) -> None:
    first = sandbox.operator
    assert first is not None
    await world.kubectl.apply(world.pool(replicas=1), world.session("anna"))
    await world.pair("anna")
    before = await status_of(world, "anna")
    second = await sandbox.another_operator()
    try:
        await leads(world, "operator")
        os.kill(first.pid, signal.SIGSTOP)
        try:
            await leads(world, second.name)
            await world.kubectl.apply(world.session("bert"))
            await world.kubectl.in_phase("Pairing", "bert")
        finally:
            os.kill(first.pid, signal.SIGCONT)
        # The one that was paused finds out by itself, and ends.
        await eventually("the former leader has ended", lambda: _ended(first))
        await first.start()
        await second.kill()
        await leads(world, "operator")
        await world.kubectl.apply(world.session("carl"))
        await world.kubectl.in_phase("Pairing", "carl")
    finally:
        await second.stop()
        if first.ended:
            await first.start()
    after = await status_of(world, "anna")
    assert (after["assignment"], after["restarts"]) == (before["assignment"], before["restarts"])
    assert await world.overlaps() == {}


async def leads(world: World, name: str) -> None:
    async def look() -> bool:
        lease = await world.kubectl.get("lease", "whatsapp-operator")
        assert lease["spec"]["holderIdentity"] == name, str(lease["spec"])
        return True

    await eventually(f"{name} leads", look)


async def _ended(part: Part) -> bool:
    return part.ended
