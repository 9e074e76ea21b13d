"""Requests that the API server passes on: logs to the kubelet of a pod's node, and HTTP to pods and services.

Owns the choice of the address. Kubelets and pods are reached on loopback, and their certificates are not verified, as a
real API server does without `--kubelet-certificate-authority`.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from sandbox.kube.errors import ApiError, bad_request, not_found
from sandbox.kube.goformat import go_quote
from sandbox.kube.resources import StorageKey
from sandbox.kube.store import Store

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)

_PODS: Final = ("", "pods")
_NODES: Final = ("", "nodes")
_SERVICES: Final = ("", "services")
_ENDPOINTS: Final = ("", "endpoints")
_LOG_PARAMETERS: Final = ("follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes")
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "authorization"}
    | {"content-length", "content-encoding"}
)


def _require(store: Store, storage: StorageKey, namespace: str, name: str) -> JsonObject:
    found = store.get(storage, (namespace, name))
    if found is None:
        raise not_found(storage[0], storage[1], name)
    return found.value


def log_url(store: Store, namespace: str, name: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The kubelet's URL for a container's log, with its parameters.

    Raises:
        ApiError: 404, or 400 where it is not clear which container is meant or the pod has no node yet.
    """
    pod = _require(store, _PODS, namespace, name)
    spec = pod["spec"]
    container = query.get("container", "")
    main = [item["name"] for item in spec.get("containers") or []]
    init = [item["name"] for item in spec.get("initContainers") or []]
    if not container:
        if len(main) != 1:
            choice = f"choose one of: [{' '.join(main)}]"
            if init:
                choice += f" or one of the init containers: [{' '.join(init)}]"
            raise bad_request(f"a container name must be specified for pod {name}, {choice}")
        container = main[0]
    elif container not in {*main, *init}:
        raise bad_request(f"container {container} is not valid for pod {name}")
    node_name = spec.get("nodeName")
    if not node_name:
        raise bad_request(f"pod {name} does not have a host assigned")
    base = node_url(store, node_name)
    parameters = {key: query[key] for key in _LOG_PARAMETERS if query.get(key)}
    return f"{base}/containerLogs/{namespace}/{name}/{container}", parameters


def node_url(store: Store, name: str) -> str:
    """The base URL of a node's kubelet.

    Raises:
        ApiError: 404, or 500 where the node has told no address.
    """
    status = _require(store, _NODES, "", name).get("status") or {}
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port")
    address = next((item["address"] for item in status.get("addresses") or [] if item["type"] == "InternalIP"), None)
    if not port or not address:
        raise ApiError(500, "InternalError", f"node {go_quote(name)} has no kubelet address")
    return f"https://{address}:{port}"


def _split(name: str) -> tuple[str, str, str]:
    """Scheme, name and port of `[scheme:]name[:port]`."""
    parts = name.split(":")
    if len(parts) == 3:
        return parts[0] or "http", parts[1], parts[2]
    return "http", parts[0], parts[1] if len(parts) > 1 else ""


def pod_url(store: Store, namespace: str, name: str) -> str:
    """The base URL for `pods/{[scheme:]name[:port]}/proxy`.

    Raises:
        ApiError: 404, or 400 for a pod without an address.
    """
    scheme, bare, port = _split(name)
    pod = _require(store, _PODS, namespace, bare)
    address = (pod.get("status") or {}).get("podIP")
    if not address:
        raise bad_request("address not allowed")
    if not port:
        ports = [item for c in pod["spec"]["containers"] for item in c.get("ports") or []]
        port = str(ports[0]["containerPort"]) if ports else "80"
    return f"{scheme}://{address}:{port}"


