"""The main job, end to end: real Chromium, real Redis, real wa-js, real kopf, kubectl and HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sandbox.cluster import Sandbox
from sandbox.whatsapp import seed
from sandbox.whatsapp.phone import Phone
from tests.support.people import World, eventually, is_png

pytestmark = pytest.mark.e2e

ECHO = f"{seed.ECHO}@c.us"


async def test_from_apply_to_a_delivered_message(world: World) -> None:
    key = "a-webhook-key"
    await world.kubectl("create", "secret", "generic", "hooks", f"--from-literal=hmac={key}")
    webhook = {
        "url": f"{world.receiver.url}/alice",
        "events": ["session.status", "message", "message.ack"],
        "hmacSecretRef": {"name": "hooks", "key": "hmac"},
    }
    await world.kubectl.apply(
        world.pool(), world.session("alice", webhooks=[webhook], metadata={"team": "a"}), world.session("bob"),
        world.session("carol"),
    )  # fmt: skip

    # Worker pods come up, and each session shows its QR code.
    await world.kubectl.in_phase("Pairing", "alice", "bob", "carol")
    numbers = await world.pair("alice", "bob", "carol")
    await world.kubectl("wait", "--for=condition=Ready", "wa/alice", "--timeout=10s")

    # A message sent over HTTP arrives; the contact reads it and sends it back, which comes out as a webhook.
    sent = await world.client.send("alice", ECHO, "hello")
    assert sent["fromMe"] is True
    assert sent["from"] == f"{numbers['alice']}@c.us"

    async def answered() -> bool:
        return any(event["payload"]["body"] == "hello" for event in world.receiver.events("message"))

    await eventually("the answer", answered)

    async def read() -> bool:
        acks = [event["payload"] for event in world.receiver.events("message.ack")]
        return {"SERVER", "DEVICE", "READ"} <= {ack["ackName"] for ack in acks if ack["id"] == sent["id"]}

    await eventually("the acknowledgements", read)
    async with Phone(world.access.whatsapp_url, seed.ECHO) as contact:
        bodies = [entry["content"]["body"] for entry in await contact.messages(from_me=False)]
    assert bodies.count("hello") == 1

    # Every webhook is signed, and says whose it is.
    assert world.receiver.requests
    for request in world.receiver.requests:
        assert request.is_signed_with(key), request.headers
        assert request.body["session"] == "alice"
        assert request.body["metadata"] == {"team": "a"}
    statuses = [event["payload"]["status"] for event in world.receiver.events("session.status")]
    assert [status for at, status in enumerate(statuses) if statuses[at - 1 : at] != [status]] == [
        "STARTING", "SCAN_QR_CODE", "STARTING", "WORKING",
    ]  # fmt: skip

    # Capacity and state are right for kubectl.
    pool = await world.kubectl.get("wapool", "default")
    assert (pool["status"]["sessions"], pool["status"]["capacity"], pool["status"]["pendingSessions"]) == (3, 30, 0)
    table = await world.kubectl("get", "wa")
    assert numbers["bob"] in table
    assert "Connected" in table
    assert await world.kubectl.events("alice") == ["NoRoom", "Assigned", "AwaitingPairing", "Connected"]
    assert await world.overlaps() == {}


async def test_a_killed_worker_loses_no_session_and_no_login(world: World) -> None:
    await world.kubectl.apply(world.pool(), world.session("dora"), world.session("emil"))
    numbers = await world.pair("dora", "emil")
    before = {name: (await world.kubectl.get("wa", name))["status"]["assignment"] for name in numbers}
    victim = before["dora"]["worker"]
    pid = await _pid_of(world, victim)
    os.kill(pid, signal.SIGKILL)

    async def elsewhere() -> bool:
        for name in numbers:
            status = (await world.kubectl.get("wa", name))["status"]
            moved = status["assignment"]["worker"] not in (None, victim)
            assert moved, str(status)
            assert status["phase"] == "Connected", str(status)
        return True

    await eventually("both connected elsewhere", elsewhere)
    for name, number in numbers.items():
        status = (await world.kubectl.get("wa", name))["status"]
        assert status["assignment"]["epoch"] == before[name]["epoch"] + 1
        assert status["account"]["phoneNumber"] == number
        assert "AwaitingPairing" not in (await world.kubectl.events(name))[-2:]
        await world.client.send(name, ECHO, f"still {name}")
    assert await world.overlaps() == {}


async def test_no_session_notices_when_the_operator_is_killed_and_comes_back(world: World, sandbox: Sandbox) -> None:
    assert sandbox.operator is not None
    await world.kubectl.apply(world.pool(replicas=1), world.session("fred"))
    numbers = await world.pair("fred")
    before = (await world.kubectl.get("wa", "fred"))["status"]
    async with Phone(world.access.whatsapp_url, numbers["fred"]) as phone:
        account = await phone.account()
        await sandbox.operator.kill()
        await world.client.send("fred", ECHO, "nobody is watching")
        await sandbox.operator.start()
        await world.kubectl.apply(world.session("gina"))
        await world.kubectl.in_phase("Pairing", "gina")
        assert (await phone.account())["devices"] == account["devices"]
    after = (await world.kubectl.get("wa", "fred"))["status"]
    assert after["assignment"] == before["assignment"]
    assert after["restarts"] == before["restarts"]
    assert after["lastTransition"] == before["lastTransition"]
    assert await world.overlaps() == {}


async def test_a_crashed_browser_comes_back_without_a_scan(world: World) -> None:
    await world.kubectl.apply(world.pool(replicas=1), world.session("hugo"))
    numbers = await world.pair("hugo")
    worker = (await world.kubectl.get("wa", "hugo"))["status"]["assignment"]["worker"]
    parent = await _pid_of(world, worker)
    for pid in _children(parent):
        os.kill(pid, signal.SIGKILL)

    async def restarted() -> bool:
        status = (await world.kubectl.get("wa", "hugo"))["status"]
        return bool(status["restarts"] >= 1 and status["phase"] == "Connected")

    await eventually("a restart", restarted)
    status = (await world.kubectl.get("wa", "hugo"))["status"]
    assert status["assignment"]["worker"] == worker
    assert status["account"]["phoneNumber"] == numbers["hugo"]
    assert await world.overlaps() == {}


async def test_the_sixteenth_session_of_a_worker_for_fifteen_waits_and_says_why(world: World) -> None:
    names = [f"many-{n:02}" for n in range(16)]
    await world.kubectl.apply(world.pool(replicas=1), *[world.session(name) for name in names])

    async def placed() -> bool:
        items = await world.kubectl.all("wa")
        phases = [item["status"].get("phase") for item in items]
        assert phases.count("Pairing") == 15, str(phases)
        return phases.count("Pending") == 1

    await eventually("fifteen show their codes", placed, within=180)

    async def explained() -> Any:
        # While a fleet comes up, a changed sentence alone is written every ten seconds at most.
        (item,) = [item for item in await world.kubectl.all("wa") if item["status"]["phase"] == "Pending"]
        assert item["status"]["message"] == "no worker has room: 1 of 1 full (15/15)"
        return item

    waiting = await eventually("the reason", explained)
    (condition,) = [c for c in waiting["status"]["conditions"] if c["type"] == "Scheduled"]
    assert (condition["status"], condition["reason"]) == ("False", "NoRoom")
    described = await world.kubectl("describe", "wa", waiting["metadata"]["name"])
    assert "no worker has room: 1 of 1 full (15/15)" in described
    pool = (await world.kubectl.get("wapool", "default"))["status"]
    assert (pool["sessions"], pool["effectiveCapacity"], pool["pendingSessions"]) == (15, 15, 1)
    # A place that becomes free is given away at once.
    taken = next(name for name in names if name != waiting["metadata"]["name"])
    await world.kubectl("delete", "wa", taken, "--wait=true", "--timeout=60s")
    await world.kubectl.in_phase("Pairing", waiting["metadata"]["name"])


async def test_a_session_made_over_http_is_an_object_and_the_other_way_round(world: World) -> None:
    await world.kubectl.apply(world.pool(replicas=1))
    answer = await world.client("POST", "/api/sessions", {"name": "Sales_Team 1"})
    assert answer.status == 400
    answer = await world.client("POST", "/api/sessions", {"name": "Sales_Team", "config": {"metadata": {"a": "b"}}})
    assert answer.status == 201
    assert answer.body["name"] == "Sales_Team"
    again = await world.client("POST", "/api/sessions", {"name": "Sales_Team"})
    assert again.status == 422
    assert again.body["message"] == "Session 'Sales_Team' already exists. Use PUT to update it."
    (item,) = await world.kubectl.all("wa")
    assert item["metadata"]["annotations"]["whatsapp.28web.io/session-name"] == "Sales_Team"
    await world.client.qr("Sales_Team")

    picture = await world.client("GET", "/api/Sales_Team/auth/qr")
    assert (picture.status, picture.headers["Content-Type"]) == (200, "image/png")
    assert is_png(picture.body)
    text = await world.client("GET", "/api/Sales_Team/auth/qr", headers={"Accept": "application/json"})
    assert text.body["mimetype"] == "image/png"
    assert is_png(text.body["data"])
    unpaired = await world.client("POST", "/api/sendText", {"session": "Sales_Team", "chatId": "1", "text": "x"})
    assert unpaired.status == 422
    assert unpaired.body == {
        "error": "Session status is not as expected. Try again later or restart the session",
        "session": "Sales_Team",
        "status": "SCAN_QR_CODE",
        "expected": ["WORKING"],
    }
    assert (await world.client("GET", "/api/sessions/Sales_Team/me")).body is None

    number = await world.scan("Sales_Team")

    async def works() -> bool:
        found = await world.client("GET", "/api/sessions/Sales_Team")
        return bool(found.body["status"] == "WORKING")

    await eventually("WORKING", works)
    me = await world.client("GET", "/api/sessions/Sales_Team/me")
    assert me.body["id"] == f"{number}@c.us"
    exists = await world.client("GET", f"/api/contacts/check-exists?session=Sales_Team&phone={seed.ECHO}")
    assert exists.body == {"numberExists": True, "chatId": ECHO}
    paired = await world.client("GET", "/api/Sales_Team/auth/qr")
    assert (paired.status, paired.body["status"]) == (422, "WORKING")

    # Stopped and started again it needs no new scan; restarted neither; logged out it does.
    stopped = await world.client("POST", "/api/sessions/Sales_Team/stop")
    assert stopped.status == 201

    async def hidden() -> bool:
        listed = await world.client("GET", "/api/sessions")
        every = await world.client("GET", "/api/sessions?all=true")
        assert [entry["status"] for entry in every.body] == ["STOPPED"]
        return not listed.body

    await eventually("STOPPED", hidden)
    assert (await world.client("POST", "/api/sessions/Sales_Team/start")).status == 201
    await eventually("WORKING again", works)
    assert (await world.client("POST", "/api/sessions/Sales_Team/restart")).status == 201
    await eventually("WORKING after a restart", works)
    assert (await world.client("POST", "/api/sessions/Sales_Team/logout")).status == 201
    await world.client.qr("Sales_Team")

    assert (await world.client("DELETE", "/api/sessions/Sales_Team")).status == 200
    assert (await world.client("DELETE", "/api/sessions/Sales_Team")).status == 200
    assert (await world.client("GET", "/api/sessions/Sales_Team")).status == 404
    assert await world.overlaps() == {}


async def test_a_pairing_code_links_an_account_too(world: World) -> None:
    number = "5511970001234"
    await world.kubectl.apply(world.pool(replicas=1), world.session("ines"))
    await world.kubectl.in_phase("Pairing", "ines")
    answer = await world.client("POST", "/api/ines/auth/request-code", {"phoneNumber": number})
    assert answer.status == 201
    code = answer.body["code"]
    assert len(code) == 9
    assert code[4] == "-"
    async with Phone(world.access.whatsapp_url, number) as phone:
        await phone.enter_code(code)
    await world.kubectl.in_phase("Connected", "ines")
    # The same from the manifest: the code is in Redis and nowhere else.
    other = "5511970004321"
    await world.kubectl.apply(world.session("jana", pairing={"method": "PairingCode", "phoneNumber": other}))
    await world.kubectl.in_phase("Pairing", "jana")
    status = str((await world.kubectl.get("wa", "jana"))["status"])
    assert "enter the pairing code on the phone" in status


async def _pid_of(world: World, worker: str) -> int:
    """Process id of a worker, found by its pod's address as a person would find it with ss."""
    address = (await world.kubectl.get("pod", worker))["status"]["podIP"]
    process = await asyncio.create_subprocess_exec("ss", "-Hltnp", stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    (line,) = [line for line in output.decode().splitlines() if f"{address}:3001" in line]
    return int(line.partition("pid=")[2].partition(",")[0])


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
