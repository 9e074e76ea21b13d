"""Runs the sessions that the operator has given to this worker, and proves that the worker lives.

Owns the set of sessions: level-triggered, it makes what runs equal to what is published, whatever was missed. Renews
the lease, stops everything when the lease cannot be renewed, and hands everything over on SIGTERM. Must not know
browsers or pages.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version

from session_worker.contract import (
    HEARTBEAT_INTERVAL,
    SELF_STOP_AFTER,
    SELF_STOP_MARGIN,
    Assignment,
    Heartbeat,
    Phase,
    SessionKey,
)
from session_worker.lifecycle import Signal
from session_worker.logs import fields
from session_worker.memory import MemoryReader, Usage, per_browser
from session_worker.registry import Publication, RegistryUnavailableError
from session_worker.relief import Awake, Relief, relieve
from session_worker.session import Services, Session

log = logging.getLogger(__name__)

POLL = 2.0
"""Seconds between two looks at the desired set when nothing wakes us: the price of a lost wake-up."""
_KILL_AFTER = SELF_STOP_MARGIN.total_seconds() - 2
"""Seconds that browsers get to end in order when others may soon run their sessions."""
BEAT_GAP = 0.1
"""Seconds in which changes gather into one heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times in seconds that tests shorten; the defaults are those of the contract."""

    self_stop_after: float = SELF_STOP_AFTER.total_seconds()
    memory_every: float = 30.0
    """Between two readings of memory, which walk through /proc."""


class Supervisor:
    """The worker's sessions. `start` it, then `drain` and `stop` it."""

    def __init__(self, services: Services, timing: Timing | None = None) -> None:
        self._services = services
        self._timing = timing or Timing()
        self._config = services.config
        self._registry = services.registry
        self._metrics = services.metrics
        self._memory_reader = MemoryReader(self._config.memory_limit)
        self._sessions: dict[SessionKey, Session] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._revision = 0
        self._void_revision = 0
        self._refused: dict[SessionKey, int] = {}
        self._usage = Usage(0, 0)
        self._per_session: dict[SessionKey, int] = {}
        self._asleep: dict[SessionKey, int] = {}
        """Sessions put to sleep for want of memory, with what they had then, the one that sleeps longest first."""
        self._beat_now = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._last_beat: float | None = None
        self._last_beat_or_start = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self.started = time.monotonic()
        self.draining = False

    # --- What others see

    @property
    def usage(self) -> Usage:
        """Memory of the worker, as last read."""
        return self._usage

    @property
    def sessions(self) -> dict[SessionKey, Session]:
        """The sessions that have a part of their life here, those being closed included."""
        return self._sessions

    @property
    def lease_age(self) -> float | None:
        """Seconds since the lease was last renewed; None when it never was."""
        return None if self._last_beat is None else time.monotonic() - self._last_beat

    # --- Life

    async def start(self) -> None:
        """Begin to live: heartbeats, the desired set, memory."""
        self._read_memory()
        self._last_beat_or_start = time.monotonic()
        loops = {
            "heartbeat": self._beat_loop(),
            "lease": self._lease_loop(),
            "assignments": self._follow_loop(),
            "memory": self._memory_loop(),
        }
        self._tasks = [asyncio.create_task(loop, name=name) for name, loop in loops.items()]

    async def drain(self) -> None:
        """Say that this worker is leaving, and return when its sessions are gone or the deadline has passed."""
        self.draining = True
        self._beat_now.set()
        log.info("Draining", extra=fields(sessions=len(self._sessions)))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.drain_timeout):
                await self._empty.wait()

    async def stop(self) -> None:
        """Close what still runs, say that nothing does, and end."""
        for task in self._tasks[1:]:
            task.cancel()
        await asyncio.gather(*self._tasks[1:], return_exceptions=True)
        await self._stop_all("the worker ends")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The operator need not wait for the lease to run out.
        with suppress(RegistryUnavailableError):
            await self._registry.beat(self._config.worker, self._heartbeat(stopped=True))
            await self._registry.tell(self._config.worker)

    # --- The lease

    async def _beat_loop(self) -> None:
        while True:
            began = time.monotonic()
            if self._overdue and self._sessions:
                # This process was frozen, or the beat before hung: others may have the sessions. They are closed first.
                await asyncio.sleep(BEAT_GAP)
                continue
            try:
                await self._registry.beat(self._config.worker, self._heartbeat())
                # Redis counts from the moment of the write, which may lie well before the answer.
                self._last_beat = self._last_beat_or_start = began
                self._metrics.heartbeat.set_to_current_time()
                await self._mend_states()
            except RegistryUnavailableError as error:
                log.warning("The lease could not be renewed", extra=fields(error=error))
            except Exception:  # a bug here must end neither the lease nor what watches over it
                log.exception("The lease could not be renewed, by a bug")
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_INTERVAL.total_seconds()):
                    await self._beat_now.wait()
                    await asyncio.sleep(BEAT_GAP)
            self._beat_now.clear()

    @property
    def _overdue(self) -> bool:
        """Whether the lease was not renewed for so long that others may run these sessions."""
        return time.monotonic() - self._last_beat_or_start > self._timing.self_stop_after

    async def _lease_loop(self) -> None:
        """Close all browsers in time when the lease is not renewed.

        This has its own clock, for a beat to a server that does not answer may hang for longer than the margin is.
        """
        while True:
            left = self._last_beat_or_start + self._timing.self_stop_after - time.monotonic()
            if left > 0:
                await asyncio.sleep(left)
                continue
            # From here on others may run these sessions: what was published before no longer holds.
            self._void_revision = self._revision
            if self._sessions:
                await self._stop_all("the lease could not be renewed", kill_after=_KILL_AFTER)
            await asyncio.sleep(POLL)

    async def _mend_states(self) -> None:
        """Redis may have come back empty: what the sessions have said is said again where it is gone."""
        for key in await self._registry.missing(self._sessions):
            session = self._sessions.get(key)
            if session is not None and not session.backlog:
                session.say_again()

    def _heartbeat(self, *, stopped: bool = False) -> Heartbeat:
        running = {str(key): session.running(self._per_session.get(key)) for key, session in self._sessions.items()}
        return Heartbeat(
            uid=self._config.uid,
            address=self._config.address,
            version=version("whatsapp-operator"),
            capacity=self._config.max_sessions,
            revision=self._revision,
            void_revision=self._void_revision,
            running=running,
            memory_used_bytes=self._usage.used,
            memory_limit_bytes=self._usage.limit,
            cpu_cores=time.process_time() / max(1.0, time.monotonic() - self.started),
            draining=self.draining,
            stopped=stopped,
        )

    # --- The desired set

    async def _follow_loop(self) -> None:
        wake = "0"
        while True:
            try:
                publication = await self._registry.assigned(self._config.worker)
                if publication is not None:
                    self._adopt(publication)
                # Without a publication Redis is new or was emptied: what runs goes on until the operator writes again.
                wake = await self._registry.wait_for_wake(self._config.worker, after=wake, idle=POLL)
            except RegistryUnavailableError as error:
                log.warning("The assignments cannot be read", extra=fields(error=error))
                await asyncio.sleep(POLL)

    def _adopt(self, publication: Publication) -> None:
        """Make what runs equal to what is published; closing goes on in the background."""
        if self._overdue or publication.revision <= self._void_revision or publication.revision < self._revision:
            return  # void, or what a failover has brought back from the past
        desired = publication.assignments
        for key, session in list(self._sessions.items()):
            wanted = desired.get(key)
            if wanted is None or wanted.epoch != session.assignment.epoch or wanted.uid != session.assignment.uid:
                self._end(session)
            elif wanted != session.assignment:
                session.update(wanted)
        for key, assignment in desired.items():
            if key not in self._sessions and self._refused.get(key, 0) < assignment.epoch:
                self._begin(key, assignment)
        if publication.revision != self._revision:
            # Only now: from here on the heartbeat says that the new set is what we go by.
            self._revision = publication.revision
            self._beat_now.set()

    def _begin(self, key: SessionKey, assignment: Assignment) -> None:
        log.info("Session begins", extra=fields(session=key, epoch=assignment.epoch))
        session = Session(key, assignment, self._services, self._changed)
        self._sessions[key] = session
        session.start()
        self._endings.add(asyncio.create_task(self._see_off(session), name=f"end-{key}"))
        self._changed()

    def _end(self, session: Session) -> None:
        session.signal(Signal.STOP)

    async def _see_off(self, session: Session) -> None:
        """Wait for a session's end, whoever causes it, and take it off the list."""
        with suppress(Exception):  # logged by the session itself
            await session.wait_ended()
        if session.refused:
            self._refused[session.key] = session.assignment.epoch
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
            self._per_session.pop(session.key, None)
        log.info("Session ended here", extra=fields(session=session.key, epoch=session.assignment.epoch))
        task = asyncio.current_task()
        if task is not None:
            self._endings.discard(task)
        self._changed()

    async def _stop_all(self, reason: str, *, kill_after: float | None = None) -> None:
        """End all sessions, and after `kill_after` seconds also the browsers that do not end in order."""
        if self._sessions:
            log.warning("Closing all sessions", extra=fields(reason=reason, sessions=len(self._sessions)))
        for session in list(self._sessions.values()):
            self._end(session)
        if kill_after is not None and self._endings:
            await asyncio.wait(self._endings, timeout=kill_after)
            for session in self._sessions.values():
                session.kill_browser()
        await asyncio.gather(*list(self._endings), return_exceptions=True)

    def _changed(self) -> None:
        """Something that the heartbeat says has changed."""
        if self._sessions:
            self._empty.clear()
        else:
            self._empty.set()
        self._metrics.active_sessions.set(len(self._sessions))
        self._metrics.sessions.clear()
        for session in self._sessions.values():
            self._metrics.sessions.labels(session.phase).inc()
        self._beat_now.set()

    # --- Memory

    async def _memory_loop(self) -> None:
        while True:
            await asyncio.sleep(self._timing.memory_every)
            await asyncio.to_thread(self._read_memory)
            await self._relieve()

    async def _relieve(self) -> None:
        """Make memory free where it is short."""
        self._asleep = {
            key: memory
            for key, memory in self._asleep.items()
            if key in self._sessions and self._sessions[key].phase is Phase.HIBERNATED
        }
        awake = [
            Awake(key, self._per_session.get(key, 0), session.idle, session.tidied)
            for key, session in self._sessions.items()
            if session.browser_pid is not None
        ]
        used, limit = self._usage.used, self._usage.limit
        todo = relieve(used, limit, awake, self._asleep, session_timeout=self._config.session_timeout)
        if todo == Relief():
            return
        log.info(
            "Acting on memory",
            extra=fields(used=used, limit=limit, tidy=len(todo.tidy), sleep=len(todo.sleep), wake=todo.wake),
        )
        for action, keys in (("tidy", todo.tidy), ("sleep", todo.sleep), ("wake", [todo.wake] if todo.wake else [])):
            self._metrics.relief.labels(action).inc(len(keys))
        await asyncio.gather(*(self._sessions[key].tidy() for key in todo.tidy if key in self._sessions))
        for key in todo.sleep:
            self._asleep[key] = self._per_session.get(key, 0)
        for keys, signal in ((todo.sleep, Signal.HIBERNATE), ([todo.wake] if todo.wake else [], Signal.WAKE)):
            for key in keys:
                if (session := self._sessions.get(key)) is not None:
                    session.signal(signal)

    def _read_memory(self) -> None:
        pids = {pid: key for key, session in list(self._sessions.items()) if (pid := session.browser_pid) is not None}
        self._usage = self._memory_reader.usage(pids)
        self._per_session = {pids[pid]: size for pid, size in per_browser(pids).items()}
        self._metrics.memory.set(self._usage.used)
        self._metrics.memory_limit.set(self._usage.limit)
        self._metrics.session_memory.clear()
        for key, size in self._per_session.items():
            self._metrics.session_memory.labels(str(key)).set(size)

    # --- For /health

    def count(self, phase: Phase) -> int:
        """Sessions in a phase."""
        return sum(session.phase is phase for session in self._sessions.values())
