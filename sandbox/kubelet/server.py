"""The HTTPS API of a node, as far as API servers and tools ask for it: logs, health, usage.

Owns the paths and parameters of k8s.io/kubernetes `pkg/kubelet/server`. There is no authentication: it listens on
loopback, and whoever is on this machine can read the files anyway.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import trustme
from aiohttp import web

from sandbox.kube.formats import format_time, parse_time
from sandbox.kubelet.container import Container
from sandbox.kubelet.logs import LogQuery
from sandbox.kubelet.worker import PodWorker

JsonObject = dict[str, Any]


def _log_query(query: Any) -> LogQuery:
    since: datetime | None = None
    if text := query.get("sinceSeconds"):
        since = datetime.now(UTC) - timedelta(seconds=int(text))
    elif text := query.get("sinceTime"):
        since = parse_time(text)
    return LogQuery(
        follow=query.get("follow", "false") in {"true", "1"},
        tail=int(query["tailLines"]) if query.get("tailLines") else None,
        since=since,
        timestamps=query.get("timestamps", "false") in {"true", "1"},
        limit_bytes=int(query["limitBytes"]) if query.get("limitBytes") else None,
    )


class KubeletServer:
    """Serves what is known of the pods that `workers` gives."""

    def __init__(self, host: str, workers: Callable[[], Iterable[PodWorker]]) -> None:
        self._host = host
        self._workers = workers
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, port: int = 0) -> None:
        """Listen; `port` says on which port from then on."""
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        app.router.add_get("/healthz", _healthy)
        app.router.add_get("/stats/summary", self._stats)
        app.router.add_get("/pods", self._pods)
        # Followers of logs have no end of their own.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert(self._host, "localhost").configure_cert(context)
        site = web.TCPSite(self._runner, self._host, port, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def aclose(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _find(self, request: web.Request) -> Container:
        key = request.match_info["namespace"], request.match_info["pod"]
        name = request.match_info["container"]
        worker = next((worker for worker in self._workers() if worker.key == key), None)
        if worker is None:
            raise web.HTTPNotFound(text=f'pod "{key[1]}" not found in namespace "{key[0]}"\n')
        container = worker.find(name)
        if container is None:
            raise web.HTTPNotFound(text=f'container "{name}" not found in pod "{key[1]}"\n')
        return container

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        container = self._find(request)
        try:
            query = _log_query(request.query)
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        previous = request.query.get("previous", "false") in {"true", "1"}
        try:
            lines = container.read_log(query, previous=previous)
        except FileNotFoundError:
            pod = request.match_info["pod"]
            which = "previous terminated " if previous else ""
            if previous or container.record.waiting == "":
                text = f'{which}container "{container.name}" in pod "{pod}" not found'
            else:
                why = container.record.message or container.record.waiting
                text = f'container "{container.name}" in pod "{pod}" is waiting to start: {why}'
            raise web.HTTPBadRequest(text=text) from None
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        try:
            async for line in lines:
                await response.write(line)
        except ConnectionError:
            return response  # The reader has seen enough.
        await response.write_eof()
        return response

    async def _pods(self, _request: web.Request) -> web.Response:
        items = [worker.manifest() for worker in self._workers()]
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _stats(self, _request: web.Request) -> web.Response:
        """Usage per pod in the form of a kubelet's summary; cpu is told as time used so far, in nanoseconds."""
        now = format_time(datetime.now(UTC))
        pods: list[JsonObject] = []
        for worker in self._workers():
            containers: list[JsonObject] = []
            for container in worker.containers:
                process = container.process
                if process is None:
                    continue
                memory = process.proportional_memory_bytes()
                cpu = int(process.cpu_seconds() * 1e9)
                containers.append(
                    {
                        "name": container.name,
                        "startTime": format_time(process.started),
                        "cpu": {"time": now, "usageCoreNanoSeconds": cpu},
                        "memory": {"time": now, "workingSetBytes": memory, "usageBytes": process.memory_bytes()},
                    }
                )
            namespace, name = worker.key
            pods.append(
                {
                    "podRef": {"name": name, "namespace": namespace, "uid": worker.uid},
                    "containers": containers,
                    "cpu": {
                        "time": now,
                        "usageCoreNanoSeconds": sum(c["cpu"]["usageCoreNanoSeconds"] for c in containers),
                    },
                    "memory": {"time": now, "workingSetBytes": sum(c["memory"]["workingSetBytes"] for c in containers)},
                }
            )
        return web.json_response({"node": {}, "pods": pods})


async def _healthy(_request: web.Request) -> web.Response:
    return web.Response(text="ok")
