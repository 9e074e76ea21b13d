"""A small client of the Kubernetes API for plain JSON objects, used by every part of ours that talks to one.

Owns the transport (the official client, `kubernetes.aio`), the conversion of its errors into four kinds, and lists and
watches. Must not know our resources.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.config import load_incluster_config, load_kube_config

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]
"""A Kubernetes object as JSON."""

PAGE = 500
"""Objects asked for at a time."""
_CONNECT_SECONDS = 5
_REQUEST_SECONDS = 30
_WATCH_SECONDS = 300
"""The server is asked to end a watch after this, so that a connection that died in silence does not last for ever."""
_WATCH_SILENCE_SECONDS = 90
"""Servers send a bookmark about once a minute; a watch that is silent for longer is taken for dead."""
_OK = dict.fromkeys((200, 201, 202), "object")


class KubernetesError(Exception):
    """Base of what a request can end with. `message` is the server's sentence."""

    def __init__(self, message: str, *, status: int = 0, details: Object | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.details = details or {}


class UnavailableError(KubernetesError):
    """The server cannot be reached, is overloaded or failed: try again later."""


class NotFoundError(KubernetesError):
    """The object (or its kind) does not exist: nothing to try again."""


class ConflictError(KubernetesError):
    """The object changed meanwhile, or exists already: read it again, then decide again."""


class RejectedError(KubernetesError):
    """The server refuses this request for what it says: trying the same again is of no use."""


class PatchKind(StrEnum):
    """Media types of patches."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    APPLY = "application/apply-patch+yaml"


class ChangeKind(StrEnum):
    """What a watch tells."""

    LISTED = "LISTED"
    """All objects that exist now: whatever was known before and is not among them is gone."""
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Change:
    """One event of `KubeClient.follow`."""

    kind: ChangeKind
    objects: list[Object]


def path_of(
    api_version: str,
    plural: str,
    *,
    namespace: str | None = None,
    name: str | None = None,
    subresource: str | None = None,
) -> str:
    """The URL path of a collection or an object: `path_of("v1", "pods", namespace="a", name="b")`."""
    root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
    parts = [root, *(["namespaces", namespace] if namespace else []), plural, name or "", subresource or ""]
    return "/".join(part for part in parts if part)


class KubeClient:
    """A connection to an API server. Make it with `connect`, close it with `aclose`."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    @classmethod
    async def connect(cls) -> Self:
        """Connect as kubectl or a pod would: `KUBECONFIG`, else the pod's service account, else `~/.kube/config`.

        Raises:
            kubernetes.config.ConfigException: None of these is usable.
        """
        configuration = Configuration()
        in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
        if in_cluster:
            load_incluster_config(client_configuration=configuration)
        else:
            await load_kube_config(client_configuration=configuration)
        return cls(ApiClient(configuration))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._api.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:
        """One request; the answer's JSON.

        Raises:
            KubernetesError: One of its four kinds.
        """
        with _converted():
            return await self._api.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
                response_types_map=_OK,
                _return_http_data_only=True,
                _request_timeout=(_CONNECT_SECONDS, _REQUEST_SECONDS),
            )

    async def get(self, path: str, **query: Any) -> Object:
        """Read one object."""
        result: Object = await self.request("GET", path, query=query)
        return result

    async def list(self, path: str, **query: Any) -> tuple[list[Object], str]:
        """Read a whole collection, page by page, and the resourceVersion to watch it from."""
        objects: list[Object] = []
        token = ""
        while True:
            page = await self.get(path, limit=PAGE, **({"continue": token} if token else {}), **query)
            objects += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return objects, page["metadata"]["resourceVersion"]

    async def create(self, path: str, body: Object) -> Object:
        """Create an object; `path` is the collection's."""
        result: Object = await self.request("POST", path, body=body)
        return result

    async def replace(self, path: str, body: Object) -> Object:
        """Replace an object; its resourceVersion, when given, must be the current one."""
        result: Object = await self.request("PUT", path, body=body)
        return result

    async def patch(self, path: str, body: Any, kind: PatchKind = PatchKind.MERGE, **query: Any) -> Object:
        """Change an object. A merge patch that holds `metadata.resourceVersion` fails when that is not current."""
        result: Object = await self.request("PATCH", path, query=query, body=body, content_type=kind)
        return result

    async def apply(self, path: str, body: Object, *, manager: str) -> Object:
        """Create or change an object by server-side apply, taking over fields from other managers."""
        return await self.patch(path, body, PatchKind.APPLY, fieldManager=manager, force="true")

    async def delete(self, path: str, *, uid: str | None = None, grace_seconds: int | None = None) -> Object:
        """Delete an object; with `uid` only that very one."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        result: Object = await self.request("DELETE", path, body=options)
        return result

    async def follow(self, path: str, **query: Any) -> AsyncIterator[Change]:
        """List a collection, then yield its changes; lists anew when the server no longer knows where we were.

        The iterator ends only by the caller's will; after a failure it raises, and may be started again.

        Raises:
            KubernetesError: The server failed or refused.
        """
        while True:
            objects, version = await self.list(path, **query)
            yield Change(ChangeKind.LISTED, objects)
            try:
                while True:
                    async for kind, item in self._watch(path, version, query):
                        version = item["metadata"]["resourceVersion"]
                        if kind != "BOOKMARK":
                            yield Change(ChangeKind(kind), [item])
            except _ExpiredError:
                continue

    async def _watch(self, path: str, version: str, query: Mapping[str, Any]) -> AsyncIterator[tuple[str, Object]]:
        parameters = {
            **query,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _WATCH_SECONDS,
        }
        async with self.stream(path, parameters, silence=_WATCH_SILENCE_SECONDS) as response:
            with _converted():
                async for line in _lines(response):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        status = event["object"]
                        if status.get("code") == 410:
                            raise _ExpiredError
                        raise _error_of(status.get("code", 500), status)
                    yield event["type"], event["object"]

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, Any], *, silence: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a response that is read while it arrives; it fails after `silence` seconds without a byte."""
        timeout = aiohttp.ClientTimeout(sock_connect=_CONNECT_SECONDS, sock_read=silence)
        with _converted():
            response: aiohttp.ClientResponse = await self._api.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=timeout,
            )
        try:
            if response.status >= 400:
                body = await response.json(content_type=None)
                if response.status == 410:
                    raise _ExpiredError
                raise _error_of(response.status, body)
            yield response
        finally:
            response.close()


class _ExpiredError(Exception):
    """The server no longer has the changes since our resourceVersion."""


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The lines of a response; aiohttp's own iterator refuses lines longer than its buffer."""
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


@contextmanager
def _converted() -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        try:
            status = json.loads(error.body) if error.body else {}
        except ValueError:
            status = {"message": str(error.body)}
        raise _error_of(error.status or 0, status if isinstance(status, dict) else {}) from None
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise UnavailableError(f"Kubernetes API: {str(error) or type(error).__name__}") from error


def _error_of(code: int, status: Object) -> KubernetesError:
    message = status.get("message") or f"HTTP status {code}"
    details = status.get("details") or {}
    if code == 404:
        return NotFoundError(message, status=code, details=details)
    if code == 409:
        return ConflictError(message, status=code, details=details)
    if code in (0, 408, 429) or code >= 500:
        return UnavailableError(message, status=code, details=details)
    return RejectedError(message, status=code, details=details)


def own_namespace(default: str = "default") -> str:
    """The namespace of the pod that this runs in, or `default` outside a cluster."""
    path = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return path.read_text().strip() if path.exists() else default
