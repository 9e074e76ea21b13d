"""Events on their way to webhooks: a real Redis, a real receiver, and one or two gateways between them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
import redis.asyncio as redis
from aiohttp import web

from session_worker.contract import dead_key
from tests.support.gateway_world import PATIENCE, Gateway
from tests.support.kube_product import ProductApi
from tests.support.people import Receiver, eventually
from tests.support.redis_server import RedisServer

_names = itertools.count(1)


async def subscribe(kube: ProductApi, gateway: Gateway, url: str, **webhook: Any) -> str:
    """A session with a webhook, known to the gateway; its name."""
    name = f"hooked-{next(_names)}"
    hook = {"url": url, "events": ["message"], **webhook}
    await kube.create(gateway.config.namespace, name, webhooks=[hook], metadata={"team": "a"})
    await gateway.knows(name)
    return name


async def delivered(receiver: Receiver, session: str, *numbers: int) -> None:
    """Wait until exactly these messages were delivered, in this order."""

    async def look() -> bool:
        found = [body["payload"]["n"] for body in receiver.events("message", session)]
        assert found == list(numbers), found
        return True

    await eventually(f"{numbers} of {session}", look, within=PATIENCE)


async def all_delivered(gateway: Gateway, session: str) -> None:
    """Wait until nothing of a session is left to be delivered."""

    async def look() -> bool:
        return gateway.key(session) not in await gateway.registry.due_sessions(gateway.config.namespace, 1e12, 10_000)

    await eventually(f"{session} has nothing to deliver", look, within=PATIENCE)


async def test_events_arrive_signed_in_order_and_once(kube: ProductApi, gateway: Gateway, receiver: Receiver) -> None:
    secret = {"metadata": {"name": "hooks"}, "stringData": {"hmac": "s3cret"}}
    await kube.client.create(f"/api/v1/namespaces/{gateway.config.namespace}/secrets", secret)
    name = await subscribe(
        kube, gateway, f"{receiver.url}/a", hmacSecretRef={"name": "hooks", "key": "hmac"},
        customHeaders=[{"name": "X-Team", "value": "a"}],
    )  # fmt: skip
    ids = [await gateway.happen(name, "message", n=number) for number in range(5)]
    await delivered(receiver, name, *range(5))
    assert [body["id"] for body in receiver.events("message", name)] == ids
    for request in receiver.requests:
        assert request.is_signed_with("s3cret")
        assert request.headers["X-Team"] == "a"
        assert request.body["metadata"] == {"team": "a"}
        assert request.body["session"] == name
    await all_delivered(gateway, name)
    await gateway.happen(name, "message", n=5)
    await delivered(receiver, name, *range(6))


async def test_a_receiver_gets_only_what_it_subscribed_to(
    kube: ProductApi, gateway: Gateway, receiver: Receiver
) -> None:
    name = await subscribe(kube, gateway, f"{receiver.url}/a", events=["message.ack"])
    other = await subscribe(kube, gateway, f"{receiver.url}/b", events=["*"])
    for session in (name, other):
        for kind in ("message", "message.ack", "session.status"):
            await gateway.happen(session, kind, n=1)
    await all_delivered(gateway, name)
    await all_delivered(gateway, other)
    kinds = [(request.body["session"], request.body["event"]) for request in receiver.requests]
    assert sorted(kinds) == [
        (name, "message.ack"), (other, "message"), (other, "message.ack"), (other, "session.status"),
    ]  # fmt: skip


@pytest.mark.parametrize("status", [500, 404, 302])
async def test_a_refused_event_is_tried_again_and_holds_back_those_after_it(
    kube: ProductApi, gateway: Gateway, receiver: Receiver, status: int
) -> None:
    name = await subscribe(kube, gateway, f"{receiver.url}/a", retries={"delaySeconds": 1, "attempts": 5})
    receiver.status = status
    first = await gateway.happen(name, "message", n=0)

    async def refused() -> bool:
        return len(receiver.requests) >= 1

    await eventually("the first attempt", refused)
    receiver.status = 200
    await gateway.happen(name, "message", n=1)
    await delivered(receiver, name, 0, 0, 1)
    assert [body["id"] for body in receiver.events("message", name)][:2] == [first, first]


async def test_an_event_that_is_never_taken_becomes_a_dead_letter_and_the_next_goes_on(
    kube: ProductApi, gateway: Gateway, receiver: Receiver, redis_server: RedisServer
) -> None:
    name = await subscribe(kube, gateway, f"{receiver.url}/a", retries={"delaySeconds": 1, "attempts": 2})
    receiver.status = 503
    lost = await gateway.happen(name, "message", n=0)

    async def given_up() -> bool:
        return len(receiver.requests) == 2

    await eventually("the last attempt", given_up, within=PATIENCE)
    await all_delivered(gateway, name)
    receiver.status = 200
    await gateway.happen(name, "message", n=1)
    await delivered(receiver, name, 0, 0, 1)
    client = redis.Redis(port=redis_server.port, decode_responses=True)
    letters: Any = await client.xrange(dead_key(gateway.key(name)))
    await client.aclose()
    ((_, letter),) = letters
    assert (json.loads(letter["event"])["id"], letter["reason"]) == (lost, "status 503")
    metrics = (await gateway("GET", f"{gateway.metrics_url}/metrics")).body.decode()
    assert 'whatsapp_webhook_deliveries_total{outcome="dead"} 1.0' in metrics


async def test_a_receiver_that_fails_holds_up_only_itself(
    kube: ProductApi, gateway: Gateway, receiver: Receiver
) -> None:
    name = f"two-{next(_names)}"
    async with Receiver() as broken:
        broken.status = 500
        retries = {"delaySeconds": 3600}
        hooks = [{"url": f"{broken.url}/a", "retries": retries}, {"url": f"{receiver.url}/a"}]
        await kube.create(gateway.config.namespace, name, webhooks=hooks)
        await gateway.knows(name)
        for number in range(3):
            await gateway.happen(name, "message", n=number)
        await delivered(receiver, name, 0, 1, 2)
        assert len(broken.requests) == 1


async def test_a_key_that_is_not_there_yet_delays_the_event_and_never_sends_it_unsigned(
    kube: ProductApi, gateway: Gateway, receiver: Receiver
) -> None:
    name = await subscribe(
        kube, gateway, f"{receiver.url}/a", hmacSecretRef={"name": "later", "key": "hmac"},
        retries={"delaySeconds": 1, "attempts": 2},
    )  # fmt: skip
    await gateway.happen(name, "message", n=0)
    await all_delivered(gateway, name)
    assert receiver.requests == []


async def test_a_session_that_is_gone_is_not_delivered(kube: ProductApi, gateway: Gateway, receiver: Receiver) -> None:
    name = "never-was"
    await gateway.happen(name, "message", n=0)
    await all_delivered(gateway, name)
    assert receiver.requests == []


async def test_gateways_of_two_namespaces_leave_each_others_events_alone(
    kube: ProductApi, gateway: Gateway, receiver: Receiver, redis_server: RedisServer
) -> None:
    async with Gateway(kube, redis_server.url, await kube.namespace()) as other:
        for number in range(5):
            here = await subscribe(kube, gateway, f"{receiver.url}/a")
            there = await subscribe(kube, other, f"{receiver.url}/b")
            await gateway.happen(here, "message", n=number)
            await other.happen(there, "message", n=number)
            await delivered(receiver, here, number)
            await delivered(receiver, there, number)


async def test_two_gateways_deliver_each_event_once_and_in_order(
    kube: ProductApi, gateway: Gateway, receiver: Receiver, redis_server: RedisServer
) -> None:
    async with Gateway(kube, redis_server.url, gateway.config.namespace) as second:
        names = [await subscribe(kube, gateway, f"{receiver.url}/a") for _ in range(6)]
        for name in names:
            await second.knows(name)
        for number in range(20):
            for name in names:
                await (gateway if number % 2 else second).happen(name, "message", n=number)
        for name in names:
            await delivered(receiver, name, *range(20))
            await all_delivered(gateway, name)
    for name in names:
        await delivered(receiver, name, *range(20))


@dataclass(slots=True)
class SlowReceiver:
    """A receiver that takes an event when the test lets it. Use it as an async context manager."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    let: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: list[int] = field(default_factory=list)
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.let.set()
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.numbers.append((await request.json())["payload"]["n"])
        self.asked.set()
        await self.let.wait()
        return web.Response()


