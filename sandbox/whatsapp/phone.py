"""Clients of the stand-in's control API: a person's phone, and the switches of the sandbox.

Owns its HTTP session; close it with `aclose()` or use it as a context manager. See `control` for what each call does.
"""

from __future__ import annotations

import base64
from typing import Any, Self
from urllib.parse import quote

import aiohttp

JSON = dict[str, Any]


class PhoneError(Exception):
    """The stand-in refused.

    Attributes:
        status: the HTTP status: 400 wrong request, 403 not allowed, 404 no such thing, 410 expired.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Client:
    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the HTTP session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def _call(self, method: str, path: str, body: JSON | None = None) -> JSON:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        async with self._session.request(method, self._url + path, json=body) as response:
            answer: JSON = await response.json()
            if response.status >= 400:
                raise PhoneError(response.status, answer.get("error", "the stand-in failed"))
            return answer


class Phone(_Client):
    """The phone of one account.

    Args:
        url: address of the stand-in (`WhatsAppServer.url`).
        number: digits with the country code.

    All methods raise `PhoneError` when the stand-in refuses.
    """

    def __init__(self, url: str, number: str) -> None:
        super().__init__(url)
        self.number = number

    async def _do(self, action: str, body: JSON | None = None) -> JSON:
        return await self._call("POST", f"/sandbox/accounts/{self.number}/{action}", body or {})

    async def scan(self, qr: str) -> str:
        """Scan the QR code with this text; returns the id of the linked device."""
        return str((await self._do("scan", {"qr": qr}))["device"])

    async def enter_code(self, code: str) -> str:
        """Type a pairing code, with or without dash; returns the id of the linked device."""
        return str((await self._do("code", {"code": code}))["device"])

    async def unlink(self, device: str | None = None) -> list[str]:
        """Unlink one device, or all; returns which."""
        unlinked: list[str] = (await self._do("unlink", {"device": device}))["unlinked"]
        return unlinked

    async def send(self, to: str, text: str, *, count: int = 1, interval: float = 0.0) -> list[str]:
        """Send a text, or `count` numbered ones `interval` seconds apart; returns the message ids."""
        answer = await self._do("send", {"to": to, "text": text, "count": count, "interval": interval})
        ids: list[str] = answer["ids"]
        return ids

    async def send_content(self, to: str, content: JSON) -> str:
        """Send a raw message, such as `{"type": "location", "lat": 1.0, "lng": 2.0}`; returns its id."""
        return str((await self._do("send", {"to": to, "content": content}))["ids"][0])

    async def send_file(
        self, to: str, data: bytes, mimetype: str, *, filename: str | None = None, caption: str | None = None
    ) -> str:
        """Send a file; returns the message's id."""
        file = {"data": base64.b64encode(data).decode(), "mimetype": mimetype}
        file |= {key: value for key, value in {"filename": filename, "caption": caption}.items() if value is not None}
        return str((await self._do("send", {"to": to, "file": file}))["ids"][0])

    async def reply(self, chat: str, message_id: str, text: str, *, author: str) -> str:
        """Answer a message of `author` (a number) with a quotation; returns the answer's id."""
        quoted = {"quotedStanzaID": message_id, "quotedParticipant": {"$wid": f"{author}@c.us"}}
        return await self.send_content(chat, {"type": "chat", "body": text, **quoted})

    async def edit(self, chat: str, message_id: str, text: str) -> None:
        """Change an own message."""
        await self._do("edit", {"chat": chat, "id": message_id, "text": text})

    async def revoke(self, chat: str, message_id: str) -> None:
        """Delete a message for everybody."""
        await self._do("revoke", {"chat": chat, "id": message_id})

    async def react(self, chat: str, message_id: str, emoji: str) -> None:
        """React to a message; an empty emoji takes the reaction back."""
        await self._do("react", {"chat": chat, "id": message_id, "emoji": emoji})

    async def vote(self, chat: str, message_id: str, options: list[str]) -> None:
        """Vote in a poll."""
        await self._do("vote", {"chat": chat, "id": message_id, "options": options})

    async def read(self, chat: str) -> int:
        """Open a chat; returns how many messages were new."""
        return int((await self._do("read", {"chat": chat}))["read"])

    async def typing(self, chat: str, state: str = "composing") -> None:
        """Show `composing`, `recording` or `paused` to the other side."""
        await self._do("typing", {"chat": chat, "state": state})

    async def online(self, *, online: bool = True) -> None:
        """Come online or leave."""
        await self._do("presence", {"online": online})

    async def call(self, to: str, *, video: bool = False) -> str:
        """Ring somebody; returns the call's id."""
        return str((await self._do("call", {"to": to, "video": video}))["id"])

    async def group(self, action: str, **fields: Any) -> JSON:
        """Create, change, join or leave a group; see `control`."""
        return await self._do("group", {"action": action, **fields})

    async def messages(
        self, *, chat: str | None = None, from_me: bool | None = None, history: bool = False
    ) -> list[JSON]:
        """What this phone has, oldest first, as `control.entry_view` describes; without seeded history by default."""
        query = f"?history={str(history).lower()}"
        if chat is not None:
            query += f"&chat={quote(chat)}"
        if from_me is not None:
            query += f"&from_me={str(from_me).lower()}"
        answer = await self._call("GET", f"/sandbox/accounts/{self.number}/messages{query}")
        messages: list[JSON] = answer["messages"]
        return messages

    async def account(self) -> JSON:
        """The account with `live`, `max_live`, `overlaps`, `devices` and `faults`."""
        return await self._call("GET", f"/sandbox/accounts/{self.number}")

    async def change(self, **fields: Any) -> JSON:
        """Change name, about, business, lid_migrated, read_receipts or behaviour."""
        return await self._call("PATCH", f"/sandbox/accounts/{self.number}", fields)

    async def faults(self, **fields: Any) -> JSON:
        """Switch offline, freeze, latency, bandwidth, send or send_count; see `model.Faults`."""
        return await self._call("PATCH", f"/sandbox/accounts/{self.number}/faults", fields)

    async def drop(self) -> int:
        """Cut the account's sockets; returns how many."""
        return int((await self._do("drop"))["dropped"])

    async def freeze(self, *, frozen: bool = True) -> int:
        """Silence the sockets that are open now, or let them go on; returns how many."""
        return int((await self._do("freeze", {"frozen": frozen}))["sockets"])

    async def conflict(self) -> int:
        """Tell the account's pages that another browser took over; returns how many."""
        return int((await self._do("conflict"))["replaced"])

    async def trouble(self, what: str, **fields: Any) -> int:
        """Hurt the account's pages: `bloat`, `hang`, `exceptions` or `reload`; returns how many."""
        return int((await self._do("trouble", {"what": what, **fields}))["pages"])


