"""Messages that come while nobody listens: each is told once, in order, whoever runs the session by then."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import pytest

from sandbox.whatsapp import Settings, WhatsAppServer
from session_worker.contract import InboundEvent, Method, Phase, SessionKey, sent_key, told_key, told_since_key
from tests.support.redis_server import RedisServer
from tests.support.worker_world import Worker, WorkerWorld, eventually

pytestmark = [
    # pyppeteer calls its websocket library in a way that is deprecated there.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:pyppeteer"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets"),
]

FRIEND = "5511910000099"
QUIET = f"{FRIEND}@c.us"
"""Somebody who never answers."""


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[WorkerWorld]:
    """Redis and WhatsApp; the latter in a hurry."""
    directory = tmp_path_factory.mktemp("missed")
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


async def told(world: WorkerWorld, key: SessionKey, bodies: list[str], name: str = "message") -> list[InboundEvent]:
    """Wait until the last of these texts was told, and check that each was told once and in order; the events."""

    async def look() -> list[InboundEvent] | None:
        found = await world.events(key, name)
        assert bodies[-1] in [event.payload["body"] for event in found]
        return found

    events = await eventually(f"{bodies[-1]} told", look)
    found = [event for event in events if event.payload["body"] in bodies]
    assert [event.payload["body"] for event in found] == bodies
    return found


async def every_event_is_told_once(world: WorkerWorld, key: SessionKey) -> None:
    for name in ("message", "message.any"):
        ids = [event.payload["id"] for event in await world.events(key, name)]
        assert len(ids) == len(set(ids))


async def kill_browser(world: WorkerWorld, worker: Worker, key: SessionKey) -> int:
    """Kill a browser; the restarts that its session had before."""
    before = await world.until(key, Phase.CONNECTED)
    pid = worker.session(key).browser_pid
    assert pid is not None
    os.killpg(pid, signal.SIGKILL)
    return before.restarts


async def test_what_comes_at_any_moment_of_a_reload_is_told_once_and_in_order(
    world: WorkerWorld, worker: Worker
) -> None:
    key, number = SessionKey("team", "reload"), "5511910000001"
    phone = await world.pair(worker.config, key, number)
    friend = world.phone(FRIEND)
    await phone.trouble("reload")
    # The page is back after about two seconds; these come before, during and after.
    await friend.send(number, "during", count=40, interval=0.1)
    bodies = [f"during #{count}" for count in range(1, 41)]
    await told(world, key, bodies)
    await told(world, key, bodies, "message.any")
    # What the phone brought along at pairing is history.
    assert {event.payload["body"] for event in await world.events(key, "message.any")} == set(bodies)
    await world.release(worker.config, key)


async def test_what_comes_while_the_browser_is_dead_is_told_from_both_sides(world: WorkerWorld, worker: Worker) -> None:
    key, number = SessionKey("team", "killed"), "5511910000002"
    phone = await world.pair(worker.config, key, number)
    friend = world.phone(FRIEND)
    await friend.send(number, "alive")
    await told(world, key, ["alive"])
    restarts = await kill_browser(world, worker, key)
    await phone.send(QUIET, "typed on the phone")
    await friend.send(number, "many", count=130)
    await world.until(key, Phase.CONNECTED, restarts=restarts + 1)
    await told(world, key, ["alive", *(f"many #{count}" for count in range(1, 131))])
    (own,) = await told(world, key, ["typed on the phone"], "message.any")
    assert (own.payload["fromMe"], own.payload["source"], own.payload["to"]) == (True, "app", QUIET)
    await every_event_is_told_once(world, key)
    await world.release(worker.config, key)


async def test_what_comes_while_the_session_moves_is_told_by_its_next_worker(
    world: WorkerWorld, worker: Worker
) -> None:
    key, number = SessionKey("team", "moved"), "5511910000003"
    await world.pair(worker.config, key, number)
    friend = world.phone(FRIEND)
    await friend.send(number, "to the first")
    sent = await worker.call(key, Method.SEND_TEXT, chatId=QUIET, text="over the API")
    assert sent.status == 200, sent
    await told(world, key, ["to the first", "over the API"], "message.any")
    await world.release(worker.config, key)

    async def released() -> bool:
        return key not in worker.supervisor.sessions

    await eventually("the release", released)
    await friend.send(number, "to nobody", count=3)
    # As if the first worker had died before it could tell what was sent through it.
    await world.registry._client.zrem(told_key(key), sent.body["result"]["id"])
    async with Worker(world.environment("w2")) as second:
        await world.assign(second.config, key, epoch=2)
        await world.until(key, Phase.CONNECTED, epoch=2)
        await told(world, key, ["to the first", "to nobody #1", "to nobody #2", "to nobody #3"])
        events = await world.events(key, "message.any")
        own = [event.payload for event in events if event.payload["fromMe"]]
        assert [(payload["body"], payload["source"]) for payload in own] == [("over the API", "api")] * 2
        assert len({event.payload["id"] for event in events}) == len(events) - 1
        await world.release(second.config, key)


async def test_a_page_is_searched_as_far_back_as_nothing_was_told(world: WorkerWorld, worker: Worker) -> None:
    """A worker may die after its page has stored messages and before it has told them."""
    key, number = SessionKey("team", "back"), "5511910000004"
    await world.pair(worker.config, key, number)
    redis = world.registry._client
    since = str(await redis.get(told_since_key(key)))
    bodies = [f"stored #{count}" for count in range(1, 121)]
    await world.phone(FRIEND).send(number, "stored", count=120)
    await told(world, key, bodies)
    await world.release(worker.config, key)

    async def released() -> bool:
        return key not in worker.supervisor.sessions

    await eventually("the release", released)
    await redis.delete(told_key(key), f"wa:in:{{{key}}}")
    await redis.set(told_since_key(key), since)
    await world.assign(worker.config, key, epoch=2)
    await told(world, key, bodies)
    await every_event_is_told_once(world, key)
    await world.release(worker.config, key)


async def test_where_nothing_is_known_of_what_was_told_only_news_is(world: WorkerWorld, worker: Worker) -> None:
    key, number = SessionKey("team", "blank"), "5511910000005"
    await world.pair(worker.config, key, number)
    friend = world.phone(FRIEND)
    await friend.send(number, "long told", count=3)
    await told(world, key, ["long told #1", "long told #2", "long told #3"])
    await world.release(worker.config, key)

    async def released() -> bool:
        return key not in worker.supervisor.sessions

    await eventually("the release", released)
    await world.registry._client.delete(told_key(key), told_since_key(key), sent_key(key))
    (world.directory / "profiles" / "team" / "blank" / "told.json").unlink()
    await friend.send(number, "news", count=2)
    await world.assign(worker.config, key, epoch=2)
    await told(world, key, ["long told #1", "long told #2", "long told #3", "news #1", "news #2"])
    await world.release(worker.config, key)
