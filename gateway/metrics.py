"""The gateway's Prometheus metrics: names and labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class GatewayMetrics:
    """All metrics of one gateway process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "whatsapp_http_requests",
            "Requests by operation and status.",
            ("operation", "status"),
            registry=self.registry,
        )
        self.latency = Histogram(
            "whatsapp_http_request_duration_seconds",
            "Time to answer.",
            ("operation",),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.webhooks = Counter(
            "whatsapp_webhook_deliveries", "Webhook attempts by outcome: delivered, failed, dead.", ("outcome",),
            registry=self.registry,
        )  # fmt: skip
        self.webhook_age = Histogram(
            "whatsapp_webhook_age_seconds",
            "Age of an event when its receiver took it.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
            registry=self.registry,
        )
        self.webhook_backlog = Gauge(
            "whatsapp_webhook_backlog_sessions", "Sessions with events to deliver.", registry=self.registry
        )