class Sandbox(_Client):
    """The switches that concern everybody."""

    def phone(self, number: str) -> Phone:
        """The phone of `number`, with its own HTTP session."""
        return Phone(self._url, number)

    async def summary(self) -> JSON:
        """Revision, pages and whether the network is on."""
        return await self._call("GET", "/sandbox")

    async def accounts(self) -> JSON:
        """`accounts`, each as `Phone.account()`, and all `overlaps`."""
        return await self._call("GET", "/sandbox/accounts")

    async def create(self, number: str, *, name: str = "", **fields: Any) -> JSON:
        """Make a person; `fields` are business, lid_migrated and behaviour."""
        return await self._call("POST", "/sandbox/accounts", {"number": number, "name": name, **fields})

    async def contact_sends(self, from_: str, to_account: str, text: str, *, count: int = 1) -> list[str]:
        """Let a contact write to an account; returns the message ids."""
        body = {"to": to_account, "text": text, "count": count}
        ids: list[str] = (await self._call("POST", f"/sandbox/accounts/{from_}/send", body))["ids"]
        return ids

    async def network(self, *, online: bool) -> None:
        """Switch the whole network off or on."""
        await self._call("POST", "/sandbox/network", {"online": online})

    async def update(self, *, hard: bool = True, revision: int | None = None) -> int:
        """Publish a new version; returns its revision."""
        answer = await self._call("POST", "/sandbox/update", {"hard": hard, "revision": revision})
        return int(answer["revision"])

    async def cold_load(self, *, loads: int = 1, seconds: float = 1.5) -> None:
        """Let the next page loads get their scripts in two bursts."""
        await self._call("POST", "/sandbox/cold-load", {"loads": loads, "seconds": seconds})

    async def hold_refs(self, *, hold: bool = True) -> None:
        """Keep QR codes back, or let them go."""
        await self._call("POST", "/sandbox/refs", {"hold": hold})
