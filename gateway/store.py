"""Sessions as Kubernetes objects: a cache that follows them, and the changes that clients ask for.

Owns every request of the gateway to Kubernetes: sessions of one namespace, and the Secrets that their webhooks and
proxies name. Must not know HTTP clients.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from typing import Any

from gateway import translation
from gateway.errors import BadRequestError, BusyError, NotFoundError, UnprocessableError
from gateway.models import SessionConfig
from kubeclient import (
    ChangeKind,
    ConflictError,
    KubeClient,
    KubernetesError,
    Object,
    RejectedError,
    UnavailableError,
    path_of,
)
from kubeclient import NotFoundError as ObjectNotFoundError
from session_worker.contract import GROUP, SESSION_PLURAL, VERSION, SessionKey
from session_worker.logs import fields

log = logging.getLogger(__name__)

_RETRY_DELAYS = (0.5, 1.0, 2.0, 5.0)
_DELETION_WAIT = 10.0
"""Seconds to wait for a session's deletion to end before one of the same name can be made."""
_DELETION_POLL = 0.25
_SECRET_LIFE = 60.0
"""Seconds for which a Secret's values are remembered."""


class SessionStore:
    """The sessions of one namespace."""

    def __init__(self, client: KubeClient, *, namespace: str, pool: str, secret: str) -> None:
        self._client = client
        self.namespace = namespace
        self._pool = pool
        self._secret = secret
        self._items: dict[str, Object] = {}
        self._names: dict[str, str] = {}  # name in the API -> name of the object
        self._listed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._secrets: dict[str, tuple[float, dict[str, str]]] = {}
        self.problem = "the sessions are not listed yet"
        """Why the cache may be stale; empty when it is not."""

    async def start(self) -> None:
        """Follow the sessions."""
        self._task = asyncio.create_task(self._follow(), name="session-store")

    async def stop(self) -> None:
        """Stop following, and close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                async for change in self._client.follow(self._path()):
                    if change.kind is ChangeKind.LISTED:
                        self._items.clear()
                        self._names.clear()
                    for item in change.objects:
                        self._take_in(item, deleted=change.kind is ChangeKind.DELETED)
                    self.problem, failures = "", 0
                    self._listed.set()
            except KubernetesError as error:
                self.problem = error.message
                log.warning("The sessions cannot be followed", extra=fields(error=error.message))
                await asyncio.sleep(_RETRY_DELAYS[min(failures, len(_RETRY_DELAYS) - 1)])
                failures += 1

    def _take_in(self, item: Object, *, deleted: bool = False) -> None:
        name = item["metadata"]["name"]
        known = self._items.get(name)
        if deleted:
            # News of an old object's end may come after a new one of its name was made.
            if known is not None and known["metadata"]["uid"] == item["metadata"]["uid"]:
                del self._items[name]
                self._unname(known)
            return
        if known is not None and int(known["metadata"]["resourceVersion"]) >= int(item["metadata"]["resourceVersion"]):
            return
        self._items[name] = item
        if known is not None:
            self._unname(known)
        if not _is_leaving(item):
            self._names[translation.session_name(item)] = name

    def _unname(self, item: Object) -> None:
        """Forget an object's name in the API, unless another object has it."""
        session = translation.session_name(item)
        if self._names.get(session) == item["metadata"]["name"]:
            del self._names[session]

    # --- Reading

    def all(self) -> list[Object]:
        """All sessions but those being deleted, by name."""
        return [self._items[name] for name in sorted(self._names.values())]

    def by_key(self, key: SessionKey) -> Object | None:
        """The object of a key of the registry, also while it is being deleted: its last events are still told."""
        return self._items.get(key.name) if key.namespace == self.namespace else None

    def key(self, item: Object) -> SessionKey:
        """The key of an object."""
        return SessionKey(self.namespace, item["metadata"]["name"])

    async def get(self, session: str) -> Object:
        """A session by its name in the API.

        Raises:
            NotFoundError: There is none, or it is being deleted.
            BusyError: The sessions are not known yet.
        """
        await self.listed()
        name = self._names.get(session)
        if name is None:
            raise NotFoundError
        return self._items[name]

    async def listed(self) -> None:
        """Return once the sessions are known.

        Raises:
            BusyError: They are not, after a few seconds.
        """
        try:
            async with asyncio.timeout(5):
                await self._listed.wait()
        except TimeoutError:
            raise BusyError(f"Kubernetes does not answer: {self.problem}") from None

    # --- Changing

    async def create(self, session: str, *, config: SessionConfig | None, running: bool) -> Object:
        """Make a session.

        Raises:
            ApiError: It exists, or cannot be made as asked.
        """
        if session in self._names:
            raise _exists(session)  # before the values of its Secret are touched
        spec, secrets = translation.spec_of(session, config, self._secret)
        spec |= {"poolRef": {"name": self._pool}, "state": "Running" if running else "Stopped"}
        await self._keep(secrets)
        body = translation.new_object(session, self.namespace, spec, config)
        deadline = asyncio.get_running_loop().time() + _DELETION_WAIT
        while True:
            try:
                item = await self._client.create(self._path(), body)
            except ConflictError:
                if session in self._names:
                    raise _exists(session) from None
            except KubernetesError as error:
                raise _converted(error) from error
            else:
                self._take_in(item)
                return item
            if asyncio.get_running_loop().time() >= deadline:
                raise BusyError(f"Session '{session}' is still being deleted", retry_after=2)
            await asyncio.sleep(_DELETION_POLL)

    async def configure(self, item: Object, config: SessionConfig | None) -> Object:
        """Replace a session's configuration."""
        spec, secrets = translation.spec_of(translation.session_name(item), config, self._secret)
        await self._keep(secrets)
        return await self._patch(item, translation.config_patch(config, spec))

    async def set_state(self, item: Object, *, running: bool) -> Object:
        """Start or stop a session; doing so twice is no error."""
        wanted = "Running" if running else "Stopped"
        if item["spec"].get("state") == wanted:
            return item
        return await self._patch(item, {"spec": {"state": wanted}})

    async def delete(self, item: Object) -> None:
        """Unlink the account and remove the session with its profile."""
        try:
            await self._patch(item, {"spec": {"deletionPolicy": "Logout"}})
            await self._client.delete(self._path(item["metadata"]["name"]), uid=item["metadata"]["uid"])
            self._unname(item)
        except (ObjectNotFoundError, ConflictError, NotFoundError):
            return  # gone already
        except KubernetesError as error:
            raise _converted(error) from error
        await self._forget(item)

    async def _patch(self, item: Object, patch: Object) -> Object:
        try:
            changed = await self._client.patch(self._path(item["metadata"]["name"]), patch)
        except ObjectNotFoundError:
            raise NotFoundError from None
        except KubernetesError as error:
            raise _converted(error) from error
        self._take_in(changed)
        return changed

    def _path(self, name: str | None = None) -> str:
        return path_of(f"{GROUP}/{VERSION}", SESSION_PLURAL, namespace=self.namespace, name=name)

    # --- Secrets

    async def secret_value(self, ref: dict[str, str]) -> str | None:
        """The value that a session's spec names, or None when it is not there.

        Raises:
            KubernetesError: The Secret cannot be read now.
        """
        values = await self._read_secret(ref["name"])
        return values.get(ref["key"])

    async def own_values(self, prefix: str) -> dict[str, str]:
        """Values of our own Secret whose names begin with `prefix`, by the rest of their names.

        Raises:
            KubernetesError: The Secret cannot be read now.
        """
        values = await self._read_secret(self._secret)
        return {name.removeprefix(prefix): text for name, text in values.items() if name.startswith(prefix)}

    async def keep_own_values(self, values: dict[str, str | None]) -> None:
        """Put values into our own Secret; None takes one out."""
        encoded = {name: text and base64.b64encode(text.encode()).decode() for name, text in values.items()}
        await self._change_secret({"data": encoded})

    async def _read_secret(self, name: str) -> dict[str, str]:
        known = self._secrets.get(name)
        if known is not None and time.monotonic() - known[0] < _SECRET_LIFE:
            return known[1]
        try:
            secret = await self._client.get(self._secret_path(name))
        except ObjectNotFoundError:
            secret = {}
        values = {key: base64.b64decode(text).decode() for key, text in (secret.get("data") or {}).items()}
        self._secrets[name] = (time.monotonic(), values)
        return values

    async def _keep(self, secrets: translation.Secrets) -> None:
        """Put values into our Secret."""
        given = {key: value for key, value in secrets.values.items() if value is not None}
        if given:
            await self._change_secret({"stringData": given})

    async def _forget(self, item: Object) -> None:
        """Take a deleted session's values out of our Secret."""
        spec = item["spec"]
        refs = [spec.get("proxySecretRef"), *(webhook.get("hmacSecretRef") for webhook in spec.get("webhooks") or [])]
        stale: dict[str, Any] = {ref["key"]: None for ref in refs if ref and ref["name"] == self._secret}
        if stale:
            # Still known for a while, so that the session's last events can be signed.
            last = await self._read_secret(self._secret)
            await self._change_secret({"data": stale})
            self._secrets[self._secret] = (time.monotonic(), last)

    async def _change_secret(self, patch: Object) -> None:
        self._secrets.pop(self._secret, None)
        try:
            await self._client.patch(self._secret_path(self._secret), patch)
        except ObjectNotFoundError:
            body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self._secret}, **patch}
            try:
                await self._client.create(path_of("v1", "secrets", namespace=self.namespace), body)
            except KubernetesError as error:
                raise _converted(error) from error
        except KubernetesError as error:
            raise _converted(error) from error

    def _secret_path(self, name: str) -> str:
        return path_of("v1", "secrets", namespace=self.namespace, name=name)


def _exists(session: str) -> UnprocessableError:
    return UnprocessableError(f"Session '{session}' already exists. Use PUT to update it.")


def _is_leaving(item: Object) -> bool:
    return "deletionTimestamp" in item["metadata"]


def _converted(error: KubernetesError) -> Exception:
    """What a client should hear of a failed request to Kubernetes."""
    if isinstance(error, UnavailableError):
        return BusyError(f"Kubernetes does not answer: {error.message}")
    if isinstance(error, RejectedError) and error.status == 422:
        causes = error.details.get("causes") or []
        problems = [f"{cause.get('field', '')}: {cause.get('message', '')}" for cause in causes]
        return BadRequestError(*(problems or [error.message]))
    return UnprocessableError(error.message)
