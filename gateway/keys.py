"""API keys: the one of the environment, which may do all, and those that are made through the API.

Owns who may do what. Keys made through the API are kept as hashes in the gateway's Secret, so that they survive Redis
and are shared by all gateways; a change is seen by the other gateways within a minute.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from gateway.errors import BadRequestError, BusyError, ForbiddenError, NotFoundError
from gateway.models import ApiKeyDTO, ApiKeyRequest, SessionActionsDTO
from gateway.store import SessionStore
from kubeclient import KubernetesError

PREFIX = "api-key."
"""Begins the names of keys in the Secret."""
SHOWN = "********"


class Scope(StrEnum):
    """What an operation is for: WAHA's actions of a key, and two of our own."""

    OPEN = "open"
    """Whoever has a key."""
    READ = "read"
    SEND = "send"
    CONTROL = "control"
    SETTING = "setting"
    APP = "app"
    DELETE = "delete"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Access:
    """What the holder of a key may do."""

    key_id: str
    admin: bool
    session: str | None = None
    """The only session that the key is for; None for all."""
    actions: frozenset[str] = frozenset()

    def check(self, scope: Scope, session: str | None) -> None:
        """Judge an operation; `session` is the one that it is about, if it is about one.

        Raises:
            ForbiddenError: It is not for this key.
        """
        if self.admin or scope is Scope.OPEN:
            return
        if scope is Scope.ADMIN or scope not in self.actions or not self.sees(session):
            raise ForbiddenError

    def sees(self, session: str | None) -> bool:
        """Whether the key is for a session."""
        return self.admin or session is None or self.session in {None, session}


EVERYTHING = Access("", admin=True)
"""Of the key of the environment, and of everybody where no key is asked for."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that was made through the API."""

    id: str
    hash: str
    """SHA-512, hexadecimal."""
    admin: bool
    active: bool
    session: str | None
    actions: SessionActionsDTO

    def to_json(self) -> str:
        """The JSON text."""
        return json.dumps(
            {
                "hash": self.hash,
                "isAdmin": self.admin,
                "isActive": self.active,
                "session": self.session,
                "actions": self.actions.model_dump(),
            }
        )

    @classmethod
    def from_json(cls, key_id: str, text: str) -> Self:
        """Read the JSON text."""
        found: dict[str, Any] = json.loads(text)
        actions = SessionActionsDTO.model_validate(found["actions"])
        return cls(key_id, found["hash"], found["isAdmin"], found["isActive"], found["session"], actions)

    @property
    def access(self) -> Access:
        """What it is for."""
        allowed = frozenset(name for name, value in self.actions.model_dump().items() if value)
        return Access(self.id, self.admin, self.session, allowed)

    def shown(self, plain: str = SHOWN) -> ApiKeyDTO:
        """In WAHA's form."""
        return ApiKeyDTO(
            id=self.id,
            key=plain,
            isActive=self.active,
            isAdmin=self.admin,
            session=self.session,
            actions=None if self.admin else self.actions,
        )


class KeyRing:
    """Knows all keys."""

    def __init__(self, store: SessionStore, expected: str | None) -> None:
        self._store = store
        self._expected = expected

    async def access(self, given: str) -> Access | None:
        """What a presented key allows; None when it is no key of ours.

        Raises:
            BusyError: The keys cannot be read now.
        """
        if self._expected is None or key_matches(self._expected, given):
            return EVERYTHING
        if not given:
            return None
        digest = hashlib.sha512(given.encode(errors="surrogateescape")).hexdigest()
        for key in await self.all():
            if hmac.compare_digest(key.hash, digest):
                return key.access if key.active else None
        return None

    async def all(self) -> list[Key]:
        """The keys that were made through the API."""
        try:
            values = await self._store.own_values(PREFIX)
        except KubernetesError as error:
            raise BusyError(f"Kubernetes does not answer: {error.message}") from error
        return [Key.from_json(name, text) for name, text in sorted(values.items())]

    async def create(self, asked: ApiKeyRequest) -> ApiKeyDTO:
        """Make a key; this answer is the only one that holds it."""
        plain = f"key_{secrets.token_urlsafe(32)}"
        key = _from_request(f"key_{uuid.uuid4().hex}", hashlib.sha512(plain.encode()).hexdigest(), asked)
        await self._store.keep_own_values({PREFIX + key.id: key.to_json()})
        return key.shown(plain)

    async def update(self, key_id: str, asked: ApiKeyRequest) -> ApiKeyDTO:
        """Change what a key allows."""
        known = await self._get(key_id)
        key = _from_request(key_id, known.hash, asked)
        await self._store.keep_own_values({PREFIX + key_id: key.to_json()})
        return key.shown()

    async def delete(self, key_id: str) -> None:
        """Remove a key."""
        await self._get(key_id)
        await self._store.keep_own_values({PREFIX + key_id: None})

    async def _get(self, key_id: str) -> Key:
        for key in await self.all():
            if key.id == key_id:
                return key
        raise NotFoundError("API key not found")


def key_matches(expected: str, given: str) -> bool:
    """Whether a presented key is the configured one, plain or `sha512:<hex>`, in constant time."""
    # A header may hold any bytes; aiohttp keeps those that are no UTF-8 as surrogates.
    presented = given.encode(errors="surrogateescape")
    if expected.startswith("sha512:"):
        return hmac.compare_digest(hashlib.sha512(presented).hexdigest(), expected.removeprefix("sha512:"))
    return hmac.compare_digest(presented, expected.encode())


def _from_request(key_id: str, digest: str, asked: ApiKeyRequest) -> Key:
    if not asked.isAdmin and asked.session is None:
        raise BadRequestError("session: name the session that the key is for, or make it an administrator's")
    session = None if asked.isAdmin else asked.session
    return Key(key_id, digest, asked.isAdmin, asked.isActive, session, asked.actions or SessionActionsDTO())
