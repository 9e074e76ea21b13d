"""What programs that work through the API share: a connection from a kubeconfig, caches that follow the server, Events.

Owns reconnecting. Used by the scheduler and the pod runner, which serve any API server. Knows nothing of the stand-in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config

from kubeclient import ChangeKind, KubeClient, KubernetesError, NotFoundError, path_of
from sandbox.kube.events import event_body, similarity
from sandbox.kube.formats import format_time

JsonObject = dict[str, Any]
ObjectKey = tuple[str, str]

_LOG: Final = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS: Final = 0.2
_LAST_RETRY_SECONDS: Final = 5.0
_MAX_REMEMBERED_EVENTS: Final = 4096


async def connect(kubeconfig: Path) -> KubeClient:
    """A client for the current context of a kubeconfig file.

    Raises:
        kubernetes.config.ConfigException: The file is missing or not usable.
    """
    configuration = Configuration()
    await load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    return KubeClient(ApiClient(configuration))


def key_of(obj: Mapping[str, Any]) -> ObjectKey:
    """Namespace and name of an object."""
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


class Cache:
    """The objects of one collection as the server last told.

    `changed` is called with the key of every object that came, changed or went, and with `None` after a complete list.
    """

    def __init__(
        self, client: KubeClient, path: str, changed: Callable[[ObjectKey | None], None], **query: str
    ) -> None:
        self._client = client
        self._path = path
        self._query = query
        self._changed = changed
        self.objects: dict[ObjectKey, JsonObject] = {}
        self.synced = asyncio.Event()
        """Set once the first list has arrived."""

    async def run(self) -> None:
        """Follow the collection until cancelled, through failures of the server."""
        delay = _FIRST_RETRY_SECONDS
        while True:
            try:
                async for change in self._client.follow(self._path, **self._query):
                    delay = _FIRST_RETRY_SECONDS
                    if change.kind is ChangeKind.LISTED:
                        self.objects = {key_of(obj): obj for obj in change.objects}
                        self.synced.set()
                        self._changed(None)
                        continue
                    for obj in change.objects:
                        if change.kind is ChangeKind.DELETED:
                            self.objects.pop(key_of(obj), None)
                        else:
                            self.objects[key_of(obj)] = obj
                        self._changed(key_of(obj))
            except KubernetesError as error:
                _LOG.info("lost %s: %s; trying again in %.1f s", self._path, error.message, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_RETRY_SECONDS)


class Recorder:
    """Writes Events; the same thing said again counts up the first one, as the official recorder does."""

    def __init__(self, client: KubeClient, component: str, host: str = "") -> None:
        self._client = client
        self._component = component
        self._host = host
        self._told: dict[tuple[str, ...], tuple[str, str, int]] = {}

    async def record(self, about: JsonObject, reason: str, message: str, *, kind: str = "Normal") -> None:
        """Record one Event about an `ObjectReference`. A server that refuses it is logged, no more."""
        now = datetime.now(UTC)
        key = similarity(about, reason, message)
        try:
            if key in self._told:
                namespace, name, count = self._told[key]
                self._told[key] = (namespace, name, count + 1)
                path = path_of("v1", "events", namespace=namespace, name=name)
                try:
                    await self._client.patch(path, {"count": count + 1, "lastTimestamp": format_time(now)})
                except NotFoundError:
                    del self._told[key]  # It was deleted meanwhile; the next one is new again.
                return
            body = event_body(
                about,
                kind=kind,
                reason=reason,
                message=message,
                component=self._component,
                host=self._host,
                now=now,
            )
            meta = body["metadata"]
            self._told[key] = (meta["namespace"], meta["name"], 1)
            if len(self._told) > _MAX_REMEMBERED_EVENTS:
                del self._told[next(iter(self._told))]
            await self._client.create(path_of("v1", "events", namespace=meta["namespace"]), body)
        except KubernetesError as error:
            _LOG.info("event %s of %s/%s not recorded: %s", reason, about["kind"], about["name"], error.message)