@pytest.fixture
async def slow() -> AsyncIterator[SlowReceiver]:
    """A receiver that takes its time."""
    async with SlowReceiver() as server:
        yield server


async def test_a_gateway_that_ends_hands_over_at_once_and_repeats_nothing(
    kube: ProductApi, gateway: Gateway, slow: SlowReceiver, redis_server: RedisServer
) -> None:
    name = await subscribe(kube, gateway, slow.url)
    for number in range(3):
        await gateway.happen(name, "message", n=number)
    await slow.asked.wait()
    ending = asyncio.create_task(gateway.aclose())
    async with Gateway(kube, redis_server.url, gateway.config.namespace) as second:
        await second.knows(name)
        slow.let.set()
        await ending

        async def taken() -> bool:
            assert slow.numbers == [0, 1, 2], slow.numbers
            return True

        await eventually("the rest", taken, within=PATIENCE)
        await all_delivered(second, name)
    assert slow.numbers == [0, 1, 2]


async def test_a_restarted_gateway_goes_on_where_the_last_one_stopped(
    kube: ProductApi, gateway: Gateway, receiver: Receiver, redis_server: RedisServer
) -> None:
    name = await subscribe(kube, gateway, f"{receiver.url}/a")
    await gateway.happen(name, "message", n=0)
    await delivered(receiver, name, 0)
    await all_delivered(gateway, name)
    await gateway.aclose()
    async with Gateway(kube, redis_server.url, gateway.config.namespace) as second:
        await second.knows(name)
        await second.happen(name, "message", n=1)
        await delivered(receiver, name, 0, 1)
