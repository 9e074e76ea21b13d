"""One run of one container as local processes.

Owns starting (through `shim.py`), stopping, what is left behind, and measuring. Knows nothing of Kubernetes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sandbox.kubelet import shim
from sandbox.kubelet.logs import ContainerLog

_LOG: Final = logging.getLogger(__name__)
_MARK: Final = "SANDBOX_CONTAINER_ID"
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_EOF_SECONDS: Final = 2.0
"""How long output is waited for after the last process has ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. `code` is 128 plus the signal where a signal ended it, as container runtimes report."""

    code: int
    signal: int
    started: datetime
    finished: datetime
    reason: str = ""
    message: str = ""


class StartError(Exception):
    """The main process could not be started; the text says why."""


class ContainerProcess:
    """A running container. Make it with `start`; `ended` is done when nothing of it is left."""

    def __init__(self, process: asyncio.subprocess.Process, log: ContainerLog, container_id: str, pid: int) -> None:
        self._process = process
        self._log = log
        self.id = container_id
        self.pid = pid
        """Of the main process."""
        self.started = datetime.now(UTC)
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._killed_for: str = ""
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, argv: Sequence[str], environment: Mapping[str, str], directory: Path, log: ContainerLog
    ) -> ContainerProcess:
        """Start a container.

        Raises:
            StartError: The program is missing or cannot be executed.
        """
        container_id = uuid.uuid4().hex
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                shim.__file__,
                str(os.getpid()),
                str(writing),
                str(directory),
                *argv,
                env={**environment, _MARK: container_id},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(writing,),
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        status, transport = await _open_pipe(reading)
        pumps = [
            asyncio.create_task(log.pump(stream, name))
            for stream, name in ((process.stdout, "stdout"), (process.stderr, "stderr"))
            if stream is not None
        ]
        first = await status.readline()
        report = json.loads(first) if first else {"error": "the shim ended before it started anything"}
        if "error" in report:
            await process.wait()
            await asyncio.gather(*pumps)
            transport.close()
            await log.close()
            raise StartError(report["error"])
        container = cls(process, log, container_id, int(report["pid"]))
        container._task = asyncio.create_task(container._watch(status, transport, pumps))
        return container

    async def _watch(
        self, status: asyncio.StreamReader, transport: asyncio.BaseTransport, pumps: list[asyncio.Task[None]]
    ) -> None:
        last = await status.readline()
        transport.close()
        await self._process.wait()
        # A shim that was killed itself could not clean up; its processes carry our mark.
        kill_marked(self.id)
        _, unfinished = await asyncio.wait(pumps, timeout=_EOF_SECONDS)
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        await self._log.close()
        report = json.loads(last) if last else {"signal": int(signal.SIGKILL)}
        number = report.get("signal", 0)
        code = report.get("code", 128 + number)
        reason = self._killed_for or ("Completed" if code == 0 else "Error")
        self.ended.set_result(Ended(code, number, self.started, datetime.now(UTC), reason))

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Ask the main process to end."""
        if not self.ended.done():
            _kill(self.pid, number)

    def kill(self, reason: str = "") -> None:
        """Kill everything; `reason` is told instead of `Error` (`OOMKilled`)."""
        if self.ended.done():
            return
        self._killed_for = reason
        # The shim kills what is left below it once its main process is gone.
        _kill(self.pid, signal.SIGKILL)

    async def stop(self, seconds: float) -> Ended:
        """End the container: SIGTERM, and SIGKILL to all of it after `seconds`."""
        self.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self.ended)
        self.kill()
        return await asyncio.shield(self.ended)

    def pids(self) -> list[int]:
        """All processes of the container."""
        return [] if self.ended.done() else shim.descendants(self._process.pid)

    def memory_bytes(self) -> int:
        """Resident memory of all processes; an upper bound, because shared pages count in each."""
        return sum(_resident(pid) for pid in self.pids())

    def proportional_memory_bytes(self) -> int:
        """Memory of all processes with shared pages divided among their users; slower to find out."""
        return sum(_proportional(pid) for pid in self.pids())

    def cpu_seconds(self) -> float:
        """Processor time that the processes that still run have used."""
        return sum(_cpu_ticks(pid) for pid in self.pids()) / _TICKS_PER_SECOND


async def _open_pipe(descriptor: int) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    return reader, transport


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill_marked(container_id: str) -> None:
    """Kill every process that was started by a container, by the mark in its environment."""
    mark = f"{_MARK}={container_id}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # It ended meanwhile, or is not ours to look at.
        if mark in environment.split(b"\0"):
            _LOG.warning("process %s outlived its container; killed", entry.name)
            _kill(int(entry.name), signal.SIGKILL)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _proportional(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
