"""Delivers the sessions' events to their webhooks.

Owns the order and the durability: a session's events are delivered by one gateway at a time (a lock in Redis), to each
of its receivers in order, and how far a receiver has got is remembered in Redis after each event. A gateway that dies
in the middle delivers that event again under the same id. A receiver that fails holds up only itself: the session is
looked at again when its next attempt is due.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid

import aiohttp

from gateway import translation
from gateway.delivery import TIMEOUT, Receiver, envelope, receivers_of, request_for
from gateway.metrics import GatewayMetrics
from gateway.store import SessionStore
from gateway.targets import ForbiddenTargetError, Rules, client
from kubeclient import KubernetesError, Object
from session_worker.contract import Delivery, InboundEvent, SessionKey
from session_worker.logs import fields
from session_worker.registry import Registry, RegistryUnavailableError

log = logging.getLogger(__name__)

POLL = 0.25
"""Seconds between two looks for due events when there were none."""
SESSIONS_AT_A_TIME = 100
BATCH = 50
"""Events read at a time."""
LOCK_LIFE = 60.0
"""Seconds after which another gateway may take over from one that died; renewed before every request."""
SWEEP_EVERY = 30.0
"""Seconds after which all sessions with receivers are looked at, whatever was said about them."""
LOOK_BACK = 300.0
"""Seconds of the past that a receiver gets which was not there before: what happened while it was being set up."""
FAILURE_DELAY = 2.0


class Postman:
    """Takes one event to one receiver."""

    def __init__(self, store: SessionStore, metrics: GatewayMetrics, *, rules: Rules, base_url: str = "") -> None:
        self._store = store
        self._metrics = metrics
        self._rules = rules
        self._base_url = base_url
        self._http: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def deliver(self, item: Object, receiver: Receiver, event: InboundEvent) -> str:
        """One request; what went wrong, empty when the receiver took the event.

        Raises:
            KubernetesError: The Secret with the receiver's key cannot be read now.
        """
        key = None
        if receiver.hmac_ref is not None:
            key = await self._store.secret_value(dict(receiver.hmac_ref))
            if key is None:
                return f"Secret {receiver.hmac_ref['name']} has no key {receiver.hmac_ref['key']}"
        session, metadata = translation.session_name(item), item["spec"].get("metadata") or {}
        request = request_for(envelope(event, session, metadata, self._base_url), receiver, key=key, now=time.time())
        if self._http is None:
            self._http = client(self._rules, timeout=TIMEOUT, limit=SESSIONS_AT_A_TIME)
        try:
            self._rules.check_url(receiver.url)
            async with self._http.post(
                receiver.url, data=request.body, headers=request.headers, allow_redirects=False
            ) as response:
                if response.status >= 300:
                    return f"status {response.status}"
        except ForbiddenTargetError as error:
            return str(error)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return type(error).__name__
        self._metrics.webhooks.labels("delivered").inc()
        self._metrics.webhook_age.observe(max(0.0, time.time() - event.timestamp / 1000))
        return ""


class WebhookDispatcher:
    """Delivers events until it is stopped."""

    def __init__(
        self, registry: Registry, store: SessionStore, metrics: GatewayMetrics, postman: Postman | None = None
    ) -> None:
        self._registry = registry
        self._store = store
        self._metrics = metrics
        self._holder = uuid.uuid4().hex
        self._postman = postman or Postman(store, metrics, rules=Rules(private=True))
        self._task: asyncio.Task[None] | None = None
        self._busy: dict[SessionKey, asyncio.Task[None]] = {}
        self._stopping = False

    async def start(self) -> None:
        """Begin to deliver."""
        self._task = asyncio.create_task(self._run(), name="webhooks")

    async def stop(self) -> None:
        """End after the requests under way; what is left is free for another gateway at once."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._busy.values(), return_exceptions=True)
        await self._postman.aclose()

    async def _run(self) -> None:
        swept = 0.0
        while True:
            try:
                if time.monotonic() - swept > SWEEP_EVERY:
                    await self._sweep()
                    swept = time.monotonic()
                await self._look()
                await asyncio.sleep(POLL)
            except RegistryUnavailableError as error:
                log.warning("Webhooks wait for Redis", extra=fields(error=error))
                await asyncio.sleep(FAILURE_DELAY)

    async def _sweep(self) -> None:
        """Look at every session with receivers: a worker that died between two writes may have left an event unsaid."""
        for item in self._store.all():
            if item["spec"].get("webhooks"):
                await self._registry.wake_delivery(self._store.key(item), time.time())
        self._metrics.webhook_backlog.set(await self._registry.backlog(self._store.namespace))

    async def _look(self) -> None:
        free = SESSIONS_AT_A_TIME - len(self._busy)
        if free <= 0:
            return
        for session in await self._registry.due_sessions(self._store.namespace, time.time(), SESSIONS_AT_A_TIME):
            if session not in self._busy and len(self._busy) < SESSIONS_AT_A_TIME:
                self._busy[session] = asyncio.create_task(self._serve(session), name=f"webhooks-{session}")

    async def _serve(self, session: SessionKey) -> None:
        try:
            if not await self._registry.take_delivery(session, self._holder, LOCK_LIFE):
                return
            item = self._store.by_key(session)
            due = await self._deliver(session, item) if item is not None else None
            await self._registry.end_delivery(session, self._holder, due=due)
            if due is None:
                # Everybody has had everything, and a receiver that is added now looks back no further.
                await self._registry.trim_inbound(session, LOOK_BACK)
            if due is None and item is not None and await self._left(session, item):
                # An event came in after the last look, while the session was still marked as due.
                await self._registry.wake_delivery(session, time.time())
        except (RegistryUnavailableError, KubernetesError) as error:
            # The session stays due, and the lock runs out by itself if it must.
            log.warning("Webhooks of a session wait", extra=fields(session=session, error=error))
            await asyncio.sleep(FAILURE_DELAY)
        finally:
            self._busy.pop(session, None)

    async def _left(self, session: SessionKey, item: Object) -> bool:
        done = await self._registry.deliveries(session)
        for receiver in receivers_of(item["spec"]):
            if await self._registry.inbound(session, done.get(receiver.name, Delivery()).done, 1):
                return True
        return False

    async def _deliver(self, session: SessionKey, item: Object) -> float | None:
        """Deliver what is due; when to come back for what is not, None when all is done."""
        progress = await self._registry.deliveries(session)
        waits = await asyncio.gather(
            *(
                self._feed(session, item, receiver, progress.get(receiver.name))
                for receiver in receivers_of(item["spec"])
            )
        )
        return min((wait for wait in waits if wait is not None), default=None)

    async def _feed(
        self, session: SessionKey, item: Object, receiver: Receiver, progress: Delivery | None
    ) -> float | None:
        """Give one receiver its events in order until it has them all or one fails; when to come back."""
        at = progress or Delivery(done=f"{int((time.time() - LOOK_BACK) * 1000)}-0")
        if at.due > time.time():
            return at.due
        while events := await self._registry.inbound(session, at.done, BATCH):
            for entry, event in events:
                if self._stopping:
                    return time.time()
                at = await self._give(session, item, receiver, event, Delivery(done=entry), at)
                await self._registry.note_delivery(session, receiver.name, at)
                if at.attempts:
                    return at.due
        return None

    async def _give(
        self, session: SessionKey, item: Object, receiver: Receiver, event: InboundEvent, *steps: Delivery
    ) -> Delivery:
        """Try to give a receiver one event. `steps` are where it stands when the event is done, and where it stands."""
        done, before = steps
        if not receiver.wants(event.event):
            return done
        await self._registry.take_delivery(session, self._holder, LOCK_LIFE)
        problem = await self._postman.deliver(item, receiver, event)
        if not problem:
            return done
        failed = before.attempts + 1
        delay = receiver.next_delay(failed, random.uniform(-1, 1))  # noqa: S311  # not for secrets
        log.warning(
            "A webhook failed",
            extra=fields(session=session, receiver=receiver.name, event=event.id, attempt=failed, problem=problem),
        )
        if delay is None:
            self._metrics.webhooks.labels("dead").inc()
            await self._registry.bury(session, receiver.name, event, problem)
            return done
        self._metrics.webhooks.labels("failed").inc()
        return Delivery(done=before.done, attempts=failed, due=time.time() + delay)
