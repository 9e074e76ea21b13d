"""One container of a pod over its whole life: starts, probes, hooks, restarts, the end.

Owns the `Record` of its container. What the pod's other containers do is the business of `worker.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from sandbox.kube.formats import format_time
from sandbox.kube.quantity import parse_quantity
from sandbox.kubelet import probes
from sandbox.kubelet.environment import ConfigError, Launch
from sandbox.kubelet.logs import ContainerLog, LogQuery, read_file
from sandbox.kubelet.process import ContainerProcess, Ended, StartError
from sandbox.kubelet.status import Record, Terminated, back_off, restarts

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)
_HEALTHY_SECONDS: Final = 600
"""A run that lasted this long clears the count of failures."""
_KEPT_LOGS: Final = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be changed for tests and demos. Times are in seconds."""

    back_off_seconds: float = 10.0
    """Wait before the second restart; doubled each time up to five minutes."""
    memory_poll_seconds: float = 2.0
    """How often memory limits are checked; 0 for never."""
    force_seconds: float = 2.0
    """Time between SIGTERM and SIGKILL for pods that are gone from the API."""
    refresh_seconds: float = 60.0
    """How often the contents of mounted ConfigMaps, Secrets and tokens are brought up to date."""
    retry_seconds: float = 1.0
    """Wait before something that failed at the API is tried again."""
    inherit: Sequence[str] = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "NODE_PATH")
    """Variables of the runner's own environment that every container gets."""


class Pod(Protocol):
    """What a container needs of its pod."""

    settings: Settings
    address: str
    stopping: asyncio.Event

    def changed(self) -> None:
        """Something that the status shows has changed."""

    def tell(self, reason: str, message: str, *, container: str = "", kind: str = "Normal") -> None:
        """Record an Event about the pod or one of its containers."""

    async def launch_of(self, container: JsonObject) -> Launch:
        """How to start a container.

        Raises:
            ConfigError: Something is missing or not supported.
        """

    def label(self) -> str:
        """`name_namespace(uid)`, as messages name a pod."""


