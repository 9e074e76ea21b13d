"""What scales a pool, as manifests, and what its own report means.

Owns the HorizontalPodAutoscaler and the KEDA ScaledObject of a pool, which of their fields belong to the user, and the
conclusions from their status. Must not do I/O.

Why the numbers are what they are: the HPA does nothing while a metric is within 10 % of its target, so the target of
the session metric lies that much below what a worker holds; otherwise sessions could wait for a place while the HPA
sees nothing to do. Its CPU and memory metrics are guards for the case that sessions need more than was thought: the
largest wish of all metrics counts, and idle browsers keep their memory, so these two never bring a pool down early.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from session_worker.contract import GROUP, VERSION
from whatsapp_operator.pods import POOL_LABEL, WORKER_CONTAINER, Manifest, owner_reference
from whatsapp_operator.resources import MetricSource, PoolSpec, parse_duration

METRIC = "whatsapp_session_demand"
"""Name of the session metric, in Prometheus and in external.metrics.k8s.io; its labels are `namespace` and `pool`."""
HPA = "autoscaling/v2"
HPA_PLURAL = "horizontalpodautoscalers"
KEDA = "keda.sh/v1alpha1"
KEDA_PLURAL = "scaledobjects"
AT_MAX_REPLICAS = "AtMaxReplicas"
"""Reason of the condition when sessions wait and the pool may not grow."""
MANAGED = {"app.kubernetes.io/managed-by": "whatsapp-operator"}

_LEAST_WINDOW = 300
"""Seconds for which the highest wish of the past counts before a pool gets smaller: the HPA's own default."""
_POLL_SECONDS = 15
"""How often KEDA asks, the HPA's own period."""
_SHARE_MISSING = "909m"
"""The target where a worker holds one session: a whole one would let one of eleven wait unseen."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a pool's autoscaling, as a condition says it."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def session_target(spec: PoolSpec) -> str:
    """Mean sessions per worker that autoscaling aims at, as a quantity: floor(sessionsPerWorker / 1.1) by default."""
    if spec.autoscaling.target_sessions is not None:
        return str(spec.autoscaling.target_sessions)
    return str(spec.sessions_per_worker * 10 // 11 or _SHARE_MISSING)


def scaler_name(pool: str) -> str:
    """Name of the object that scales a pool."""
    return f"whatsapp-pool-{pool}"


def horizontal_pod_autoscaler(*, pool: str, pool_uid: str, namespace: str, spec: PoolSpec) -> Manifest:
    """The HPA of a pool, with its fields in the form and order in which API servers keep them."""
    wanted = spec.autoscaling
    labels = {"namespace": namespace, "pool": pool}
    return {
        "apiVersion": HPA,
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(pool, pool_uid, namespace),
        "spec": {
            "scaleTargetRef": _target(pool),
            "minReplicas": wanted.min_replicas,
            "maxReplicas": wanted.max_replicas,
            "metrics": [
                _container_metric("cpu", wanted.target_cpu),
                _container_metric("memory", wanted.target_memory),
                {
                    "type": "External",
                    "external": {
                        "metric": {"name": METRIC, "selector": {"matchLabels": labels}},
                        "target": {"type": "AverageValue", "averageValue": session_target(spec)},
                    },
                },
            ],
            "behavior": _behavior(spec),
        },
    }


def scaled_object(*, pool: str, pool_uid: str, namespace: str, spec: PoolSpec, demand_url: str) -> Manifest:
    """The ScaledObject of a pool, from which KEDA makes an HPA of its own.

    `demand_url` is where the operator tells a pool's demand, without the path.
    """
    wanted = spec.autoscaling
    return {
        "apiVersion": KEDA,
        "kind": "ScaledObject",
        "metadata": _metadata(pool, pool_uid, namespace),
        "spec": {
            "scaleTargetRef": _target(pool),
            "minReplicaCount": wanted.min_replicas,
            "maxReplicaCount": wanted.max_replicas,
            # These two are about the last worker, and KEDA warns of them where it always stays.
            **({} if wanted.min_replicas else {"pollingInterval": _POLL_SECONDS, "cooldownPeriod": _window(spec)}),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(spec)}},
            "triggers": [
                {
                    "type": "metrics-api",
                    "metricType": "AverageValue",
                    "metadata": {
                        "url": f"{demand_url.rstrip('/')}/demand/{namespace}/{pool}",
                        "valueLocation": "demand",
                        # KEDA reads a float, where a quantity with a suffix is none.
                        "targetValue": session_target(spec).replace(_SHARE_MISSING, "0.909"),
                        "activationTargetValue": "0",
                    },
                },
                _keda_trigger("cpu", wanted.target_cpu),
                _keda_trigger("memory", wanted.target_memory),
            ],
        },
    }


def wanted_scaler(
    *, pool: str, pool_uid: str, namespace: str, spec: PoolSpec, demand_url: str | None
) -> Manifest | None:
    """What is to scale a pool; None where nothing is, or where KEDA has no address."""
    if not spec.autoscaling.enabled:
        return None
    common = {"pool": pool, "pool_uid": pool_uid, "namespace": namespace}
    if spec.autoscaling.source is not MetricSource.KEDA:
        return horizontal_pod_autoscaler(**common, spec=spec)
    return scaled_object(**common, spec=spec, demand_url=demand_url) if demand_url else None


def _metadata(pool: str, pool_uid: str, namespace: str) -> Manifest:
    return {
        "name": scaler_name(pool),
        "namespace": namespace,
        "labels": {**MANAGED, POOL_LABEL: pool},
        "ownerReferences": [owner_reference(pool, pool_uid)],
    }


def _target(pool: str) -> Manifest:
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "WhatsAppWorkerPool", "name": pool}


def _container_metric(resource: str, percent: int) -> Manifest:
    """Of the worker's own container: a sidecar would dilute the mean."""
    return {
        "type": "ContainerResource",
        "containerResource": {
            "name": resource,
            "container": WORKER_CONTAINER,
            "target": {"type": "Utilization", "averageUtilization": percent},
        },
    }


