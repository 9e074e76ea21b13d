"""The runtime state that all parts share, in Redis.

Owns every Redis command and script. The keys and payloads are those of `contract`. Must not decide anything: what a
missing heartbeat means is the operator's business, what an event does is the worker's.

Whatever a session's owner writes is guarded by its epoch in a Lua script, so that an owner who was replaced without
noticing cannot overwrite its successor (docs/concepts.md). All errors of the server or the network come out as
`RegistryUnavailableError`; trying again later is always right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError

from session_worker.contract import (
    DEAD_MAX_EVENTS,
    HEARTBEAT_KEPT,
    INBOUND_MAX_EVENTS,
    REVISION_FIELD,
    STREAM_MAX_EVENTS,
    TERM_FIELD,
    TOLD_MAX_IDS,
    Assignment,
    Beat,
    Delivery,
    Heartbeat,
    InboundEvent,
    PairingOffer,
    RuntimeState,
    SessionKey,
    WorkerKey,
    assigned_key,
    dead_key,
    deliveries_key,
    delivery_lock_key,
    events_key,
    inbound_key,
    inbox_key,
    qr_key,
    sent_key,
    session_key,
    told_key,
    told_since_key,
    wake_key,
    worker_key,
)
from session_worker.logs import fields

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

_SOCKET_TIMEOUT = 5.0
"""Seconds; longer than any script takes, shorter than a heartbeat may be late."""

_GUARD = """
local stored = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0')
local mine = tonumber(ARGV[1])
if mine < stored then return 0 end
if mine == stored and redis.call('HGET', KEYS[1], 'worker') ~= ARGV[2] then return 0 end
"""
"""Refuses an owner whose epoch has passed. KEYS[1] is the session's hash, ARGV[1] the epoch, ARGV[2] the worker."""

_WRITE_STATE = (
    _GUARD
    + """
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""
)
_WRITE_OFFER = (
    _GUARD
    + """
if ARGV[4] == '0' then redis.call('DEL', KEYS[2]) else redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4]) end
return 1
"""
)
_APPEND_INBOUND = (
    _GUARD
    + """
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[3])
return 1
"""
)
_APPEND_MESSAGE = (
    _GUARD
    + """
if redis.call('ZADD', KEYS[3], 'NX', ARGV[5], ARGV[6]) == 0 then return 2 end
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - ARGV[7])
for place = 8, #ARGV do redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'event', ARGV[place]) end
local since = tonumber(redis.call('GET', KEYS[4]) or '0')
if tonumber(ARGV[3]) > since then redis.call('SET', KEYS[4], ARGV[3]) end
return 1
"""
)
"""Tells a message unless it was told before, and notes that in one step: answers 2 when it was."""
_NOTE_SINCE = (
    _GUARD
    + """
if tonumber(ARGV[3]) > tonumber(redis.call('GET', KEYS[2]) or '0') then redis.call('SET', KEYS[2], ARGV[3]) end
return 1
"""
)
_NOTE_SENT = (
    _GUARD
    + """
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - ARGV[5])
return 1
"""
)
_PUBLISH = """
if tonumber(ARGV[4]) < tonumber(redis.call('HGET', KEYS[1], ARGV[3]) or '0') then return -1 end
local stored = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
if tonumber(ARGV[2]) <= stored then return stored end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2], unpack(ARGV, 3))
redis.call('XADD', KEYS[2], 'MAXLEN', '1', '*', 'revision', ARGV[2])
return 0
"""
"""Replaces a worker's desired set unless a later one is there; answers 0, the number of the later one, or -1 when a
leader of a later term wrote it."""


_TRIM_INBOUND = """
local oldest = (redis.call('TIME')[1] - ARGV[1]) * 1000
return redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-0', oldest))
"""
_TAKE_LOCK = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_DROP_LOCK = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


class RegistryUnavailableError(Exception):
    """Redis cannot be reached or does not answer: try again later."""


class SupersededError(Exception):
    """An operator of a later term has published: this one is no leader any more."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is kept of the messages that a session has told."""

    since: float | None
    """Unix time up to which all messages were told; None when nothing is known."""
    sent: frozenset[str]
    """Ids of the last messages that were sent over the API."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What a worker is to run."""

    revision: int
    assignments: Mapping[SessionKey, Assignment]
    term: int = 0
    """Of the leader that published it."""


