"""Sessions with real browsers: from the published assignment to messages, and through everything that goes wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.whatsapp import Phone, Settings, WhatsAppServer, seed
from sandbox.whatsapp.phone import Sandbox
from session_worker.contract import Command, Method, PairingMethod, Phase, RuntimeState, SessionKey, WorkerKey
from session_worker.profiles import ProfileStore, ProfileTakenError
from tests.support.redis_server import RedisServer
from tests.support.worker_world import Worker, WorkerWorld, eventually, processes_of

pytestmark = [
    # pyppeteer calls its websocket library in a way that is deprecated there.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyppeteer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets"),
]

ECHO = f"{seed.ECHO}@c.us"
ANA = SessionKey("team", "ana")
BOB = SessionKey("team", "bob")


@dataclass(frozen=True, slots=True)
class Linked:
    """A session that is connected, and the phone of its account."""

    key: SessionKey
    phone: Phone


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerWorld]:
    """Redis and WhatsApp; the latter in a hurry."""
    directory = tmp_path_factory.mktemp("worker")
    settings = Settings(time_scale=0.1, reconnect=1, keepalive=0.5)
    async with (
        RedisServer(directory) as redis,
        WhatsAppServer(settings=settings) as whatsapp,
        WorkerWorld(directory, redis, whatsapp) as everybody,
    ):
        yield everybody


@pytest.fixture(scope="module")
async def worker(world: WorkerWorld) -> AsyncIterator[Worker]:
    """The worker that most tests use."""
    async with Worker(world.environment("w1")) as running:
        yield running


@pytest.fixture(scope="module")
async def ana(world: WorkerWorld, worker: Worker) -> Linked:
    """A session that is connected before and after each test."""
    phone = await world.pair(worker.config, ANA, "5511900000001")
    return Linked(ANA, phone)


async def told(world: WorkerWorld, key: SessionKey, *bodies: str) -> list[str]:
    """Wait until messages with these texts were told; all texts that came in, in order."""

    async def look() -> list[str] | None:
        found = [str(event.payload["body"]) for event in await world.events(key, "message")]
        assert set(bodies) <= set(found), found
        return found

    texts: list[str] = await eventually(f"{bodies} told", look)
    return texts


async def test_a_scanned_code_connects_the_session(world: WorkerWorld, worker: Worker, ana: Linked) -> None:
    state = await world.until(ana.key, Phase.CONNECTED)
    assert (state.epoch, state.worker, state.address) == (1, "w1", worker.config.address)
    assert state.account is not None
    assert state.account.id == f"{ana.phone.number}@c.us"
    assert (state.restarts, state.pairing_expires, state.message) == (0, None, "")
    # What could link the account is gone with the scan.
    assert await world.registry.offer(ana.key) is None
    statuses = [event.payload["status"] for event in await world.events(ana.key, "session.status")]
    assert [now for now, before in zip(statuses, [None, *statuses], strict=False) if now != before] == [
        "STARTING", "SCAN_QR_CODE", "STARTING", "WORKING",
    ]  # fmt: skip

    async def beaten() -> bool:
        beat = (await world.registry.beats([WorkerKey("team", "w1")]))[WorkerKey("team", "w1")].heartbeat
        entry = beat.running[str(ana.key)]
        assert (entry.epoch, entry.phase) == (1, Phase.CONNECTED)
        assert (beat.uid, beat.capacity, beat.stopped) == ("uid-w1", 15, False)
        return beat.revision >= 1

    await eventually("the heartbeat", beaten)


async def test_a_sent_text_arrives_and_its_fate_is_told(world: WorkerWorld, worker: Worker, ana: Linked) -> None:
    reply = await worker.call(ana.key, Method.SEND_TEXT, chatId=ECHO, text="to be echoed")
    assert reply.status == 200, reply
    sent = reply.body["result"]
    assert (sent["fromMe"], sent["to"], sent["body"], sent["source"]) == (True, ECHO, "to be echoed", "api")
    await told(world, ana.key, "to be echoed")

    async def read() -> bool:
        acks = [event.payload for event in await world.events(ana.key, "message.ack")]
        names = [ack["ackName"] for ack in acks if ack["id"] == sent["id"]]
        return names == ["SERVER", "DEVICE", "READ"]

    await eventually("the acknowledgements", read)
    (own,) = [e for e in await world.events(ana.key, "message.any") if e.payload["fromMe"]]
    assert (own.payload["id"], own.payload["source"]) == (sent["id"], "api")
    (answer,) = [e for e in await world.events(ana.key, "message") if e.payload["body"] == "to be echoed"]
    assert (answer.payload["from"], answer.payload["fromMe"]) == (ECHO, False)
    assert answer.account is not None
    assert answer.account.phone_number == ana.phone.number
    found = await worker.call(ana.key, Method.CHECK_EXISTS, phone=ECHO)
    assert found.body == {"result": {"numberExists": True, "chatId": ECHO}}


async def test_a_reload_of_the_page_loses_and_repeats_nothing(world: WorkerWorld, ana: Linked) -> None:
    async with Sandbox(world.whatsapp.url) as sandbox:
        await sandbox.contact_sends(seed.ECHO, ana.phone.number, "before the reload")
        await told(world, ana.key, "before the reload")
        states = len(await world.events(ana.key, "session.status"))
        await ana.phone.trouble("reload")

        async def reloaded() -> bool:
            return len(await world.events(ana.key, "session.status")) >= states + 2

        await eventually("the reload", reloaded)
        await world.until(ana.key, Phase.CONNECTED)
        await sandbox.contact_sends(seed.ECHO, ana.phone.number, "after the reload")
    texts = await told(world, ana.key, "after the reload")
    ids = [event.payload["id"] for event in await world.events(ana.key, "message")]
    assert len(ids) == len(set(ids))
    assert [text for text in texts if "the reload" in text] == ["before the reload", "after the reload"]


async def test_a_lost_connection_shows_and_comes_back(world: WorkerWorld, ana: Linked) -> None:
    await ana.phone.faults(offline=True)
    await ana.phone.drop()
    state = await world.until(ana.key, Phase.RECONNECTING)
    assert state.message == "connection to WhatsApp lost"
    assert state.account is not None
    async with Sandbox(world.whatsapp.url) as sandbox:
        await sandbox.contact_sends(seed.ECHO, ana.phone.number, "are you there?")
    await ana.phone.faults(offline=False)
    assert (await world.until(ana.key, Phase.CONNECTED)).restarts == state.restarts
    assert (await told(world, ana.key, "are you there?")).count("are you there?") == 1


async def test_a_killed_browser_comes_back_without_a_scan(world: WorkerWorld, worker: Worker, ana: Linked) -> None:
    devices = (await ana.phone.account())["devices"]
    before = await world.until(ana.key, Phase.CONNECTED)
    pid = worker.session(ana.key).browser_pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    state = await world.until(ana.key, Phase.CONNECTED, restarts=before.restarts + 1)
    assert state.account == before.account
    assert worker.session(ana.key).browser_pid not in {None, pid}
    assert [device["id"] for device in (await ana.phone.account())["devices"]] == [device["id"] for device in devices]
    assert (await ana.phone.account())["max_live"] == 1


async def test_an_outage_of_redis_stops_nothing_and_what_was_told_meanwhile_arrives_in_order(
    world: WorkerWorld, worker: Worker, ana: Linked
) -> None:
    pid = worker.session(ana.key).browser_pid
    await world.redis.stop()
    async with Sandbox(world.whatsapp.url) as sandbox:
        for number in range(5):
            await sandbox.contact_sends(seed.ECHO, ana.phone.number, f"in the dark {number}")

    async def waiting() -> bool:
        return worker.session(ana.key).backlog >= 5

    await eventually("the backlog", waiting)
    assert (await worker.get("/livez")).status == 200
    await world.redis.start()
    texts = await told(world, ana.key, "in the dark 4")
    assert [text for text in texts if "in the dark" in text] == [f"in the dark {number}" for number in range(5)]
    # Redis came back empty: the worker goes on with what it has, and says again what it knows.
    assert worker.session(ana.key).browser_pid == pid
    state = await world.until(ana.key, Phase.CONNECTED)
    assert state.account is not None
    revision = await world.publish(worker.config)

    async def adopted() -> bool:
        return (await world.registry.beats([worker.config.worker]))[worker.config.worker].heartbeat.revision == revision

    await eventually("the set is adopted again", adopted)
    assert worker.session(ana.key).browser_pid == pid


async def test_what_the_worker_is_asked_wrongly_it_refuses_with_a_reason(worker: Worker, ana: Linked) -> None:
    path, body = "/v1/sessions/team/ana/call/sendText", '{"epoch": 1, "params": {"chatId": "x", "text": "y"}}'
    for token in (None, "wrong", "caf\udce9"):
        assert (await _raw_post(worker, path, body, token)) == 401
    for refused, status, refusal in [
        (await worker.post(path, "no JSON"), 400, "BadRequest"),
        (await worker.post(path, "{}"), 400, "BadRequest"),
        (await worker.post("/v1/sessions/team/ana/call/dance", '{"epoch": 1}'), 400, "BadRequest"),
        (await worker.post("/v1/sessions/team/ana/command/dance", '{"epoch": 1}'), 400, "BadRequest"),
        (await worker.call(ana.key, Method.SEND_TEXT, chatId="nobody", text="x"), 400, "BadRequest"),
        (await worker.call(ana.key, Method.SEND_TEXT, epoch=2, chatId=ECHO, text="x"), 409, "NotHere"),
        (await worker.call(SessionKey("team", "nobody"), Method.CHECK_EXISTS, phone=ECHO), 409, "NotHere"),
        (await worker.command(ana.key, Command.REQUEST_CODE, phoneNumber="5511"), 422, "WrongPhase"),
    ]:
        assert (refused.status, refused.body["refusal"]) == (status, refusal), refused
        assert refused.body["message"]


async def _raw_post(worker: Worker, path: str, body: str, token: str | None) -> int:
    """A POST with whatever bytes in the header; the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.config.port)
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}Content-Length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode(errors="surrogateescape"))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1])


