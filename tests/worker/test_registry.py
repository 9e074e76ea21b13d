"""The shared state on a real Redis: who may write, what is lost when, and what an outage looks like."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis

from session_worker.contract import (
    HEARTBEAT_KEPT,
    TOLD_MAX_IDS,
    Account,
    Assignment,
    Delivery,
    Heartbeat,
    InboundEvent,
    PairingMethod,
    PairingOffer,
    Phase,
    Running,
    RuntimeState,
    SessionKey,
    WorkerKey,
    WorkerSpec,
    assigned_key,
    dead_key,
    inbound_key,
    qr_key,
    sent_key,
    session_key,
    told_key,
    worker_key,
)
from session_worker.registry import Publication, Registry, RegistryUnavailableError, SupersededError, Told
from tests.support.people import eventually
from tests.support.redis_server import RedisServer

Connect = Callable[..., Registry]
_numbers = itertools.count(1)


@pytest.fixture
def session() -> SessionKey:
    """A session that no other test has used."""
    return SessionKey("registry", f"s{next(_numbers)}")


@pytest.fixture
def worker() -> WorkerKey:
    """A worker that no other test has used."""
    return WorkerKey("registry", f"w{next(_numbers)}")


@pytest.fixture
async def raw(redis_server: RedisServer) -> AsyncIterator[redis.Redis]:
    """What an administrator with redis-cli can do."""
    async with client_of(redis_server) as client:
        yield client


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """`Registry.connect` for addresses of the test's own; what it makes is closed."""
    async with AsyncExitStack() as made:

        def make(url: str, password: str | None = None) -> Registry:
            connection = Registry.connect(url, password)
            made.push_async_callback(connection.aclose)
            return connection

        yield make