class Registry:
    """A connection to the shared state. Make it with `connect`, close it with `aclose`."""

    def __init__(self, client: redis.Redis, guides: Iterable[redis.Redis] = ()) -> None:
        self._client = client
        self._guides = tuple(guides)
        """Connections to Sentinels, which the client uses to find the server and does not close."""
        self._write_state = client.register_script(_WRITE_STATE)
        self._write_offer = client.register_script(_WRITE_OFFER)
        self._append_inbound = client.register_script(_APPEND_INBOUND)
        self._append_message = client.register_script(_APPEND_MESSAGE)
        self._note_since = client.register_script(_NOTE_SINCE)
        self._note_sent = client.register_script(_NOTE_SENT)
        self._publish = client.register_script(_PUBLISH)
        self._trim_inbound = client.register_script(_TRIM_INBOUND)
        self._take_lock = client.register_script(_TAKE_LOCK)
        self._drop_lock = client.register_script(_DROP_LOCK)

    @classmethod
    def connect(cls, url: str, password: str | None = None) -> Self:
        """Prepare a connection; nothing is sent yet.

        Args:
            url: `redis://`, `rediss://` or `unix://` for one server; `redis+sentinel://host:port,host:port/service/db`
                for Sentinel; `redis+cluster://host:port` for a cluster. `rediss+…` for TLS.
            password: Used where the URL has none.

        Raises:
            ValueError: The URL has none of these forms.
        """
        return cls(*_client(url, password))

    async def aclose(self) -> None:
        """Close all connections."""
        for client in (self._client, *self._guides):
            await client.aclose()

    async def ping(self) -> None:
        """Raise unless Redis answers.

        Raises:
            RegistryUnavailableError: It does not.
        """
        with _converted():
            await self._client.ping()

    # --- Heartbeats

    async def beat(self, worker: WorkerKey, heartbeat: Heartbeat) -> None:
        """Renew a worker's lease."""
        with _converted():
            await self._client.set(worker_key(worker), heartbeat.to_json(), px=HEARTBEAT_KEPT)

    async def beats(self, workers: Iterable[WorkerKey]) -> dict[WorkerKey, Beat]:
        """The last heartbeat of each worker that has one."""
        keys = list(workers)
        if not keys:
            return {}
        with _converted():
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.get(worker_key(key))
                pipeline.pttl(worker_key(key))
            answers = await pipeline.execute()
        kept = HEARTBEAT_KEPT.total_seconds()
        return {
            key: Beat(_heartbeat(key, text), kept - remaining / 1000)
            for key, text, remaining in zip(keys, answers[::2], answers[1::2], strict=True)
            if text is not None
        }

    async def forget_worker(self, worker: WorkerKey) -> None:
        """Remove what is kept of a worker that is gone."""
        with _converted():
            await self._client.delete(worker_key(worker), assigned_key(worker), wake_key(worker))

    # --- Desired sets

    async def publish(self, worker: WorkerKey, publication: Publication) -> int:
        """Replace a worker's desired set and wake it.

        Returns:
            0, or the revision of a later publication, which then stays.

        Raises:
            SupersededError: A leader of a later term has published for this worker.
        """
        fields: list[str | int] = [REVISION_FIELD, publication.revision, TERM_FIELD, publication.term]
        for session, assignment in publication.assignments.items():
            fields += [str(session), assignment.to_json()]
        with _converted():
            later = int(await self._publish(keys=[assigned_key(worker), wake_key(worker)], args=fields))
        if later < 0:
            raise SupersededError(f"a leader after term {publication.term} has published for worker {worker}")
        return later

    async def revisions(self, workers: Iterable[WorkerKey]) -> dict[WorkerKey, int]:
        """The number of each worker's desired set; 0 where there is none."""
        keys = list(workers)
        if not keys:
            return {}
        with _converted():
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.hget(assigned_key(key), REVISION_FIELD)
            answers = await pipeline.execute()
        return {key: int(answer or 0) for key, answer in zip(keys, answers, strict=True)}

    async def assigned(self, worker: WorkerKey) -> Publication | None:
        """A worker's desired set, or None when the operator has not written one (or Redis has lost it)."""
        with _converted():
            fields = await cast("Awaitable[dict[str, str]]", self._client.hgetall(assigned_key(worker)))
            if REVISION_FIELD not in fields:
                return None
            revision, term = int(fields.pop(REVISION_FIELD)), int(fields.pop(TERM_FIELD, 0))
            return Publication(
                revision,
                {SessionKey.parse(key): Assignment.model_validate_json(text) for key, text in fields.items()},
                term,
            )

    async def wait_for_wake(self, worker: WorkerKey, *, after: str, idle: float) -> str:
        """Return when the desired set was replaced after the wake-up `after` ("0" for the first), or after `idle` s.

        Returns:
            The wake-up to name the next time, so that none between two calls is lost.
        """
        with _converted():
            answer = await self._client.xread({wake_key(worker): after}, block=_block(idle))
        entries = _entries(answer)
        return entries[-1][0] if entries else after

    # --- Session state

    async def write_state(self, session: SessionKey, state: RuntimeState) -> bool:
        """Write what the owner knows of its session and tell the readers of `events`.

        Returns:
            Whether it was written; False when the session has a newer owner.
        """
        fields = [item for pair in state.to_fields().items() for item in pair]
        with _converted():
            written = await self._write_state(keys=[session_key(session)], args=[state.epoch, state.worker, *fields])
            if written:
                await self._client.xadd(
                    events_key(), {"session": str(session)}, maxlen=STREAM_MAX_EVENTS, approximate=True
                )
        return bool(written)

    async def states(self, sessions: Iterable[SessionKey]) -> dict[SessionKey, RuntimeState]:
        """What is known of each session; those never seen are left out."""
        keys = list(sessions)
        if not keys:
            return {}
        with _converted():
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.hgetall(session_key(key))
            answers: list[dict[str, str]] = await pipeline.execute()
        found = {key: _state(key, fields) for key, fields in zip(keys, answers, strict=True) if fields}
        return {key: state for key, state in found.items() if state is not None}

    async def missing(self, sessions: Iterable[SessionKey]) -> set[SessionKey]:
        """Those of which nothing is known: nobody has told yet, or Redis has lost it."""
        keys = list(sessions)
        if not keys:
            return set()
        with _converted():
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.exists(session_key(key))
            answers = await pipeline.execute()
        return {key for key, there in zip(keys, answers, strict=True) if not there}

    async def forget_session(self, session: SessionKey) -> None:
        """Remove everything kept of a session that is gone."""
        with _converted():
            await self._client.delete(
                session_key(session),
                qr_key(session),
                inbound_key(session),
                told_key(session),
                told_since_key(session),
                sent_key(session),
                deliveries_key(session),
                dead_key(session),
            )
            await self._client.zrem(inbox_key(session.namespace), str(session))

    async def write_offer(
        self, session: SessionKey, *, epoch: int, worker: str, offer: PairingOffer | None, life: float = 0.0
    ) -> bool:
        """Show a pairing code for `life` seconds, or take it away. False when the session has a newer owner."""
        text, milliseconds = (offer.to_json(), max(1, int(life * 1000))) if offer else ("", 0)
        with _converted():
            return bool(
                await self._write_offer(
                    keys=[session_key(session), qr_key(session)], args=[epoch, worker, text, milliseconds]
                )
            )

    async def offer(self, session: SessionKey) -> PairingOffer | None:
        """The pairing code on show."""
        with _converted():
            text = await self._client.get(qr_key(session))
            return None if text is None else PairingOffer.model_validate_json(text)

    # --- Streams

    async def append_inbound(self, session: SessionKey, *, epoch: int, worker: str, event: InboundEvent) -> bool:
        """Add an event for webhooks and websockets. False when the session has a newer owner."""
        with _converted():
            written = await self._append_inbound(
                keys=[session_key(session), inbound_key(session)],
                args=[epoch, worker, event.to_json(), INBOUND_MAX_EVENTS],
            )
            if written:
                # NX: a session that waits for its next attempt is not hurried by a new event.
                await self._client.zadd(inbox_key(session.namespace), {str(session): event.timestamp / 1000}, nx=True)
        return bool(written)

    async def append_message(
        self,
        session: SessionKey,
        events: Sequence[InboundEvent],
        *,
        epoch: int,
        worker: str,
        message_id: str,
        at: float,
        since: float,
    ) -> bool:
        """Tell a message unless any owner has told it before.

        Args:
            session: Whose.
            events: What to tell of it, in order.
            epoch: The owner's.
            worker: The owner's name.
            message_id: WhatsApp's.
            at: The message's own Unix time.
            since: Unix time up to which everything is told with this.

        Returns:
            False when the session has a newer owner.
        """
        first = events[0].timestamp / 1000
        keys = [session_key(session), inbound_key(session), told_key(session), told_since_key(session)]
        texts = [event.to_json() for event in events]
        with _converted():
            outcome = await self._append_message(
                keys=keys, args=[epoch, worker, since, INBOUND_MAX_EVENTS, at, message_id, TOLD_MAX_IDS, *texts]
            )
            if outcome == 1:
                await self._client.zadd(inbox_key(session.namespace), {str(session): first}, nx=True)
        return bool(outcome)

    async def note_since(self, session: SessionKey, *, epoch: int, worker: str, since: float) -> bool:
        """Note that everything up to a Unix time is told, or is history. False when there is a newer owner."""
        with _converted():
            return bool(
                await self._note_since(
                    keys=[session_key(session), told_since_key(session)], args=[epoch, worker, since]
                )
            )

    async def note_sent(self, session: SessionKey, *, epoch: int, worker: str, message_id: str, at: float) -> bool:
        """Note that a message is sent over the API. False when there is a newer owner."""
        with _converted():
            return bool(
                await self._note_sent(
                    keys=[session_key(session), sent_key(session)], args=[epoch, worker, at, message_id, TOLD_MAX_IDS]
                )
            )

    async def told(self, session: SessionKey) -> Told:
        """What is kept of the messages that a session has told."""
        with _converted():
            since = await self._client.get(told_since_key(session))
            sent = await self._client.zrange(sent_key(session), 0, -1)
            return Told(float(since) if since else None, frozenset(map(str, sent)))

    # --- Delivery of inbound events

    async def due_sessions(self, namespace: str, now: float, count: int) -> list[SessionKey]:
        """Sessions of a namespace whose events are due for delivery, the longest waiting first."""
        with _converted():
            found = await self._client.zrange(inbox_key(namespace), "-inf", str(now), byscore=True, offset=0, num=count)
        return [SessionKey.parse(str(text)) for text in found]

    async def backlog(self, namespace: str) -> int:
        """Sessions of a namespace with events to deliver."""
        with _converted():
            return int(await self._client.zcard(inbox_key(namespace)))

    async def take_delivery(self, session: SessionKey, holder: str, life: float) -> bool:
        """Become the one gateway that delivers a session's events for `life` seconds; again to go on."""
        with _converted():
            key, milliseconds = delivery_lock_key(session), int(life * 1000)
            return bool(await self._take_lock(keys=[key], args=[holder, milliseconds]))

    async def end_delivery(self, session: SessionKey, holder: str, *, due: float | None) -> None:
        """Give a session's events back: nothing is left, or more is to be done at `due`."""
        with _converted():
            if due is None:
                await self._client.zrem(inbox_key(session.namespace), str(session))
            else:
                await self._client.zadd(inbox_key(session.namespace), {str(session): due})
            await self._drop_lock(keys=[delivery_lock_key(session)], args=[holder])

    async def wake_delivery(self, session: SessionKey, due: float) -> None:
        """Have a session's events looked at, unless they are due already."""
        with _converted():
            await self._client.zadd(inbox_key(session.namespace), {str(session): due}, nx=True)

    async def deliveries(self, session: SessionKey) -> dict[str, Delivery]:
        """How far each receiver has got."""
        with _converted():
            stored = await cast("Awaitable[dict[str, str]]", self._client.hgetall(deliveries_key(session)))
            return {name: Delivery.model_validate_json(text) for name, text in stored.items()}

    async def note_delivery(self, session: SessionKey, receiver: str, delivery: Delivery) -> None:
        """Remember how far a receiver has got."""
        with _converted():
            await self._client.hset(deliveries_key(session), receiver, delivery.to_json())

    async def inbound(self, session: SessionKey, after: str, count: int) -> list[tuple[str, InboundEvent]]:
        """Events after a stream id, oldest first."""
        with _converted():
            found: Any = await self._client.xrange(inbound_key(session), min=f"({after}", count=count)
            return [(str(entry), InboundEvent.model_validate_json(values["event"])) for entry, values in found]

    async def trim_inbound(self, session: SessionKey, keep: float) -> None:
        """Drop the events that are older than `keep` seconds, by Redis' clock alone; everybody must have had them."""
        with _converted():
            await self._trim_inbound(keys=[inbound_key(session)], args=[int(keep)])

    async def bury(self, session: SessionKey, receiver: str, event: InboundEvent, reason: str) -> None:
        """Put an event that a receiver would not take among the dead letters."""
        fields: dict[Any, Any] = {"receiver": receiver, "event": event.to_json(), "reason": reason}
        with _converted():
            await self._client.xadd(dead_key(session), fields, maxlen=DEAD_MAX_EVENTS, approximate=True)

    async def tell(self, subject: WorkerKey) -> None:
        """Wake the readers of `events` because of a worker."""
        with _converted():
            await self._client.xadd(events_key(), {"worker": str(subject)}, maxlen=STREAM_MAX_EVENTS, approximate=True)

    async def events(self, idle: float) -> AsyncIterator[set[SessionKey]]:
        """Yield the sessions whose state changed from now on; an empty set when only workers did, or after `idle` s.

        Raises:
            RegistryUnavailableError: Redis is gone; what happened meanwhile has to be looked up in the states.
        """
        last = "$"
        while True:
            with _converted():
                answer = await self._client.xread({events_key(): last}, block=_block(idle), count=1000)
            changed: set[SessionKey] = set()
            for entry_id, entry in _entries(answer):
                last = entry_id
                with suppress(ValueError):  # about a worker only, or another release's: the regular look finds it
                    changed.add(SessionKey.parse(entry.get("session", "")))
            yield changed