async def test_a_session_that_sends_too_fast_is_told_when_to_come_back(
    world: WorkerWorld, worker: Worker, ana: Linked
) -> None:
    await world.assign(worker.config, ana.key, messages_per_minute=1, burst=1)

    async def throttled() -> bool:
        return worker.session(ana.key).assignment.spec.burst == 1

    await eventually("the new throttle", throttled)
    first = await worker.call(ana.key, Method.SEND_TEXT, chatId=ECHO, text="one")
    second = await worker.call(ana.key, Method.SEND_TEXT, chatId=ECHO, text="two")
    assert first.status == 200
    assert (second.status, second.body["refusal"]) == (429, "TooFast")
    assert 30 < second.body["retryAfter"] <= 60
    await told(world, ana.key, "one")
    assert "two" not in await told(world, ana.key)


async def test_health_and_metrics_say_what_is(worker: Worker, ana: Linked) -> None:
    assert (await worker.get("/livez")).status == 200
    assert (await worker.get("/readyz")).status == 200
    health = await worker.get("/health")
    assert health.status == 200
    assert health.body["sessions"]["max"] == 15
    assert health.body["sessions"]["active"] >= 1
    assert health.body["checks"]["redis"] is True
    assert health.body["checks"]["queue"] is True
    assert set(health.body) == {"status", "uptime", "memory", "sessions", "checks"}
    assert set(health.body["memory"]) == {"used", "total", "percentage"}
    metrics = (await worker.get("/metrics", metrics=True)).body
    lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    assert float(lines["whatsapp_active_sessions"]) >= 1
    assert float(lines['whatsapp_messages_sent_total{outcome="sent"}']) >= 1
    assert float(lines["whatsapp_memory_usage_bytes"]) > 0
    buckets = [f'whatsapp_message_processing_duration_seconds_bucket{{le="{le}"}}' for le in
               ("0.1", "0.5", "1.0", "2.0", "5.0", "10.0", "+Inf")]  # fmt: skip
    assert [name for name in lines if "processing_duration_seconds_bucket" in name] == buckets
    assert float(lines["whatsapp_worker_heartbeat_timestamp_seconds"]) > 1e9


