"""The gateway's configuration, read once from the environment. Names that WAHA's users know mean the same here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kubeclient import own_namespace
from session_worker.environment import Environment

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
    """Name of the Secret that keeps the webhook keys that clients give."""
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
            log_level=env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        )
        env.check()
        return config
