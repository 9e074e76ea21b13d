"""The sandbox's command line: start it, show the demo, and be the person with the phone.

`python -m sandbox --help` lists the commands. Owns how people are spoken to; what is done stands in the other modules.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import zlib
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from sandbox.assets import AssetsError, assets_from_environment
from sandbox.cluster import Access, Options, Sandbox, SandboxError
from sandbox.demo import Demo, DemoError
from sandbox.gateway_client import GatewayClient, GatewayError
from sandbox.whatsapp import seed
from sandbox.whatsapp.phone import Phone, PhoneError
from sandbox.whatsapp.phone import Sandbox as WhatsApp

WHATSAPP_PORT = 8090
"""Fixed, since browser profiles belong to an address: a login survives a restart of its worker only at the same one."""
GATEWAY_PORT = 3000
"""WAHA's own port."""

_CODE_SECONDS = 60.0


def main(words: list[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = _parser().parse_args(words)
    console = Console()
    try:
        return asyncio.run(_until_signalled(arguments.run(arguments, console)))
    except (SandboxError, AssetsError, DemoError, PhoneError, GatewayError) as error:
        Console(stderr=True).print(f"[red]{error}[/red]", highlight=False)
        return 1
    except aiohttp.ClientConnectionError as error:
        Console(stderr=True).print(f"[red]The sandbox does not answer: {error}[/red]", highlight=False)
        return 1


async def _until_signalled(command: Coroutine[Any, Any, int]) -> int:
    """Run a command; Ctrl-C and SIGTERM cancel it, so that it can clean up."""
    task = asyncio.ensure_future(command)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox", description="A Kubernetes cluster with WhatsApp on this machine, without either."
    )
    directory = Path(os.environ.get("SANDBOX_DIR", ".sandbox"))
    parser.add_argument("--dir", type=Path, default=directory, help="the sandbox's directory (SANDBOX_DIR; .sandbox)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("up", _up, "start a sandbox with operator and gateway, and stay until Ctrl-C"),
        ("demo", _demo, "start a sandbox and show the main job in it (DEMO_ONCE=1: end after the first message)"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument(
            "--assets", type=Path, default=None, help="run these kube-apiserver and etcd (KUBEBUILDER_ASSETS)"
        )
        command.add_argument("--kubeconfig", type=Path, default=None, help="use the API server of this file instead")
        command.add_argument("--gateway-port", type=int, default=GATEWAY_PORT, help=f"default {GATEWAY_PORT}; 0: any")
        command.add_argument("--whatsapp-port", type=int, default=WHATSAPP_PORT, help=f"default {WHATSAPP_PORT}")
    _add_phone(commands.add_parser("phone", help="be the person with the phone").add_subparsers(required=True))
    return parser


def _add_phone(actions: Any) -> None:
    def action(name: str, run: Any, text: str, *positional: tuple[str, str]) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run)
        for argument, explanation in positional:
            parser.add_argument(argument, help=explanation)
        return parser

    session = ("session", "name of the WhatsAppSession")
    scan = action("scan", _scan, "scan the QR code that a session shows", session)
    scan.add_argument("--number", default=None, help="whose phone scans; by default one that goes with the name")
    action("code", _enter_code, "type a pairing code into a phone", ("number", "whose phone"), ("code", "the code"))
    send = action("send", _send, "let a contact write to a session's account", session, ("text", "what to write"))
    send.add_argument("--from", dest="sender", default=seed.ECHO, help=f"number of the contact (default {seed.ECHO})")
    action("messages", _messages, "show what the phone of a session has", session)
    action("unlink", _unlink, "unlink a session on its phone", session)
    action("list", _list, "list the accounts that WhatsApp's stand-in knows")


# --- Running


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        directory=arguments.dir,
        assets=None if arguments.kubeconfig else arguments.assets or assets_from_environment(),
        kubeconfig=arguments.kubeconfig,
        gateway_port=arguments.gateway_port,
        whatsapp_port=arguments.whatsapp_port,
    )


def _log_to(directory: Path) -> None:
    """What the sandbox's own parts have to say goes beside the other logs: the terminal belongs to the person."""
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=logs / "sandbox.log", level=logging.INFO, format="%(asctime)s %(name)s %(message)s", force=True
    )