# --- Unlinking, wiping, removing


async def test_a_session_that_the_phone_unlinks_shows_a_code_again(world: WorkerWorld, worker: Worker) -> None:
    phone = await world.pair(worker.config, BOB, "5511900000002")
    await phone.unlink()
    state = await world.until(BOB, Phase.PAIRING)
    assert state.account is None
    refused = await worker.call(BOB, Method.SEND_TEXT, chatId=ECHO, text="x")
    assert (refused.status, refused.body["refusal"], refused.body["phase"]) == (422, "WrongPhase", "Pairing")
    await phone.scan((await world.offer(BOB)).code)
    await world.until(BOB, Phase.CONNECTED)

    # A person may ask for the same.
    assert (await worker.command(BOB, Command.LOGOUT)).status == 200
    await world.until(BOB, Phase.PAIRING)
    assert (await phone.account())["devices"] == []
    code = await worker.command(BOB, Command.REQUEST_CODE, phoneNumber=phone.number)
    assert code.status == 200, code
    await phone.enter_code(code.body["result"]["code"])
    await world.until(BOB, Phase.CONNECTED)

    # Deleting the object with the policy Delete removes the profile and leaves the phone alone.
    profile = world.directory / "profiles" / "team" / "bob"
    assert profile.exists()
    await world.assign(worker.config, BOB, purge="Delete")
    await world.until(BOB, Phase.STOPPED, purged=True)
    assert not profile.exists()
    assert len((await phone.account())["devices"]) == 1
    await world.release(worker.config, BOB)
    await eventually("bob is gone", lambda: _gone(worker, BOB))