def _heartbeat(worker: WorkerKey, text: str) -> Heartbeat:
    """A heartbeat as stored. One that cannot be read is of another release: somebody lives whom we do not know."""
    try:
        return Heartbeat.model_validate_json(text)
    except ValueError:
        log.warning("A heartbeat cannot be read; is it another release's?", extra=fields(worker=worker))
        return Heartbeat(uid="", address="", version="", capacity=0, revision=0)


def _state(session: SessionKey, stored: dict[str, str]) -> RuntimeState | None:
    try:
        return RuntimeState.from_fields(stored)
    except ValueError:
        log.warning("A session's state cannot be read; is it another release's?", extra=fields(session=session))
        return None


def _entries(answer: Any) -> list[tuple[str, dict[str, str]]]:
    """The entries of XREAD's answer on one stream, empty when it timed out; redis-py types both protocols at once."""
    return answer[0][1] if answer else []


def _block(idle: float) -> int:
    """Milliseconds for BLOCK: never 0, which means for ever, and below the socket's timeout."""
    return max(1, int(min(idle, _SOCKET_TIMEOUT - 1) * 1000))


@contextmanager
def _converted() -> Iterator[None]:
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except (TimeoutError, RedisError, OSError) as error:
        raise RegistryUnavailableError(f"Redis: {error}") from error
    except ValueError as error:  # pydantic's and json's errors among them
        raise RegistryUnavailableError(f"Redis holds a value that is not ours: {error}") from error
    finally:
        # redis-py loses a cancellation that comes in the moment of an answer; a loop around it would never end.
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


