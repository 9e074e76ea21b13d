"""Between WAHA's sessions and `WhatsAppSession` objects.

Owns names, configuration and status in both directions. Must not do I/O.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from gateway.errors import BadRequestError
from gateway.models import (
    CustomHeader,
    EngineInfo,
    HmacConfiguration,
    IgnoreConfig,
    MeInfo,
    ProxyConfig,
    RetriesConfiguration,
    SessionConfig,
    SessionDetailedInfo,
    SessionDTO,
    SessionInfo,
    Timestamps,
    WebhookConfig,
)
from kubeclient import Object
from session_worker.contract import (
    GROUP,
    SESSION_NAME_ANNOTATION,
    VERSION,
    WAHA_STATUS,
    Account,
    Phase,
    RuntimeState,
    WahaStatus,
)

CONFIG_ANNOTATION = f"{GROUP}/waha-config"
"""Settings of WAHA that our engine has no use for, kept so that clients get back what they gave."""
ENGINE = "WPP"
"""WAHA's word for an engine that is Chromium with wa-js."""
MASK = "********"
"""Stands for a secret in answers; sent back by a client it means that the secret stays."""

_DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")


# --- Names


def object_name(session: str) -> str:
    """Name of the object of a session: the same where that is possible, else a readable form with a hash of it."""
    if len(session) <= 54 and _DNS_LABEL.match(session) and not _looks_hashed(session):
        return session
    readable = re.sub(r"[^a-z0-9]+", "-", session.lower()).strip("-")[:40] or "session"
    return f"{readable}-x{_digest(session)}"


def _looks_hashed(session: str) -> bool:
    """Whether a plain name could be another session's hashed one."""
    return re.search(r"-x[0-9a-f]{8}$", session) is not None


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()[:8]


def session_name(item: Object) -> str:
    """Name of an object's session in the API."""
    metadata = item["metadata"]
    return str((metadata.get("annotations") or {}).get(SESSION_NAME_ANNOTATION) or metadata["name"])


# --- Configuration


@dataclass(slots=True)
class Secrets:
    """Values that go into a Secret rather than into the object: its key -> the value, None to keep what is there."""

    values: dict[str, str | None] = field(default_factory=dict)


def new_object(session: str, namespace: str, spec: dict[str, Any], config: SessionConfig | None) -> Object:
    """A `WhatsAppSession` for a session that is made through the API."""
    name = object_name(session)
    annotations = {}
    if name != session:
        annotations[SESSION_NAME_ANNOTATION] = session
    annotations[CONFIG_ANNOTATION] = _leftovers(config)
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "WhatsAppSession",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": annotations,
            "labels": {"app.kubernetes.io/managed-by": "whatsapp-gateway"},
        },
        "spec": spec,
    }


def config_patch(config: SessionConfig | None, spec: dict[str, Any]) -> Object:
    """The merge patch that gives a session another configuration. It replaces the old one as a whole."""
    emptied: dict[str, Any] = {"webhooks": [], "metadata": None, "ignore": None, "proxySecretRef": None}
    return {"metadata": {"annotations": {CONFIG_ANNOTATION: _leftovers(config)}}, "spec": {**emptied, **spec}}


def _leftovers(config: SessionConfig | None) -> str:
    return json.dumps((config.model_extra or {}) if config else {}, sort_keys=True)


def spec_of(session: str, config: SessionConfig | None, secret_name: str) -> tuple[dict[str, Any], Secrets]:
    """The part of a spec that a configuration sets, and what belongs into the Secret `secret_name`.

    Raises:
        BadRequestError: A value cannot be used.
    """
    spec: dict[str, Any] = {}
    secrets = Secrets()
    if config is None:
        return spec, secrets
    if config.metadata:
        spec["metadata"] = config.metadata
    if config.ignore is not None:
        spec["ignore"] = {name: bool(value) for name, value in config.ignore.model_dump().items()}
    if config.proxy is not None:
        key = f"{object_name(session)}.proxy"
        secrets.values[key] = None if config.proxy.password == MASK else _proxy_url(config.proxy)
        spec["proxySecretRef"] = {"name": secret_name, "key": key}
    if config.webhooks:
        spec["webhooks"] = [
            _webhook(session, index, webhook, secret_name, secrets) for index, webhook in enumerate(config.webhooks)
        ]
    return spec, secrets


def _webhook(session: str, index: int, webhook: WebhookConfig, secret_name: str, secrets: Secrets) -> dict[str, Any]:
    result: dict[str, Any] = {"url": webhook.url, "events": webhook.events}
    if webhook.retries is not None:
        result["retries"] = _retries(webhook.retries)
    if webhook.customHeaders:
        result["customHeaders"] = [{"name": h.name, "value": h.value} for h in webhook.customHeaders]
    if webhook.hmac is not None and webhook.hmac.key:
        key = f"{object_name(session)}.hmac.{index}"
        secrets.values[key] = None if webhook.hmac.key == MASK else webhook.hmac.key
        result["hmacSecretRef"] = {"name": secret_name, "key": key}
    return result


