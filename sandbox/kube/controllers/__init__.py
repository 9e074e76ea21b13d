"""The controllers that run inside the stand-in, each a small reconciler on the store.

Owns how they are run: a queue per controller, filled by changes, worked off one object at a time. A real cluster has
them in its controller-manager, so none of them is needed there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from sandbox.kube.api import Api
from sandbox.kube.errors import ApiError
from sandbox.kube.resources import StorageKey
from sandbox.kube.store import Event

_LOG: Final = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 0.5
"""Delay after a failed reconciliation; conflicts are the usual reason, and they pass at once."""

Key = tuple[str, ...]


class Controller(Protocol):
    """A reconciler. Its methods do not await, so nothing changes under it."""

    name: str

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """The keys to reconcile because of a change; must be cheap and must not write."""

    def reconcile(self, key: Key) -> float | None:
        """Bring what `key` names into its desired state; seconds until it wants to be called again."""


class _Queue:
    """Keys to reconcile, each at most once, some of them later."""

    def __init__(self) -> None:
        self._ready: dict[Key, None] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def add(self, key: Key) -> None:
        self._ready[key] = None
        self._wake.set()

    def add_later(self, key: Key, seconds: float) -> None:
        former = self._timers.pop(key, None)
        if former is not None:
            former.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(seconds, self._due, key)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def get(self) -> Key:
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._ready))
        del self._ready[key]
        return key

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


class Manager:
    """Runs controllers. Start it before the first object is written."""

    def __init__(self, api: Api, controllers: Sequence[Controller]) -> None:
        self._api = api
        self._controllers = [(controller, _Queue()) for controller in controllers]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all controllers."""
        self._api.store.listeners.append(self._changed)
        for controller, queue in self._controllers:
            self._tasks.append(asyncio.create_task(self._work(controller, queue), name=f"controller {controller.name}"))

    async def aclose(self) -> None:
        """Stop all controllers."""
        self._api.store.listeners.remove(self._changed)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, queue in self._controllers:
            queue.close()

    def _changed(self, storage: StorageKey, event: Event) -> None:
        for controller, queue in self._controllers:
            for key in controller.concerns(storage, event):
                queue.add(key)

    @staticmethod
    async def _work(controller: Controller, queue: _Queue) -> None:
        while True:
            key = await queue.get()
            try:
                later = controller.reconcile(key)
            except ApiError as error:
                _LOG.info("controller %s: %s: %s", controller.name, "/".join(key), error.message)
                later = _RETRY_SECONDS
            except Exception:  # noqa: BLE001  # a defect in one object's reconciliation must not end the whole controller
                _LOG.exception("controller %s failed on %s", controller.name, "/".join(key))
                later = _RETRY_SECONDS
            if later is not None:
                queue.add_later(key, later)
            # One object at a time, and requests in between.
            await asyncio.sleep(0)


def object_key(event: Event) -> Key:
    """Namespace and name of the object that changed."""
    return event.stored.key


def controller_of(event: Event) -> str | None:
    """The uid of the controlling owner of the object that changed."""
    for owner in event.stored.value["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner["uid"])
    return None
