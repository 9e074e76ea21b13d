"""API groups that other servers serve: APIService objects, as the aggregation layer of a real API server treats them.

Owns the choice of the server, its availability, and the front proxy's identity: requests go on over TLS with a client
certificate of an authority of their own, and with headers that name who asks. Servers find that authority in the
ConfigMap `kube-system/extension-apiserver-authentication`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from base64 import b64decode
from dataclasses import dataclass
from typing import Any, Final

import trustme
from aiohttp import web
from multidict import CIMultiDict

from sandbox.kube.api import Api, PatchType
from sandbox.kube.auth import Identity
from sandbox.kube.controllers.base import with_condition
from sandbox.kube.errors import ApiError
from sandbox.kube.proxy import Proxy, service_url
from sandbox.kube.reading import Target
from sandbox.kube.resources import Resource

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)
_SERVICES: Final = ("apiregistration.k8s.io", "apiservices")
_PROXY_NAME: Final = "front-proxy-client"
_CHECK_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 5.0
_OURS: Final = ("authorization", "x-remote-", "impersonate-")
"""Headers with which nobody but the front proxy may name a user."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A server of one group and version."""

    group: str
    version: str
    namespace: str
    service: str
    port: int
    authority: str
    """`caBundle`; empty: not verified."""

    @classmethod
    def of(cls, api_service: JsonObject) -> Backend | None:
        """From an APIService; `None` for one that the API server itself serves."""
        spec = api_service["spec"]
        target = spec.get("service")
        if not target:
            return None
        return cls(
            spec["group"],
            spec["version"],
            target["namespace"],
            target["name"],
            target.get("port", 443),
            spec.get("caBundle") or "",
        )