async def _gone(worker: Worker, key: SessionKey) -> bool:
    return key not in worker.supervisor.sessions


async def test_a_pairing_code_is_shown_where_the_spec_asks_for_one(world: WorkerWorld, worker: Worker) -> None:
    key, number = SessionKey("team", "code"), "5511900000003"
    await world.assign(worker.config, key, pairing_method="PairingCode", phone_number=number)
    offer = await world.offer(key)
    assert offer.method is PairingMethod.PAIRING_CODE
    phone = world.phone(number)
    await phone.enter_code(offer.code)
    await world.until(key, Phase.CONNECTED)

    # Deleting the object with the policy Logout unlinks the account and removes the profile.
    await world.assign(worker.config, key, purge="Logout")
    await world.until(key, Phase.STOPPED, purged=True)
    assert (await phone.account())["devices"] == []
    assert not (world.directory / "profiles" / "team" / "code").exists()
    await world.release(worker.config, key)
    await eventually("it is gone", lambda: _gone(worker, key))


async def test_a_stopped_session_is_unlinked_too_before_its_profile_goes(world: WorkerWorld, worker: Worker) -> None:
    key = SessionKey("team", "stopped")
    phone = await world.pair(worker.config, key, "5511900000004")
    await world.release(worker.config, key)
    await eventually("it is stopped", lambda: _gone(worker, key))
    assert len((await phone.account())["devices"]) == 1
    await world.assign(worker.config, key, epoch=2, purge="Logout")
    await world.until(key, Phase.STOPPED, purged=True, epoch=2)
    assert (await phone.account())["devices"] == []
    assert not (world.directory / "profiles" / "team" / "stopped").exists()
    await world.release(worker.config, key)


async def test_a_profile_is_removed_without_a_browser_when_the_phone_need_not_know(
    world: WorkerWorld, worker: Worker
) -> None:
    key = SessionKey("team", "never-seen")
    profile = world.directory / "profiles" / "team" / "never-seen"
    (profile / "chromium" / "Default").mkdir(parents=True)
    await world.assign(worker.config, key, purge="Delete")
    await world.until(key, Phase.STOPPED, purged=True)
    assert not profile.exists()
    assert worker.session(key).browser_pid is None
    await world.release(worker.config, key)


async def test_a_deletion_is_not_lost_in_a_restart(world: WorkerWorld, worker: Worker) -> None:
    """The spec may change in the very moment in which the browser is exchanged."""
    key = SessionKey("team", "both")
    await world.assign(worker.config, key)
    await world.until(key, Phase.PAIRING)
    session = worker.session(key)
    await session.command(Command.RESTART, {})
    spec = session.assignment.spec.model_copy(update={"purge": "Delete"})
    session.update(session.assignment.model_copy(update={"spec": spec}))
    await world.until(key, Phase.STOPPED, purged=True)
    await world.release(worker.config, key)


# --- Ownership


async def test_an_owner_that_was_replaced_closes_its_browser_and_does_not_come_back(
    world: WorkerWorld, worker: Worker
) -> None:
    key = SessionKey("team", "moved")
    await world.assign(worker.config, key, epoch=3)
    state = await world.until(key, Phase.PAIRING)
    successor = RuntimeState.model_validate({**state.model_dump(), "epoch": 4, "worker": "w2", "phase": "Starting"})
    assert await world.registry.write_state(key, successor)
    await worker.command(key, Command.RESTART, epoch=3)
    await eventually("the old owner closed it", lambda: _gone(worker, key))
    await world.publish(worker.config)
    await _settled(world, worker)
    assert key not in worker.supervisor.sessions
    assert await world.state(key) == successor
    profiles = ProfileStore(world.directory / "profiles")
    (await profiles.open(key, epoch=4, uid="uid-moved", worker="w2", wait=0)).close()
    await world.release(worker.config, key)


