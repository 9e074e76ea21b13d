"""Reading stored objects: in the right API version, selected, in pages, and as bytes that are made once.

Owns continue tokens and the checks of resourceVersion in lists. Watches are in `watching.py`.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any, Final

from sandbox.kube.decoding import fill_custom
from sandbox.kube.errors import bad_request, expired, not_found, timeout
from sandbox.kube.options import ListOptions, revision_of
from sandbox.kube.resources import Resource
from sandbox.kube.store import Store, Stored

JsonObject = dict[str, Any]

_CONTINUATIONS: Final = 512
"""Lists that are read in chunks at one time; older ones expire."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about: an object, or one of its subresources."""

    resource: Resource
    namespace: str
    name: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a list request."""

    items: list[Stored]
    revision: int
    continue_token: str = ""
    remaining: int | None = None


def encode_json(value: Any) -> bytes:
    """A JSON text as it goes over the wire."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Reader:
    """Reads objects from a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pages: dict[str, tuple[list[Stored], int, int]] = {}

    def present(self, resource: Resource, stored: Stored) -> JsonObject:
        """A stored object as `resource` (its API version, with its schema's defaults) shows it."""
        if stored.memo.get("writer") is resource:
            return stored.value

        def make() -> JsonObject:
            value = resource.presents(stored.value)
            if resource.custom:
                if value["apiVersion"] != resource.api_version:
                    value = {**value, "apiVersion": resource.api_version}
                value = fill_custom(value, resource)
            return value

        value: JsonObject = stored.once((resource, "value"), make)
        return value

    def encoded(self, resource: Resource, stored: Stored) -> bytes:
        """The JSON text of `present`, made once per version of an object."""
        text: bytes = stored.once((resource, "json"), lambda: encode_json(self.present(resource, stored)))
        return text

    def find(self, resource: Resource, namespace: str, name: str) -> Stored | None:
        """The object, if it is there."""
        return self.store.get(resource.storage, (namespace if resource.namespaced else "", name))

    def get(self, resource: Resource, namespace: str, name: str) -> Stored:
        """The object.

        Raises:
            ApiError: 404.
        """
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource.group, resource.plural, name)
        return found

    def matches(self, resource: Resource, stored: Stored, options: ListOptions) -> bool:
        """Whether the selectors of a list or watch select an object."""
        if not options.labels.matches(stored.value["metadata"].get("labels")):
            return False
        if options.fields.everything:
            return True
        value = self.present(resource, stored)
        return options.fields.matches(lambda path: resource.field_text(value, path))

    def select(self, resource: Resource, namespace: str, options: ListOptions) -> Page:
        """The objects that are selected, at most `limit` at a time.

        Raises:
            ApiError: 410 for a continue token that is too old, 504 for a resourceVersion that is not there yet, 400 for
                parameters that do not go together.
        """
        if options.continue_token:
            if options.resource_version not in {"", "0"}:
                raise bad_request("specifying resource version is not allowed when using continue")
            items, revision, offset = self._continued(options.continue_token)
        else:
            revision = self.store.revision
            wanted = revision_of(options.resource_version)
            if wanted > revision:
                raise timeout(
                    f"Too large resource version: {wanted}, current: {revision}",
                    causes=[{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                )
            if options.version_match == "Exact" and wanted != revision:
                raise expired(f"The provided resource version is too old: {wanted}")
            items, offset = self._selected(resource, namespace, options), 0
        if not options.limit or len(items) - offset <= options.limit:
            return Page(items[offset:], revision)
        end = offset + options.limit
        token = uuid.uuid4().hex
        self._pages[token] = (items, revision, end)
        while len(self._pages) > _CONTINUATIONS:
            del self._pages[next(iter(self._pages))]
        # With a selector the real server does not know how many remain.
        remaining = len(items) - end if options.everything else None
        return Page(items[offset:end], revision, token, remaining)

    def _selected(self, resource: Resource, namespace: str, options: ListOptions) -> list[Stored]:
        name = options.fields.required_value("metadata.name")
        if name is not None and (namespace or not resource.namespaced):
            found = self.find(resource, namespace, name)
            items = [found] if found is not None else []
        else:
            items = self.store.list(resource.storage, namespace)
        return items if options.everything else [item for item in items if self.matches(resource, item, options)]

    def _continued(self, token: str) -> tuple[list[Stored], int, int]:
        found = self._pages.get(token)
        if found is None:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter, or use the continue token in this response to retrieve the "
                "remainder of the results. Continuing with the provided token results in an inconsistent list - "
                "objects that were created, modified, or deleted between the time the first chunk was returned and "
                "now may show up in the list."
            )
        return found
