"""Worker pods and their disruption budget, as manifests.

Owns labels, the default pod template and the merge of a pool's overlay into it. Must not do I/O.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from session_worker.contract import BROWSER_URL, CONTROL_PORT, GROUP, METRICS_PORT, VERSION
from whatsapp_operator.resources import PoolSpec, parse_duration

Manifest = dict[str, Any]

POOL_LABEL = f"{GROUP}/pool"
SERVING_LABEL = f"{GROUP}/serving"
"""`true` until the worker is drained; part of the pool's selector, so that the HPA never counts a draining pod."""
TEMPLATE_LABEL = f"{GROUP}/template"
"""Hash of the pod template: a pod with another hash is outdated."""
DRAINING_ANNOTATION = f"{GROUP}/draining-since"

WORKER_CONTAINER = "worker"
GRACE_AFTER_DRAIN = 15
"""Seconds that a worker has to close what it still runs when the drain's deadline has passed."""

_PROFILES = "/var/lib/whatsapp/profiles"
_USER = 10001


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDefaults:
    """What the operator's own configuration says of every worker pod."""

    image: str
    redis_url: str
    secret_name: str | None = None
    """Secret in the pool's namespace whose keys become environment variables: REDIS_PASSWORD, WORKER_TOKEN."""
    service_account: str | None = None
    browser_url: str = BROWSER_URL
    """For pools that name none."""


def pool_selector(pool: str) -> dict[str, str]:
    """Labels of the workers of a pool that serve."""
    return {POOL_LABEL: pool, SERVING_LABEL: "true"}


def selector_text(labels: Mapping[str, str]) -> str:
    """Labels in the serialized form of the scale subresource: `a=b,c=d`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def pod_template(spec: PoolSpec, defaults: WorkerDefaults) -> Manifest:
    """The pod template of a pool: ours, with the pool's overlay on top. Has `metadata` and `spec`."""
    template = merge(_base_template(spec, defaults), spec.template)
    # One life of a pod is one life of a worker: the end of its container has to be the end.
    return merge(template, {"spec": {"restartPolicy": "Never"}})


def template_hash(template: Manifest) -> str:
    """Ten hex digits that change with anything in the template."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def worker_pod(*, name: str, pool: str, pool_uid: str, namespace: str, template: Manifest) -> Manifest:
    """One worker pod, owned by its pool so that it goes with it."""
    metadata = template.get("metadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                **metadata.get("labels", {}),
                **pool_selector(pool),
                TEMPLATE_LABEL: template_hash(template),
                "app.kubernetes.io/name": "whatsapp-worker",
                "app.kubernetes.io/instance": pool,
                "app.kubernetes.io/managed-by": "whatsapp-operator",
            },
            "annotations": metadata.get("annotations", {}),
            "ownerReferences": [owner_reference(pool, pool_uid)],
        },
        "spec": template["spec"],
    }


def disruption_budget(*, pool: str, pool_uid: str, namespace: str) -> Manifest:
    """At most one worker of a pool is evicted at a time: its sessions need the others to go to."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": f"whatsapp-pool-{pool}",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "whatsapp-operator", POOL_LABEL: pool},
            "ownerReferences": [owner_reference(pool, pool_uid)],
        },
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {POOL_LABEL: pool}}},
    }


def owner_reference(pool: str, uid: str) -> Manifest:
    """What makes an object go with its pool."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "WhatsAppWorkerPool",
        "name": pool,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _base_template(spec: PoolSpec, defaults: WorkerDefaults) -> Manifest:
    drain = int(parse_duration(spec.drain.timeout).total_seconds())
    claim = spec.profiles.volume_claim_name
    profiles: Manifest = {"persistentVolumeClaim": {"claimName": claim}} if claim else {"emptyDir": {}}
    container: Manifest = {
        "name": WORKER_CONTAINER,
        "image": defaults.image,
        "env": _environment(spec, defaults, drain),
        "ports": [
            {"name": "control", "containerPort": CONTROL_PORT},
            {"name": "metrics", "containerPort": METRICS_PORT},
        ],
        # Memory is requested in full: a browser that was promised less is the first that the node kills.
        "resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
        "startupProbe": _probe("/livez", period=2, failures=30),
        "livenessProbe": _probe("/livez", period=10, failures=6),
        "readinessProbe": _probe("/readyz", period=5, failures=3),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "profiles", "mountPath": _PROFILES},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # a mount path, not a file of ours
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  # as above
        ],
    }
    if defaults.secret_name:
        container["envFrom"] = [{"secretRef": {"name": defaults.secret_name, "optional": True}}]
    pod: Manifest = {
        "containers": [container],
        # A worker is never restarted in place: its end frees its sessions at once, and they come up on another one.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": drain + GRACE_AFTER_DRAIN,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "profiles", **profiles},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}},
        ],
    }
    if defaults.service_account:
        pod["serviceAccountName"] = defaults.service_account
    return {"metadata": {}, "spec": pod}


def _environment(spec: PoolSpec, defaults: WorkerDefaults, drain: int) -> list[Manifest]:
    literal = {
        "REDIS_URL": defaults.redis_url,
        "PORT": str(CONTROL_PORT),
        "PROMETHEUS_PORT": str(METRICS_PORT),
        "MAX_SESSIONS_PER_INSTANCE": str(spec.sessions_per_worker),
        "DRAIN_TIMEOUT_SECONDS": str(drain),
        "PROFILE_DIR": _PROFILES,
        "BROWSER_URL": spec.browser.url or defaults.browser_url,
        "BROWSER_SANDBOX": str(spec.browser.sandbox).lower(),
        "BROWSER_ARGS": json.dumps(spec.browser.args),
        **({"BROWSER_EXECUTABLE": spec.browser.executable} if spec.browser.executable else {}),
    }
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace", "POD_UID": "metadata.uid"}
    return [
        *({"name": name, "value": value} for name, value in literal.items()),
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {
            "name": "MEMORY_LIMIT_BYTES",
            "valueFrom": {"resourceFieldRef": {"containerName": WORKER_CONTAINER, "resource": "limits.memory"}},
        },
    ]


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "control"},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
}
"""Lists that merge element by element, as in Kubernetes' strategic merge; other lists are replaced."""


def merge(base: Manifest, overlay: Manifest) -> Manifest:
    """`overlay` on top of `base`: maps merge, the lists of `_MERGE_KEYS` merge by their key, null removes."""
    result = dict(base)
    for key, value in overlay.items():
        current = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(current, dict):
            result[key] = merge(current, value)
        elif isinstance(value, list) and isinstance(current, list) and key in _MERGE_KEYS:
            result[key] = _merge_lists(current, value, _MERGE_KEYS[key])
        else:
            result[key] = value
    return result


def _merge_lists(base: list[Manifest], overlay: list[Manifest], merge_key: str) -> list[Manifest]:
    additions = {item.get(merge_key): item for item in overlay}
    merged = [
        merge(item, _replacing_source(additions.pop(item.get(merge_key)))) if item.get(merge_key) in additions else item
        for item in base
    ]
    return [*merged, *additions.values()]


def _replacing_source(item: Manifest) -> Manifest:
    """An `env` entry has either `value` or `valueFrom`: the overlay's kind takes the other's place."""
    if "value" in item:
        return {"valueFrom": None, **item}
    if "valueFrom" in item:
        return {"value": None, **item}
    return item