def _client(url: str, password: str | None) -> tuple[redis.Redis, Iterable[redis.Redis]]:
    """The client of an address, and those that it finds its server with."""
    parts = urlsplit(url)
    scheme, plus, form = parts.scheme.partition("+")
    known = scheme in {"redis", "rediss", "unix"} and (not plus or form in {"sentinel", "cluster"})
    if not known or not url.startswith(f"{parts.scheme}://"):
        raise ValueError(
            f"{parts.scheme}: does not begin a Redis URL: use redis://, rediss://, redis+sentinel:// or redis+cluster://"
        )
    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_timeout": _SOCKET_TIMEOUT,
        "socket_connect_timeout": _SOCKET_TIMEOUT,
        "health_check_interval": 15,
        "protocol": 2,
    }
    secret = parts.password or password
    if form == "sentinel":
        service, _, database = parts.path.strip("/").partition("/")
        if not service:
            raise ValueError("a Sentinel URL names its service: redis+sentinel://host:26379/mymaster/0")
        nodes = [_host_port(node, 26379) for node in parts.netloc.rpartition("@")[2].split(",")]
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves this one constructor without types
            nodes, sentinel_kwargs={"password": secret}, ssl=scheme == "rediss", **options
        )
        master = sentinel.master_for(service, password=secret, db=int(database or 0))
        return cast("redis.Redis", master), sentinel.sentinels
    if form == "cluster":
        plain = urlunsplit((scheme, parts.netloc, parts.path, parts.query, ""))
        cluster = redis.RedisCluster.from_url(plain, password=secret, **options)
        # The two classes share the commands used here, but no base that says so.
        return cast("redis.Redis", cluster), ()
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2)
    if parts.password is None and password is not None:
        options["password"] = password
    return redis.Redis.from_url(url, retry=retry, **options), ()


def _host_port(text: str, default: int) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port or default)
