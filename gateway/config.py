"""The gateway's configuration, read once from the environment. Names that WAHA's users know mean the same here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from kubeclient import own_namespace
from session_worker.environment import Environment

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_FILE = 64 * 2**20
"""Bytes: what a page and its browser can take as one file."""
_SHA512 = re.compile(r"^sha512:([0-9a-f]{128})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Everything the gateway can be told from outside."""

    host: str
    port: int
    metrics_port: int
    redis_url: str
    redis_password: str | None
    namespace: str
    """Where its sessions are."""
    pool: str
    """Pool of the sessions that are made through the API."""
    api_key: str | None
    """Plain, or `sha512:<hex>`; None: no key is asked for."""
    worker_token: str | None
    """Presented to the workers."""
    hmac_secret: str
    """Name of the Secret that keeps the webhook keys that clients give, and the keys made through the API."""
    base_url: str
    """Where clients reach the gateway, without a slash at the end: begins the addresses of files; empty: as asked."""
    api_docs: bool
    """Whether `/` and `/-json` are served."""
    webhook_private: bool
    """Whether webhooks may go to private and loopback addresses; link-local ones are never allowed."""
    media_private: bool
    """Whether files may be fetched from private and loopback addresses."""
    media_max_bytes: int
    media_timeout: float
    """Seconds."""
    rate_window: float
    """Seconds."""
    rate_limit: int
    """Requests of one client in the window; 0 for no limit."""
    rate_exempt: tuple[Network, ...]
    """Where clients are not counted."""
    trusted_proxies: tuple[Network, ...]
    """Whose `X-Forwarded-For` is believed."""
    drain: float
    """Seconds from the first word of the end, when readiness is taken back, until nothing new is accepted."""
    log_level: str

    @classmethod
    def from_env(cls, variables: Mapping[str, str]) -> GatewayConfig:
        """Read the variables.

        Raises:
            ConfigurationError: Names each variable that is wrong.
        """
        env = Environment(variables)
        open_to_all = env.flag("WAHA_NO_API_KEY", default=False)
        key = env.optional("WAHA_API_KEY") or env.optional("WHATSAPP_API_KEY")
        if not open_to_all and key is None:
            env.text("WAHA_API_KEY")  # notes that it is missing
        elif key is not None and key.startswith("sha512:") and not _SHA512.match(key):
            env.complain("WAHA_API_KEY", "sha512: followed by 128 lower-case hexadecimal digits")
        config = cls(
            host=env.text("HOST", "0.0.0.0"),  # noqa: S104  # a pod's port is reached on the pod's own address
            port=env.integer("PORT", 3000, low=1, high=65535),
            metrics_port=env.integer("PROMETHEUS_PORT", 9090, low=1, high=65535),
            redis_url=env.redis("REDIS_URL"),
            redis_password=env.optional("REDIS_PASSWORD"),
            namespace=env.text("NAMESPACE", own_namespace()),
            pool=env.text("DEFAULT_POOL", "default"),
            api_key=None if open_to_all else key,
            worker_token=env.optional("WORKER_TOKEN"),
            hmac_secret=env.text("HMAC_SECRET", "whatsapp-webhook-keys"),
            base_url=(env.optional("WAHA_PUBLIC_URL") or env.optional("WAHA_BASE_URL") or "").rstrip("/"),
            api_docs=env.flag("WHATSAPP_SWAGGER_ENABLED", default=True),
            webhook_private=env.flag("WEBHOOK_PRIVATE_TARGETS", default=True),
            media_private=env.flag("MEDIA_PRIVATE_TARGETS", default=False),
            media_max_bytes=env.integer("MEDIA_MAX_BYTES", MAX_FILE, low=1, high=MAX_FILE),
            media_timeout=env.integer("MEDIA_TIMEOUT_SECONDS", 30, low=1, high=300),
            rate_window=env.integer("RATE_LIMIT_WINDOW_MS", 60_000, low=100, high=86_400_000) / 1000,
            rate_limit=env.integer("RATE_LIMIT_MAX_REQUESTS", 100, low=0, high=1_000_000),
            rate_exempt=_networks(env, "RATE_LIMIT_EXEMPT_CIDRS", "127.0.0.0/8,::1/128"),
            trusted_proxies=_networks(env, "TRUSTED_PROXY_CIDRS", ""),
            drain=env.integer("DRAIN_SECONDS", 2, low=0, high=300),
            log_level=env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        )
        env.check()
        return config


def _networks(env: Environment, name: str, default: str) -> tuple[Network, ...]:
    """Networks in CIDR notation, separated by commas."""
    found: list[Network] = []
    for text in (env.optional(name) or default).replace(" ", "").split(","):
        try:
            if text:
                found.append(ipaddress.ip_network(text))
        except ValueError:
            env.complain(name, "networks such as 10.0.0.0/8, separated by commas")
    return tuple(found)
