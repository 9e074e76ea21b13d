"""One session on this worker: the table of `lifecycle` put into action.

Owns a browser and a profile for as long as the session is here, and everything that is said about the session. Must
not know other sessions, nor why it was given or taken away. One task runs the life; calls from outside use the browser
beside it and never change the stage.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from session_worker.chromium import (
    CALL_TIMEOUT,
    BrowserGoneError,
    BrowserSettings,
    Chromium,
    Event,
    PageError,
    PageTimeoutError,
)
from session_worker.config import WorkerConfig
from session_worker.contract import (
    SENDS,
    WAHA_STATUS,
    Account,
    Assignment,
    Command,
    InboundEvent,
    Method,
    PairingMethod,
    PairingOffer,
    Phase,
    Refusal,
    Running,
    RuntimeState,
    SessionKey,
)
from session_worker.lifecycle import BLOCKS, PHASES, TIMEOUTS, Effect, Signal, Snapshot, Stage, classify, step
from session_worker.logs import fields
from session_worker.metrics import WorkerMetrics
from session_worker.pacing import TokenBucket
from session_worker.profiles import Profile, ProfileStore, ProfileTakenError, ProfileUnusableError
from session_worker.registry import Registry, RegistryUnavailableError
from session_worker.reporter import Message, Reporter, Sent, Since

log = logging.getLogger(__name__)

CODE_LIFE = 60.0
"""Seconds that a QR code is shown at most: WhatsApp's first one lives so long, the next ones 20 s, and each is replaced
by its successor."""
PAIRING_CODE_LIFE = 195.0
"""Seconds that wa-js keeps a pairing code before it asks for another."""
PROBE_LIMIT = 10.0
"""Seconds that a page may take to answer a probe."""
SILENCE = 4
"""Probe intervals without a frame from WhatsApp after which a connected page counts as dead."""
PROFILE_WAIT = 15.0
"""Seconds to wait for the former owner to let go of the profile: its browser may need ten to end."""
FAILURE_WINDOW = 600.0
"""Seconds in which failures count together."""
MAX_FAILURES = 6
"""Failures in the window after which a session is Failed and tried again slowly."""
LONGEST_BACKOFF = 60.0
READY_WAIT = 5.0
"""Seconds that a call waits for a session that is about to be connected, as WAHA does."""
WAKE_WAIT = 25.0
"""Seconds that a call waits for a session that it has woken: with its pacing and the page's own time it stays below
what the gateway waits."""
MAX_PACE_WAIT = 30.0
"""Seconds that a message may wait for its turn before its sender is told to come back later."""
FILE_LIMIT = 60.0
"""Seconds that a call with a file may take: the page uploads it before it answers."""
FILE_CHUNK = 512 * 1024
"""Characters of base64 handed to the page at a time; a multiple of four, so that each piece can be decoded alone."""
LOGIN_WRITTEN = 2.0
"""Seconds after which the keys of a new login are on disk (see `chromium.arguments`); before, it is not Connected."""
GARBAGE_AFTER = 60.0
"""Seconds after the first synchronisation at which the page gives back what it no longer needs: 25 MB once."""
UNLINK_WAIT = 30.0
"""Seconds that the page gets to come up so that it can unlink the account, before the profile goes in any case."""
SEEN = 5_000
"""Message ids remembered, so that one that is raised twice is told once."""
TOLD_SLACK = 120.0
"""Seconds by which a message may be older than one that was told before it, and still be told after a reload."""
CATCH_UP_LIMIT = 60.0
"""Seconds that a page may take to look through its store."""
CATCH_UP_RETRY = 2.0
CATCH_UP_EVERY = 300.0
"""Seconds between two comparisons of the page's store with what was told, should the page fail to raise an event."""
CLAIM_WAIT = 5.0
"""Seconds that Redis gets to accept a new owner before its browser starts."""
LAST_WORDS = 5.0
"""Seconds that Redis gets to take a session's last state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What all sessions of a worker share."""

    config: WorkerConfig
    registry: Registry
    profiles: ProfileStore
    browser: BrowserSettings
    metrics: WorkerMetrics


