"""Sessions that close their browser while nothing happens, and wake for the next call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sandbox.whatsapp import Settings, WhatsAppServer
from session_worker.contract import Command, Method, Phase, SessionKey
from session_worker.supervisor import Timing
from tests.support.redis_server import RedisServer
from tests.support.worker_world import Worker, WorkerWorld, eventually, processes_of

pytestmark = [
    # pyppeteer calls its websocket library in a way that is deprecated there.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyppeteer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets"),
]

FRIEND = "5511920000099"


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerWorld]:
    """Redis and WhatsApp; the latter in a hurry."""
    directory = tmp_path_factory.mktemp("sleep")
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


async def gone(worker: Worker, key: SessionKey) -> None:
    """Return when a session has ended here."""

    async def look() -> bool:
        return key not in worker.supervisor.sessions

    await eventually(f"{key} gone", look)


async def test_an_idle_session_sleeps_wakes_for_a_call_and_tells_what_it_missed(
    world: WorkerWorld, worker: Worker
) -> None:
    key, number = SessionKey("team", "idle"), "5511920000001"
    await world.pair(worker.config, key, number, hibernate_after_seconds=2)
    state = await world.until(key, Phase.HIBERNATED)
    assert state.account is not None
    assert state.message == "asleep to save memory; wakes for the next message"
    profile = world.directory / "profiles" / "team" / "idle"
    assert processes_of(profile) == []
    assert worker.session(key).browser_pid is None

    await world.phone(FRIEND).send(number, "while asleep")
    replies = await asyncio.gather(
        *(worker.call(key, Method.SEND_TEXT, chatId=f"{FRIEND}@c.us", text=f"good morning {n}") for n in range(3))
    )
    assert [reply.status for reply in replies] == [200] * 3, replies

    async def told() -> bool:
        return [event.payload["body"] for event in await world.events(key, "message")] == ["while asleep"]

    await eventually("the missed message", told)
    # It was not asked to be restarted, nothing failed, and it sleeps again.
    assert (await world.until(key, Phase.HIBERNATED)).restarts == 0
    # WAHA's clients see no difference.
    statuses = [event.payload["status"] for event in await world.events(key, "session.status")]
    assert "STOPPED" not in statuses
    assert "FAILED" not in statuses
    assert (await world.phone(number).account())["max_live"] == 1
    await world.release(worker.config, key)
    await gone(worker, key)


async def test_a_sleeping_session_is_woken_to_be_unlinked(world: WorkerWorld, worker: Worker) -> None:
    key, number = SessionKey("team", "leaving"), "5511920000002"
    phone = await world.pair(worker.config, key, number, hibernate_after_seconds=1)
    await world.until(key, Phase.HIBERNATED)
    await world.assign(worker.config, key, hibernate_after_seconds=1, purge="Logout")
    await world.until(key, Phase.STOPPED, purged=True)
    assert (await phone.account())["devices"] == []
    assert not (world.directory / "profiles" / "team" / "leaving").exists()
    await world.release(worker.config, key)
    await gone(worker, key)


async def test_a_person_may_unlink_or_restart_a_sleeping_session(world: WorkerWorld, worker: Worker) -> None:
    key, number = SessionKey("team", "person"), "5511920000003"
    phone = await world.pair(worker.config, key, number, hibernate_after_seconds=1)
    await world.until(key, Phase.HIBERNATED)
    assert (await worker.command(key, Command.RESTART)).status == 200
    await world.until(key, Phase.CONNECTED)
    await world.until(key, Phase.HIBERNATED)
    assert (await worker.command(key, Command.LOGOUT)).status == 200
    await world.until(key, Phase.PAIRING)
    assert (await phone.account())["devices"] == []
    await world.release(worker.config, key)
    await gone(worker, key)


async def test_a_session_with_a_call_under_way_stays_awake(world: WorkerWorld, worker: Worker) -> None:
    key, number = SessionKey("team", "busy"), "5511920000004"
    # The second message waits three seconds for its turn.
    spec = {"messages_per_minute": 20, "burst": 1, "hibernate_after_seconds": 1.5}
    await world.pair(worker.config, key, number, **spec)
    pid = worker.session(key).browser_pid
    replies = await asyncio.gather(
        *(worker.call(key, Method.SEND_TEXT, chatId=f"{FRIEND}@c.us", text=f"busy {n}") for n in range(2))
    )
    assert [reply.status for reply in replies] == [200, 200]
    assert worker.session(key).browser_pid in {pid, None}
    phases = [event.payload["status"] for event in await world.events(key, "session.status")]
    assert phases[-1] == "WORKING"
    assert worker.session(key).state().restarts == 0
    await world.until(key, Phase.HIBERNATED)
    await world.release(worker.config, key)
    await gone(worker, key)


async def test_short_memory_puts_the_longest_idle_to_sleep_and_room_wakes_it(world: WorkerWorld) -> None:
    keys = [SessionKey("team", name) for name in ("first", "second")]
    timing = Timing(memory_every=1.0)
    async with Worker(world.environment("w-roomy"), timing) as roomy:
        for place, key in enumerate(keys):
            await world.pair(roomy.config, key, f"551192000001{place}")

        async def measured() -> int:
            beats = await world.registry.beats([roomy.config.worker])
            beat = beats[roomy.config.worker].heartbeat
            assert all(beat.running[str(key)].memory_bytes for key in keys)
            return beat.memory_used_bytes

        used: int = await eventually("the memory of both", measured)
        for key in keys:
            await world.release(roomy.config, key)
            await gone(roomy, key)
    limit = {"MEMORY_LIMIT_BYTES": str(int(used * 1.05)), "SESSION_TIMEOUT": "3000"}
    async with Worker({**world.environment("w-tight"), **limit}, timing) as tight:
        for key in keys:
            await world.assign(tight.config, key, epoch=2)
            await world.until(key, Phase.CONNECTED, epoch=2)
        # The second is used last.
        await tight.call(keys[1], Method.CHECK_EXISTS, epoch=2, phone=f"{FRIEND}@c.us")
        await world.until(keys[0], Phase.HIBERNATED)
        lines = (await tight.get("/metrics", metrics=True)).body.splitlines()
        assert 'whatsapp_memory_relief_total{action="sleep"} 1.0' in lines
        assert any(line.startswith('whatsapp_memory_relief_total{action="tidy"}') for line in lines)
        assert tight.session(keys[1]).phase is Phase.CONNECTED
        # When the other leaves, there is room, and nobody has to ask for it.
        await world.release(tight.config, keys[1])
        await world.until(keys[0], Phase.CONNECTED)
        await world.release(tight.config, keys[0])
