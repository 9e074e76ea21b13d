"""One pod from its arrival at the node to its end.

Owns the order of things (volumes, init containers, containers, termination) and the pod's status at the API. What one
container does is in `container.py`, what the status says in `status.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kubeclient import ConflictError, KubeClient, KubernetesError, NotFoundError, UnavailableError, path_of
from sandbox.kube.clients import Recorder
from sandbox.kube.events import reference_to
from sandbox.kube.formats import format_time, parse_time
from sandbox.kubelet.container import Container, Settings
from sandbox.kubelet.environment import Launch, Sources, Surroundings, launch
from sandbox.kubelet.status import PodFacts, Record, build, inherited
from sandbox.kubelet.volumes import MountError, Volumes, fetch_sources, write_kubeconfig

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)
_STRATEGIC: Final = "application/strategic-merge-patch+json"
_DEADLINE: Final = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")


@dataclass(slots=True)
class Host:
    """What all pods of a node share."""

    client: KubeClient
    recorder: Recorder
    images: Mapping[str, Sequence[str]]
    settings: Settings
    directory: Path
    server: str
    """URL of the API server, for the kubeconfigs of pods."""
    node: JsonObject
    host_ip: str


class PodWorker:
    """Runs one pod. `run` returns when the pod is gone from the API and nothing of it is left here."""

    def __init__(self, host: Host, pod: JsonObject, address: str) -> None:
        self._host = host
        self._pod = pod
        self.settings = host.settings
        self.address = address
        self.stopping = asyncio.Event()
        self._asked = asyncio.Event()
        """Set when somebody wants the pod to end, or to end sooner than before."""
        self._gone = False
        self._closing = False
        self._failure: tuple[str, str] | None = None
        self._terminal = False
        self._dirty = asyncio.Event()
        self._tellers: set[asyncio.Task[None]] = set()
        self._written: JsonObject | None = None
        self._writing = asyncio.Lock()
        self._sources = Sources()
        self._places: dict[str, Path] = {}
        now = datetime.now(UTC)
        self._started = (pod.get("status") or {}).get("startTime") or format_time(now)
        self._directory = host.directory / "pods" / pod["metadata"]["uid"]
        self._volumes = Volumes(
            host.client, pod, self._directory / "volumes", host.directory / "claims", self._surroundings("")
        )
        self.init_containers = self._make_containers("initContainers", now)
        self.containers = self._make_containers("containers", now)

    # --- What the pod is ----------------------------------------------------------------------------------------------

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self._pod["metadata"]["namespace"], self._pod["metadata"]["name"]

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return str(self._pod["metadata"]["uid"])

    def label(self) -> str:
        """`name_namespace(uid)`, as messages name a pod."""
        namespace, name = self.key
        return f"{name}_{namespace}({self.uid})"

    def manifest(self) -> JsonObject:
        """The pod as it is known here."""
        return self._pod

    def find(self, name: str) -> Container | None:
        """A container of the pod."""
        return next((item for item in [*self.containers, *self.init_containers] if item.name == name), None)

    def _make_containers(self, field: str, now: datetime) -> list[Container]:
        spec = self._pod["spec"]
        init = field == "initContainers"
        reported = (self._pod.get("status") or {}).get("initContainerStatuses" if init else "containerStatuses") or []
        known = {status["name"]: status for status in reported}
        found = []
        for item in spec.get(field) or []:
            policy = spec.get("restartPolicy", "Always")
            if init:
                policy = "Always" if item.get("restartPolicy") == "Always" else policy.replace("Always", "OnFailure")
            waiting = "PodInitializing" if not init and spec.get("initContainers") else "ContainerCreating"
            record = Record(item["name"], item.get("image", ""), init=init, waiting=waiting)
            if (status := known.get(item["name"])) is not None:
                record.restarts = status.get("restartCount", 0)
                ended = inherited(status, now)
                # Init containers run again, because nothing of the pod's former surroundings is left.
                record.last, record.terminated = (ended, None) if init else (None, ended)
            found.append(Container(self, item, policy, self._directory / "logs", record))
        return found

    def _surroundings(self, home: str) -> Surroundings:
        base = {name: os.environ[name] for name in self._host.settings.inherit if name in os.environ}
        base |= {"HOSTNAME": self._pod["metadata"]["name"], "HOST": self.address, "HOME": home, "TMPDIR": home}
        return Surroundings(self.address, self._host.host_ip, self._host.node, self._host.images, base)

    async def launch_of(self, container: JsonObject) -> Launch:
        """How to start a container.

        Raises:
            ConfigError: Something is missing or not supported.
        """
        self._sources = await fetch_sources(self._host.client, self._pod)
        home = self._directory / "home" / container["name"]
        home.mkdir(parents=True, exist_ok=True)
        plan = launch(
            self._pod, container, self._sources, self._surroundings(str(home)), volumes=self._places, home=home
        )
        for place in plan.places.values():
            if not place.exists():
                place.mkdir(parents=True)  # A subPath that nobody has made yet.
        config = write_kubeconfig(
            self._directory / "home", self._host.server, plan.places, self._pod["metadata"]["namespace"]
        )
        if config is not None:
            plan.environment.setdefault("KUBECONFIG", str(config))
        return plan

    # --- News from the API --------------------------------------------------------------------------------------------

    def update(self, pod: JsonObject) -> None:
        """The pod has changed at the API."""
        self._pod = pod
        if pod["metadata"].get("deletionTimestamp"):
            self._asked.set()
        if pod["spec"].get("readinessGates"):
            self.changed()

    def vanished(self) -> None:
        """The pod is gone from the API."""
        self._gone = True
        self._asked.set()

    def close(self) -> None:
        """The runner is about to end; the pod stays at the API."""
        self._closing = True
        self._asked.set()

    def changed(self) -> None:
        """Something that the status shows has changed."""
        self._dirty.set()

    def tell(self, reason: str, message: str, *, container: str = "", kind: str = "Normal") -> None:
        """Record an Event about the pod or one of its containers."""
        if self._gone:
            return
        field = "initContainers" if container in {item.name for item in self.init_containers} else "containers"
        about = reference_to(
            {"apiVersion": "v1", "kind": "Pod", **self._pod}, f"spec.{field}{{{container}}}" if container else ""
        )
        task = asyncio.create_task(self._host.recorder.record(about, reason, message, kind=kind))
        self._tellers.add(task)
        task.add_done_callback(self._tellers.discard)

    # --- Life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the pod to its end."""
        jobs = [asyncio.create_task(job) for job in (self._report(), self._refresh())]
        try:
            if (self._pod.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}:
                await self._live()
                # A pod that only loses its runner goes on with the next one, so it must not be told as ended for good.
                self._terminal = not self._closing
                await self._write_status()
            if not self._gone:
                await self._wait_until_asked()
            if not (self._gone or self._closing):
                await self._finish()
        finally:
            for container in [*self.containers, *self.init_containers]:
                container.cut_short()
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            await asyncio.gather(*self._tellers, return_exceptions=True)
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _wait_until_asked(self) -> None:
        while not (self._gone or self._closing or self._pod["metadata"].get("deletionTimestamp")):
            self._asked.clear()
            await self._asked.wait()

    async def _live(self) -> None:
        """From the volumes to the end of the last process."""
        life = asyncio.create_task(self._start_and_wait())
        asked = asyncio.create_task(self._wait_until_asked())
        deadline = asyncio.create_task(self._deadline())
        try:
            await asyncio.wait({life, asked, deadline}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                life.result()  # An error in our own code is to be seen, not to look like the pod's end.
                await self._stop_sidecars()
                return
            self.stopping.set()
            if not asked.done():
                self._failure = _DEADLINE
                self.tell("DeadlineExceeded", _DEADLINE[1], kind="Warning")
            await self._terminate()
            await life
        finally:
            for task in (life, asked, deadline):
                task.cancel()
            await asyncio.gather(life, asked, deadline, return_exceptions=True)

    async def _deadline(self) -> None:
        seconds = self._pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            await asyncio.Event().wait()
            return
        left = seconds - (datetime.now(UTC) - parse_time(self._started)).total_seconds()
        await asyncio.sleep(max(left, 0))

    async def _start_and_wait(self) -> None:
        self.changed()
        if not await self._set_up_volumes():
            return
        sidecars: list[asyncio.Task[None]] = []
        try:
            if all(item.record.terminated is not None for item in self.containers) and not self._will_restart():
                return
            for container in self.init_containers:
                if container.spec.get("restartPolicy") == "Always":
                    sidecars.append(asyncio.create_task(container.run()))
                    await _first(container.up.wait(), self.stopping.wait())
                else:
                    await container.run()
                    ended = container.record.terminated
                    if ended is None or ended.code != 0:
                        return
            for container in self.containers:
                if container.record.waiting == "PodInitializing":
                    container.record.waiting = "ContainerCreating"
            self.changed()
            async with asyncio.TaskGroup() as tasks:
                for container in self.containers:
                    tasks.create_task(container.run())
            self.stopping.set()
            await self._stop_sidecars()
            await asyncio.gather(*sidecars)
        finally:
            for task in sidecars:
                task.cancel()
            await asyncio.gather(*sidecars, return_exceptions=True)

    def _will_restart(self) -> bool:
        policy = self._pod["spec"].get("restartPolicy", "Always")
        return policy == "Always" or (
            policy == "OnFailure"
            and any(c.record.terminated is not None and c.record.terminated.code for c in self.containers)
        )

    async def _set_up_volumes(self) -> bool:
        """Make all volumes ready; whether that happened before the pod was stopped."""
        delay = self.settings.retry_seconds
        while not self.stopping.is_set():
            try:
                self._sources = await fetch_sources(self._host.client, self._pod)
                self._places = await self._volumes.set_up(self._sources)
            except MountError as error:
                self.tell("FailedMount", str(error), kind="Warning")
            except KubernetesError as error:
                _LOG.info("volumes of pod %s: %s", self.label(), error.message)
            else:
                return True
            await _first(asyncio.sleep(delay), self.stopping.wait())
            delay = min(2 * delay, 30.0)
        return False

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self.settings.refresh_seconds)
            if not self._places or self.stopping.is_set():
                continue
            try:
                self._sources = await fetch_sources(self._host.client, self._pod)
                await self._volumes.set_up(self._sources)
            except (KubernetesError, MountError) as error:
                _LOG.info("volumes of pod %s not refreshed: %s", self.label(), error)

    # --- End ----------------------------------------------------------------------------------------------------------

    def _grace(self) -> float:
        """Seconds that are left for the pod to end."""
        if self._gone or self._closing:
            return self.settings.force_seconds
        meta = self._pod["metadata"]
        if meta.get("deletionGracePeriodSeconds") is not None and meta.get("deletionTimestamp"):
            return float(meta["deletionGracePeriodSeconds"])
        return float(self._pod["spec"].get("terminationGracePeriodSeconds", 30))

    async def _terminate(self) -> None:
        """Stop all containers; a shorter period that is asked for meanwhile counts from then on."""
        for container in self.containers:
            if container.process is not None:
                self.tell("Killing", f"Stopping container {container.name}", container=container.name)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._grace()
        stopping = asyncio.gather(*(item.stop(self._grace()) for item in self.containers))
        while not stopping.done():
            self._asked.clear()
            more = asyncio.create_task(self._asked.wait())
            waits: set[asyncio.Future[Any]] = {stopping, more}
            await asyncio.wait(waits, timeout=max(end - loop.time(), 0), return_when=asyncio.FIRST_COMPLETED)
            more.cancel()
            await asyncio.gather(more, return_exceptions=True)
            end = min(end, loop.time() + self._grace())
            if loop.time() >= end and not stopping.done():
                for container in self.containers:
                    container.cut_short()
                await stopping
        await stopping
        await self._stop_sidecars()

    async def _stop_sidecars(self) -> None:
        self.stopping.set()
        await asyncio.gather(*(item.stop(self._grace()) for item in reversed(self.init_containers)))

    async def _finish(self) -> None:
        """Tell the API that nothing is left, which removes the pod there."""
        namespace, name = self.key
        path = path_of("v1", "pods", namespace=namespace, name=name)
        while not self._gone:
            try:
                await self._host.client.delete(path, uid=self.uid, grace_seconds=0)
            except (NotFoundError, ConflictError):
                return
            except KubernetesError as error:
                _LOG.info("pod %s not removed: %s", self.label(), error.message)
                await asyncio.sleep(self.settings.retry_seconds)
            else:
                return

    # --- Status -------------------------------------------------------------------------------------------------------

    async def _report(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._write_status()

    async def _write_status(self) -> None:
        """Write the status where it has changed; tries again until the server takes it or the pod is gone."""
        namespace, name = self.key
        path = path_of("v1", "pods", namespace=namespace, name=name, subresource="status")
        async with self._writing:
            while not self._gone:
                status = self._status()
                if status == self._written:
                    return
                # The lists of addresses are merged by address otherwise, and a new runner gives new ones.
                addresses = {name: [{"$patch": "replace"}, *status[name]] for name in ("podIPs", "hostIPs")}
                body = {"metadata": {"uid": self.uid}, "status": {**status, **addresses}}
                try:
                    await self._host.client.request("PATCH", path, body=body, content_type=_STRATEGIC)
                except (NotFoundError, ConflictError):
                    return
                except UnavailableError as error:
                    _LOG.info("status of pod %s not written: %s", self.label(), error.message)
                    if self._closing:
                        return
                    await asyncio.sleep(self.settings.retry_seconds)
                    continue
                except KubernetesError as error:
                    _LOG.warning("status of pod %s refused: %s", self.label(), error.message)
                    return
                self._written = status

    def _status(self) -> JsonObject:
        former = (self._written or self._pod.get("status") or {}).get("conditions") or []
        facts = PodFacts(
            pod=self._pod,
            containers=[item.record for item in self.containers],
            init_containers=[item.record for item in self.init_containers],
            pod_ip=self.address,
            host_ip=self._host.host_ip,
            started=self._started,
            failure=self._failure,
            terminal=self._terminal,
            conditions={item["type"]: item for item in former},
        )
        return build(facts, datetime.now(UTC))


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of several things, and give up on the others."""
    tasks = [asyncio.ensure_future(item) for item in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