def _keda_trigger(resource: str, percent: int) -> Manifest:
    metadata = {"value": str(percent), "containerName": WORKER_CONTAINER}
    return {"type": resource, "metricType": "Utilization", "metadata": metadata}


def _window(spec: PoolSpec) -> int:
    """Not shorter than a drain, so that one that still runs is over before the next begins."""
    return max(_LEAST_WINDOW, int(parse_duration(spec.drain.timeout).total_seconds()))


def _behavior(spec: PoolSpec) -> Manifest:
    """Out at once and all the way; in by one worker, or a tenth of them, a minute."""
    everything = {"type": "Pods", "value": spec.autoscaling.max_replicas, "periodSeconds": 15}
    return {
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [everything]},
        "scaleDown": {
            "stabilizationWindowSeconds": _window(spec),
            "selectPolicy": "Max",
            "policies": [
                {"type": "Pods", "value": 1, "periodSeconds": 60},
                {"type": "Percent", "value": 10, "periodSeconds": 60},
            ],
        },
    }


# --- Whose fields ---------------------------------------------------------------------------------------------------

_GIVEN_AWAY = (("spec", "behavior"), ("spec", "advanced"))
"""Below these a user may set what he likes; everything else follows the pool."""


def yielding(manifest: Manifest, live: Manifest | None, manager: str) -> Manifest:
    """The manifest without those fields that somebody else has set where users may.

    What has changed hands is read from `metadata.managedFields` of the live object.
    """
    entries = (live or {}).get("metadata", {}).get("managedFields", [])
    others = [
        entry.get("fieldsV1", {})
        for entry in entries
        if not entry.get("subresource") and (entry["manager"], entry["operation"]) != (manager, "Apply")
    ]
    result = manifest
    for fields in others:
        for top, below in _GIVEN_AWAY:
            theirs = fields.get(f"f:{top}", {}).get(f"f:{below}")
            if theirs and below in result[top]:
                result = {**result, top: {**result[top], below: _without(result[top][below], theirs)}}
    return result


