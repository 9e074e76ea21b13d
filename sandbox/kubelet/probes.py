"""Probes and lifecycle hooks: one attempt, and the counting of attempts.

Owns how an attempt is made (httpGet, tcpSocket, exec) and when its outcome counts. Knows nothing of pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from sandbox.kubelet.environment import Launch

JsonObject = dict[str, Any]

_MAX_OUTPUT: Final = 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one attempt."""

    success: bool
    message: str = ""


class UnsupportedProbeError(ValueError):
    """The handler is of a kind that the pod runner does not have."""


def check_supported(container: JsonObject) -> None:
    """Refuse handlers that could never succeed here.

    Raises:
        UnsupportedProbeError: A probe uses gRPC.
    """
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        if (container.get(name) or {}).get("grpc") is not None:
            raise UnsupportedProbeError(
                f"{name}: grpc is not supported by the pod runner; use httpGet, tcpSocket or exec"
            )


def port_number(container: JsonObject, port: int | str) -> int:
    """The number of a port that may be given by name.

    Raises:
        ValueError: The container has no port of that name.
    """
    if isinstance(port, int) or port.isdigit():
        return int(port)
    for item in container.get("ports") or []:
        if item.get("name") == port:
            return int(item["containerPort"])
    raise ValueError(f"container {container['name']} has no port named {port!r}")


async def http_get(action: JsonObject, container: JsonObject, address: str, seconds: float) -> Outcome:
    """A GET that succeeds with a status from 200 to 399."""
    scheme = str(action.get("scheme") or "HTTP").lower()
    host = action.get("host") or address
    url = f"{scheme}://{host}:{port_number(container, action['port'])}{action.get('path') or '/'}"
    headers = {item["name"]: item["value"] for item in action.get("httpHeaders") or []}
    headers.setdefault("User-Agent", "kube-probe/1.36")
    try:
        # A connection of its own each time: one that is kept alive would prove less.
        connector = aiohttp.TCPConnector(ssl=False, force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=seconds)) as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            if 200 <= response.status < 400:
                return Outcome(success=True)
            return Outcome(success=False, message=f"HTTP probe failed with statuscode: {response.status}")
    except TimeoutError:
        text = f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
        return Outcome(success=False, message=text)
    except (aiohttp.ClientError, OSError) as error:
        return Outcome(success=False, message=f'Get "{url}": {error}')


async def tcp_connect(action: JsonObject, container: JsonObject, address: str, seconds: float) -> Outcome:
    """A connection that opens."""
    host, port = action.get("host") or address, port_number(container, action["port"])
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except (TimeoutError, OSError) as error:
        return Outcome(success=False, message=f"dial tcp {host}:{port}: {str(error) or 'i/o timeout'}")
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Outcome(success=True)


async def run_command(argv: Sequence[str], launch: Launch, seconds: float) -> Outcome:
    """A command in the container's surroundings that exits with 0."""
    try:
        process = await asyncio.create_subprocess_exec(
            *launch.local(argv),
            env=launch.environment,
            cwd=launch.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return Outcome(success=False, message=f"{argv[0]}: {error.strerror}")
    try:
        async with asyncio.timeout(seconds):
            output, _ = await process.communicate()
    except TimeoutError:
        return Outcome(success=False, message=f"command {list(argv)!r} timed out after {seconds:g}s")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
    if process.returncode == 0:
        return Outcome(success=True)
    return Outcome(success=False, message=output[:_MAX_OUTPUT].decode(errors="replace").strip())


async def attempt(handler: JsonObject, container: JsonObject, launch: Launch, address: str, seconds: float) -> Outcome:
    """Try a probe's or hook's handler once."""
    try:
        if (action := handler.get("httpGet")) is not None:
            return await http_get(action, container, address, seconds)
        if (action := handler.get("tcpSocket")) is not None:
            return await tcp_connect(action, container, address, seconds)
        if (action := handler.get("exec")) is not None:
            return await run_command(action.get("command") or [], launch, seconds)
        if (action := handler.get("sleep")) is not None:
            await asyncio.sleep(float(action.get("seconds", 0)))
            return Outcome(success=True)
    except ValueError as error:
        return Outcome(success=False, message=str(error))
    return Outcome(success=False, message="no handler that the pod runner supports")


async def watch(
    probe: JsonObject,
    make_attempt: Callable[[float], Any],
    report: Callable[[bool, str], None],
    *,
    failed: Callable[[str], None],
) -> None:
    """Try a probe again and again until cancelled.

    `report` is called whenever enough attempts in a row have had the same outcome, with that outcome; `failed` after
    every single failure, with its message.
    """
    await asyncio.sleep(float(probe.get("initialDelaySeconds") or 0))
    row, last = 0, True
    period, timeout = float(probe.get("periodSeconds") or 10), float(probe.get("timeoutSeconds") or 1)
    needed = {True: int(probe.get("successThreshold") or 1), False: int(probe.get("failureThreshold") or 3)}
    while True:
        outcome: Outcome = await make_attempt(timeout)
        if not outcome.success:
            failed(outcome.message)
        row = row + 1 if outcome.success is last else 1
        last = outcome.success
        if row >= needed[last]:
            report(last, outcome.message)
        await asyncio.sleep(period)