def service_url(store: Store, namespace: str, name: str) -> str:
    """The base URL for `services/{[scheme:]name[:port]}/proxy`: one of the service's ready endpoints.

    Raises:
        ApiError: 404, or 503 where no endpoint is ready.
    """
    scheme, bare, wanted = _split(name)
    service = _require(store, _SERVICES, namespace, bare)
    spec = service["spec"]
    ports = spec.get("ports") or []
    port = next((p for p in ports if not wanted or wanted in {p.get("name"), str(p["port"])}), None)
    if port is None:
        raise ApiError(
            503, "ServiceUnavailable", f"no service port {go_quote(wanted)} found for service {go_quote(bare)}"
        )
    if spec.get("type") == "ExternalName":
        return f"{scheme}://{spec['externalName']}:{port['port']}"
    found = store.get(_ENDPOINTS, (namespace, bare))
    for subset in (found.value.get("subsets") or []) if found is not None else []:
        numbers = [item["port"] for item in subset.get("ports") or [] if item.get("name") == port.get("name")]
        for address in subset.get("addresses") or []:
            for number in numbers:
                return f"{scheme}://{address['ip']}:{number}"
    raise ApiError(503, "ServiceUnavailable", f"no endpoints available for service {go_quote(bare)}")


class Proxy:
    """Passes requests on and streams the answers back. Close it with `aclose`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
            connector = aiohttp.TCPConnector(ssl=False, limit=0)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        return self._session

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def forward(
        self,
        request: web.BaseRequest,
        url: str,
        *,
        parameters: Mapping[str, str] | None = None,
        headers: CIMultiDict[str] | None = None,
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> web.StreamResponse:
        """Pass `request` on to `url`; without `parameters` its whole query goes along.

        With them it is a request to a kubelet, whose errors become a `Status` as clients expect it.

        Args:
            request: What was asked of us.
            url: Where to.
            parameters: The query.
            headers: In place of the request's own.
            context: How to prove who we are and who is there; not at all by default.
            server_name: The name that the server's certificate has to bear.

        Raises:
            ApiError: 503, nobody answers there; 400 and so on, the kubelet refuses.
        """
        given = headers if headers is not None else request.headers
        headers = CIMultiDict((name, value) for name, value in given.items() if name.lower() not in _HOP_BY_HOP)
        try:
            upstream = await self._client().request(
                request.method,
                url,
                params=parameters if parameters is not None else request.query,
                headers=headers,
                data=await request.read() if request.can_read_body else None,
                allow_redirects=False,
                ssl=context if context is not None else False,
                server_hostname=server_name,
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(503, "ServiceUnavailable", f"error trying to reach service: {error}") from error
        async with upstream:
            if parameters is not None and upstream.status >= 400:
                raise _kubelet_error(upstream.status, await upstream.text())
            return await _stream(request, upstream)

    async def fetch(
        self, url: str, *, headers: Mapping[str, str], context: ssl.SSLContext, server_name: str
    ) -> tuple[int, bytes]:
        """Status and body of a small document.

        Raises:
            ApiError: 503, nobody answers there.
        """
        try:
            async with self._client().get(
                url, headers=headers, ssl=context, server_hostname=server_name, allow_redirects=False
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(503, "ServiceUnavailable", f"error trying to reach service: {error}", {}) from error


def _kubelet_error(status: int, text: str) -> ApiError:
    if status == 400:
        return bad_request(text)
    reason = {404: "NotFound", 500: "InternalError"}.get(status, "")
    return ApiError(status, reason, f"the server could not answer: {text.strip()}", {})


async def _stream(request: web.BaseRequest, upstream: aiohttp.ClientResponse) -> web.StreamResponse:
    headers = CIMultiDict((name, value) for name, value in upstream.headers.items() if name.lower() not in _HOP_BY_HOP)
    response = web.StreamResponse(status=upstream.status, headers=headers)
    await response.prepare(request)
    try:
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
    except aiohttp.ClientError as error:
        # The answer has begun, so all that can be told is that it ends here.
        _LOG.info("an answer broke off: %s", error)
        return response
    await response.write_eof()
    return response
