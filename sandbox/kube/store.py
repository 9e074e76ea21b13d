"""The stored objects, their versions, and the history that watches read.

Owns resourceVersions (one counter for everything, as etcd has) and the answer to "what happened since". Knows nothing
of the objects' meaning. Everything is synchronous but waiting for a change, so a caller that does not await between
reading and writing has the store for itself.

Stored objects are shared with readers and must never be changed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sandbox.kube.resources import StorageKey

JsonObject = dict[str, Any]
ObjectKey = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""


class EventType(StrEnum):
    """What happened to an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(slots=True, eq=False)
class Stored:
    """One version of one object."""

    value: JsonObject
    revision: int
    memo: dict[Any, Any] = field(default_factory=dict)
    """Forms of the object that are made once and used often: encoded bytes, other API versions."""

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """The remembered result of `make` for `key`."""
        found = self.memo.get(key)
        if found is None:
            found = self.memo[key] = make()
        return found

    @property
    def key(self) -> ObjectKey:
        """Namespace and name."""
        meta = self.value["metadata"]
        return meta.get("namespace", ""), meta["name"]


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One change. `previous` is what the object was before, for watches with selectors."""

    type: EventType
    stored: Stored
    previous: Stored | None


class ExpiredError(Exception):
    """The history no longer reaches back that far. `oldest` is the first revision that can be watched from."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"history starts at revision {oldest}")
        self.oldest = oldest


class _Log:
    """The history of one resource: a window over its events."""

    __slots__ = ("events", "first", "forgotten", "limit", "waiters")

    def __init__(self, limit: int) -> None:
        self.events: list[Event] = []
        self.first = 0
        """Position of `events[0]` in the whole history."""
        self.forgotten = 0
        """Revision of the last event that was dropped."""
        self.limit = limit
        self.waiters: set[asyncio.Future[None]] = set()

    def append(self, event: Event) -> None:
        self.events.append(event)
        if len(self.events) > 2 * self.limit:
            # Dropping half at a time keeps appending cheap.
            surplus = len(self.events) - self.limit
            self.forgotten = self.events[surplus - 1].stored.revision
            del self.events[:surplus]
            self.first += surplus
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Cursor:
    """A reader's place in the history of one resource."""

    def __init__(self, log: _Log, position: int) -> None:
        self._log = log
        self._position = position

    def read(self) -> list[Event]:
        """The events since the last call.

        Raises:
            ExpiredError: The reader was too slow, and events are lost.
        """
        log = self._log
        if self._position < log.first:
            raise ExpiredError(log.forgotten)
        events = log.events[self._position - log.first :]
        self._position += len(events)
        return events

    async def wait(self, seconds: float | None) -> bool:
        """Wait until there is something to read; whether there is, after `seconds` at most."""
        log = self._log
        if self._position < log.first + len(log.events):
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        log.waiters.add(waiter)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiter
        finally:
            log.waiters.discard(waiter)
        return self._position < log.first + len(log.events)


class Store:
    """All objects of the cluster."""

    def __init__(self, *, history: int = 4096) -> None:
        """`history` is the number of events per resource that can be watched from at least."""
        self.revision = 1
        self._history = history
        self._objects: defaultdict[StorageKey, dict[ObjectKey, Stored]] = defaultdict(dict)
        self._logs: dict[StorageKey, _Log] = {}
        self.listeners: list[Callable[[StorageKey, Event], None]] = []
        """Called with every change, after it was made. They must not write."""

    def get(self, storage: StorageKey, key: ObjectKey) -> Stored | None:
        """The object, if it is there."""
        return self._objects[storage].get(key)

    def list(self, storage: StorageKey, namespace: str = "") -> list[Stored]:
        """The objects in order of namespace and name; all namespaces where `namespace` is empty."""
        objects = self._objects[storage]
        return [objects[key] for key in sorted(objects) if not namespace or key[0] == namespace]

    def each(self, storage: StorageKey) -> Iterator[Stored]:
        """The objects in no particular order; the caller must not write meanwhile."""
        return iter(self._objects[storage].values())

    def count(self, storage: StorageKey) -> int:
        """How many objects there are."""
        return len(self._objects[storage])

    def put(self, storage: StorageKey, value: JsonObject) -> Stored:
        """Write an object under its namespace and name; its resourceVersion is set here."""
        stored = self._versioned(value)
        objects = self._objects[storage]
        previous = objects.get(stored.key)
        objects[stored.key] = stored
        self._tell(storage, Event(EventType.ADDED if previous is None else EventType.MODIFIED, stored, previous))
        return stored

    def remove(self, storage: StorageKey, value: JsonObject) -> Stored:
        """Delete an object; `value` is its last state, which watches see under a new resourceVersion."""
        stored = self._versioned(value)
        previous = self._objects[storage].pop(stored.key)
        self._tell(storage, Event(EventType.DELETED, stored, previous))
        return stored

    def _tell(self, storage: StorageKey, event: Event) -> None:
        self._log(storage).append(event)
        for listener in self.listeners:
            listener(storage, event)

    def changed(self, storage: StorageKey) -> int:
        """Revision of the last change of a resource; 0 where there was none."""
        log = self._logs.get(storage)
        if log is None:
            return 0
        return log.events[-1].stored.revision if log.events else log.forgotten

    def cursor(self, storage: StorageKey, since: int | None = None) -> Cursor:
        """A reader that starts after revision `since`, or now.

        Raises:
            ExpiredError: The history does not reach back that far.
        """
        log = self._log(storage)
        if since is None or since >= self.revision:
            return Cursor(log, log.first + len(log.events))
        if since < log.forgotten:
            raise ExpiredError(log.forgotten)
        low, high = 0, len(log.events)
        while low < high:
            middle = (low + high) // 2
            if log.events[middle].stored.revision <= since:
                low = middle + 1
            else:
                high = middle
        return Cursor(log, log.first + low)

    def compact(self) -> None:
        """Forget the whole history, as etcd does from time to time: older revisions can no longer be watched from."""
        for storage in self._objects:
            log = self._log(storage)
            log.first += len(log.events)
            log.events.clear()
            log.forgotten = self.revision

    def _versioned(self, value: JsonObject) -> Stored:
        self.revision += 1
        meta = {**value["metadata"], "resourceVersion": str(self.revision)}
        return Stored({**value, "metadata": meta}, self.revision)

    def _log(self, storage: StorageKey) -> _Log:
        log = self._logs.get(storage)
        if log is None:
            log = self._logs[storage] = _Log(self._history)
        return log