class Container:
    """Runs a container until it ends for good."""

    def __init__(self, pod: Pod, spec: JsonObject, policy: str, logs: Path, record: Record) -> None:
        self._pod = pod
        self.spec = spec
        self._policy = policy
        self._logs = logs
        self.record = record
        self._process: ContainerProcess | None = None
        self._launch: Launch | None = None
        self._current_log: ContainerLog | None = None
        self._failures = 0
        self.up = asyncio.Event()
        """Set when the container has started up for the first time, for sidecars."""

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.spec["name"])

    @property
    def process(self) -> ContainerProcess | None:
        """The current run, if there is one."""
        return self._process

    async def run(self) -> None:
        """Start the container, and start it again as its policy says."""
        if self.record.terminated is not None:
            if not restarts(self._policy, self.record.terminated.code):
                return
            self._prepare_restart(self.record.terminated)
        while not self._pod.stopping.is_set():
            ended = await self._once()
            if ended is None:
                return  # The pod is being stopped before this container came up.
            self._note_end(ended)
            if self._pod.stopping.is_set() or not restarts(self._policy, ended.code):
                return
            if await self._wait_before_restart(ended):
                return

    async def _once(self) -> Ended | None:
        process = await self._start()
        if process is None:
            return None
        watchers = [asyncio.create_task(job) for job in self._watchers(process)]
        try:
            return await asyncio.shield(process.ended)
        finally:
            for task in watchers:
                task.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            if not process.ended.done():
                process.kill()
                await asyncio.shield(process.ended)

    # --- Starting -----------------------------------------------------------------------------------------------------

    async def _start(self) -> ContainerProcess | None:
        attempts = 0
        while not self._pod.stopping.is_set():
            attempts += 1
            try:
                probes.check_supported(self.spec)
                launch = await self._pod.launch_of(self.spec)
                return await self._start_process(launch)
            except ConfigError as error:
                reason, message = error.reason, str(error)
            except probes.UnsupportedProbeError as error:
                reason, message = "CreateContainerConfigError", str(error)
            except StartError as error:
                reason, message = "RunContainerError", str(error)
            self._pod.tell("Failed", f"Error: {message}", container=self.name, kind="Warning")
            if reason == "ErrImagePull" and attempts > 1:
                reason = "ImagePullBackOff"
                self._pod.tell("BackOff", f'Back-off pulling image "{self.spec.get("image")}"', container=self.name)
            self.record.waiting, self.record.message = reason, message
            self.record.terminated = None
            self._pod.changed()
            if await self._pause(max(back_off(attempts + 1, self._pod.settings.back_off_seconds), 0.05)):
                return None
        return None

    async def _start_process(self, launch: Launch) -> ContainerProcess:
        image = self.spec.get("image", "")
        self._pod.tell("Pulled", f'Container image "{image}" is a local program', container=self.name)
        log = ContainerLog(self._log_path(self.record.restarts))
        launch.directory.mkdir(parents=True, exist_ok=True)
        try:
            process = await ContainerProcess.start(launch.argv, launch.environment, launch.directory, log)
        except BaseException:
            await log.close()
            raise
        self._drop_old_logs()
        self._process, self._launch, self._current_log = process, launch, log
        self._pod.tell("Created", "Container created", container=self.name)
        self._pod.tell("Started", "Container started", container=self.name)
        record = self.record
        record.running_since, record.container_id, record.terminated = process.started, f"process://{process.id}", None
        record.message = ""
        record.started = self.spec.get("startupProbe") is None
        record.ready = record.started and self.spec.get("readinessProbe") is None
        if record.started:
            self.up.set()
        self._pod.changed()
        return process

    def _log_path(self, run: int) -> Path:
        return self._logs / self.name / f"{run}.log"

    def _drop_old_logs(self) -> None:
        for path in (self._logs / self.name).glob("*.log*"):
            if int(path.name.partition(".")[0]) <= self.record.restarts - _KEPT_LOGS:
                path.unlink(missing_ok=True)

    # --- While it runs ------------------------------------------------------------------------------------------------

    def _watchers(self, process: ContainerProcess) -> list[Coroutine[Any, Any, None]]:
        jobs: list[Coroutine[Any, Any, None]] = [self._hooks_and_probes(process)]
        limit = ((self.spec.get("resources") or {}).get("limits") or {}).get("memory")
        if limit and self._pod.settings.memory_poll_seconds:
            jobs.append(self._watch_memory(process, int(parse_quantity(limit))))
        return jobs

    async def _hooks_and_probes(self, process: ContainerProcess) -> None:
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        if hook is not None:
            outcome = await self._attempt(hook, float("inf"))
            if not outcome.success:
                text = f"PostStartHook failed: {outcome.message}"
                self._pod.tell("FailedPostStartHook", text, container=self.name, kind="Warning")
                process.kill()
                return
        if (probe := self.spec.get("startupProbe")) is not None:
            started = asyncio.Event()
            startup = asyncio.create_task(self._probe("Startup", probe, process, on_success=started.set))
            try:
                await started.wait()
            finally:
                startup.cancel()
                await asyncio.gather(startup, return_exceptions=True)
            self.record.started = True
            self.record.ready = self.spec.get("readinessProbe") is None
            self.up.set()
            self._pod.changed()
        async with asyncio.TaskGroup() as tasks:
            if (probe := self.spec.get("livenessProbe")) is not None:
                tasks.create_task(self._probe("Liveness", probe, process))
            if (probe := self.spec.get("readinessProbe")) is not None:
                tasks.create_task(self._probe_readiness(probe))

    async def _attempt(self, handler: JsonObject, seconds: float) -> probes.Outcome:
        assert self._launch is not None
        limit = min(seconds, 3600.0)
        return await probes.attempt(handler, self.spec, self._launch, self._pod.address, limit)

    async def _probe(
        self,
        kind: str,
        probe: JsonObject,
        process: ContainerProcess,
        on_success: Callable[[], None] | None = None,
    ) -> None:
        """A probe whose failure costs the container its life."""
        doomed = asyncio.Event()

        def report(success: bool, _message: str) -> None:  # noqa: FBT001  # the signature of `probes.watch`
            if success and on_success is not None:
                on_success()
            if not success:
                doomed.set()

        def failed(message: str) -> None:
            self._pod.tell("Unhealthy", f"{kind} probe failed: {message}", container=self.name, kind="Warning")

        watching = asyncio.create_task(probes.watch(probe, lambda s: self._attempt(probe, s), report, failed=failed))
        try:
            await doomed.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        text = f"Container {self.name} failed {kind.lower()} probe, will be restarted"
        self._pod.tell("Killing", text, container=self.name)
        await self._stop_process(process, float(probe.get("terminationGracePeriodSeconds") or 30))

    async def _probe_readiness(self, probe: JsonObject) -> None:
        def report(success: bool, _message: str) -> None:  # noqa: FBT001  # the signature of `probes.watch`
            if self.record.ready is not success:
                self.record.ready = success
                self._pod.changed()

        def failed(message: str) -> None:
            self._pod.tell("Unhealthy", f"Readiness probe failed: {message}", container=self.name, kind="Warning")

        await probes.watch(probe, lambda seconds: self._attempt(probe, seconds), report, failed=failed)

    async def _watch_memory(self, process: ContainerProcess, limit: int) -> None:
        while True:
            await asyncio.sleep(self._pod.settings.memory_poll_seconds)
            # Resident memory counts shared pages several times, so it is only a reason to look closer.
            if process.memory_bytes() > limit and process.proportional_memory_bytes() > limit:
                process.kill("OOMKilled")
                return

    # --- Ending -------------------------------------------------------------------------------------------------------

    def _note_end(self, ended: Ended) -> None:
        record = self.record
        record.terminated = Terminated(
            ended.code,
            ended.reason,
            ended.signal,
            ended.message,
            format_time(ended.started),
            format_time(ended.finished),
            record.container_id,
        )
        record.running_since, record.started, record.ready = None, False, False
        self._process = None
        lasted = (ended.finished - ended.started).total_seconds()
        self._failures = 1 if lasted > _HEALTHY_SECONDS else self._failures + 1
        self._pod.changed()

    def _prepare_restart(self, ended: Terminated) -> None:
        self.record.last, self.record.terminated = ended, None
        self.record.restarts += 1
        self.record.waiting = "ContainerCreating"

    async def _wait_before_restart(self, ended: Ended) -> bool:
        """Wait as long as the failures so far ask for; whether the pod is stopped meanwhile."""
        delay = back_off(self._failures, self._pod.settings.back_off_seconds)
        terminated = self.record.terminated
        assert terminated is not None
        if delay:
            text = f"back-off {delay:g}s restarting failed container={self.name} pod={self._pod.label()}"
            self.record.last, self.record.terminated = terminated, None
            self.record.waiting, self.record.message = "CrashLoopBackOff", text
            self._pod.changed()
            what = f"Back-off restarting failed container {self.name} in pod {self._pod.label()}"
            self._pod.tell("BackOff", what, container=self.name, kind="Warning")
            if await self._pause(delay):
                # What is left to say of a container that never starts again is how it ended.
                self.record.terminated = terminated
                return True
        _LOG.debug("container %s of %s ended with %d; starting again", self.name, self._pod.label(), ended.code)
        self._prepare_restart(terminated)
        self.record.message = ""
        return False

    async def _pause(self, seconds: float) -> bool:
        """Sleep, but not longer than the pod lives; whether it is being stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._pod.stopping.wait()
        return self._pod.stopping.is_set()

    async def stop(self, seconds: float) -> None:
        """End the container within `seconds`; the preStop hook runs first, and its time counts."""
        if self._process is not None:
            await self._stop_process(self._process, seconds)

    async def _stop_process(self, process: ContainerProcess, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook is not None and seconds > 0:
            outcome = probes.Outcome(success=False, message=f"timed out after {seconds:g}s")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    outcome = await self._attempt(hook, seconds)
            if not outcome.success:
                text = f"PreStopHook failed: {outcome.message}"
                self._pod.tell("FailedPreStopHook", text, container=self.name, kind="Warning")
        await process.stop(max(end - loop.time(), 0))

    def cut_short(self) -> None:
        """Kill what is still running, because the time is over."""
        if self._process is not None:
            self._process.kill()

    # --- Logs ---------------------------------------------------------------------------------------------------------

    def read_log(self, query: LogQuery, *, previous: bool) -> Any:
        """The log of the current run or of the one before, as an asynchronous iterator of lines.

        Raises:
            FileNotFoundError: There is no such run.
        """
        run = self.record.restarts - 1 if previous else self.record.restarts
        if not previous and self._current_log is not None and self._current_log.path == self._log_path(run):
            return self._current_log.read(query)
        path = self._log_path(run)
        if not path.exists() and not previous and run > 0:
            path = self._log_path(run - 1)  # It waits for its next start; what there is to see is the last run.
        if not path.exists():
            raise FileNotFoundError(path)
        return read_file(path, query)
