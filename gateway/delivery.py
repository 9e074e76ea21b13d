"""What a webhook request looks like, and when it is tried again.

Owns WAHA's envelope, headers and signature, and the retry policies. Must not do I/O or read a clock.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import mimetypes
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from ulid import ULID

from gateway.translation import ENGINE
from session_worker.contract import Account, InboundEvent

MAX_DELAY = 3600.0
"""Seconds; exponential delays stop growing here."""
JITTER = 0.2
"""Share by which exponential delays are spread, as in WAHA."""
WORKER_ID = os.environ.get("WAHA_WORKER_ID") or os.environ.get("POD_NAME") or socket.gethostname()
"""Names this process in answers and events."""
TIMEOUT = 15.0
"""Seconds that a receiver may take to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """One webhook of a session."""

    name: str
    """Stable as long as the webhook's address is: what it has taken is remembered by it."""
    url: str
    events: frozenset[str]
    policy: str
    delay: float
    """Seconds."""
    attempts: int
    headers: tuple[tuple[str, str], ...]
    hmac_ref: Mapping[str, str] | None

    def wants(self, event: str) -> bool:
        """Whether it has subscribed to an event."""
        return "*" in self.events or event in self.events

    def next_delay(self, failed: int, luck: float) -> float | None:
        """Seconds until the next attempt after `failed` ones, None when it is given up; `luck` is in [-1, 1]."""
        if failed >= self.attempts:
            return None
        match self.policy:
            case "linear":
                delay = self.delay * failed
            case "exponential":
                delay = self.delay * 2 ** (failed - 1) * (1 + JITTER * luck)
            case _:
                delay = self.delay
        return min(delay, MAX_DELAY)


def receivers_of(spec: Mapping[str, Any]) -> list[Receiver]:
    """The receivers in a session's spec."""
    result = []
    for webhook in spec.get("webhooks") or []:
        retries = webhook.get("retries") or {}
        result.append(
            Receiver(
                name=hashlib.sha256(webhook["url"].encode()).hexdigest()[:16],
                url=webhook["url"],
                events=frozenset(webhook.get("events") or ["*"]),
                policy=retries.get("policy", "constant"),
                delay=float(retries.get("delaySeconds", 2)),
                attempts=int(retries.get("attempts", 15)),
                headers=tuple((header["name"], header["value"]) for header in webhook.get("customHeaders") or []),
                hmac_ref=webhook.get("hmacSecretRef"),
            )
        )
    return result


def environment() -> dict[str, Any]:
    """What WAHA tells of the server in every event."""
    return {
        "version": version("whatsapp-operator"),
        "engine": ENGINE,
        "tier": "CORE",
        "browser": "chromium",
        "platform": f"{platform.system().lower()}/{platform.machine()}",
        "worker": {"id": WORKER_ID},
    }


def envelope(event: InboundEvent, session: str, metadata: Mapping[str, str], base_url: str = "") -> dict[str, Any]:
    """The body of a webhook, and a frame of the websocket. `base_url` begins the addresses of files."""
    return {
        "id": event.id,
        "timestamp": event.timestamp,
        "event": event.event,
        "session": session,
        "metadata": dict(metadata),
        "me": _me(event.account),
        "payload": _payload(event, session, base_url),
        "engine": ENGINE,
        "environment": environment(),
    }


def _payload(event: InboundEvent, session: str, base_url: str) -> dict[str, Any]:
    if event.event == "session.status":
        # Workers know the object's name, which is not the client's where that is no valid one.
        return {**event.payload, "name": session}
    shown: dict[str, Any] = with_media(event.payload, base_url, session)
    return shown


def with_media(answer: Any, base_url: str, session: str, *, shown: bool = True) -> Any:
    """Messages with the addresses of their files; `shown` is whether the client wants files at all.

    A file is fetched from WhatsApp when somebody asks for its address, so nothing has to be stored.
    """
    if isinstance(answer, list):
        return [with_media(item, base_url, session, shown=shown) for item in answer]
    if not isinstance(answer, dict):
        return answer
    if "lastMessage" in answer:
        return {**answer, "lastMessage": with_media(answer["lastMessage"], base_url, session, shown=shown)}
    if not answer.get("hasMedia") or "id" not in answer:
        return answer
    if not shown:
        return {**answer, "media": None}
    media = answer.get("media") or {}
    url = f"{base_url}/api/files/{quote(session)}/{quote(answer['id'], safe='@')}{extension(media.get('mimetype'))}"
    return {**answer, "media": {**media, "url": url}, "mediaUrl": url}


def extension(mimetype: str | None) -> str:
    """The ending of a file's name; there is always one, so that it can be taken away again."""
    plain = (mimetype or "").partition(";")[0].strip()
    return {"audio/ogg": ".oga", "image/jpeg": ".jpeg"}.get(plain) or mimetypes.guess_extension(plain) or ".bin"


def _me(account: Account | None) -> dict[str, Any] | None:
    if account is None:
        return None
    return {"id": account.id, "pushName": account.push_name, **({"lid": account.lid} if account.lid else {})}


@dataclass(frozen=True, slots=True)
class Request:
    """A webhook request, ready to be sent."""

    body: bytes
    headers: dict[str, str]


def request_for(body: Mapping[str, Any], receiver: Receiver, *, key: str | None, now: float) -> Request:
    """The request that delivers an envelope; `key` signs it, `now` is Unix time in seconds."""
    raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"WAHA/{version('whatsapp-operator')}",
        "X-Webhook-Request-Id": str(ULID.from_timestamp(now)),
        "X-Webhook-Timestamp": str(int(now * 1000)),
    }
    if key is not None:
        headers |= {"X-Webhook-Hmac": sign(raw, key), "X-Webhook-Hmac-Algorithm": "sha512"}
    # Names of headers are the same in all letters: the receiver's own replace none of ours.
    ours = {name.lower() for name in headers}
    own = {name: value for name, value in receiver.headers if name.lower() not in ours}
    return Request(raw, own | headers)


def sign(body: bytes, key: str) -> str:
    """HMAC-SHA512 of the raw body, in hexadecimal."""
    return hmac.new(key.encode(), body, hashlib.sha512).hexdigest()
