"""The operator's configuration, read once from the environment."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from kubeclient import own_namespace
from session_worker.contract import BROWSER_URL
from session_worker.environment import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalMetricsConfig:
    """How the builtin metric source is reached through the cluster."""

    namespace: str
    service: str
    """Service in `namespace` that leads to the operators' `port`; the keys lie in a Secret of its name and `-tls`."""
    service_port: int
    port: int
    owner: str | None
    """ClusterRole with which the APIService is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorConfig:
    """Everything the operator can be told from outside."""

    redis_url: str
    redis_password: str | None
    namespaces: tuple[str, ...]
    """Namespaces to watch; empty: all."""
    worker_image: str
    worker_redis_url: str
    """How worker pods reach Redis."""
    worker_secret: str | None
    """Secret in each pool's namespace whose keys become environment variables of the workers."""
    worker_service_account: str | None
    lease: tuple[str, str] | None
    """Namespace and name of the Lease that makes one of several operators the leader; None: there is only one."""
    identity: str
    """Who this process is in the Lease."""
    browser_url: str
    """WhatsApp Web, for pools that name no address."""
    host: str
    port: int
    """Health and readiness."""
    metrics_port: int
    log_level: str
    demand_url: str | None
    """How KEDA reaches the metrics port of the operator."""
    external_metrics: ExternalMetricsConfig | None
    """None: the builtin metric source is off."""

    @classmethod
    def from_env(cls, variables: Mapping[str, str]) -> OperatorConfig:
        """Read the variables.

        Raises:
            ConfigurationError: Names each variable that is wrong.
        """
        env = Environment(variables)
        redis_url = env.redis("REDIS_URL")
        config = cls(
            redis_url=redis_url,
            redis_password=env.optional("REDIS_PASSWORD"),
            namespaces=tuple(env.text("WATCH_NAMESPACES", "").replace(",", " ").split()),
            worker_image=env.text("WORKER_IMAGE"),
            worker_redis_url=env.redis("WORKER_REDIS_URL", redis_url),
            worker_secret=env.optional("WORKER_SECRET"),
            worker_service_account=env.optional("WORKER_SERVICE_ACCOUNT"),
            lease=(
                (env.text("LEASE_NAMESPACE", own_namespace()), env.text("LEASE_NAME", "whatsapp-operator"))
                if env.flag("LEADER_ELECTION", default=True)
                else None
            ),
            # A pod's containers run one after the other, so the pod's name is one process at a time.
            identity=env.text("POD_NAME", f"{socket.gethostname()}_{uuid.uuid4()}"),
            browser_url=env.address("BROWSER_URL", BROWSER_URL),
            host=env.text("HOST", "0.0.0.0"),  # noqa: S104  # a pod's port is reached on the pod's own address
            port=env.integer("PORT", 8080, low=1, high=65535),
            metrics_port=env.integer("PROMETHEUS_PORT", 9090, low=1, high=65535),
            log_level=env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
            demand_url=env.address("DEMAND_URL", "") or None,
            external_metrics=ExternalMetricsConfig(
                namespace=env.text("POD_NAMESPACE", own_namespace()),
                service=env.text("EXTERNAL_METRICS_SERVICE", "whatsapp-operator-external-metrics"),
                service_port=env.integer("EXTERNAL_METRICS_SERVICE_PORT", 443, low=1, high=65535),
                port=env.integer("EXTERNAL_METRICS_PORT", 8443, low=1, high=65535),
                owner=env.optional("EXTERNAL_METRICS_OWNER"),
            )
            if env.flag("EXTERNAL_METRICS", default=False)
            else None,
        )
        env.check()
        return config