class Aggregator:
    """Passes requests on to the servers behind APIServices. Start it, and close it with `aclose`."""

    def __init__(self, api: Api, proxy: Proxy) -> None:
        self._api = api
        self._proxy = proxy
        self._authority = trustme.CA(organization_name="sandbox front proxy")
        self._client = self._authority.issue_cert(_PROXY_NAME, common_name=_PROXY_NAME)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._resources: dict[tuple[str, str], list[JsonObject]] = {}
        """What available servers say that they serve."""
        self._task: asyncio.Task[None] | None = None

    def authentication(self) -> JsonObject:
        """The ConfigMap that tells servers whom to believe."""
        return {
            "metadata": {"name": "extension-apiserver-authentication"},
            "data": {
                "requestheader-client-ca-file": self._authority.cert_pem.bytes().decode(),
                "requestheader-allowed-names": json.dumps([_PROXY_NAME]),
                "requestheader-username-headers": json.dumps(["X-Remote-User"]),
                "requestheader-group-headers": json.dumps(["X-Remote-Group"]),
                "requestheader-extra-headers-prefix": json.dumps(["X-Remote-Extra-"]),
            },
        }

    def start(self) -> None:
        """Begin to look after APIServices."""
        self._task = asyncio.create_task(self._watch(), name="aggregator")

    async def aclose(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def groups(self) -> dict[str, list[str]]:
        """Groups of other servers that are available, with their versions."""
        found: dict[str, list[str]] = {}
        for group, version in self._resources:
            found.setdefault(group, []).append(version)
        return found

    def resources(self, group: str, version: str) -> list[JsonObject]:
        """Entries of an `APIResourceList`."""
        return self._resources.get((group, version), [])

    def backend(self, path: str) -> Backend | None:
        """Who serves a path."""
        parts = [part for part in path.split("/") if part]
        if len(parts) < 3 or parts[0] != "apis":
            return None
        stored = self._api.store.get(_SERVICES, ("", f"{parts[2]}.{parts[1]}"))
        return Backend.of(stored.value) if stored is not None else None

    async def forward(self, request: web.BaseRequest, backend: Backend, identity: Identity) -> web.StreamResponse:
        """Pass a request on in somebody's name.

        Raises:
            ApiError: 503, the server cannot be reached.
        """
        try:
            base = service_url(self._api.store, backend.namespace, f"https:{backend.service}:{backend.port}")
        except ApiError as error:
            raise ApiError(503, "ServiceUnavailable", error.message, {}) from error
        headers: CIMultiDict[str] = CIMultiDict(
            (name, value) for name, value in request.headers.items() if not name.lower().startswith(_OURS)
        )
        headers["X-Remote-User"] = identity.user
        for group in identity.groups:
            headers.add("X-Remote-Group", group)
        for name, values in identity.extra.items():
            for value in values:
                headers.add(f"X-Remote-Extra-{name}", value)
        name = f"{backend.service}.{backend.namespace}.svc"
        return await self._proxy.forward(
            request, base + request.path, headers=headers, context=self._context(backend.authority), server_name=name
        )

    def _context(self, authority: str) -> ssl.SSLContext:
        context = self._contexts.get(authority)
        if context is None:
            if authority:
                context = ssl.create_default_context(cadata=b64decode(authority).decode())
            else:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._client.configure_cert(context)
            self._contexts[authority] = context
        return context

    # --- Availability -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            stored = [item.value for item in self._api.store.list(_SERVICES)]
            await asyncio.gather(*(self._check(item) for item in stored))
            known = {(item["spec"]["group"], item["spec"]["version"]) for item in stored}
            for gone in self._resources.keys() - known:
                del self._resources[gone]
            await asyncio.sleep(_CHECK_SECONDS)

    async def _check(self, api_service: JsonObject) -> None:
        backend = Backend.of(api_service)
        if backend is None:
            self._tell(api_service, available=True, reason="Local", message="Local APIServices are always available")
            return
        key = (backend.group, backend.version)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                found = await self._discover(backend)
        except (ApiError, TimeoutError, ValueError) as error:
            self._resources.pop(key, None)
            reason = error.message if isinstance(error, ApiError) else str(error) or "timed out"
            message = f"failing or missing response from {backend.service}/{backend.namespace}: {reason}"
            self._tell(api_service, available=False, reason="FailedDiscoveryCheck", message=message)
        else:
            self._resources[key] = found
            self._tell(api_service, available=True, reason="Passed", message="all checks passed")

    async def _discover(self, backend: Backend) -> list[JsonObject]:
        base = service_url(self._api.store, backend.namespace, f"https:{backend.service}:{backend.port}")
        headers = {"X-Remote-User": "system:kube-aggregator", "X-Remote-Group": "system:masters"}
        status, body = await self._proxy.fetch(
            f"{base}/apis/{backend.group}/{backend.version}",
            headers=headers,
            context=self._context(backend.authority),
            server_name=f"{backend.service}.{backend.namespace}.svc",
        )
        if status != 200:
            raise ApiError(status, "", f"bad status from {base}: {status}", {})
        resources: list[JsonObject] = json.loads(body)["resources"]
        return resources

    def _tell(self, api_service: JsonObject, *, available: bool, reason: str, message: str) -> None:
        former = (api_service.get("status") or {}).get("conditions") or []
        conditions = with_condition(
            former,
            "Available",
            status=available,
            reason=reason,
            message=message,
            now=self._api.now(),
            update_time=False,
        )
        if conditions == former:
            return
        resource = self._resource()
        target = Target(resource, "", api_service["metadata"]["name"], "status")
        # It may be gone by now, which is no news to anybody.
        with contextlib.suppress(ApiError):
            patch = {"status": {"conditions": conditions}}
            self._api.patch(target, PatchType.MERGE, patch, self._api.system("kube-apiserver"))
        _LOG.info("%s: %s", api_service["metadata"]["name"], message)

    def _resource(self) -> Resource:
        found = self._api.catalog.by_kind("apiregistration.k8s.io/v1", "APIService")
        assert found is not None
        return found