async def _settled(world: WorkerWorld, worker: Worker) -> None:
    """Return when the worker has confirmed the last set."""
    revision = (await world.registry.revisions([worker.config.worker]))[worker.config.worker]

    async def confirmed() -> bool:
        beat = (await world.registry.beats([worker.config.worker]))[worker.config.worker]
        return beat.heartbeat.revision == revision

    await eventually("the set is confirmed", confirmed)


async def test_a_session_made_anew_replaces_the_one_of_the_same_name(world: WorkerWorld, worker: Worker) -> None:
    key = SessionKey("team", "anew")
    await world.assign(worker.config, key)
    await world.until(key, Phase.PAIRING)
    first = worker.session(key)
    await world.assign(worker.config, key, epoch=2)
    await world.until(key, Phase.PAIRING, epoch=2)
    assert first.ended
    assert worker.session(key) is not first
    await world.release(worker.config, key)


async def test_a_session_whose_browser_never_starts_fails_and_is_tried_again_slowly(
    world: WorkerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from session_worker import session as module
    from session_worker.lifecycle import TIMEOUTS, Stage

    # Minutes as seconds: the table and what it leads to stay as they are.
    monkeypatch.setitem(TIMEOUTS, Stage.FAILED, 1.0)
    monkeypatch.setattr(module, "MAX_FAILURES", 1)
    variables = world.environment("w-broken")
    browser = world.directory / "browser"
    browser.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {variables["BROWSER_EXECUTABLE"]} --version\nexit 1\n')
    browser.chmod(0o755)
    async with Worker({**variables, "BROWSER_EXECUTABLE": str(browser)}) as broken:
        key = SessionKey("team", "broken")
        await world.assign(broken.config, key)
        state = await world.until(key, Phase.FAILED)
        assert state.message.startswith("the browser failed 1 times in 10 minutes, the last time: the browser ")
        health = await broken.get("/health")
        assert (health.status, health.body["status"], health.body["checks"]["sessions"]) == (200, "degraded", False)
        browser.write_text(f'#!/bin/sh\nexec {variables["BROWSER_EXECUTABLE"]} "$@"\n')
        await world.until(key, Phase.PAIRING)


# --- The end


async def test_a_worker_that_is_told_to_end_leaves_no_browser_and_says_so(world: WorkerWorld) -> None:
    key = SessionKey("team", "ending")
    variables = world.environment("w-ending")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "session_worker", env={**os.environ, **variables}, stdout=asyncio.subprocess.DEVNULL
    )
    worker = Worker(variables).config
    await world.assign(worker, key)
    await world.until(key, Phase.PAIRING)
    profile = world.directory / "profiles" / "team" / "ending"
    assert processes_of(profile)
    with pytest.raises(ProfileTakenError):
        await ProfileStore(world.directory / "profiles").open(key, epoch=2, uid="x", worker="w2", wait=0)
    process.terminate()
    async with asyncio.timeout(60):
        assert await process.wait() == 0
    assert processes_of(profile) == []
    beat = (await world.registry.beats([worker.worker]))[worker.worker].heartbeat
    assert (beat.stopped, beat.running) == (True, {})
    state = await world.state(key)
    assert state is not None
    assert state.phase is Phase.STOPPED


async def test_a_worker_that_is_killed_takes_its_browsers_with_it(world: WorkerWorld) -> None:
    key = SessionKey("team", "killed")
    variables = world.environment("w-killed")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "session_worker", env={**os.environ, **variables}, stdout=asyncio.subprocess.DEVNULL
    )
    await world.assign(Worker(variables).config, key)
    await world.until(key, Phase.PAIRING)
    process.kill()
    await process.wait()
    profile = world.directory / "profiles" / "team" / "killed"

    async def ended() -> bool:
        return not processes_of(profile)

    await eventually("its browsers end", ended)
    (await ProfileStore(world.directory / "profiles").open(key, epoch=2, uid="x", worker="w2", wait=30)).close()


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("REDIS_URL", "http://nowhere", "configuration: REDIS_URL must be an address"),
        ("PROFILE_DIR", "/dev/null/profiles", "configuration: PROFILE_DIR /dev/null/profiles cannot be written"),
        ("BROWSER_EXECUTABLE", "/no/such/browser", "configuration: no browser found, looked for /no/such/browser"),
        ("WA_JS_PATH", "/no/such/script", "configuration: wa-js is not installed"),
    ],
)
async def test_a_worker_that_cannot_start_says_why_in_a_sentence(
    world: WorkerWorld, tmp_path: Path, variable: str, value: str, problem: str
) -> None:
    variables = {**world.environment("w-wrong"), variable: value}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "session_worker", env={**os.environ, **variables},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().startswith(problem)