class RefusedError(Exception):
    """A call that was not carried out, or of which nobody knows whether it was."""

    def __init__(self, refusal: Refusal, message: str, *, phase: Phase | None = None, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.phase = phase
        self.retry_after = retry_after


class Session:
    """Runs one session until `stop`, or until a newer owner is found."""

    def __init__(
        self, key: SessionKey, assignment: Assignment, services: Services, on_change: Callable[[], None]
    ) -> None:
        self.key = key
        self.assignment = assignment
        self.stage = Stage.LAUNCHING
        self._services = services
        self._on_change = on_change
        self._signals: asyncio.Queue[tuple[int, Signal | Event]] = asyncio.Queue()
        self._reporter = Reporter(
            key,
            epoch=assignment.epoch,
            worker=services.config.worker.name,
            registry=services.registry,
            on_refused=lambda: self.signal(Signal.STOP),
        )
        self._profile: Profile | None = None
        self._browser: Chromium | None = None
        self._leaving: Chromium | None = None  # asked to end, and not ended yet
        self._generation = 0  # events of a browser that was replaced are told apart by it
        self._launch: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._deadline: float | None = None
        self._next_probe = 0.0
        self._linked_at: float | None = None
        self._stage_changed = asyncio.Condition()
        self._page = Snapshot()
        self._account: Account | None = None
        self._message = "starting the browser"
        self._cause: str | None = None  # why the present browser failed, where that is known better than by the signal
        self._since = time.time()
        self._last_activity = time.time()
        self._restarts = 0
        self._failures: list[float] = []
        self._failed_generation = 0
        self._wipe = False
        self._purge_asked = self._purged = False
        self._purge_due: float | None = None
        self._shown: PairingOffer | None = None
        self._statuses: list[dict[str, Any]] = []
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._sent: OrderedDict[str, None] = OrderedDict()
        self._connected_at: float | None = None
        self._tidied_at: float | None = None
        spec = assignment.spec
        self._bucket = TokenBucket.full(per_minute=spec.messages_per_minute, burst=spec.burst, now=time.monotonic())
        self._turn = asyncio.Lock()
        self._calls = 0
        self._active_at = time.monotonic()
        self._waking = False
        self._catching_up: asyncio.Task[None] | None = None
        self._caught_up_at = 0.0
        self._told_since: float | None = None
        self._told_known = False  # what Redis kept of the messages told by former owners was read

    # --- What others see

    @property
    def phase(self) -> Phase:
        """The phase that the outside sees."""
        return PHASES[self.stage]

    @property
    def ended(self) -> bool:
        """Whether this worker has no part in the session any more."""
        return self.stage is Stage.CLOSED

    @property
    def refused(self) -> bool:
        """Whether a newer owner was found: this epoch is over."""
        return self._reporter.refused

    @property
    def backlog(self) -> int:
        """Entries that Redis has not taken yet."""
        return self._reporter.backlog

    @property
    def browser_pid(self) -> int | None:
        """Leader of the browser's process group, while there is one."""
        return self._browser.pid if self._browser else None

    @property
    def idle(self) -> float | None:
        """Seconds since the last message or call; None unless its browser could be closed without breaking anything."""
        if self.stage is not Stage.CONNECTED or self._calls or self._is_catching_up or self.assignment.spec.purge:
            return None
        return time.monotonic() - self._active_at

    @property
    def tidied(self) -> float | None:
        """Seconds since its page has given back its garbage; None when it never has."""
        return None if self._tidied_at is None else time.monotonic() - self._tidied_at

    def running(self, memory: int | None) -> Running:
        """The session's entry in the heartbeat; `memory` in bytes."""
        return Running(epoch=self.assignment.epoch, phase=self.phase, memory_bytes=memory)

    def state(self) -> RuntimeState:
        """What is known of the session."""
        config = self._services.config
        return RuntimeState(
            epoch=self.assignment.epoch,
            phase=self.phase,
            worker=config.worker.name,
            address=config.address,
            since=self._since,
            last_activity=self._last_activity,
            generation=self.assignment.generation,
            restarts=self._restarts,
            account=self._account,
            message=self._message,
            pairing_expires=self._shown.expires if self._shown else None,
            purged=self._purged,
        )

    # --- Life

    def start(self) -> None:
        """Begin."""
        self._reporter.start()
        self._task = asyncio.create_task(self._live(), name=f"session-{self.key}")

    def update(self, assignment: Assignment) -> None:
        """Take over a changed spec under the same epoch; only another proxy needs a new browser."""
        spec = assignment.spec
        self._bucket.adjust(per_minute=spec.messages_per_minute, burst=spec.burst, now=time.monotonic())
        if spec.proxy != self.assignment.spec.proxy:
            self.signal(Signal.RESTART)
        self.assignment = assignment
        self._reporter.put(self.state())
        self._purge_if_asked()

    def _purge_if_asked(self) -> None:
        purge = self.assignment.spec.purge
        if purge is None or self._purge_asked:
            return
        if purge == "Logout" and self.stage in _UNDECIDED:
            if self.stage is Stage.HIBERNATED:
                self.signal(Signal.WAKE)
            if self._purge_due is None:
                self._purge_due = asyncio.get_running_loop().time() + UNLINK_WAIT
            return
        self._purge_asked, self._purge_due = True, None
        self.signal(Signal.PURGE)

    def say_again(self) -> None:
        """Write what is known of the session anew, for Redis has lost it."""
        self._reporter.put(self.state())
        if self._shown is not None:
            self._reporter.put(self._shown)
        if self._told_since is not None:
            self._reporter.put(Since(self._told_since))

    def signal(self, signal: Signal) -> None:
        """Tell the session that something happened or is wanted."""
        self._signals.put_nowait((self._generation, signal))

    async def stop(self) -> None:
        """Close the browser in an orderly way and give the profile back; returns when both is done."""
        self.signal(Signal.STOP)
        await self.wait_ended()

    def kill_browser(self) -> None:
        """End the browser at once, whatever its session is about to do; that goes on as after a crash."""
        for browser in (self._browser, self._leaving):
            if browser is not None:
                browser.kill_now()

    async def wait_ended(self) -> None:
        """Return when the session has ended."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def _live(self) -> None:
        self._tell_state()
        try:
            # Redis refuses an owner whose epoch has passed: it gets no browser, not even for a moment. Where Redis does
            # not answer, the lock on the profile has to do.
            await self._reporter.settled(CLAIM_WAIT)
            if self.assignment.spec.purge != "Delete" and not self.refused:  # to delete needs no browser
                await self._perform(Effect.LAUNCH)
            self._purge_if_asked()
            while self.stage is not Stage.CLOSED:
                await self._take(await self._next())
        except Exception:
            log.exception("A session ended by a bug", extra=fields(session=self.key))
            raise
        finally:
            await self._close_browser()
            self._give_back_profile()
            self.stage = Stage.CLOSED
            await self._reporter.stop(LAST_WORDS)
            self._on_change()

    async def _next(self) -> Signal | Event:
        """The next thing to react to: a signal, an event of the present browser, a probe or the stage's end."""
        clock = asyncio.get_running_loop().time
        while True:
            dues = (self._next_probe, self._deadline, self._purge_due, self._sleep_due())
            due = min(at for at in dues if at is not None)
            try:
                async with asyncio.timeout_at(due):
                    generation, signal = await self._signals.get()
            except TimeoutError:
                if self._deadline is not None and clock() >= self._deadline:
                    return Signal.RETRY if self.stage is Stage.WAITING else Signal.TIMEOUT
                if self._purge_due is not None and clock() >= self._purge_due:
                    self._purge_asked, self._purge_due = True, None
                    return Signal.PURGE
                if (sleep_due := self._sleep_due()) is not None and clock() >= sleep_due:
                    return Signal.HIBERNATE
                self._next_probe = clock() + self._services.config.health_check_interval
                if (found := await self._probe()) is not None:
                    return found
                continue
            if generation == self._generation or _outlives_its_browser(signal):
                return signal

    def _sleep_due(self) -> float | None:
        """When the session goes to sleep by its spec if nothing happens before."""
        after, idle = self.assignment.spec.hibernate_after_seconds, self.idle
        if after is None or idle is None:
            return None
        return asyncio.get_running_loop().time() + after - idle

    async def _take(self, signal: Signal | Event) -> None:
        if not isinstance(signal, Signal):
            found = await self._hear(signal)
            if found is None:
                return
            signal = found
        if signal is Signal.HIBERNATE and self.idle is None:
            return  # a call came in between
        if signal is Signal.TIMEOUT and self.stage in _STALLS:
            self._count_failure("stalled")
        if signal in _FAILURES and self.stage not in _AT_REST and self._exhausted():
            signal = Signal.EXHAUSTED
        if signal is Signal.ONLINE and self._login_is_fresh():
            signal = Signal.LINKED
        before, next_step = self.stage, step(self.stage, signal)
        if next_step.stage is before and next_step.effect is Effect.NONE:
            return
        self._message = self._sentence(next_step.stage, signal)
        if next_step.stage is not before:
            log.info(
                "Session changed stage",
                extra=fields(session=self.key, before=before, stage=next_step.stage, signal=signal),
            )
        await self._enter(next_step.stage)
        await self._perform(next_step.effect)

    async def _enter(self, stage: Stage) -> None:
        before, phase_before = self.stage, self.phase
        async with self._stage_changed:
            self.stage = stage
            self._stage_changed.notify_all()
        limit = TIMEOUTS.get(stage)
        if stage is Stage.PAIRING:
            limit = self.assignment.spec.pairing_timeout_seconds
        elif stage is Stage.WAITING:
            limit = self._backoff()
        elif stage is Stage.FAILED and not self._failures:
            limit = None  # nobody paired it, or WhatsApp refuses it: trying again by ourselves would help nobody
        self._deadline = None if limit is None else asyncio.get_running_loop().time() + limit
        if stage is not Stage.PAIRING:
            self._hide_code()
        if before is Stage.PAIRING and stage in {Stage.SYNCING, Stage.CONNECTED}:
            self._note_told_since(time.time())  # what the phone hands over now is history
            self._told_known = True
        if before is Stage.PAIRING:
            self._linked_at = asyncio.get_running_loop().time() if stage is Stage.SYNCING else None
        if stage is Stage.CONNECTED:
            self._connected_at = time.monotonic()
            if before is not Stage.RECONNECTING:
                self._active_at = self._connected_at
            await self._begin_catch_up()
        asleep = before is Stage.HIBERNATED or self._waking
        self._waking = asleep and stage not in {Stage.CONNECTED, *_CLOSED_FOR_CALLS}
        if self.phase is not phase_before:
            self._since = time.time()
            self._on_change()
        self._tell_state()
        self._purge_if_asked()

    def _login_is_fresh(self) -> bool:
        """Whether this login was made so short a time ago that a crash would lose it; looks again when it is not."""
        now = asyncio.get_running_loop().time()
        if self.stage is Stage.PAIRING:
            self._linked_at = now
        elif self.stage is not Stage.SYNCING or self._linked_at is None:
            return False
        if now >= self._linked_at + LOGIN_WRITTEN:
            return False
        self._next_probe = self._linked_at + LOGIN_WRITTEN
        return True

    def _sentence(self, stage: Stage, signal: Signal) -> str:
        """Why the session is where it is, for people."""
        blocked = BLOCKS.get(self._page.mode) or BLOCKS.get(self._page.socket)
        causes = {
            Signal.BROWSER_DOWN: "the browser ended",
            Signal.PAGE_CRASHED: "the page crashed",
            Signal.UNHEALTHY: "the page stopped answering, or WhatsApp fell silent",
            Signal.EXHAUSTED: f"the browser failed {MAX_FAILURES} times in {FAILURE_WINDOW / 60:.0f} minutes",
            Signal.BLOCKED: blocked or "WhatsApp refuses this client",
            Signal.TIMEOUT: f"nothing happened in {self.stage.lower()} for too long",
        }
        match stage:
            case Stage.PAIRING if self.assignment.spec.pairing_method is PairingMethod.PAIRING_CODE:
                return "enter the pairing code on the phone"
            case Stage.PAIRING:
                return "scan the QR code with the phone"
            case Stage.FAILED if self.stage is Stage.PAIRING and signal is Signal.TIMEOUT:
                return "nobody paired it in time; restart it for a new code"
            case Stage.FAILED if self._cause is not None and signal is Signal.EXHAUSTED:
                return f"{causes[signal]}, the last time: {self._cause}"
            case Stage.WAITING | Stage.FAILED if self._cause is not None:
                return self._cause
            case Stage.WAITING | Stage.FAILED:
                return causes.get(signal, "starting again")
            case Stage.SYNCING:
                return "linked; fetching the first data"
            case Stage.RECONNECTING:
                return "connection to WhatsApp lost"
            case Stage.LAUNCHING:
                return "starting the browser"
            case Stage.LOADING:
                return "loading WhatsApp"
            case Stage.PURGED:
                return "removing the profile, for the object is being deleted"
            case Stage.CLOSING:
                return "closing the browser"
            case Stage.HIBERNATED:
                return "asleep to save memory; wakes for the next message"
            case _:
                return ""

    # --- Effects

    async def _perform(self, effect: Effect) -> None:
        match effect:
            case Effect.LAUNCH:
                self._begin_launch()
            case Effect.LOAD:
                await self._on_page("open")
            case Effect.RELOAD:
                await self._on_page("reload")
            case Effect.PAIR:
                await self._show_code()
            case Effect.CLOSE_AND_WAIT:
                self._restarts += 1
                await self._close_browser()
                self._tell_state()
            case Effect.CLOSE_AND_LAUNCH:
                await self._close_browser()
                self._begin_launch()
            case Effect.CLOSE:
                await self._close_browser()
            case Effect.PURGE:
                await self._purge()
            case Effect.FINISH:
                await self._close_browser()
                self._give_back_profile()
                self.signal(Signal.ENDED)
            case Effect.NONE:
                pass

    def _begin_launch(self) -> None:
        self._cause = None
        self._generation += 1
        self._launch = asyncio.create_task(self._start_browser(self._generation), name=f"launch-{self.key}")

    async def _start_browser(self, generation: int) -> None:
        """Open the profile and start a browser on it; what comes of it is a signal."""
        services, proxy = self._services, self.assignment.spec.proxy
        try:
            if proxy is None and self.assignment.spec.proxy_required:
                raise BrowserGoneError("the Secret of spec.proxySecretRef cannot be read")  # noqa: TRY301  # handled alike
            profile = await self._take_profile()
            if self._wipe:
                profile.wipe()
                self._wipe = False
            profile.check_room()
            self._browser = await Chromium.launch(
                services.browser,
                profile.directory,
                lambda event: self._signals.put_nowait((generation, event)),
                inherit=(profile.fileno(),),
                proxy=proxy,
            )
            self.signal(Signal.BROWSER_UP)
        except (BrowserGoneError, ProfileTakenError, ProfileUnusableError) as error:
            log.warning("A browser could not be started", extra=fields(session=self.key, error=error))
            self._cause = str(error)
            self._count_failure("launch")
            self.signal(Signal.BROWSER_DOWN)

    async def _on_page(self, action: str) -> None:
        browser = self._browser
        if browser is None:
            return
        try:
            await (browser.open() if action == "open" else browser.reload())
        except PageError as error:
            log.warning("WhatsApp cannot be reached", extra=fields(session=self.key, error=error))
            self._message = str(error)
        except (BrowserGoneError, PageTimeoutError):
            self._count_failure("page")
            self.signal(Signal.BROWSER_DOWN)

    async def _close_browser(self) -> None:
        if self._launch is not None:
            self._launch.cancel()
            await asyncio.gather(self._launch, return_exceptions=True)
            self._launch = None
        await self._end_catch_up()
        browser, self._browser = self._browser, None
        self._generation += 1
        self._page = Snapshot()
        self._connected_at, self._tidied_at = None, None
        if browser is not None:
            self._leaving = browser
            try:
                await browser.close()
            finally:
                self._leaving = None

    async def _take_profile(self) -> Profile:
        if self._profile is None:
            self._profile = await self._services.profiles.open(
                self.key,
                epoch=self.assignment.epoch,
                uid=self.assignment.uid,
                worker=self._services.config.worker.name,
                wait=PROFILE_WAIT,
            )
        return self._profile

    async def _purge(self) -> None:
        """Remove the profile for good, after unlinking the account if that is asked and possible."""
        if self.assignment.spec.purge == "Logout" and self._page.registered:
            await self._unlink()
        await self._close_browser()
        try:
            (await self._take_profile()).remove()
        except (ProfileTakenError, ProfileUnusableError) as error:
            log.warning("A profile could not be removed", extra=fields(session=self.key, error=error))
            self._message = str(error)
        else:
            self._purged, self._account, self._deadline = True, None, None
            self._give_back_profile()
            self._message = "the profile is removed"
            log.info("Profile removed", extra=fields(session=self.key))
        self._tell_state()

    def _give_back_profile(self) -> None:
        if self._profile is None:
            return
        if self._reporter.told_since and not self._purged:
            try:
                self._profile.note_told_since(self._reporter.told_since)
            except ProfileUnusableError as error:
                log.info("It was not noted what was told", extra=fields(session=self.key, error=error))
        self._profile.close()
        self._profile = None

    # --- Failures

    def _count_failure(self, cause: str) -> None:
        """Count a failure of the present browser; it may show in more than one way."""
        if self._failed_generation == self._generation and cause != "stalled":
            return
        self._failed_generation = self._generation
        self._services.metrics.restarts.labels(cause).inc()
        self._failures.append(time.monotonic())

    def _exhausted(self) -> bool:
        now = time.monotonic()
        self._failures = [at for at in self._failures if now - at < FAILURE_WINDOW]
        return len(self._failures) >= MAX_FAILURES

    def _backoff(self) -> float:
        """Seconds until the next start: doubling, capped, and spread so that fifteen sessions do not start as one."""
        base = min(LONGEST_BACKOFF, 2.0 ** max(0, len(self._failures) - 1))
        return base * random.uniform(0.5, 1.5)  # noqa: S311  # not for secrets

    # --- What the page says

    async def _hear(self, event: Event) -> Signal | None:
        match event["type"]:
            case "page":
                return self._read_page(Snapshot.model_validate(event["page"]))
            case "code":
                self._offer(PairingMethod.QR_CODE, event["code"], CODE_LIFE)
            case "pairingCode":
                self._offer(PairingMethod.PAIRING_CODE, event["code"], PAIRING_CODE_LIFE)
            case "codesUsedUp":
                if self.stage is Stage.PAIRING:
                    await self._show_code(renew=True)
            case "sending":
                _remember(self._sent, event["id"])
                self._reporter.put(Sent(event["id"], time.time()))
            case "message":
                self._hear_message(event["message"])
            case "ack":
                self._tell("message.ack", self._ack_payload(event))
            case "logout":
                log.info("The phone has unlinked this device", extra=fields(session=self.key, reason=event["reason"]))
            case "navigated":
                self._page = Snapshot()
                return Signal.NAVIGATED
            case "crashed":
                self._count_failure("crash")
                return Signal.PAGE_CRASHED
            case "gone":
                self._count_failure("browser")
                return Signal.BROWSER_DOWN
            case "proxyRefused":
                self._count_failure("proxy")
                self._cause = "the proxy refuses the user name or the password of spec.proxySecretRef"
                return Signal.BLOCKED
            case "fault":
                log.warning(
                    "An event of the page could not be read", extra=fields(session=self.key, event=event["event"])
                )
            case unknown:
                log.warning("The bridge sent an unknown event", extra=fields(session=self.key, event=unknown))
        return None

    def _read_page(self, page: Snapshot) -> Signal | None:
        self._page = page
        if page.registered and page.id:
            account = Account(id=page.id, lid=page.lid, push_name=page.push_name)
            if account != self._account:
                self._account = account
                self._tell_state()
        elif page.injected and not page.registered and self._account is not None:
            self._account = None
        return classify(page)

    async def _probe(self) -> Signal | None:
        """Ask the page for its account of itself, and hold it against what WhatsApp has sent."""
        browser = self._browser
        if browser is None or self.stage in {Stage.LAUNCHING, Stage.CLOSING}:
            return None
        try:
            answer = await browser.call("snapshot", limit=PROBE_LIMIT)
        except PageError:
            return None  # between two documents; the stage's own timeout sees to a page that never loads
        except (PageTimeoutError, BrowserGoneError):
            self._count_failure("unresponsive")
            return Signal.UNHEALTHY
        if self.stage is Stage.CONNECTED:
            if time.monotonic() - self._caught_up_at > CATCH_UP_EVERY and not self._is_catching_up:
                await self._begin_catch_up()
            await self._tidy(browser)
            if self._is_silent(browser):
                self._count_failure("silent")
                return Signal.UNHEALTHY
        return self._read_page(Snapshot.model_validate(answer))

    def _is_silent(self, browser: Chromium) -> bool:
        """Whether WhatsApp has sent nothing for so long that the connection must be dead, whatever the page says."""
        limit = SILENCE * self._services.config.health_check_interval
        heard = max(browser.last_frame or 0.0, self._connected_at or 0.0)
        return time.monotonic() - heard > limit

    async def _tidy(self, browser: Chromium) -> None:
        if self._tidied_at is None and self._connected_at and time.monotonic() - self._connected_at > GARBAGE_AFTER:
            await self._collect(browser)

    async def _collect(self, browser: Chromium, *, caches: bool = False) -> None:
        self._tidied_at = time.monotonic()
        try:
            await browser.collect_garbage()
            if caches:
                await browser.drop_caches()
        except (PageTimeoutError, BrowserGoneError) as error:
            # The probe finds out what is wrong with it.
            log.info("A page did not give back its garbage", extra=fields(session=self.key, error=error))

    async def tidy(self) -> None:
        """Give back memory that the page does not use, and caches."""
        if self._browser is not None and self.stage is not Stage.LAUNCHING:
            await self._collect(self._browser, caches=True)

    # --- Pairing

    async def _show_code(self, *, renew: bool = False) -> None:
        browser, spec = self._browser, self.assignment.spec
        if browser is None:
            return
        try:
            if spec.pairing_method is PairingMethod.PAIRING_CODE:
                found = await browser.call("pairingCode", {"phoneNumber": spec.phone_number})
                self._offer(PairingMethod.PAIRING_CODE, found["code"], PAIRING_CODE_LIFE)
            else:
                await browser.call("refreshCode" if renew else "showCode")
        except PageError as error:
            self._message = f"WhatsApp gives no code: {error}"
            log.warning("WhatsApp gives no code", extra=fields(session=self.key, code=error.code))
            self._tell_state()
        except (PageTimeoutError, BrowserGoneError):
            self._count_failure("page")
            self.signal(Signal.UNHEALTHY)

    def _offer(self, method: PairingMethod, code: str, life: float) -> None:
        """Put a code on show."""
        if self.stage is not Stage.PAIRING or method is not self.assignment.spec.pairing_method:
            return
        self._shown = PairingOffer(method=method, code=code, expires=time.time() + life)
        self._reporter.put(self._shown)
        self._tell_state(repeat=True)

    def _hide_code(self) -> None:
        if self._shown is not None:
            self._shown = None
            self._reporter.put(None)

    # --- Telling

    def _tell_state(self, *, repeat: bool = False) -> None:
        """Write the state, and an event when WAHA's word for it changes (or again for each new code)."""
        self._reporter.put(self.state())
        status = WAHA_STATUS[self.phase]
        if self.stage in {Stage.CLOSING, Stage.CLOSED}:
            return  # whoever takes the session over tells what becomes of it
        if self.stage is Stage.PAIRING and not repeat:
            return  # said with the first code, for there is nothing to scan before
        if repeat or not self._statuses or self._statuses[-1]["status"] != status:
            now = time.time()
            self._statuses = [*self._statuses, {"status": status, "timestamp": int(now * 1000)}][-3:]
            payload = {"name": self.key.name, "status": status, "statuses": self._statuses, "data": None}
            self._tell("session.status", payload)

    def _tell(self, event: str, payload: dict[str, Any]) -> None:
        self._reporter.put(InboundEvent.new(event, payload, now=time.time(), account=self._account))

    def _hear_message(self, message: dict[str, Any]) -> None:
        message_id = message["id"]
        if message_id in self._seen or self._ignored(message):
            return
        _remember(self._seen, message_id)
        if message_id in self._sent:
            message = {**message, "source": "api"}
        self._last_activity, self._active_at = time.time(), time.monotonic()
        names = ["message.any"]
        if not message["fromMe"]:
            self._services.metrics.received.inc()
            names = ["message", "message.any"]
        now, at = time.time(), float(message["timestamp"])
        events = tuple(InboundEvent.new(name, message, now=now, account=self._account) for name in names)
        if self._told_since is not None:
            self._told_since = max(self._told_since, min(at, now) - TOLD_SLACK)
        self._reporter.put(Message(message_id, at, self._told_since or 0.0, events))

    def _ignored(self, message: dict[str, Any]) -> bool:
        chat = message["to"] if message["fromMe"] else message["from"]
        ignore = self.assignment.spec.ignore
        kinds = {"status": chat == "status@broadcast", "groups": chat.endswith("@g.us")}
        kinds |= {"channels": chat.endswith("@newsletter"), "broadcast": chat.endswith("@broadcast")}
        return any(matches and kind in ignore for kind, matches in kinds.items())

    def _ack_payload(self, event: Event) -> dict[str, Any]:
        me = self._account.id if self._account else None
        chat, from_me = event["chat"], event["fromMe"]
        return {
            "id": event["id"],
            "from": me if from_me else chat,
            "to": chat if from_me else me,
            "participant": event["participant"],
            "fromMe": from_me,
            "ack": event["ack"],
            "ackName": event["ackName"],
            "_data": {},
        }

    # --- Messages that came while nobody listened

    @property
    def _is_catching_up(self) -> bool:
        return self._catching_up is not None and not self._catching_up.done()

    async def _begin_catch_up(self) -> None:
        """Compare the page's store with what was told. The page tells new messages only from then on, in order."""
        await self._end_catch_up()
        if self._browser is not None:
            self._catching_up = asyncio.create_task(self._catch_up(self._browser), name=f"catch-up-{self.key}")

    async def _end_catch_up(self) -> None:
        if self._catching_up is not None:
            self._catching_up.cancel()
            await asyncio.gather(self._catching_up, return_exceptions=True)
            self._catching_up = None

    async def _catch_up(self, browser: Chromium) -> None:
        while True:
            try:
                if not self._told_known:
                    await self._read_told()
                answer = await browser.call("catchUp", {"since": self._told_since}, limit=CATCH_UP_LIMIT)
            except BrowserGoneError:
                return  # the next browser does it
            except (PageError, PageTimeoutError, RegistryUnavailableError) as error:
                log.warning(
                    "Missed messages cannot be looked for yet: %s", error, extra=fields(session=self.key, error=error)
                )
                await asyncio.sleep(CATCH_UP_RETRY)
            else:
                self._caught_up_at = time.monotonic()
                # Nothing is known of a session whose marks were lost; what its page holds by now counts as told.
                latest = min(float(answer["latest"]), time.time())
                self._note_told_since(latest - TOLD_SLACK if self._told_since is not None else latest + 1)
                return

    async def _read_told(self) -> None:
        """Take over what former owners have told."""
        told = await self._services.registry.told(self.key)
        self._told_since = told.since
        if self._told_since is None and self._profile is not None:
            self._note_told_since(self._profile.told_since)
        for message_id in told.sent:
            _remember(self._sent, message_id)
        self._told_known = True

    def _note_told_since(self, since: float | None) -> None:
        if since is not None and (self._told_since is None or since > self._told_since):
            self._told_since = since
            self._reporter.put(Since(since))

    # --- Calls from outside

    async def call(self, method: Method, params: dict[str, Any]) -> Any:
        """Run one call in the page.

        Raises:
            RefusedError: It was not carried out, or its outcome is not known.
        """
        self._calls += 1
        try:
            await self._wait_connected()
            if method in SENDS:
                return await self._send(method, params)
            return await self._ask(method, params)
        finally:
            self._calls -= 1
            self._active_at = time.monotonic()

    async def command(self, command: Command, params: dict[str, Any]) -> Any:
        """Do what a person asks of the session itself.

        Raises:
            RefusedError: It is not possible now.
        """
        match command:
            case Command.RESTART:
                self._failures.clear()
                self.signal(Signal.RESTART)
            case Command.LOGOUT:
                await self._log_out()
            case Command.REQUEST_CODE:
                if self.stage is not Stage.PAIRING:
                    raise RefusedError(Refusal.WRONG_PHASE, "the session is not waiting to be paired", phase=self.phase)
                return await self._ask("pairingCode", params)
        return {}

    async def _log_out(self) -> None:
        """Unlink this device, then begin with an empty profile."""
        if self.stage is Stage.HIBERNATED:
            with suppress(RefusedError):  # the profile goes in any case
                await self._wait_connected()
        if self.stage in {Stage.CONNECTED, Stage.RECONNECTING}:
            await self._unlink()
        self._wipe = True
        self._account = None
        self._failures.clear()
        self.signal(Signal.RESTART)

    async def _unlink(self) -> None:
        if self._browser is None:
            return
        try:
            await self._browser.call("logout")
        except (PageError, PageTimeoutError, BrowserGoneError) as error:
            # The page reloads while it logs out, which may take the answer with it; the profile goes in any case.
            log.info("The page did not confirm the logout", extra=fields(session=self.key, error=error))

    async def _wait_connected(self) -> None:
        soon, limit = {Stage.LAUNCHING, Stage.LOADING, Stage.SYNCING, Stage.RECONNECTING}, READY_WAIT
        if self.stage is Stage.HIBERNATED:
            self.signal(Signal.WAKE)
        if self.stage is Stage.HIBERNATED or self._waking:
            soon, limit = {*soon, Stage.HIBERNATED, Stage.WAITING}, WAKE_WAIT
        with suppress(TimeoutError):  # what became of it is said below
            async with asyncio.timeout(limit), self._stage_changed:
                await self._stage_changed.wait_for(lambda: self.stage not in soon)
        if self.stage is not Stage.CONNECTED:
            raise RefusedError(Refusal.WRONG_PHASE, f"the session is {self.phase}: {self._message}", phase=self.phase)

    async def _send(self, method: Method, params: dict[str, Any]) -> Any:
        """Send in order and at the session's pace."""
        metrics = self._services.metrics
        if (wait := self._bucket.wait(time.monotonic())) > MAX_PACE_WAIT:
            raise RefusedError(
                Refusal.TOO_FAST,
                f"the session's throttle lets the next message go in {wait:.0f} s",
                phase=self.phase,
                retry_after=wait,
            )
        delay = self._bucket.take(time.monotonic())
        async with self._turn:
            await asyncio.sleep(delay)
            started = time.monotonic()
            try:
                sent = await self._ask(method, params)
            except RefusedError as error:
                metrics.sent.labels("unknown" if error.refusal is Refusal.UNKNOWN else "refused").inc()
                raise
            metrics.processing.observe(time.monotonic() - started)
        metrics.sent.labels("sent").inc()
        self._last_activity = time.time()
        return sent

    async def _ask(self, method: str, params: dict[str, Any]) -> Any:
        browser = self._browser
        if browser is None:
            raise RefusedError(Refusal.WRONG_PHASE, f"the session is {self.phase}", phase=self.phase)
        file = params.get("file")
        if file is not None:
            params = {**params, "file": await self._hand_over(browser, file)}
        try:
            return await browser.call(method, params, limit=FILE_LIMIT if file is not None else CALL_TIMEOUT)
        except PageError as error:
            raise RefusedError(_REFUSALS.get(error.code, Refusal.PAGE), str(error), phase=self.phase) from error
        except (PageTimeoutError, BrowserGoneError) as error:
            raise RefusedError(Refusal.UNKNOWN, str(error), phase=self.phase) from error

    async def _hand_over(self, browser: Chromium, file: dict[str, Any]) -> dict[str, Any]:
        """Give the page a file, base64 in `data`, piece by piece: the time for one big argument grows with its square.

        Returns:
            The file with a `handle` of the page in the place of `data`.
        """
        data, handle = str(file.get("data", "")), uuid.uuid4().hex
        try:
            for start in range(0, max(1, len(data)), FILE_CHUNK):
                await browser.call("stage", {"handle": handle, "chunk": data[start : start + FILE_CHUNK]})
        except (PageError, PageTimeoutError, BrowserGoneError) as error:
            # Nothing was sent yet, so this outcome is known.
            refusal = _REFUSALS.get(error.code, Refusal.PAGE) if isinstance(error, PageError) else Refusal.PAGE
            raise RefusedError(refusal, f"the page did not take the file: {error}", phase=self.phase) from error
        return {**{name: value for name, value in file.items() if name != "data"}, "handle": handle}


def _outlives_its_browser(signal: Signal | Event) -> bool:
    """Whether it counts though the browser that it came from, or was meant for, is replaced."""
    return signal in _FROM_PEOPLE if isinstance(signal, Signal) else signal["type"] in _TOLD


def _remember(ids: OrderedDict[str, None], message_id: str) -> None:
    ids[message_id] = None
    if len(ids) > SEEN:
        ids.popitem(last=False)


_FROM_PEOPLE = {Signal.STOP, Signal.PURGE, Signal.RESTART, Signal.HIBERNATE, Signal.WAKE, Signal.ENDED}
"""Signals that speak of the session, not of one browser of it."""
_TOLD = {"message", "ack", "sending"}
"""Events of the page that are to be told on, whatever has become of the page since."""
_FAILURES = {Signal.BROWSER_DOWN, Signal.PAGE_CRASHED, Signal.UNHEALTHY, Signal.TIMEOUT}
_UNDECIDED = {Stage.LAUNCHING, Stage.LOADING, Stage.SYNCING, Stage.WAITING, Stage.HIBERNATED}
"""Stages in which the page cannot unlink the account yet, and soon can, or says that there is none."""
_AT_REST = {Stage.FAILED, Stage.PURGED, Stage.CLOSING}
"""Stages whose end is no failure: what they do then is done however often the session has failed before."""
_CLOSED_FOR_CALLS = {Stage.PAIRING, Stage.HIBERNATED, Stage.FAILED, Stage.PURGED, Stage.CLOSING, Stage.CLOSED}
"""Stages that end a wake-up without a connection."""
_STALLS = {Stage.LOADING, Stage.SYNCING, Stage.RECONNECTING}
"""Stages that a browser should leave by itself."""
_REFUSALS = {
    **dict.fromkeys(
        (
            "InvalidWidError", "invalid_wid", "chat_not_found", "invalid_phone_number", "msg_not_found", "bad_request",
            "invalid_data_url", "file_too_large", "not_a_group", "participant_not_exists", "group_not_exist",
        ),
        Refusal.BAD_REQUEST,
    ),
    "not_found": Refusal.NOT_FOUND,
    "not_implemented": Refusal.NOT_IMPLEMENTED,
    "status_late": Refusal.UNKNOWN,
}  # fmt: skip
"""Codes by which wa-js, WhatsApp and the bridge say that what was asked for cannot be right, is not there, or has no
way to be done."""
