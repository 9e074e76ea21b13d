"""metrics.k8s.io for a sandbox: what nodes say that their pods use, as `kubectl top` and autoscalers read it.

Owns the APIService object and a small server behind it. A client of the API, so that it serves the stand-in and a real
API server alike. Like the kubelets that it asks, it listens on loopback and does not look at who asks.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Self

import aiohttp
import trustme
from aiohttp import web

from kubeclient import KubeClient, KubernetesError, PatchKind, path_of
from sandbox.kube.formats import format_time
from sandbox.kube.quantity import format_decimal
from sandbox.kube.selectors import EVERYTHING, parse_label_selector

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)
_GROUP: Final = "metrics.k8s.io"
_VERSION: Final = "v1beta1"
_NAME: Final = "metrics-server"
_NAMESPACE: Final = "kube-system"
_HOST: Final = "127.0.0.1"
_ASK_SECONDS: Final = 5.0
_ROOT: Final = f"/apis/{_GROUP}/{_VERSION}"


@dataclass(frozen=True, slots=True)
class _Sample:
    """What a container had used at a time."""

    time: datetime
    started: str
    cpu: int
    """Nanoseconds of processor time so far."""
    memory: int
    """Bytes."""


_Pod = tuple[str, str]
_Samples = dict[_Pod, dict[str, _Sample]]


class MetricsServer:
    """Serves resource metrics. Use it as an async context manager, or call `start` and `aclose`."""

    def __init__(self, client: KubeClient, *, period: float = 15.0) -> None:
        """Prepare a server that asks the nodes every `period` seconds."""
        self._client = client
        self._period = period
        self._before: _Samples = {}
        self._now: _Samples = {}
        self._nodes: dict[_Pod, str] = {}
        self._labels: dict[_Pod, Mapping[str, str]] = {}
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, and tell the API server.

        Raises:
            KubernetesError: The API server refuses.
        """
        app = web.Application()
        app.router.add_get(_ROOT, _resources)
        app.router.add_get(f"{_ROOT}/nodes", self._all_nodes)
        app.router.add_get(f"{_ROOT}/nodes/{{name}}", self._node)
        app.router.add_get(f"{_ROOT}/pods", self._pods)
        app.router.add_get(f"{_ROOT}/namespaces/{{namespace}}/pods", self._pods)
        app.router.add_get(f"{_ROOT}/namespaces/{{namespace}}/pods/{{name}}", self._pod)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        authority = trustme.CA(organization_name="sandbox metrics")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(f"{_NAME}.{_NAMESPACE}.svc").configure_cert(context)
        await web.TCPSite(self._runner, _HOST, 0, ssl_context=context).start()
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=False), timeout=aiohttp.ClientTimeout(total=_ASK_SECONDS)
        )
        await self._register(self._runner.addresses[0][1], authority.cert_pem.bytes())
        self._task = asyncio.create_task(self._run(), name="metrics server")

    async def aclose(self) -> None:
        """Stop; the API server finds out by itself."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._http is not None:
            await self._http.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _register(self, port: int, authority: bytes) -> None:
        await publish(self._client, _NAMESPACE, _NAME, port)
        api_service = {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{_VERSION}.{_GROUP}"},
            "spec": {
                "group": _GROUP,
                "version": _VERSION,
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": b64encode(authority).decode(),
                "service": {"namespace": _NAMESPACE, "name": _NAME, "port": port},
            },
        }
        path = path_of("apiregistration.k8s.io/v1", "apiservices", name=f"{_VERSION}.{_GROUP}")
        await self._client.patch(path, api_service, PatchKind.APPLY, fieldManager="sandbox", force="true")

    # --- Asking -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._ask()
            except KubernetesError as error:
                _LOG.info("nodes not asked: %s", error.message)
            await asyncio.sleep(self._period)

    async def _ask(self) -> None:
        nodes, _ = await self._client.list(path_of("v1", "nodes"))
        pods, _ = await self._client.list(path_of("v1", "pods"))
        found: _Samples = {}
        owners: dict[_Pod, str] = {}
        for node, summary in zip(nodes, await asyncio.gather(*map(self._summary, nodes)), strict=True):
            for pod in summary.get("pods", []):
                key = (pod["podRef"]["namespace"], pod["podRef"]["name"])
                owners[key] = node["metadata"]["name"]
                found[key] = {item["name"]: _sample(item) for item in pod["containers"]}
        self._before, self._now, self._nodes = self._now, found, owners
        self._labels = {
            (pod["metadata"]["namespace"], pod["metadata"]["name"]): pod["metadata"].get("labels") or {} for pod in pods
        }

    async def _summary(self, node: JsonObject) -> JsonObject:
        status = node.get("status") or {}
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port")
        address = next((item["address"] for item in status.get("addresses") or [] if item["type"] == "InternalIP"), "")
        if not port or not address:
            return {}
        assert self._http is not None
        try:
            async with self._http.get(f"https://{address}:{port}/stats/summary") as response:
                summary: JsonObject = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            _LOG.info("node %s does not answer: %s", node["metadata"]["name"], error)
            return {}
        return summary

    # --- Answers ------------------------------------------------------------------------------------------------------

    def _measured(self, key: _Pod) -> JsonObject | None:
        """The PodMetrics of a pod that was seen twice; its use of processors is known from then on."""
        containers, window, time = [], 0.0, datetime.now(UTC)
        for name, now in self._now.get(key, {}).items():
            before = self._before.get(key, {}).get(name)
            if before is None or before.started != now.started:
                continue
            window, time = max((now.time - before.time).total_seconds(), 0.001), now.time
            cores = Decimal(max(now.cpu - before.cpu, 0)) / 10**9 / Decimal(window)
            containers.append(
                {
                    "name": name,
                    "usage": {"cpu": f"{int(cores * 10**9)}n", "memory": f"{now.memory // 1024}Ki"},
                }
            )
        if not containers:
            return None
        return {
            "metadata": {"name": key[1], "namespace": key[0], "labels": dict(self._labels.get(key, {}))},
            "timestamp": format_time(time),
            "window": f"{max(window, 0.001):.3f}s",
            "containers": containers,
        }

    async def _pods(self, request: web.Request) -> web.Response:
        namespace = request.match_info.get("namespace")
        text = request.query.get("labelSelector", "")
        selector = parse_label_selector(text) if text else EVERYTHING
        items = [
            metrics
            for key in sorted(self._now)
            if namespace in (None, key[0])
            and selector.matches(self._labels.get(key, {}))
            and (metrics := self._measured(key)) is not None
        ]
        return _list("PodMetricsList", items)

    async def _pod(self, request: web.Request) -> web.Response:
        found = self._measured((request.match_info["namespace"], request.match_info["name"]))
        return _one("PodMetrics", found)

    def _of_node(self, name: str) -> JsonObject | None:
        pods = [found for key, node in self._nodes.items() if node == name and (found := self._measured(key))]
        usage = [part["usage"] for pod in pods for part in pod["containers"]]
        if not usage:
            return None
        cpu = sum(int(item["cpu"][:-1]) for item in usage)
        memory = sum(int(item["memory"][:-2]) for item in usage)
        return {
            "metadata": {"name": name},
            "timestamp": pods[0]["timestamp"],
            "window": pods[0]["window"],
            "usage": {"cpu": format_decimal(Decimal(cpu) / 10**9), "memory": f"{memory}Ki"},
        }

    async def _all_nodes(self, _request: web.Request) -> web.Response:
        return _list(
            "NodeMetricsList", [found for name in sorted(set(self._nodes.values())) if (found := self._of_node(name))]
        )

    async def _node(self, request: web.Request) -> web.Response:
        return _one("NodeMetrics", self._of_node(request.match_info["name"]))


async def publish(client: KubeClient, namespace: str, name: str, port: int) -> None:
    """Make a Service that leads to a port of this machine: API servers refuse endpoints on loopback.

    Raises:
        KubernetesError: The API server refuses.
    """
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
    }
    path = path_of("v1", "services", namespace=namespace, name=name)
    await client.patch(path, service, PatchKind.APPLY, fieldManager="sandbox", force="true")


def _sample(container: JsonObject) -> _Sample:
    # Our own clock: the kubelet's whole seconds are too coarse for a rate.
    cpu, memory = container["cpu"]["usageCoreNanoSeconds"], container["memory"]["workingSetBytes"]
    return _Sample(datetime.now(UTC), container["startTime"], cpu, memory)


async def _resources(_request: web.Request) -> web.Response:
    entries = [
        {"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]}
        for plural, kind, namespaced in (("nodes", "NodeMetrics", False), ("pods", "PodMetrics", True))
    ]
    body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{_GROUP}/{_VERSION}"}
    return web.json_response({**body, "resources": entries})


def _list(kind: str, items: Iterable[JsonObject]) -> web.Response:
    head = {"kind": kind, "apiVersion": f"{_GROUP}/{_VERSION}", "metadata": {}}
    return web.json_response({**head, "items": list(items)})


def _one(kind: str, found: JsonObject | None) -> web.Response:
    if found is None:
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "NotFound"}
        return web.json_response({**status, "message": "no metrics known", "code": 404}, status=404)
    return web.json_response({"kind": kind, "apiVersion": f"{_GROUP}/{_VERSION}", **found})