async def _up(arguments: argparse.Namespace, console: Console) -> int:
    sandbox = Sandbox(_options(arguments))
    async with sandbox:
        _log_to(arguments.dir)
        assert sandbox.access is not None
        for note in sandbox.notes:
            console.print(f"[dim]{note}[/dim]", highlight=False)
        access = sandbox.access
        for line in (
            f"export KUBECONFIG={access.kubeconfig}",
            f"gateway        {access.gateway_url}   (X-Api-Key: {access.api_key})",
            f"WhatsApp       {access.whatsapp_url}   (a stand-in)",
            "Ctrl-C ends everything.",
        ):
            console.print(line, highlight=False, soft_wrap=True)
        with contextlib.suppress(asyncio.CancelledError):  # how a person ends it
            await asyncio.Event().wait()
    return 0


async def _demo(arguments: argparse.Namespace, console: Console) -> int:
    async with Demo(_options(arguments), console) as demo:
        _log_to(arguments.dir)
        await demo.show()
        if os.environ.get("DEMO_ONCE") == "1":
            return 0
        with contextlib.suppress(asyncio.CancelledError):  # how a person ends it
            await demo.stay()
        console.print("\nStopping …")
    return 0


# --- The person with the phone


async def _scan(arguments: argparse.Namespace, console: Console) -> int:
    access = Access.load(arguments.dir)
    number = arguments.number or number_for(arguments.session)
    async with GatewayClient(access) as gateway, Phone(access.whatsapp_url, number) as phone:
        await phone.scan(await gateway.code(arguments.session, within=_CODE_SECONDS))
    console.print(f"The phone of {number} has scanned the code of {arguments.session}.", highlight=False)
    return 0


async def _enter_code(arguments: argparse.Namespace, console: Console) -> int:
    access = Access.load(arguments.dir)
    async with Phone(access.whatsapp_url, arguments.number) as phone:
        await phone.enter_code(arguments.code)
    console.print(f"The phone of {arguments.number} has accepted the code.", highlight=False)
    return 0


async def _send(arguments: argparse.Namespace, console: Console) -> int:
    access = Access.load(arguments.dir)
    number = await _account(access, arguments.session)
    async with WhatsApp(access.whatsapp_url) as network:
        await network.contact_sends(arguments.sender, number, arguments.text)
    console.print(f"{arguments.sender} has written to {number}.", highlight=False)
    return 0


async def _messages(arguments: argparse.Namespace, console: Console) -> int:
    access = Access.load(arguments.dir)
    async with Phone(access.whatsapp_url, await _account(access, arguments.session)) as phone:
        entries = await phone.messages()
    table = Table("Chat", "", "Text", box=None)
    for entry in entries:
        table.add_row(entry["chat"], "→" if entry["from_me"] else "←", str(entry["content"].get("body", "")))
    console.print(table)
    return 0


async def _unlink(arguments: argparse.Namespace, console: Console) -> int:
    access = Access.load(arguments.dir)
    async with Phone(access.whatsapp_url, await _account(access, arguments.session)) as phone:
        await phone.unlink()
    console.print(f"{arguments.session} is no longer linked.", highlight=False)
    return 0


async def _list(arguments: argparse.Namespace, console: Console) -> int:
    async with WhatsApp(Access.load(arguments.dir).whatsapp_url) as network:
        accounts = (await network.accounts())["accounts"]
    table = Table("Number", "Name", "Browsers now", "At most at once", box=None)
    for account in accounts:
        table.add_row(account["number"], account["name"], str(account["live"]), str(account["max_live"]))
    console.print(table)
    return 0


async def _account(access: Access, session: str) -> str:
    async with GatewayClient(access) as gateway:
        return await gateway.number(session)


def number_for(session: str) -> str:
    """A number that goes with a session's name; +1 555 is nobody's."""
    return f"1555{zlib.crc32(session.encode()) % 10_000_000:07}"


if __name__ == "__main__":
    sys.exit(main())