def _without(ours: Manifest, theirs: Mapping[str, Any]) -> Manifest:
    left: Manifest = {}
    for name, value in ours.items():
        taken = theirs.get(f"f:{name}")
        if taken is None:
            left[name] = value
        elif isinstance(value, dict) and (rest := _without(value, taken)):
            left[name] = rest
    return left


def holds(live: Any, wanted: Any) -> bool:
    """Whether everything in `wanted` is so in `live`, which may have more."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(name in live and holds(live[name], wanted[name]) for name in wanted)
    if isinstance(wanted, list):
        return (
            isinstance(live, list)
            and len(live) == len(wanted)
            and all(holds(a, b) for a, b in zip(live, wanted, strict=True))
        )
    return bool(live == wanted)


# --- What it says of itself -----------------------------------------------------------------------------------------


def conclude(live: Manifest, spec: PoolSpec, *, replicas: int, ready: int, pending: int) -> Verdict:
    """What a scaler's status means for its pool.

    Args:
        live: The HPA or ScaledObject as the API server has it.
        spec: The pool's.
        replicas: Workers that are wanted now.
        ready: Workers that are there.
        pending: Sessions that wait for a place.
    """
    problem = _keda_problem(live) if live.get("kind") == "ScaledObject" else _hpa_problem(live)
    most = spec.autoscaling.max_replicas
    if problem is not None and problem.reason in _NOTHING_TO_MEASURE and not ready:
        return Verdict("Unknown", "NoWorkersYet", "no worker is ready that could be measured")
    if problem is not None:
        return problem
    if pending and replicas >= most:
        return Verdict(
            "True", AT_MAX_REPLICAS, f"sessions wait, and {most} workers are the most (autoscaling.maxReplicas)"
        )
    return Verdict("True", "Active", f"{scaler_kind(live)} {live['metadata']['name']} sets spec.replicas")


_NOTHING_TO_MEASURE = frozenset({"FailedGetContainerResourceMetric", "FailedGetResourceMetric"})


def scaler_kind(live: Manifest) -> str:
    """How people call it."""
    return "ScaledObject" if live.get("kind") == "ScaledObject" else "HPA"


def _hpa_problem(live: Manifest) -> Verdict | None:
    status = live.get("status") or {}
    conditions = _by_type(status.get("conditions") or ())
    if not conditions:
        return Verdict("Unknown", "NotSeen", "the HPA controller has not looked at the HPA yet")
    for kind in ("AbleToScale", "ScalingActive"):
        found = conditions.get(kind)
        if found is not None and found["status"] == "False":
            return Verdict("False", found.get("reason", kind), found.get("message", ""))
    shown = status.get("currentMetrics")
    if shown is not None and not any(
        metric.get("external", {}).get("metric", {}).get("name") == METRIC for metric in shown
    ):
        # One metric that fails stops only scaling in, which the HPA's conditions say no sooner than it would happen.
        return Verdict(
            "False", "SessionMetricMissing", f"the HPA gets no {METRIC}: it scales out by CPU and memory, never in"
        )
    return None


def _keda_problem(live: Manifest) -> Verdict | None:
    conditions = _by_type((live.get("status") or {}).get("conditions") or ())
    ready = conditions.get("Ready")
    if ready is None or ready["status"] == "Unknown":
        return Verdict("Unknown", "NotSeen", "KEDA has not looked at the ScaledObject yet")
    if ready["status"] == "False":
        return Verdict("False", ready.get("reason", "NotReady"), ready.get("message", ""))
    for kind in ("Fallback", "Paused"):
        found = conditions.get(kind)
        if found is not None and found["status"] == "True":
            return Verdict("False", kind, found.get("message", ""))
    return None


def _by_type(conditions: Iterable[Manifest]) -> dict[str, Manifest]:
    return {condition["type"]: condition for condition in conditions}