@asynccontextmanager
async def client_of(server: RedisServer) -> AsyncIterator[redis.Redis]:
    """What an administrator of a server of the test's own can do."""
    client = redis.Redis(port=server.port, decode_responses=True)
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A server that a test may stop or empty."""
    async with RedisServer(tmp_path) as server:
        yield server


def state(epoch: int, worker: str = "w1", **changes: object) -> RuntimeState:
    values = {"epoch": epoch, "phase": Phase.CONNECTED, "worker": worker, "address": "10.0.0.1:3001"}
    return RuntimeState.model_validate({**values, "since": 1.5, "last_activity": 2.5, **changes})


def event(name: str = "message", now: float = 1000.0, **payload: object) -> InboundEvent:
    return InboundEvent.new(name, payload, now=now)


def offer(code: str = "2@abc") -> PairingOffer:
    return PairingOffer(method=PairingMethod.QR_CODE, code=code, expires=time.time() + 60)


def heartbeat(**changes: object) -> Heartbeat:
    values = {"uid": "u", "address": "10.0.0.1:3001", "version": "1", "capacity": 15, "revision": 3}
    return Heartbeat.model_validate({**values, **changes})


def assignment(epoch: int = 1) -> Assignment:
    return Assignment(epoch=epoch, uid="u", generation=1, spec=WorkerSpec(purge="Delete"))


# --- Only the owner writes


async def test_a_state_comes_back_as_it_was_written(registry: Registry, session: SessionKey) -> None:
    account = Account(id="5511@c.us", push_name="Ana", lid="1@lid")
    written = state(3, account=account, message="fine", pairing_expires=12.25, purged=True, restarts=4)
    assert await registry.write_state(session, written)
    assert await registry.states([session]) == {session: written}


async def test_a_state_replaces_the_one_before_as_a_whole(registry: Registry, session: SessionKey) -> None:
    await registry.write_state(session, state(3, account=Account(id="5511@c.us"), pairing_expires=12.0))
    await registry.write_state(session, state(3))
    found = (await registry.states([session]))[session]
    assert (found.account, found.pairing_expires) == (None, None)


@pytest.mark.parametrize(
    ("epoch", "worker", "accepted"),
    [(4, "w1", False), (5, "w1", True), (5, "w2", False), (6, "w2", True)],
    ids=["older", "the same", "the same of another worker", "newer"],
)
async def test_state_code_and_events_are_taken_from_the_newest_owner_only(
    registry: Registry, session: SessionKey, epoch: int, worker: str, *, accepted: bool
) -> None:
    owner = state(5, "w1")
    await registry.write_state(session, owner)
    assert await registry.append_inbound(session, epoch=epoch, worker=worker, event=event()) is accepted
    assert await registry.write_offer(session, epoch=epoch, worker=worker, offer=offer(), life=60) is accepted
    assert await registry.write_state(session, state(epoch, worker)) is accepted
    assert len(await registry.inbound(session, "0-0", 10)) == int(accepted)
    assert (await registry.offer(session) is not None) is accepted
    assert (await registry.states([session]))[session] == (state(epoch, worker) if accepted else owner)


async def test_a_refused_owner_cannot_take_the_code_of_its_successor_away(
    registry: Registry, session: SessionKey
) -> None:
    await registry.write_state(session, state(5))
    await registry.write_offer(session, epoch=5, worker="w1", offer=offer(), life=60)
    assert not await registry.write_offer(session, epoch=4, worker="w0", offer=None)
    assert await registry.offer(session) is not None
    assert await registry.write_offer(session, epoch=5, worker="w1", offer=None)
    assert await registry.offer(session) is None


async def test_a_code_is_kept_no_longer_than_it_is_worth(
    registry: Registry, session: SessionKey, raw: redis.Redis
) -> None:
    await registry.write_offer(session, epoch=1, worker="w1", offer=offer(), life=20)
    assert 19_000 < await raw.pttl(qr_key(session)) <= 20_000
    await registry.write_offer(session, epoch=1, worker="w1", offer=offer("late"), life=0)
    assert await raw.pttl(qr_key(session)) < 10


async def test_readers_of_events_hear_which_sessions_changed(registry: Registry, session: SessionKey) -> None:
    changes = registry.events(idle=0.01)
    assert await anext(changes) == set()
    await registry.write_state(session, state(2))
    await registry.write_state(session, state(1))  # refused, so nobody hears of it
    await registry.tell(WorkerKey("registry", "w1"))
    # The reader names where it stopped only once something has come; before, it hears what comes while it reads.
    listening = asyncio.create_task(_first_news(registry))
    heard: set[SessionKey] = set()
    while session not in heard:
        await registry.write_state(session, state(2))
        done, _ = await asyncio.wait({listening}, timeout=0.02)
        if done:
            heard = listening.result()
    assert heard == {session}
    await changes.aclose()  # type: ignore[attr-defined]  # an async generator, typed as what callers need of it


async def _first_news(registry: Registry) -> set[SessionKey]:
    async for changed in registry.events(idle=4):
        if changed:
            return changed
    return set()


async def tell(
    registry: Registry, session: SessionKey, message: str, *, epoch: int = 1, worker: str = "w1", at: float = 100.0
) -> bool:
    """Tell a message that came at this Unix time."""
    events = [event("message", id=message), event("message.any", id=message)]
    return await registry.append_message(
        session, events, epoch=epoch, worker=worker, message_id=message, at=at, since=at - 10
    )


async def test_a_message_is_told_once_whichever_owner_tells_it(registry: Registry, session: SessionKey) -> None:
    await registry.write_state(session, state(1, "w1"))
    assert await tell(registry, session, "a", at=100)
    assert await tell(registry, session, "a", at=100)
    await registry.write_state(session, state(2, "w2"))
    assert await tell(registry, session, "a", epoch=2, worker="w2", at=100)
    assert await tell(registry, session, "b", epoch=2, worker="w2", at=90)
    # The first owner is over, and says nothing more.
    assert not await tell(registry, session, "c", at=110)
    told = [(one.event, one.payload["id"]) for _, one in await registry.inbound(session, "0-0", 10)]
    assert told == [("message", "a"), ("message.any", "a"), ("message", "b"), ("message.any", "b")]


async def test_the_time_up_to_which_all_was_told_only_grows_and_outlives_its_owner(
    registry: Registry, session: SessionKey
) -> None:
    assert (await registry.told(session)).since is None
    await registry.write_state(session, state(1, "w1"))
    assert await registry.note_since(session, epoch=1, worker="w1", since=50.5)
    assert (await registry.told(session)).since == 50.5
    await tell(registry, session, "a", at=100)
    await tell(registry, session, "late", at=70)
    assert await registry.note_since(session, epoch=1, worker="w1", since=60)
    assert (await registry.told(session)).since == 90
    await registry.write_state(session, state(2, "w2"))
    assert not await registry.note_since(session, epoch=1, worker="w1", since=1000)
    assert not await registry.note_sent(session, epoch=1, worker="w1", message_id="x", at=1000)
    assert await registry.note_sent(session, epoch=2, worker="w2", message_id="y", at=1000)
    assert (await registry.told(session)) == Told(90, frozenset({"y"}))


async def test_of_all_messages_told_the_last_ones_are_remembered(
    registry: Registry, session: SessionKey, raw: redis.Redis
) -> None:
    await registry.write_state(session, state(1))
    await raw.zadd(told_key(session), {f"m{number}": number for number in range(TOLD_MAX_IDS)})
    await raw.zadd(sent_key(session), {f"m{number}": number for number in range(TOLD_MAX_IDS)})
    await tell(registry, session, "newest", at=TOLD_MAX_IDS)
    await registry.note_sent(session, epoch=1, worker="w1", message_id="newest", at=TOLD_MAX_IDS)
    for key in (told_key(session), sent_key(session)):
        assert await raw.zcard(key) == TOLD_MAX_IDS
        assert await raw.zscore(key, "m0") is None
        assert await raw.zscore(key, "newest") == TOLD_MAX_IDS


async def test_nothing_is_left_of_a_session_that_is_forgotten(
    registry: Registry, session: SessionKey, raw: redis.Redis
) -> None:
    await registry.write_state(session, state(1))
    await tell(registry, session, "a")
    await registry.note_sent(session, epoch=1, worker="w1", message_id="b", at=1)
    await registry.write_offer(session, epoch=1, worker="w1", offer=offer(), life=60)
    await registry.append_inbound(session, epoch=1, worker="w1", event=event())
    await registry.note_delivery(session, "hook", Delivery(done="1-1"))
    await registry.bury(session, "hook", event(), "status 500")
    await registry.forget_session(session)
    assert [key async for key in raw.scan_iter(f"*{session}*")] == []
    assert session not in await registry.due_sessions("registry", time.time(), 1000)


# --- Heartbeats


async def test_a_heartbeat_tells_its_age_by_redis_clock(
    registry: Registry, worker: WorkerKey, raw: redis.Redis
) -> None:
    beat = heartbeat(running={"a/b": Running(epoch=2, phase=Phase.PAIRING, memory_bytes=7)}, void_revision=2)
    await registry.beat(worker, beat)
    # Forty seconds later, as Redis sees it.
    await raw.pexpire(worker_key(worker), HEARTBEAT_KEPT.seconds * 1000 - 40_000)
    found = (await registry.beats([worker, WorkerKey("registry", "nobody")]))[worker]
    assert found.heartbeat == beat
    assert 40 <= found.age < 42
    await registry.beat(worker, beat)
    assert (await registry.beats([worker]))[worker].age < 2


async def test_a_worker_that_is_forgotten_has_neither_heartbeat_nor_set(registry: Registry, worker: WorkerKey) -> None:
    await registry.beat(worker, heartbeat())
    await registry.publish(worker, Publication(1, {}))
    await registry.forget_worker(worker)
    assert await registry.beats([worker]) == {}
    assert await registry.assigned(worker) is None
    assert await registry.revisions([worker]) == {worker: 0}


# --- Desired sets


async def test_a_worker_is_woken_by_a_new_set_and_reads_it(
    registry: Registry, worker: WorkerKey, session: SessionKey
) -> None:
    waiting = asyncio.create_task(registry.wait_for_wake(worker, after="0", idle=4))
    assert await registry.publish(worker, Publication(1, {session: assignment(9)})) == 0
    wake = await waiting
    assert wake != "0"
    assert await registry.assigned(worker) == Publication(1, {session: assignment(9)})
    # The wake-up that was taken is not taken again, and one that came between two waits is not missed.
    assert await registry.wait_for_wake(worker, after=wake, idle=0.01) == wake
    await registry.publish(worker, Publication(2, {}))
    assert await registry.wait_for_wake(worker, after=wake, idle=4) != wake


@pytest.mark.parametrize(("revision", "later"), [(6, 7), (7, 7), (8, 0)])
async def test_the_later_publication_stays(
    registry: Registry, worker: WorkerKey, session: SessionKey, revision: int, later: int
) -> None:
    kept = later or revision
    await registry.publish(worker, Publication(7, {session: assignment(7)}))
    assert await registry.publish(worker, Publication(revision, {session: assignment(revision)})) == later
    found = await registry.assigned(worker)
    assert found == Publication(kept, {session: assignment(kept)})
    assert await registry.revisions([worker]) == {worker: kept}


async def test_a_leader_of_the_past_cannot_publish_whatever_its_revision(
    registry: Registry, worker: WorkerKey, session: SessionKey
) -> None:
    await registry.publish(worker, Publication(7, {}, term=2))
    with pytest.raises(SupersededError):
        await registry.publish(worker, Publication(100, {session: assignment(1)}, term=1))
    assert await registry.assigned(worker) == Publication(7, {}, term=2)
    assert await registry.publish(worker, Publication(8, {session: assignment(2)}, term=2)) == 0


# --- Inbound events and their delivery


async def test_events_are_read_in_order_and_from_where_one_stopped(registry: Registry, session: SessionKey) -> None:
    events = [event(n=n) for n in range(5)]
    for one in events:
        await registry.append_inbound(session, epoch=1, worker="w1", event=one)
    first = await registry.inbound(session, "0-0", 3)
    assert [one for _, one in first] == events[:3]
    assert [one for _, one in await registry.inbound(session, first[-1][0], 10)] == events[3:]


async def test_only_events_that_are_old_are_dropped(registry: Registry, session: SessionKey, raw: redis.Redis) -> None:
    old, new = event(n=1), event(n=2)
    await registry.append_inbound(session, epoch=1, worker="w1", event=old)
    now, _ = await raw.time()
    await raw.xadd(inbound_key(session), {"event": new.to_json()}, id=f"{(now + 100) * 1000}-0")
    await registry.trim_inbound(session, 300)
    assert len(await registry.inbound(session, "0-0", 10)) == 2
    await registry.trim_inbound(session, -50)
    assert [one for _, one in await registry.inbound(session, "0-0", 10)] == [new]


async def test_a_session_with_events_is_due_until_they_are_delivered(registry: Registry, session: SessionKey) -> None:
    await registry.append_inbound(session, epoch=1, worker="w1", event=event(now=5000.0))
    assert session not in await registry.due_sessions("registry", 4999.0, 1000)
    assert session in await registry.due_sessions("registry", 5000.0, 1000)
    await registry.end_delivery(session, "g", due=9000.0)
    # Neither a new event nor somebody who looks hurries the next attempt.
    await registry.append_inbound(session, epoch=1, worker="w1", event=event(now=5001.0))
    await registry.wake_delivery(session, 1.0)
    assert session not in await registry.due_sessions("registry", 8999.0, 1000)
    assert session in await registry.due_sessions("registry", 9000.0, 1000)
    await registry.end_delivery(session, "g", due=None)
    assert session not in await registry.due_sessions("registry", 1e12, 1000)


async def test_one_gateway_at_a_time_delivers_a_sessions_events(registry: Registry, session: SessionKey) -> None:
    assert await registry.take_delivery(session, "one", 60)
    assert not await registry.take_delivery(session, "two", 60)
    assert await registry.take_delivery(session, "one", 60)
    await registry.end_delivery(session, "two", due=None)
    assert not await registry.take_delivery(session, "two", 60)
    await registry.end_delivery(session, "one", due=None)
    assert await registry.take_delivery(session, "two", 0.001)
    # A gateway that died gives way by itself.
    await eventually("the lock of one that is gone", lambda: registry.take_delivery(session, "one", 60))


async def test_how_far_each_receiver_has_got_is_remembered(registry: Registry, session: SessionKey) -> None:
    await registry.note_delivery(session, "a", Delivery(done="5-1"))
    await registry.note_delivery(session, "b", Delivery(done="3-0", attempts=2, due=77.5))
    assert await registry.deliveries(session) == {
        "a": Delivery(done="5-1"),
        "b": Delivery(done="3-0", attempts=2, due=77.5),
    }


async def test_a_dead_letter_keeps_the_event_its_receiver_and_the_reason(
    registry: Registry, session: SessionKey, raw: redis.Redis
) -> None:
    dead = event(body="x")
    await registry.bury(session, "hook", dead, "status 500")
    entries: Any = await raw.xrange(dead_key(session))
    ((_, fields),) = entries
    assert (fields["receiver"], fields["reason"]) == ("hook", "status 500")
    assert InboundEvent.model_validate_json(fields["event"]) == dead


# --- What is not ours


async def test_a_value_that_is_not_ours_is_reported_and_not_raised_as_something_else(
    registry: Registry, session: SessionKey, worker: WorkerKey, raw: redis.Redis
) -> None:
    await raw.set(qr_key(session), "no JSON")
    await raw.hset(assigned_key(worker), mapping={"revision": 1, str(session): '{"epoch": 0}'})
    for read in (registry.offer(session), registry.assigned(worker)):
        with pytest.raises(RegistryUnavailableError, match="not ours"):
            await read


async def test_one_state_or_heartbeat_of_another_release_does_not_hide_the_others(
    registry: Registry, session: SessionKey, worker: WorkerKey, raw: redis.Redis
) -> None:
    other = SessionKey(session.namespace, f"{session.name}-other")
    await registry.write_state(other, state(1))
    await raw.hset(session_key(session), mapping={"phase": "Dancing"})
    assert set(await registry.states([session, other])) == {other}
    # Whoever wrote an unreadable heartbeat lives: it is heard, and it is not the worker that we know.
    await raw.set(worker_key(worker), "{}", px=50_000)
    (beat,) = (await registry.beats([worker])).values()
    assert beat.heartbeat.uid == ""


async def test_a_key_that_names_no_session_is_reported_too(
    registry: Registry, worker: WorkerKey, raw: redis.Redis
) -> None:
    await raw.hset(assigned_key(worker), mapping={"revision": 1, "nonsense": assignment().to_json()})
    with pytest.raises(RegistryUnavailableError, match="'nonsense' is not of the form namespace/name"):
        await registry.assigned(worker)


# --- Outages


async def test_an_outage_is_one_kind_of_error_and_ends_by_itself(
    own_server: RedisServer, connect: Connect, session: SessionKey, worker: WorkerKey
) -> None:
    registry = connect(own_server.url)
    await registry.ping()
    await own_server.stop()
    for ask in (
        registry.ping,
        lambda: registry.beat(worker, heartbeat()),
        lambda: registry.write_state(session, state(1)),
        lambda: registry.append_inbound(session, epoch=1, worker="w1", event=event()),
        lambda: registry.publish(worker, Publication(1, {})),
        lambda: registry.wait_for_wake(worker, after="0", idle=1),
        lambda: anext(registry.events(idle=1)),
    ):
        with pytest.raises(RegistryUnavailableError, match=r"^Redis: "):
            await ask()
    await own_server.start()
    await registry.ping()
    # The scripts were lost with the server; they are loaded again.
    assert await registry.write_state(session, state(1))
    assert await registry.states([session]) == {session: state(1)}


async def ask_for_ever(registry: Registry) -> None:
    while True:
        await registry.due_sessions("registry", 0, 1)


async def test_a_task_that_is_cancelled_while_it_asks_ends(registry: Registry) -> None:
    """In whatever moment it is cancelled; a loop that missed it would never end."""
    for moment in range(60):
        asking = asyncio.create_task(ask_for_ever(registry))
        for _ in range(moment):
            await asyncio.sleep(0)
        asking.cancel()
        done, _ = await asyncio.wait({asking}, timeout=2)
        missed = not done
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert not missed, f"cancelled after {moment} turns of the loop"


# --- Where Redis is


async def test_a_password_comes_from_the_url_or_from_beside_it(tmp_path: Path, connect: Connect) -> None:
    async with RedisServer(tmp_path, "--requirepass", "secret") as server:
        await connect(server.url.replace("redis://", "redis://:secret@"), "wrong").ping()
        await connect(server.url, "secret").ping()
        with pytest.raises(RegistryUnavailableError, match=r"[Aa]uthentication"):
            await connect(server.url).ping()


async def test_a_unix_socket_will_do(tmp_path: Path, connect: Connect, session: SessionKey) -> None:
    async with RedisServer(tmp_path, "--unixsocket", str(tmp_path / "redis.sock")):
        assert await connect(f"unix://{tmp_path}/redis.sock").write_state(session, state(1))


async def test_a_cluster_serves_everything_that_a_single_server_does(
    tmp_path: Path, connect: Connect, session: SessionKey, worker: WorkerKey
) -> None:
    async with RedisServer(tmp_path, "--cluster-enabled", "yes") as server:
        async with client_of(server) as client:
            run: Any = client.execute_command
            await run("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

            async def formed() -> bool:
                return "cluster_state:ok" in await run("CLUSTER", "INFO")

            await eventually("the cluster", formed)
        registry = connect(f"redis+cluster://127.0.0.1:{server.port}")
        await registry.ping()
        other = SessionKey("registry", "in-another-slot")
        for key in (session, other):
            assert await registry.write_state(key, state(5))
            assert await registry.append_inbound(key, epoch=5, worker="w1", event=event())
            assert await tell(registry, key, "a", epoch=5)
            assert await registry.write_offer(key, epoch=5, worker="w1", offer=offer(), life=60)
        assert not await registry.write_state(session, state(4))
        assert set(await registry.states([session, other])) == {session, other}
        assert set(await registry.due_sessions("registry", 1e12, 10)) == {session, other}
        await registry.beat(worker, heartbeat())
        assert set(await registry.beats([worker])) == {worker}
        assert await registry.publish(worker, Publication(1, {session: assignment()})) == 0
        assert await registry.wait_for_wake(worker, after="0", idle=1) != "0"
        assert await registry.assigned(worker) is not None
        assert await registry.take_delivery(session, "g", 60)
        await registry.end_delivery(session, "g", due=None)
        await registry.forget_session(session)
        await registry.forget_worker(worker)
        assert set(await registry.states([session, other])) == {other}


async def test_sentinel_leads_to_the_master(tmp_path: Path, connect: Connect, session: SessionKey) -> None:
    async with RedisServer(tmp_path) as master:
        configuration = tmp_path / "sentinel.conf"
        configuration.write_text(f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n")
        async with RedisServer(tmp_path, sentinel=configuration) as sentinel:
            through = connect(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0")
            assert await through.write_state(session, state(1))
        assert await connect(master.url).states([session]) == {session: state(1)}


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://redis:6379", "http: does not begin a Redis URL: use redis://, rediss://, redis"),
        ("redis+nonsense://redis:6379", "does not begin a Redis URL"),
        ("redis:6379", "does not begin a Redis URL"),
        ("", "does not begin a Redis URL"),
        ("redis+sentinel://redis:26379", "a Sentinel URL names its service"),
    ],
)
def test_an_address_of_another_form_is_refused_with_the_forms_that_are_known(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Registry.connect(url)
