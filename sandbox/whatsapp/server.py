"""The WhatsApp Web stand-in: serves the page, its websocket, media, QR pictures and the control API.

The page behaves as WhatsApp's does where the real `@wppconnect/wa-js` can tell the difference: the same strict content
security policy, the same refusal of the "HeadlessChrome" user agent, the same module names, streams and storage. What
it leaves out: encryption between people, media encryption, calls' sound and picture, communities, payments.

Owns the lifecycle: `start()`, `url`, `aclose()`. Binds to loopback unless told otherwise: whoever reaches the control
API (`control`) is everybody's phone.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import re
import secrets
from pathlib import Path
from string import Template
from typing import Self

import segno
from aiohttp import web

from sandbox.whatsapp import control, seed
from sandbox.whatsapp.connection import Connection
from sandbox.whatsapp.hub import Hub
from sandbox.whatsapp.media import MAX_UPLOAD, MediaStore
from sandbox.whatsapp.model import State
from sandbox.whatsapp.settings import Settings
from sandbox.whatsapp.state import Keeper, load

log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
SCRIPTS = (
    "loader.js",
    "model.js",
    "address.js",
    "storage.js",
    "constants.js",
    "session.js",
    "socket.js",
    "contacts.js",
    "messages.js",
    "chats.js",
    "groups.js",
    "receive.js",
    "send.js",
    "media.js",
    "channels.js",
    "ui.js",
    "main.js",
)
"""In the order of loading."""
FIRST_BURST = 4
"""Scripts before the pause of a slow cold load: enough for the page API to find the module system, but no stream."""
SAVE_INTERVAL = 2.0
"""Seconds between two looks at whether the state has to be written."""
UNSUPPORTED = re.compile("HeadlessChrome")
"""User agents that WhatsApp Web refuses with a page that never boots."""


class WhatsAppServer:
    """The stand-in as one object."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._host = host
        self._port = port
        path = self.settings.state_file
        saved = load(path)
        self.state = saved or State()
        self.media = MediaStore(path.with_name(path.name + ".media") if path else None)
        self.hub = Hub(self.settings, self.state, self.media)
        if saved is None and self.settings.seed_contacts:
            seed.fill(self.hub.network)
        self.cold_loads = 0
        self.cold_seconds = 1.5
        self._fingerprint = hashlib.sha256(b"".join((PAGE / name).read_bytes() for name in SCRIPTS)).hexdigest()[:8]
        """Part of the scripts' addresses, so that a browser's cache never serves those of another version."""
        self._keeper = Keeper(self.state, path)
        self._runner: web.AppRunner | None = None
        self._saver: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Address of the page, without a slash at the end.

        A profile belongs to the origin, port included: a page paired at one port is unknown at another.
        """
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. With port 0 the system chooses one; see `url`.

        Raises:
            OSError: the address is taken.
        """
        app = web.Application(client_max_size=MAX_UPLOAD)
        app.router.add_get("/", self._page)
        app.router.add_get("/ws/chat", self._socket)
        app.router.add_get("/static/{name}", self._static)
        app.router.add_post("/qr", self._qr)
        app.router.add_post("/mms/upload", self.media.upload)
        app.router.add_get("/mms/d/{name}", self.media.download)
        control.add_routes(app, self)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        if self._port == 0:
            self._port = self._runner.addresses[0][1]
        self._saver = asyncio.create_task(self._save_often())

    async def aclose(self) -> None:
        """Cut all pages, stop listening and write the state."""
        self.hub.close()
        if self._saver is not None:
            self._saver.cancel()
            await asyncio.gather(self._saver, return_exceptions=True)
            self._saver = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._keeper.save()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def _save_often(self) -> None:
        while True:
            await asyncio.sleep(SAVE_INTERVAL)
            try:
                await self._keeper.save()
            except OSError as error:
                log.warning("The state could not be written, will try again.", extra={"reason": str(error)})

    # --- HTTP -------------------------------------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.Response:
        headers = {"Cache-Control": "no-store"}
        if UNSUPPORTED.search(request.headers.get("User-Agent", "")):
            return web.Response(text=self._file("unsupported.html"), content_type="text/html", headers=headers)
        nonce = secrets.token_urlsafe(16)
        pause = ""
        if self.cold_loads > 0:
            self.cold_loads -= 1
            pause = f"&amp;pause={self.cold_seconds}"
        version = f"{self.state.revision}-{self._fingerprint}"
        tags = [
            f'<script nonce="{nonce}" src="/static/{name}?v={version}{pause if place == FIRST_BURST else ""}"></script>'
            for place, name in enumerate(SCRIPTS)
        ]
        text = Template(self._file("index.html")).substitute(
            scripts="\n".join(tags),
            revision=self.state.revision,
            version=version,
            reconnect=self.settings.scaled(self.settings.reconnect),
            update_reload=self.settings.scaled(self.settings.update_reload),
        )
        headers["Content-Security-Policy"] = (
            f"default-src 'self'; script-src 'self' 'nonce-{nonce}'; style-src 'self'; "
            "img-src 'self' data: blob:; media-src 'self' data: blob:; "
            f"connect-src 'self' data: blob: ws://{request.host}; "
            "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
        )
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in SCRIPTS and name != "style.css":
            raise web.HTTPNotFound
        if "pause" in request.query:
            await asyncio.sleep(min(float(request.query["pause"]), 30.0))
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return web.Response(text=self._file(name), content_type=kind, headers={"Cache-Control": "max-age=3600"})

    @staticmethod
    def _file(name: str) -> str:
        return (PAGE / name).read_text()

    async def _qr(self, request: web.Request) -> web.Response:
        """Draw the text in the body as a QR code (SVG)."""
        picture = io.BytesIO()
        try:
            code = segno.make(await request.text(), error="l")
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"no QR code can hold this text: {error}\n") from error
        code.save(picture, kind="svg", scale=4, border=2, xmldecl=False)
        return web.Response(body=picture.getvalue(), content_type="image/svg+xml")

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if not self.hub.online:
            raise web.HTTPServiceUnavailable(text="the network is switched off\n")
        socket = web.WebSocketResponse(max_msg_size=64 * 1024 * 1024, timeout=1.0)
        await socket.prepare(request)
        transport = request.transport
        connection = Connection(self.hub, socket, transport.abort if transport else lambda: None)
        self.hub.add(connection)
        try:
            await connection.run()
        finally:
            self.hub.remove(connection)
        return socket