def _retries(retries: RetriesConfiguration) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if retries.policy is not None:
        result["policy"] = retries.policy
    if retries.delaySeconds is not None:
        result["delaySeconds"] = max(1, round(retries.delaySeconds))
    if retries.attempts is not None:
        result["attempts"] = retries.attempts
    return result


def _proxy_url(proxy: ProxyConfig) -> str:
    scheme, separator, rest = proxy.server.partition("://")
    host = rest if separator else scheme
    if not host or "@" in host:
        raise BadRequestError("config.proxy.server must be host:port or http://host:port")
    login = f"{quote(proxy.username, safe='')}:{quote(proxy.password or '', safe='')}@" if proxy.username else ""
    return f"{scheme if separator else 'http'}://{login}{host}"


def config_of(item: Object) -> SessionConfig:
    """A session's configuration as its clients gave it, secrets masked."""
    spec = item["spec"]
    extra = json.loads((item["metadata"].get("annotations") or {}).get(CONFIG_ANNOTATION) or "{}")
    ignore = spec.get("ignore") or {}
    return SessionConfig(
        **extra,
        metadata=spec.get("metadata") or None,
        ignore=IgnoreConfig(**ignore) if any(ignore.values()) else None,
        proxy=ProxyConfig(server=MASK, password=MASK) if spec.get("proxySecretRef") else None,
        webhooks=[_webhook_config(webhook) for webhook in spec.get("webhooks") or []] or None,
    )


def _webhook_config(webhook: dict[str, Any]) -> WebhookConfig:
    retries = webhook.get("retries") or {}
    return WebhookConfig(
        url=webhook["url"],
        events=webhook["events"],
        hmac=HmacConfiguration(key=MASK) if webhook.get("hmacSecretRef") else None,
        retries=RetriesConfiguration(**retries) if retries else None,
        customHeaders=[CustomHeader(**header) for header in webhook.get("customHeaders") or []] or None,
    )


# --- Status


def is_wanted(item: Object) -> bool:
    """Whether a session is to run."""
    return item["spec"].get("state", "Running") == "Running" and "deletionTimestamp" not in item["metadata"]


def phase_of(item: Object, state: RuntimeState | None) -> Phase:
    """The phase of a session: what its owner says if that is current, else what is on record."""
    status = item.get("status") or {}
    assignment = status.get("assignment") or {}
    owner = assignment.get("worker")
    wanted = is_wanted(item)
    if not owner:
        return Phase.PENDING if wanted else Phase.STOPPED
    if not wanted or assignment.get("releasing"):
        return Phase.DRAINING if wanted else Phase.STOPPED
    if state is not None and state.epoch == assignment.get("epoch") and state.worker == owner:
        return state.phase
    return Phase.ASSIGNED


def status_of(item: Object, state: RuntimeState | None) -> WahaStatus:
    """WAHA's word for the phase."""
    return WAHA_STATUS[phase_of(item, state)]


def account_of(item: Object, state: RuntimeState | None) -> Account | None:
    """The linked account."""
    if state is not None and state.account is not None:
        return state.account
    account = (item.get("status") or {}).get("account")
    return Account(id=account["id"], push_name=account.get("pushName", "")) if account else None


def me_of(item: Object, state: RuntimeState | None) -> MeInfo | None:
    """The linked account in WAHA's form."""
    account = account_of(item, state)
    return MeInfo(id=account.id, pushName=account.push_name, lid=account.lid) if account else None


def to_dto(item: Object, state: RuntimeState | None) -> SessionDTO:
    """A session after a change."""
    return SessionDTO(name=session_name(item), status=status_of(item, state), config=config_of(item))


def to_info(item: Object, state: RuntimeState | None) -> SessionInfo:
    """A session in a list."""
    assignment = (item.get("status") or {}).get("assignment") or {}
    return SessionInfo(
        name=session_name(item),
        status=status_of(item, state),
        config=config_of(item),
        me=me_of(item, state),
        assignedWorker=assignment.get("worker"),
        presence={},
        timestamps=Timestamps(activity=int(state.last_activity * 1000) if state else None),
    )


def to_detail(item: Object, state: RuntimeState | None) -> SessionDetailedInfo:
    """A session by itself."""
    info = to_info(item, state)
    return SessionDetailedInfo(**dict(info), engine=EngineInfo(engine=ENGINE, state=phase_of(item, state)))
