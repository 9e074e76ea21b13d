"""The worker's configuration, read once from the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from session_worker.contract import BROWSER_URL, CONTROL_PORT, METRICS_PORT, WorkerKey
from session_worker.environment import Environment


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """Everything the worker can be told from outside."""

    worker: WorkerKey
    uid: str
    """UID of the pod."""
    pod_ip: str
    host: str
    port: int
    metrics_port: int
    redis_url: str
    redis_password: str | None
    token: str | None
    """What callers of the control API have to present; None: anybody who reaches the port may call."""
    max_sessions: int
    session_timeout: float
    """Seconds without a message after which a session may be hibernated when memory is short."""
    health_check_interval: float
    """Seconds between two probes of a session."""
    drain_timeout: float
    """Seconds that a terminated worker waits for its sessions to be taken elsewhere."""
    memory_limit: int | None
    """Bytes; None: the control group's."""
    profile_dir: Path
    cache_dir: Path
    browser_executable: str | None
    browser_url: str
    browser_args: tuple[str, ...]
    browser_sandbox: bool
    wa_js: str | None
    """Path of wa-js; None: where npm has installed it."""
    log_level: str

    @property
    def address(self) -> str:
        """`host:port` at which the gateway reaches this worker."""
        host = f"[{self.pod_ip}]" if ":" in self.pod_ip else self.pod_ip
        return f"{host}:{self.port}"

    @classmethod
    def from_env(cls, variables: Mapping[str, str]) -> WorkerConfig:
        """Read the variables.

        Raises:
            ConfigurationError: Names each variable that is wrong.
        """
        env = Environment(variables)
        config = cls(
            worker=WorkerKey(env.text("POD_NAMESPACE"), env.text("POD_NAME")),
            uid=env.text("POD_UID"),
            pod_ip=env.text("POD_IP"),
            host=env.text("HOST", "0.0.0.0"),  # noqa: S104  # a pod's port is reached on the pod's own address
            port=env.integer("PORT", CONTROL_PORT, low=1, high=65535),
            metrics_port=env.integer("PROMETHEUS_PORT", METRICS_PORT, low=1, high=65535),
            redis_url=env.redis("REDIS_URL"),
            redis_password=env.optional("REDIS_PASSWORD"),
            token=env.optional("WORKER_TOKEN"),
            max_sessions=env.integer("MAX_SESSIONS_PER_INSTANCE", 15, low=1, high=200),
            session_timeout=env.number("SESSION_TIMEOUT", 300_000, low=1_000, high=86_400_000) / 1000,
            health_check_interval=env.number("HEALTH_CHECK_INTERVAL", 30_000, low=100, high=3_600_000) / 1000,
            drain_timeout=env.number("DRAIN_TIMEOUT_SECONDS", 300, low=0, high=3_600),
            memory_limit=env.integer("MEMORY_LIMIT_BYTES", 0, low=0, high=1 << 50) or None,
            profile_dir=Path(env.text("PROFILE_DIR", "/var/lib/whatsapp/profiles")),
            cache_dir=Path(env.text("CACHE_DIR", "/tmp")),  # noqa: S108  # the pod's own emptyDir
            browser_executable=env.optional("BROWSER_EXECUTABLE"),
            browser_url=env.address("BROWSER_URL", BROWSER_URL),
            browser_args=env.parsed("BROWSER_ARGS", (), _strings, 'a JSON list of strings such as ["--lang=de"]'),
            browser_sandbox=env.flag("BROWSER_SANDBOX", default=False),
            wa_js=env.optional("WA_JS_PATH"),
            log_level=env.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        )
        env.check()
        return config


def _strings(text: str) -> tuple[str, ...]:
    values = json.loads(text)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError
    return tuple(values)
