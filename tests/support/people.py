"""The people in the end-to-end tests: one with kubectl, one with an HTTP client, one with a phone, one with a webhook.

They use the product as its users do: kubectl as a program, HTTP with an API key, QR codes as text. What they wait for
is on the other side of several processes, so they look again and again until a deadline.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
import yaml
from aiohttp import web

from sandbox.cluster import Access
from sandbox.whatsapp.phone import Phone, Sandbox

DEADLINE = 90.0
"""Seconds that a story may wait for one step: a machine that runs everything at once takes its time."""
LOOK_EVERY = 0.1

JSON = dict[str, Any]


async def eventually(what: str, look: Callable[[], Awaitable[Any]], *, within: float = DEADLINE) -> Any:
    """The first true thing that `look` returns.

    Raises:
        AssertionError: There was none in time; says what was seen last.
    """
    ends = time.monotonic() + within
    seen: Any = None
    while time.monotonic() < ends:
        try:
            seen = await look()
        except (KubectlError, AssertionError, aiohttp.ClientError) as error:
            seen = error
        else:
            if seen:
                return seen
        await asyncio.sleep(LOOK_EVERY)
    raise AssertionError(f"{what} did not happen within {within:g} s; last seen: {seen!r}")


class KubectlError(Exception):
    """kubectl ended with an error; the text is what it said."""


@dataclass(slots=True)
class Kubectl:
    """Somebody at a terminal."""

    kubeconfig: str
    namespace: str = "default"

    async def __call__(self, *words: str, stdin: str | None = None) -> str:
        """Run a command; what it prints."""
        process = await asyncio.create_subprocess_exec(
            "kubectl",
            "--namespace",
            self.namespace,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "KUBECONFIG": self.kubeconfig},
        )
        output, errors = await process.communicate(stdin.encode() if stdin else b"")
        if process.returncode:
            raise KubectlError(errors.decode())
        return output.decode()

    async def apply(self, *objects: JSON) -> str:
        """`kubectl apply -f -`."""
        return await self("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    async def get(self, kind: str, name: str) -> JSON:
        """One object."""
        found: JSON = json.loads(await self("get", kind, name, "-o", "json"))
        return found

    async def all(self, kind: str, selector: str = "") -> list[JSON]:
        """All objects of a kind."""
        words = ["get", kind, "-o", "json", *(["-l", selector] if selector else [])]
        items: list[JSON] = json.loads(await self(*words))["items"]
        return items

    async def phase(self, session: str) -> str:
        """`status.phase` of a session."""
        return str((await self.get("wa", session)).get("status", {}).get("phase", ""))

    async def in_phase(self, phase: str, *sessions: str, within: float = DEADLINE) -> None:
        """Return when all sessions are in a phase."""

        async def look() -> bool:
            phases = {item["metadata"]["name"]: item["status"].get("phase") for item in await self.all("wa")}
            assert all(phases.get(name) == phase for name in sessions), str(phases)
            return True

        await eventually(f"{', '.join(sessions)} {phase}", look, within=within)

    async def events(self, name: str) -> list[str]:
        """Reasons of the events about an object, oldest first."""
        words = ("get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json")
        items = json.loads(await self(*words))["items"]
        return [item["reason"] for item in sorted(items, key=lambda item: item["metadata"]["creationTimestamp"])]


@dataclass(slots=True)
class Answer:
    """A response with its body read."""

    status: int
    body: Any
    headers: dict[str, str]


class Client:
    """Somebody with an API key."""

    def __init__(self, access: Access) -> None:
        self._url = access.gateway_url
        self._key = access.api_key
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(self._url, headers={"X-Api-Key": self._key})
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._http is not None
        await self._http.close()

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """One request; JSON is read, anything else kept as bytes."""
        assert self._http is not None
        async with self._http.request(method, path, json=body, **options) as response:
            raw = await response.read()
            is_json = "json" in response.headers.get("Content-Type", "")
            return Answer(response.status, json.loads(raw) if is_json else raw, dict(response.headers))

    async def qr(self, session: str) -> str:
        """The text of a session's QR code, as soon as there is one."""

        async def look() -> str:
            answer = await self("GET", f"/api/{session}/auth/qr?format=raw")
            assert answer.status == 200, str(answer)
            return str(answer.body["value"])

        return str(await eventually(f"QR code of {session}", look))

    async def send(self, session: str, to: str, text: str) -> JSON:
        """Send a text; the message."""
        answer = await self("POST", "/api/sendText", {"session": session, "chatId": to, "text": text})
        assert answer.status == 201, str(answer)
        message: JSON = answer.body
        return message


