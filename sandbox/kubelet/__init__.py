"""A pod runner: a kubelet that runs the containers of pods as local processes, without a container runtime.

Owns the node, the pods that are bound to it, and their addresses on loopback. A client of the API, so that it serves
the stand-in and real API servers alike. What it does not isolate is listed in `sandbox/README.md`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import yaml

from kubeclient import KubeClient, KubernetesError, path_of
from sandbox.kube.clients import Cache, ObjectKey, Recorder, connect
from sandbox.kubelet.container import Settings
from sandbox.kubelet.node import Node, NodeSpec
from sandbox.kubelet.provisioner import Provisioner
from sandbox.kubelet.server import KubeletServer
from sandbox.kubelet.worker import Host, PodWorker

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)


class Addresses:
    """Gives out addresses of 127.0.0.0/16, each once, starting at a random one; 127.0.0.x is left alone."""

    def __init__(self) -> None:
        self._network = ipaddress.ip_network("127.0.0.0/16")
        self._next = secrets.randbelow(self._network.num_addresses)
        self._used: set[str] = set()

    def take(self) -> str:
        """A new address."""
        while True:
            self._next = (self._next + 1) % self._network.num_addresses
            address = str(self._network[self._next])
            usable = self._next > 255 and not address.endswith((".0", ".255"))
            if usable and address not in self._used:
                self._used.add(address)
                return address


class PodRunner:
    """Runs the pods of one node. Use it as an async context manager, or call `start` and `aclose`."""

    def __init__(
        self,
        kubeconfig: Path,
        *,
        images: Mapping[str, Sequence[str]],
        node: NodeSpec | None = None,
        directory: Path | None = None,
        settings: Settings | None = None,
        provision: bool = True,
    ) -> None:
        """Prepare a runner.

        Args:
            kubeconfig: Access to the API server, with the rights of a node and of a volume provisioner.
            images: Arguments to start for each image, by the last part of its name (`whatsapp-worker`).
            node: What the node is called and has.
            directory: Where volumes and logs lie; a temporary directory where it is not given. Claims outlive the
                runner in a directory that is given.
            settings: Times, mainly for tests.
            provision: Whether claims are bound to directories.
        """
        self._kubeconfig = kubeconfig
        self._images = images
        self._node_spec = node if node is not None else NodeSpec()
        self._temporary = tempfile.TemporaryDirectory(prefix="sandbox-") if directory is None else None
        self._directory = directory if directory is not None else Path(self._temporary.name if self._temporary else "")
        self._settings = settings if settings is not None else Settings()
        self._provision = provision
        self._addresses = Addresses()
        self._workers: dict[str, PodWorker] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._finished: set[str] = set()
        """Pods that have ended here, until the API shows that they are gone."""
        self._tasks: list[asyncio.Task[None]] = []
        self._server = KubeletServer(self._node_spec.address, self._workers.values)
        self._client: KubeClient | None = None
        self._cache: Cache | None = None
        self._host: Host | None = None
        self._node: Node | None = None

    @property
    def port(self) -> int:
        """Port of the node's HTTPS API, once started."""
        return self._server.port

    async def start(self) -> None:
        """Register the node and begin to run its pods.

        Raises:
            KubernetesError: The API server does not answer, or refuses the node.
        """
        self._client = await connect(self._kubeconfig)
        await self._server.start()
        name = self._node_spec.name
        self._node = Node(self._client, self._node_spec, self._server.port)
        await self._node.register()
        recorder = Recorder(self._client, "kubelet", name)
        server = _server_of(self._kubeconfig)
        self._host = Host(
            client=self._client,
            recorder=recorder,
            images=self._images,
            settings=self._settings,
            directory=self._directory.resolve(),
            server=server,
            node=self._node.value,
            host_ip=self._node_spec.address,
        )
        query = {"fieldSelector": f"spec.nodeName={name}"}
        self._cache = Cache(self._client, path_of("v1", "pods"), self._changed, **query)
        jobs = [self._cache.run(), self._node.run()]
        if self._provision:
            jobs.append(Provisioner(self._client, self._host.directory / "claims").run())
        self._tasks = [asyncio.create_task(job) for job in jobs]
        await self._cache.synced.wait()

    async def aclose(self) -> None:
        """Stop all pods' processes and report the node not ready; the pods stay at the API."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers.values():
            worker.close()
        await asyncio.gather(*self._runs.values(), return_exceptions=True)
        if self._node is not None:
            try:
                await self._node.report(ready=False)
            except KubernetesError as error:
                _LOG.info("node not reported as stopped: %s", error.message)
        await self._server.aclose()
        if self._client is not None:
            await self._client.aclose()
        if self._temporary is not None:
            self._temporary.cleanup()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _changed(self, key: ObjectKey | None) -> None:
        """Compare what runs with what the API says; uids, not names, tell pods apart."""
        assert self._cache is not None
        known = {pod["metadata"]["uid"]: pod for pod in self._cache.objects.values()}
        changed = known.values() if key is None else [p for k, p in self._cache.objects.items() if k == key]
        for pod in changed:
            worker = self._workers.get(pod["metadata"]["uid"])
            if worker is not None:
                worker.update(pod)
            elif pod["metadata"]["uid"] not in self._finished:
                self._begin(pod)
        self._finished &= known.keys()
        for uid, worker in self._workers.items():
            if uid not in known and (key is None or worker.key == key):
                worker.vanished()

    def _begin(self, pod: JsonObject) -> None:
        assert self._host is not None
        uid = pod["metadata"]["uid"]
        worker = PodWorker(self._host, pod, self._addresses.take())
        self._workers[uid] = worker
        if pod["metadata"].get("deletionTimestamp"):
            worker.update(pod)
        task = asyncio.create_task(worker.run(), name=f"pod {worker.label()}")
        self._runs[uid] = task
        task.add_done_callback(lambda done: self._ended(uid, done))

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        worker = self._workers.pop(uid, None)
        self._finished.add(uid)
        self._runs.pop(uid, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            name = worker.label() if worker is not None else uid
            _LOG.error("pod %s given up", name, exc_info=error)


def _server_of(kubeconfig: Path) -> str:
    config = yaml.safe_load(kubeconfig.read_text())
    context = next(item["context"] for item in config["contexts"] if item["name"] == config["current-context"])
    return str(next(item["cluster"]["server"] for item in config["clusters"] if item["name"] == context["cluster"]))
