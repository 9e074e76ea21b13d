"""The node object of a pod runner and the signs of life that belong to it.

Owns registration, the node's status, and its lease in kube-node-lease.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kubeclient import ConflictError, KubeClient, KubernetesError, NotFoundError, path_of
from sandbox.kube.formats import format_micro_time, format_time

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)
_LEASE_SECONDS: Final = 40
_RENEW_SECONDS: Final = 10
_STATUS_SECONDS: Final = 60
_LEASES: Final = "kube-node-lease"


def _default_capacity() -> dict[str, str]:
    """What this machine has."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {"cpu": str(os.cpu_count() or 1), "memory": f"{pages * size // 1024}Ki", "pods": "110"}


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """What a node says of itself. Amounts are Kubernetes quantities."""

    name: str = "sandbox"
    capacity: Mapping[str, str] = field(default_factory=_default_capacity)
    allocatable: Mapping[str, str] | None = None
    """The same as `capacity` where it is not given."""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"


def _os_name() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return platform.system()
    values = dict(line.partition("=")[::2] for line in lines if "=" in line)
    return values.get("PRETTY_NAME", platform.system()).strip('"')


def node_status(spec: NodeSpec, port: int, former: JsonObject, *, ready: bool, now: datetime) -> JsonObject:
    """The node's status."""
    conditions = []
    known = {item["type"]: item for item in former.get("conditions") or []}
    for kind, status, reason, message in (
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "the pod runner is running")
        if ready
        else ("Ready", "False", "KubeletNotReady", "the pod runner has stopped"),
    ):
        old = known.get(kind, {})
        since = old.get("lastTransitionTime") if old.get("status") == status else format_time(now)
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastHeartbeatTime": format_time(now),
                "lastTransitionTime": since,
            }
        )
    machine = Path("/etc/machine-id")
    return {
        "capacity": dict(spec.capacity),
        "allocatable": dict(spec.allocatable if spec.allocatable is not None else spec.capacity),
        "conditions": conditions,
        "addresses": [
            {"type": "InternalIP", "address": spec.address},
            {"type": "Hostname", "address": spec.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "nodeInfo": {
            "machineID": machine.read_text().strip() if machine.exists() else "",
            "systemUUID": "",
            "bootID": "",
            "kernelVersion": platform.release(),
            "osImage": _os_name(),
            "containerRuntimeVersion": "process://1",
            "kubeletVersion": "v1.36.0+sandbox",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        },
    }


class Node:
    """Keeps the node object and its lease fresh."""

    def __init__(self, client: KubeClient, spec: NodeSpec, port: int) -> None:
        self._client = client
        self._spec = spec
        self._port = port
        self._path = path_of("v1", "nodes", name=spec.name)
        self.value: JsonObject = {}

    async def register(self) -> None:
        """Create the node, or take over one of its name, and report it ready.

        Raises:
            KubernetesError: The server does not answer, or refuses.
        """
        labels = {
            "kubernetes.io/hostname": self._spec.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
            **self._spec.labels,
        }
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self._spec.name, "labels": labels}}
        try:
            self.value = await self._client.create(path_of("v1", "nodes"), body)
        except ConflictError:
            self.value = await self._client.patch(self._path, {"metadata": {"labels": labels}})
        await self.report(ready=True)
        await self._renew()

    async def report(self, *, ready: bool) -> None:
        """Write the node's status.

        Raises:
            KubernetesError: The server does not answer, or refuses.
        """
        former = self.value.get("status") or {}
        status = node_status(self._spec, self._port, former, ready=ready, now=datetime.now(UTC))
        self.value = await self._client.patch(f"{self._path}/status", {"status": status})

    async def run(self) -> None:
        """Renew the lease and the status until cancelled."""
        beats = 0
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            beats += 1
            try:
                await self._renew()
                if beats * _RENEW_SECONDS % _STATUS_SECONDS == 0:
                    await self.report(ready=True)
            except NotFoundError:
                await self._register_again()
            except KubernetesError as error:
                _LOG.info("node %s: heartbeat not written: %s", self._spec.name, error.message)

    async def _register_again(self) -> None:
        """Somebody deleted the node object; the runner is still here."""
        try:
            await self.register()
        except KubernetesError as error:
            _LOG.info("node %s not registered again: %s", self._spec.name, error.message)

    async def _renew(self) -> None:
        now = format_micro_time(datetime.now(UTC))
        spec = {"holderIdentity": self._spec.name, "leaseDurationSeconds": _LEASE_SECONDS, "renewTime": now}
        path = path_of("coordination.k8s.io/v1", "leases", namespace=_LEASES, name=self._spec.name)
        try:
            await self._client.patch(path, {"spec": spec})
        except NotFoundError:
            owner = {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self._spec.name,
                "uid": self.value["metadata"]["uid"],
            }
            body = {"metadata": {"name": self._spec.name, "ownerReferences": [owner]}, "spec": spec}
            await self._client.create(path_of("coordination.k8s.io/v1", "leases", namespace=_LEASES), body)
