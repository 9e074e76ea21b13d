"""One websocket of one page: the handshake, pairing, login, frames in both directions, and the faults on the line.

Frames are JSON objects with a type `t`. From the page: `hello`, `pair`, `refresh`, `code`, `proof`, `iq`, `stored`,
`pong`. From the server: `unpaired`, `refs`, `code`, `paired`, `challenge`, `success`, `failure`, `offline`, `stanza`,
`result`, `presence`, `ping`, `stream_error`, `update`, `trouble`.

Must not decide who gets what: that is `network`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from sandbox.whatsapp.model import Device, Person, Stanza
from sandbox.whatsapp.network import RefusedError
from sandbox.whatsapp.operations import Asker, NoAnswerError, text_of
from sandbox.whatsapp.pairing import PageKeys

if TYPE_CHECKING:
    from sandbox.whatsapp.hub import Hub

log = logging.getLogger(__name__)

Frame = dict[str, Any]

_END = object()
"""Put into the outbox: everything before it is written, then the socket closes."""
_FREEZE = object()
"""Put into the outbox: everything before it is written, then the line falls silent."""


def _base64url_int(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def proves_possession(public_key: Frame, signature: str, message: bytes) -> bool:
    """Whether `signature` (base64url of r and s, as WebCrypto makes it) of `message` fits a P-256 JWK."""
    try:
        numbers = ec.EllipticCurvePublicNumbers(
            _base64url_int(public_key["x"]), _base64url_int(public_key["y"]), ec.SECP256R1()
        )
        raw = _base64url_int(signature)
        encoded = utils.encode_dss_signature(raw >> 256, raw & ((1 << 256) - 1))
        numbers.public_key().verify(encoded, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, KeyError, ValueError, TypeError):
        return False
    return True


class Connection:
    """A page's socket. `run()` owns it from the first frame to the last."""

    def __init__(self, hub: Hub, socket: web.WebSocketResponse, abort: Callable[[], None]) -> None:
        self.page = secrets.token_hex(8)
        self.tab = ""
        """The browser tab, which a reload keeps and a copied profile does not."""
        self.since = time.time()
        self.person: Person | None = None
        self.device: Device | None = None
        self.live = False
        """Logged in, and not replaced since."""
        self.waiting = False
        """Not paired: shows QR codes."""
        self._hub = hub
        self._socket = socket
        self._abort = abort
        self._inbox: asyncio.Queue[str] = asyncio.Queue()
        self._outbox: asyncio.Queue[Frame | Stanza | object] = asyncio.Queue()
        self._nonce = ""
        self._first_live_seq = 0
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def frozen(self) -> bool:
        """Open, but nothing goes in or out."""
        return not self._thawed.is_set()

    async def run(self) -> None:
        """Serve the page until either side closes."""
        own = [asyncio.create_task(self._write()), asyncio.create_task(self._work())]
        try:
            # Reading goes on while the line is frozen, so that a page that leaves is seen to leave.
            async for message in self._socket:
                if message.type is WSMsgType.TEXT:
                    self._inbox.put_nowait(message.data)
        finally:
            tasks = [*own, *self._tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            text = await self._inbox.get()
            await self._thawed.wait()
            if self.person is not None and self.person.faults.latency:
                await asyncio.sleep(self.person.faults.latency)
            try:
                self._take(json.loads(text))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                log.warning("A page sent a frame that cannot be read.", extra={"reason": repr(error)})

    def send(self, frame: Frame) -> None:
        """Write a frame after all that were sent before it."""
        self._outbox.put_nowait(frame)

    def send_stanza(self, stanza: Stanza) -> None:
        """Write a stanza; it stays in the device's queue until the page has stored it."""
        self._outbox.put_nowait(stanza)

    def freeze(self, *, frozen: bool) -> None:
        """Stop or resume all traffic while the socket stays open."""
        if frozen:
            self._thawed.clear()
        else:
            self._thawed.set()

    def end(self, frame: Frame | None = None) -> None:
        """Write what is waiting, then `frame`, then close."""
        self.live = False
        if frame is not None:
            self._outbox.put_nowait(frame)
        self._outbox.put_nowait(_END)

    def drop(self) -> None:
        """Cut the line as a failing network does: no close frame."""
        self.live = False
        self._abort()

    async def _write(self) -> None:
        try:
            while True:
                item: Frame | Stanza | object
                try:
                    async with asyncio.timeout(self._hub.settings.keepalive):
                        item = await self._outbox.get()
                except TimeoutError:
                    item = {"t": "ping", "now": int(self._hub.now() * 1000)}
                await self._thawed.wait()
                if item is _END:
                    break
                if item is _FREEZE:
                    self.freeze(frozen=True)
                elif isinstance(item, Stanza):
                    await self._write_stanza(item)
                elif isinstance(item, dict):
                    await self._write_text(json.dumps(item))
        except ConnectionError:
            # The page is gone; the reader sees the same and ends the connection.
            return
        await self._socket.close()

    async def _write_stanza(self, stanza: Stanza) -> None:
        if self.person is None or self.device is None or not self.live:
            return
        offline = stanza.seq < self._first_live_seq
        frame = {"t": "stanza", "seq": stanza.seq, "kind": stanza.kind, "offline": offline, "body": stanza.body}
        self._hub.network.wrote(self.person, self.device, stanza)
        await self._write_text(json.dumps(frame))

    async def _write_text(self, text: str) -> None:
        if self.person is not None:
            faults = self.person.faults
            delay = faults.latency + (len(text) / faults.bandwidth if faults.bandwidth else 0.0)
            if delay:
                await asyncio.sleep(delay)
        await self._socket.send_str(text)

    # --- Frames from the page ---------------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        match frame["t"]:
            case "hello":
                self._hello(frame)
            case "pair":
                self._pair(frame)
            case "refresh":
                self._send_refs()
            case "code":
                self._code(frame)
            case "proof":
                self._proof(frame)
            case "iq" if self.live:
                self._spawn(self._iq(frame))
            case "stored" if self.live and self.person and self.device:
                self._hub.network.stored(self.person, self.device, frame["seq"])
            case "pong" | "iq" | "stored":
                pass
            case unknown:
                log.warning("A page sent a frame of an unknown type.", extra={"type": unknown})

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hello(self, frame: Frame) -> None:
        self.tab = frame["tab"]
        device_id = frame.get("device")
        if device_id is None:
            self.send({"t": "unpaired"})
            return
        found = self._hub.network.device(device_id)
        if found is None:
            self.end({"t": "failure", "reason": "device_removed"})
            return
        person, device = found
        if person.faults.offline:
            self.drop()
            return
        self.person, self.device = person, device
        self._nonce = secrets.token_urlsafe(24)
        self.send({"t": "challenge", "nonce": self._nonce})

    def _proof(self, frame: Frame) -> None:
        person, device = self.person, self.device
        if person is None or device is None:
            return
        message = f"{device.id}.{self._nonce}.{device.noise_token}".encode()
        if not proves_possession(device.public_key, frame["signature"], message):
            self.end({"t": "failure", "reason": "not_authorized"})
            return
        self._hub.login(self, person, device)
        pending = list(device.queue)
        self._first_live_seq = device.next_seq
        messages = sum(1 for stanza in pending if stanza.kind == "message")
        me = {
            "number": person.number,
            "lid": person.lid,
            "name": person.name,
            "business": person.business,
            "lidMigrated": person.lid_migrated,
            "picture": person.picture,
        }
        self.send({"t": "success", "me": me, "offline": messages})
        for stanza in pending:
            self.send_stanza(stanza)
        self.send({"t": "offline", "count": messages})
        if person.faults.freeze:
            self._outbox.put_nowait(_FREEZE)

    def _pair(self, frame: Frame) -> None:
        keys = PageKeys(
            static=frame["static"],
            identity=frame["identity"],
            adv=frame["adv"],
            login=frame["login"],
            noise_token=frame["noise"],
            platform=frame["platform"],
        )
        self.waiting = True
        self._hub.pairing.enter(self.page, keys)
        self._spawn(self._first_refs())

    async def _first_refs(self) -> None:
        await asyncio.sleep(self._hub.settings.scaled(self._hub.settings.first_ref_delay))
        await self._hub.refs_released.wait()
        self._send_refs()

    def _send_refs(self) -> None:
        if self.waiting:
            self.send({"t": "refs", "refs": self._hub.pairing.new_refs(self.page, self._hub.now())})

    def _code(self, frame: Frame) -> None:
        try:
            phone = text_of(frame, "phone").lstrip("+")
            if self._hub.network.find(phone) is None:
                self._hub.network.account(phone)
            code = self._hub.pairing.new_code(self.page, phone, self._hub.now())
        except RefusedError as error:
            self.send({"t": "result", "id": frame["id"], "error": {"code": error.code, "message": str(error)}})
        else:
            self.send({"t": "result", "id": frame["id"], "value": code})

    async def _iq(self, frame: Frame) -> None:
        if self.person is None or self.device is None:
            return
        by = Asker(self.person, self.device)
        if frame["op"] == "logout":
            self._hub.logout(self)
            self.send({"t": "result", "id": frame["id"], "value": None})
            return
        answer: Frame
        try:
            answer = {"value": await self._hub.operations.answer(by, frame["op"], frame.get("args", {}))}
        except NoAnswerError:
            return
        except RefusedError as error:
            answer = {"error": {"code": error.code, "message": str(error)}}
        with contextlib.suppress(ConnectionError):
            self.send({"t": "result", "id": frame["id"], **answer})