@dataclass(slots=True)
class Delivered:
    """One request that reached the webhook."""

    path: str
    body: JSON
    raw: bytes
    headers: dict[str, str]

    def is_signed_with(self, key: str) -> bool:
        """Whether the signature is that of the raw body."""
        expected = hmac.new(key.encode(), self.raw, hashlib.sha512).hexdigest()
        return self.headers.get("X-Webhook-Hmac") == expected


@dataclass(slots=True)
class Receiver:
    """Somebody's webhook server."""

    requests: list[Delivered] = field(default_factory=list)
    status: int = 200
    """What it answers."""
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{name}", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.requests.append(Delivered(request.path, json.loads(raw), raw, dict(request.headers)))
        return web.Response(status=self.status)

    def events(self, event: str, session: str | None = None) -> list[JSON]:
        """Bodies of one event, in the order in which they came."""
        bodies = [request.body for request in self.requests]
        return [body for body in bodies if body["event"] == event and session in (None, body["session"])]


class World:
    """Everybody, around one sandbox."""

    def __init__(self, access: Access, client: Client, receiver: Receiver) -> None:
        self.access = access
        self.kubectl = Kubectl(access.kubeconfig)
        self.client = client
        self.receiver = receiver
        self._numbers = 0

    def session(self, name: str, pool: str = "default", **spec: Any) -> JSON:
        """The manifest of a session."""
        return {
            "apiVersion": "whatsapp.28web.io/v1alpha1",
            "kind": "WhatsAppSession",
            "metadata": {"name": name},
            "spec": {"poolRef": {"name": pool}, **spec},
        }

    def pool(self, name: str = "default", **spec: Any) -> JSON:
        """The manifest of a pool that keeps its profiles on a claim, and opens the stand-in."""
        return {
            "apiVersion": "whatsapp.28web.io/v1alpha1",
            "kind": "WhatsAppWorkerPool",
            "metadata": {"name": name},
            "spec": {
                "browser": {"url": f"{self.access.whatsapp_url}/"},
                "profiles": {"volumeClaimName": "profiles"},
                **spec,
            },
        }

    def claim(self) -> JSON:
        """The manifest of the claim for profiles."""
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "profiles"},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }

    async def scan(self, session: str) -> str:
        """Take a new phone and scan a session's QR code; the number."""
        self._numbers += 1
        number = f"551198{int(time.time()) % 10_000_000:07}{self._numbers:02}"[:15]
        async with Phone(self.access.whatsapp_url, number) as phone:
            await phone.scan(await self.client.qr(session))
        return number

    async def pair(self, *sessions: str) -> dict[str, str]:
        """Pair sessions and wait until they are connected; session -> number."""
        numbers = {session: await self.scan(session) for session in sessions}
        await self.kubectl.in_phase("Connected", *sessions)
        return numbers

    async def overlaps(self) -> dict[str, Any]:
        """Accounts that two browsers have ever held at once, as WhatsApp's side has seen it."""
        async with Sandbox(self.access.whatsapp_url) as sandbox:
            accounts = (await sandbox.accounts())["accounts"]
        entries = accounts.values() if isinstance(accounts, dict) else accounts
        return {entry["number"]: entry["overlaps"] for entry in entries if entry["max_live"] > 1}

    async def clear(self, *names: str) -> None:
        """Remove all sessions and pools, and wait until their workers are gone too."""
        await self.kubectl("delete", "wa,wapool", "--all", "--wait=true", f"--timeout={DEADLINE:.0f}s")

        async def gone() -> bool:
            return not await self.kubectl.all("pods", "app.kubernetes.io/name=whatsapp-worker")

        await eventually("workers gone", gone)


def is_png(body: str | bytes) -> bool:
    """Whether this is a PNG picture, plain or in base64."""
    raw = base64.b64decode(body) if isinstance(body, str) else body
    return raw.startswith(b"\x89PNG\r\n")
