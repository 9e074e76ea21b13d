"""Pairing: QR references and pairing codes, and which page each belongs to.

Owns the codes that are on some screen now. Must not know how a page is reached: it says which page a scan belongs to,
and the server tells that page.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from sandbox.whatsapp.network import RefusedError
from sandbox.whatsapp.settings import Settings

CODE_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTVWXYZ"
"""Digits and capitals without those that people mistake for each other (0, I, O, U)."""


@dataclass(frozen=True, slots=True)
class PageKeys:
    """What an unpaired page shows of itself; its private halves stay in its storage."""

    static: str
    identity: str
    adv: str
    login: dict[str, Any]
    """JWK of the public key that the page will log in with."""
    noise_token: str
    platform: str


@dataclass(slots=True)
class _Candidate:
    """A page that waits to be paired."""

    keys: PageKeys
    refs: dict[str, float] = field(default_factory=dict)
    """Reference to the Unix time until which a phone may scan it."""
    code: str | None = None
    code_phone: str = ""
    code_expires: float = 0.0


class PairingDesk:
    """All pages that wait to be paired."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._candidates: dict[str, _Candidate] = {}

    def enter(self, page: str, keys: PageKeys) -> None:
        """A page without credentials is there."""
        self._candidates[page] = _Candidate(keys)

    def leave(self, page: str) -> None:
        """The page is gone; its codes are worth nothing."""
        self._candidates.pop(page, None)

    def waiting(self) -> list[str]:
        """The pages that wait."""
        return list(self._candidates)

    def keys(self, page: str) -> PageKeys:
        """What the page gave of itself."""
        return self._need(page).keys

    def new_refs(self, page: str, now: float) -> list[dict[str, Any]]:
        """References for the page to show one after the other, each with its `seconds` on screen.

        Raises:
            RefusedError: 404, the page does not wait to be paired.
        """
        candidate = self._need(page)
        settings = self._settings
        shown_until = now
        refs = []
        candidate.refs = {}
        for place in range(settings.refs):
            ref = "2@" + secrets.token_urlsafe(66)
            seconds = settings.scaled(settings.first_ref if place == 0 else settings.next_ref)
            shown_until += seconds
            candidate.refs[ref] = shown_until + settings.scaled(settings.ref_grace)
            refs.append({"ref": ref, "seconds": seconds})
        return refs

    def scan(self, text: str, now: float) -> str:
        """The page that shows the QR code `text`.

        Raises:
            RefusedError: 400, it is no such code; 403, its keys are not those of the page that asked for the reference;
                410, it has expired.
        """
        fields = text.strip().split(",")
        allowed = (5,) if self._settings.require_platform else (4, 5)
        if len(fields) not in allowed:
            raise RefusedError(400, f"qr: expected {allowed} fields separated by commas, got {len(fields)}")
        ref, static, identity, adv = fields[:4]
        for page, candidate in self._candidates.items():
            expires = candidate.refs.get(ref)
            if expires is None:
                continue
            if now > expires:
                raise RefusedError(410, "qr: this code has expired, scan the one that is on the screen now")
            if (static, identity, adv) != (candidate.keys.static, candidate.keys.identity, candidate.keys.adv):
                raise RefusedError(
                    403, "qr: the keys in this code are not those of the page that asked for its reference"
                )
            return page
        raise RefusedError(410, "qr: no page waits for this code; the page has gone or has asked for new codes")

    def new_code(self, page: str, phone: str, now: float) -> str:
        """An eight-character code for the page, to be typed on the phone with the number `phone`.

        Raises:
            RefusedError: 400, `phone` is no number; 404, the page does not wait to be paired.
        """
        candidate = self._need(page)
        if not (phone.isascii() and phone.isdigit()):
            raise RefusedError(400, "phone: give the digits of the number with its country code")
        candidate.code = "".join(secrets.choice(CODE_ALPHABET) for _ in range(8))
        candidate.code_phone = phone
        candidate.code_expires = now + self._settings.scaled(self._settings.link_code)
        return candidate.code

    def enter_code(self, number: str, code: str, now: float) -> str:
        """The page that shows `code`, typed on the phone with `number`.

        Raises:
            RefusedError: 403, the code was made for another number; 404, no page shows it; 410, it has expired.
        """
        plain = code.replace("-", "").replace(" ", "").upper()
        for page, candidate in self._candidates.items():
            if candidate.code != plain:
                continue
            if candidate.code_phone != number:
                raise RefusedError(403, f"code: it was made for another number than {number}")
            if now > candidate.code_expires:
                raise RefusedError(410, "code: it has expired, ask the page for a new one")
            return page
        raise RefusedError(404, f"code: no page shows {code}")

    def _need(self, page: str) -> _Candidate:
        candidate = self._candidates.get(page)
        if candidate is None:
            raise RefusedError(404, f"the page {page} does not wait to be paired")
        return candidate
