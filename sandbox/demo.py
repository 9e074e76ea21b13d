"""The main job, shown: from `kubectl apply` to a delivered message, with what a person would see on the way.

Owns the script of the demo and its looks. It uses the product as its users do: kubectl, HTTP, a phone, a webhook.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import segno
from aiohttp import web
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from kubeclient import Object, path_of
from sandbox.cluster import ROOT, Access, Options, Sandbox
from sandbox.gateway_client import GatewayClient
from sandbox.whatsapp import seed
from sandbox.whatsapp.phone import Phone

SESSION = "sales"
NUMBER = "15550100200"
STEP_LIMIT = 120.0
"""Seconds that any one step may take; a machine that starts everything at once takes its time."""

_API = "whatsapp.28web.io/v1alpha1"
_POLL = 0.2
_COLORS = {"Connected": "green", "Pairing": "yellow", "Failed": "red", "Pending": "magenta"}


class DemoError(Exception):
    """A step of the demo did not work; the text says which."""


class Inbox:
    """A webhook receiver on this machine."""

    def __init__(self) -> None:
        self.url = ""
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self._events.put_nowait(await request.json())
        return web.Response()

    async def next(self, event: str) -> dict[str, Any]:
        """The next event of a kind."""
        while (found := await self._events.get())["event"] != event:
            pass
        return found


class Demo:
    """The demo and its sandbox, which lives as long as the `async with` block."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._console = console
        self._stack = contextlib.AsyncExitStack()
        self._began = time.monotonic()
        self._sandbox = Sandbox(options)
        self._inbox = Inbox()

    async def __aenter__(self) -> Self:
        if shutil.which("kubectl") is None:
            raise DemoError("kubectl is not installed (Debian: apt-get install kubernetes-client)")
        self._step("Starting a cluster: API server, node, Redis, WhatsApp stand-in, operator, gateway")
        try:
            await self._stack.enter_async_context(self._inbox)
            await self._stack.enter_async_context(self._sandbox)
        except BaseException:
            await self._stack.aclose()
            raise
        for note in self._sandbox.notes:
            self._console.print(f"       [dim]{note}[/dim]", highlight=False, soft_wrap=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        self._console.print("[dim]Everything is stopped.[/dim]")

    @property
    def _access(self) -> Access:
        assert self._sandbox.access is not None
        return self._sandbox.access

    async def show(self) -> None:
        """Run the script.

        Raises:
            DemoError: A step took too long.
        """
        inbox = self._inbox
        async with GatewayClient(self._access) as gateway:
            self._step("kubectl apply -f examples/")
            await self._kubectl("apply", "-f", str(ROOT / "examples"))
            await self._watch("every session shows its QR code", {"Pairing"})
            self._step(f"This is the code of {SESSION}; a phone scans it")
            code = await gateway.code(SESSION, within=STEP_LIMIT)
            self._draw(code)
            async with Phone(self._access.whatsapp_url, NUMBER) as phone:
                await phone.scan(code)
            await self._watch(f"{SESSION} is connected", {"Connected"}, only=SESSION)
            self._step("A webhook for what comes in, and a message over HTTP to Ada, who echoes everything")
            webhook = {"url": inbox.url, "events": ["message"]}
            await gateway.request("PUT", f"/api/sessions/{SESSION}", {"config": {"webhooks": [webhook]}})
            text = "Hello from the demo"
            body = {"session": SESSION, "chatId": f"{seed.ECHO}@c.us", "text": text}
            sent = await gateway.request("POST", "/api/sendText", body)
            self._console.print(f"       → sent      {text!r} ({sent['id']})", highlight=False, soft_wrap=True)
            answer = await self._within("Ada's answer", inbox.next("message"))
            self._console.print(f"       ← webhook   {answer['payload']['body']!r}", highlight=False)
            self._step("Delivered and answered")
        await self._kubectl("get", "wa")
        await self._kubectl("get", "wapool")
        self._advise(await self._worker())

    async def stay(self) -> None:
        """Print what else comes in by webhook, until cancelled."""
        while True:
            payload = (await self._inbox.next("message"))["payload"]
            self._console.print(
                f"← webhook   {payload['from']}: {payload['body']!r}", highlight=False, soft_wrap=True, markup=False
            )

    # --- Steps

    def _step(self, text: str) -> None:
        self._console.print(
            f"[dim]{time.monotonic() - self._began:5.1f} s[/dim] [bold]{text}[/bold]", highlight=False, soft_wrap=True
        )

    async def _within(self, what: str, step: Any) -> Any:
        try:
            async with asyncio.timeout(STEP_LIMIT):
                return await step
        except TimeoutError:
            logs = Path(self._access.directory) / "logs"
            raise DemoError(f"{what} did not come within {STEP_LIMIT:.0f} s; logs are in {logs}") from None

    async def _kubectl(self, *words: str) -> None:
        environment = {**os.environ, "KUBECONFIG": self._access.kubeconfig}
        process = await asyncio.create_subprocess_exec(
            "kubectl", *words, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise DemoError(f"kubectl {' '.join(words)}: {output.decode().strip()}")
        for line in output.decode().splitlines():
            self._console.print(f"       {line}", highlight=False, soft_wrap=True, markup=False)

    async def _watch(self, what: str, phases: set[str], *, only: str | None = None) -> None:
        """Show the fleet until all sessions (or one) are in one of `phases`."""
        sessions = await self._list("whatsappsessions")
        with Live(console=self._console, refresh_per_second=8) as live:

            async def look() -> None:
                nonlocal sessions
                while True:
                    sessions = await self._list("whatsappsessions")
                    live.update(fleet_view(sessions, await self._list("whatsappworkerpools")))
                    asked = [item for item in sessions if only in (None, item["metadata"]["name"])]
                    if asked and all(item["status"].get("phase") in phases for item in asked):
                        return
                    await asyncio.sleep(_POLL)

            await self._within(what, look())
        if not self._console.is_terminal:
            self._console.print()  # where nothing can be redrawn, the view is printed once and without a line's end

    async def _list(self, plural: str) -> list[Object]:
        assert self._sandbox.client is not None
        items, _ = await self._sandbox.client.list(path_of(_API, plural, namespace="default"))
        return items

    async def _worker(self) -> str:
        (found,) = [item for item in await self._list("whatsappsessions") if item["metadata"]["name"] == SESSION]
        return str(found["status"]["assignment"]["worker"])

    # --- Looks

    def _draw(self, code: str) -> None:
        picture = io.StringIO()
        segno.make(code, error="l").terminal(picture, border=1, compact=True)
        self._console.print(picture.getvalue().rstrip("\n"), highlight=False, markup=False, soft_wrap=True)

    def _advise(self, worker: str) -> None:
        access = self._access
        python = os.path.relpath(sys.executable) if sys.executable.startswith(str(Path.cwd())) else sys.executable
        key = f'-H "X-Api-Key: {access.api_key}"'
        message = f'{{"session":"{SESSION}","chatId":"{seed.AUTO}@c.us","text":"Are you open?"}}'
        commands = [
            f"export KUBECONFIG={access.kubeconfig}",
            "kubectl get wa,wapool,pods",
            f"kubectl describe wa {SESSION}",
            f"{python} -m sandbox phone scan support",
            f'{python} -m sandbox phone send {SESSION} "Hello from a contact"',
            f"{python} -m sandbox phone messages {SESSION}",
            f"curl {key} {access.gateway_url}/api/sessions",
            f"curl {key} -H 'Content-Type: application/json' {access.gateway_url}/api/sendText -d '{message}'",
            "kubectl scale wapool default --replicas=3",
            f"kubectl delete pod {worker} --wait=false && kubectl get wa -w",
        ]
        for line in (
            "",
            f"Gateway    {access.gateway_url}   WAHA's API; X-Api-Key: {access.api_key}",
            f"WhatsApp   {access.whatsapp_url}   the stand-in that the browsers open",
            f"Logs       {access.directory}/logs",
            "\nIn another terminal, in this directory:\n",
            *(f"  {command}" for command in commands),
        ):
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)
        if os.environ.get("DEMO_ONCE") != "1":
            self._console.print("\n[bold]Ctrl-C ends everything.[/bold]")


def fleet_view(sessions: Iterable[Object], pools: Iterable[Object]) -> Group:
    """Sessions and pools as people want to see them."""
    table = Table("Session", "Phase", "Account", "Worker", "Message", box=None, pad_edge=False)
    for item in sessions:
        status = item.get("status") or {}
        phase = status.get("phase") or "…"
        color = _COLORS.get(phase, "cyan")
        table.add_row(
            item["metadata"]["name"],
            f"[{color}]{phase}[/{color}]",
            (status.get("account") or {}).get("phoneNumber", ""),
            (status.get("assignment") or {}).get("worker") or "",
            status.get("message", ""),
        )
    lines = []
    for item in pools:
        status = item.get("status") or {}
        lines.append(
            f"pool {item['metadata']['name']}: {status.get('readyReplicas', 0)} of {item['spec']['replicas']} workers "
            f"ready, {status.get('sessions', 0)} sessions in {status.get('effectiveCapacity', 0)} places"
        )
    return Group(Panel(table, title="kubectl get wa", title_align="left"), *lines)
