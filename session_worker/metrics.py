"""The worker's Prometheus metrics: names and labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PROCESSING_BUCKETS = (0.1, 0.5, 1, 2, 5, 10)
"""Seconds; dashboards and the HighMessageProcessingTime alert are made for these."""


class WorkerMetrics:
    """All metrics of one worker process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.active_sessions = Gauge(
            "whatsapp_active_sessions", "Sessions that this worker runs.", registry=self.registry
        )
        self.sessions = Gauge(
            "whatsapp_worker_sessions", "Sessions of this worker by phase.", ("phase",), registry=self.registry
        )
        self.sent = Counter(
            "whatsapp_messages_sent",
            "Messages handed to WhatsApp, by outcome: sent, refused, unknown.",
            ("outcome",),
            registry=self.registry,
        )
        self.received = Counter("whatsapp_messages_received", "Messages that came in.", registry=self.registry)
        self.processing = Histogram(
            "whatsapp_message_processing_duration_seconds",
            "Time from the acceptance of a message to WhatsApp's own, its pacing not included.",
            buckets=PROCESSING_BUCKETS,
            registry=self.registry,
        )
        self.memory = Gauge("whatsapp_memory_usage_bytes", "Memory in use by this worker.", registry=self.registry)
        self.memory_limit = Gauge(
            "whatsapp_memory_limit_bytes", "Memory that this worker may use.", registry=self.registry
        )
        self.session_memory = Gauge(
            "whatsapp_session_memory_bytes", "Memory of a session's browser.", ("session",), registry=self.registry
        )
        self.relief = Counter(
            "whatsapp_memory_relief",
            "What was done because memory was short, per session: tidy, sleep, and wake when there was room again.",
            ("action",),
            registry=self.registry,
        )
        self.restarts = Counter(
            "whatsapp_session_restarts", "Browsers started anew, by cause.", ("cause",), registry=self.registry
        )
        self.heartbeat = Gauge(
            "whatsapp_worker_heartbeat_timestamp_seconds",
            "Unix time of the last heartbeat that Redis took.",
            registry=self.registry,
        )
