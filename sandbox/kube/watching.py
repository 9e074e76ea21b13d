"""Watches: the stream of events of one request.

Owns what a watcher sees (selectors, the initial state, bookmarks, the end of history) and its encoding, which is shared
by all watchers of one event. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from sandbox.kube.api import Api
from sandbox.kube.errors import ApiError, FieldError, FieldErrorType, bad_request, expired, invalid, timeout
from sandbox.kube.options import ListOptions, revision_of
from sandbox.kube.reading import encode_json
from sandbox.kube.resources import Resource
from sandbox.kube.store import Cursor, Event, EventType, ExpiredError, Stored

Render = Callable[[Stored], bytes]


@dataclass(frozen=True, slots=True)
class Form:
    """How a watcher wants its objects. Equal forms share their encoded events."""

    key: str
    render: Render


def _line(kind: str, body: bytes) -> bytes:
    return b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"


def bookmark(resource: Resource, revision: int, *, initial_end: bool = False) -> bytes:
    """An event that only says how far the watch has come."""
    meta: dict[str, object] = {"resourceVersion": str(revision), "creationTimestamp": None}
    if initial_end:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    body = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
    return _line("BOOKMARK", encode_json(body))


def error_event(error: ApiError) -> bytes:
    """The last event of a watch that cannot go on."""
    return _line("ERROR", encode_json(error.status()))


def too_old(wanted: int, oldest: int) -> ApiError:
    """410: the history does not reach back to `wanted`."""
    return expired(f"too old resource version: {wanted} ({oldest})")


class Watch:
    """One watch. `check` first, which may refuse; then iterate over `stream`."""

    def __init__(self, api: Api, resource: Resource, namespace: str, options: ListOptions, form: Form) -> None:
        self._api = api
        self._resource = resource
        self._namespace = namespace if resource.namespaced else ""
        self._options = options
        self._form = form

    def check(self) -> None:
        """Refuse parameters that do not go together.

        Raises:
            ApiError: 400, 422 or 504.
        """
        options = self._options
        if options.send_initial_events and options.version_match != "NotOlderThan":
            detail = "resourceVersionMatch must be set to NotOlderThan when sendInitialEvents is set"
            error = FieldError(FieldErrorType.FORBIDDEN, "resourceVersionMatch", "", detail)
            raise invalid("meta.k8s.io", "ListOptions", "", [error])
        if options.version_match and not options.send_initial_events:
            error = FieldError(
                FieldErrorType.FORBIDDEN,
                "resourceVersionMatch",
                "",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )
            raise invalid("meta.k8s.io", "ListOptions", "", [error])
        wanted = revision_of(options.resource_version)
        current = self._api.store.revision
        if wanted > current:
            raise timeout(
                f"Too large resource version: {wanted}, current: {current}",
                causes=[{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            )
        if options.timeout_seconds is not None and options.timeout_seconds < 0:
            raise bad_request(f"timeoutSeconds: {options.timeout_seconds} is negative")

    async def stream(self, *, seconds: float, bookmark_every: float) -> AsyncIterator[bytes]:
        """Lines of events, several in one piece where they come together, for `seconds` at most."""
        store, options = self._api.store, self._options
        wanted = revision_of(options.resource_version)
        fresh = options.resource_version in {"", "0"} or options.send_initial_events
        try:
            cursor = store.cursor(self._resource.storage, None if fresh else wanted)
        except ExpiredError as error:
            yield error_event(too_old(wanted, error.oldest))
            return
        if fresh:
            yield self._initial()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        next_bookmark = loop.time() + bookmark_every
        while True:
            try:
                lines = self._read(cursor)
            except ExpiredError as error:
                yield error_event(too_old(wanted, error.oldest))
                return
            if lines:
                yield lines
            now = loop.time()
            if now >= end:
                if options.bookmarks:
                    yield bookmark(self._resource, store.revision)
                return
            if options.bookmarks and now >= next_bookmark:
                yield bookmark(self._resource, store.revision)
                next_bookmark = now + bookmark_every
            catalogued = self._api.catalog.find(self._resource.group, self._resource.version, self._resource.plural)
            if catalogued is None:
                return  # The resource is no longer served.
            await cursor.wait(max(min(end, next_bookmark) - now, 0) if options.bookmarks else max(end - now, 0))

    def _initial(self) -> bytes:
        options, resource = self._options, self._resource
        items = self._api.store.list(resource.storage, self._namespace)
        lines = [self._shared("ADDED", item) for item in items if self._api.matches(resource, item, options)]
        if options.send_initial_events and options.bookmarks:
            lines.append(bookmark(resource, self._api.store.revision, initial_end=True))
        return b"".join(lines)

    def _read(self, cursor: Cursor) -> bytes:
        return b"".join(line for event in cursor.read() if (line := self._event(event)) is not None)

    def _selected(self, stored: Stored | None) -> bool:
        if stored is None or (self._namespace and stored.key[0] != self._namespace):
            return False
        return self._options.everything or self._api.matches(self._resource, stored, self._options)

    def _event(self, event: Event) -> bytes | None:
        before = self._selected(event.previous)
        if event.type is EventType.DELETED:
            return self._shared("DELETED", event.stored) if before else None
        after = self._selected(event.stored)
        if after:
            return self._shared("MODIFIED" if before else "ADDED", event.stored)
        if not before:
            return None
        # The object goes out of sight: the watcher gets it as it last saw it, under the new version.
        assert event.previous is not None
        meta = {**event.previous.value["metadata"], "resourceVersion": str(event.stored.revision)}
        gone = Stored({**event.previous.value, "metadata": meta}, event.stored.revision)
        if event.previous.memo.get("writer") is self._resource:
            gone.memo["writer"] = self._resource
        return _line("DELETED", self._form.render(gone))

    def _shared(self, kind: str, stored: Stored) -> bytes:
        line: bytes = stored.once(
            (self._resource, self._form.key, kind), lambda: _line(kind, self._form.render(stored))
        )
        return line
