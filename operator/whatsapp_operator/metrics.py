"""The operator's Prometheus metrics.

Owns their names and labels. Must not hold anything that the next cycle would not set again.
"""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from whatsapp_operator.fleet import Fleet
from whatsapp_operator.planner import Plan


class OperatorMetrics:
    """All metrics of one operator process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        pool = ("namespace", "pool")

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, (*pool, *labels), registry=self.registry)

        self._sessions = gauge("whatsapp_sessions", "Sessions by phase.", "phase")
        self._demand = gauge(
            "whatsapp_session_demand",
            "Places a pool needs: each session once, and the spare ones; more where memory is short.",
        )
        self._pending = gauge("whatsapp_pending_sessions", "Sessions that wait for a place.")
        self._capacity = gauge("whatsapp_pool_capacity", "Places of a pool's ready workers.")
        self._workers = gauge("whatsapp_pool_workers", "Workers of a pool by state.", "state")
        self.leader = Gauge("whatsapp_operator_leader", "1 while this process leads.", registry=self.registry)
        self.actions = Counter("whatsapp_operator_actions", "Actions carried out.", ("action",), registry=self.registry)
        self.errors = Counter("whatsapp_operator_errors", "Actions that failed.", ("action",), registry=self.registry)
        self.cycle = Histogram(
            "whatsapp_operator_cycle_seconds",
            "Duration of one observe-plan-apply cycle.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.last_cycle = Gauge(
            "whatsapp_operator_last_cycle_timestamp_seconds",
            "Unix time of the last cycle that succeeded.",
            registry=self.registry,
        )

    def show(self, fleet: Fleet, plan: Plan) -> None:
        """Set the gauges from what is."""
        for gauge in (self._sessions, self._demand, self._pending, self._capacity, self._workers):
            gauge.clear()
        phases = Tally((s.key.namespace, s.pool, s.phase or "Pending") for s in fleet.sessions.values())
        for (namespace, name, phase), count in phases.items():
            self._sessions.labels(namespace, name, phase).set(count)
        for key, report in plan.pools.items():
            self._demand.labels(*key).set(report.demand)
            self._pending.labels(*key).set(report.pending)
            self._capacity.labels(*key).set(report.effective_capacity)
            self._workers.labels(*key, "ready").set(report.ready)
            self._workers.labels(*key, "draining").set(report.draining)
            self._workers.labels(*key, "starting").set(report.replicas + report.surge - report.ready)
