"""Defaults of the built-in kinds, as far as consumers see them.

Owns what the real server fills in between decoding and storing, after k8s.io/kubernetes `pkg/apis/*/v1/defaults.go`.
The functions change the object that they are given; callers hand over a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sandbox.kube.quantity import canonical, parse_quantity

JsonObject = dict[str, Any]

_FILE_MODE: Final = 0o644
_PULL_ALWAYS: Final = ("latest", "")


def _fill(target: JsonObject, **values: Any) -> None:
    for name, value in values.items():
        if target.get(name) is None:
            target[name] = value


def _each(owner: JsonObject, *names: str) -> Iterator[JsonObject]:
    for name in names:
        for item in owner.get(name) or []:
            if isinstance(item, dict):
                yield item


def _quantities(amounts: JsonObject | None) -> None:
    for name, amount in (amounts or {}).items():
        assert amounts is not None
        amounts[name] = canonical(amount)


def _image_tag(image: str) -> str:
    last = image.rpartition("/")[2]
    return "digest" if "@" in last else last.partition(":")[2]


def _probe(probe: JsonObject | None) -> None:
    if probe is None:
        return
    _fill(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    _http_get(probe.get("httpGet"))


def _http_get(action: JsonObject | None) -> None:
    if action is not None:
        _fill(action, path="/", scheme="HTTP")


def _container(container: JsonObject) -> None:
    tag = _image_tag(container.get("image") or "")
    _fill(
        container,
        imagePullPolicy="Always" if tag in _PULL_ALWAYS else "IfNotPresent",
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    resources = container["resources"]
    _quantities(resources.get("limits"))
    _quantities(resources.get("requests"))
    for port in _each(container, "ports"):
        _fill(port, protocol="TCP")
    for variable in _each(container, "env"):
        _field_sources(variable.get("valueFrom") or {})
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        _probe(container.get(name))
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _http_get(hook.get("httpGet"))


def _field_sources(source: JsonObject) -> None:
    if (reference := source.get("fieldRef")) is not None:
        _fill(reference, apiVersion="v1")
    if (reference := source.get("resourceFieldRef")) is not None:
        _fill(reference, divisor="0")
        reference["divisor"] = canonical(reference["divisor"])


def _volume(volume: JsonObject) -> None:
    for name in ("secret", "configMap", "downwardAPI", "projected"):
        if (source := volume.get(name)) is not None:
            _fill(source, defaultMode=_FILE_MODE)
    for item in _each(volume.get("downwardAPI") or {}, "items"):
        _field_sources(item)
    for source in _each(volume.get("projected") or {}, "sources"):
        if (token := source.get("serviceAccountToken")) is not None:
            _fill(token, expirationSeconds=3600)
        for item in _each(source.get("downwardAPI") or {}, "items"):
            _field_sources(item)
    if (host_path := volume.get("hostPath")) is not None:
        _fill(host_path, type="")
    if (memory := volume.get("emptyDir")) is not None and memory.get("sizeLimit") is not None:
        memory["sizeLimit"] = canonical(memory["sizeLimit"])


def pod_spec(spec: JsonObject) -> None:
    """Defaults of pods and pod templates alike."""
    _fill(
        spec,
        restartPolicy="Always",
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        securityContext={},
        terminationGracePeriodSeconds=30,
    )
    if spec.get("serviceAccountName"):
        _fill(spec, serviceAccount=spec["serviceAccountName"])
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    _quantities(spec.get("overhead"))
    for container in _each(spec, "containers", "initContainers", "ephemeralContainers"):
        _container(container)
    for volume in _each(spec, "volumes"):
        if set(volume) == {"name"}:
            volume["emptyDir"] = {}
        _volume(volume)


def _template(owner: JsonObject) -> None:
    template = owner.setdefault("template", {})
    template.setdefault("metadata", {})
    pod_spec(template.setdefault("spec", {}))


def pod(obj: JsonObject) -> None:
    """Pod: the template's defaults, requests from limits, and addresses that agree with each other."""
    status = obj.get("status") or {}
    address, addresses = status.get("podIP"), status.get("podIPs") or []
    if address and (not addresses or addresses[0].get("ip") != address):
        status["podIPs"] = [{"ip": address}]
    spec = obj.setdefault("spec", {})
    pod_spec(spec)
    _fill(spec, enableServiceLinks=True)
    for container in _each(spec, "containers", "initContainers"):
        limits = container["resources"].get("limits") or {}
        for name, amount in limits.items():
            container["resources"].setdefault("requests", {}).setdefault(name, amount)


def qos_class(spec: JsonObject) -> str:
    """`status.qosClass`, after `GetPodQOS`."""
    containers = list(_each(spec, "containers", "initContainers"))
    amounts = [
        (container.get("resources", {}).get("requests") or {}, container.get("resources", {}).get("limits") or {})
        for container in containers
    ]
    if not any(requests or limits for requests, limits in amounts):
        return "BestEffort"
    for requests, limits in amounts:
        for name in ("cpu", "memory"):
            limit = limits.get(name)
            if limit is None or parse_quantity(requests.get(name, limit)) != parse_quantity(limit):
                return "Burstable"
    return "Guaranteed"


def deployment(obj: JsonObject) -> None:
    """Deployment."""
    spec = obj.setdefault("spec", {})
    _fill(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    strategy = spec["strategy"]
    _fill(strategy, type="RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        _fill(strategy, rollingUpdate={})
        _fill(strategy["rollingUpdate"], maxUnavailable="25%", maxSurge="25%")
    _template(spec)


def replica_set(obj: JsonObject) -> None:
    """ReplicaSet."""
    spec = obj.setdefault("spec", {})
    _fill(spec, replicas=1)
    _template(spec)


def replication_controller(obj: JsonObject) -> None:
    """ReplicationController, whose selector and labels come from its template."""
    spec = obj.setdefault("spec", {})
    _fill(spec, replicas=1)
    _template(spec)
    labels = spec["template"]["metadata"].get("labels") or {}
    if labels:
        _fill(spec, selector=dict(labels))
        _fill(obj["metadata"], labels=dict(labels))


def stateful_set(obj: JsonObject) -> None:
    """StatefulSet."""
    spec = obj.setdefault("spec", {})
    _fill(
        spec,
        replicas=1,
        revisionHistoryLimit=10,
        podManagementPolicy="OrderedReady",
        updateStrategy={},
        persistentVolumeClaimRetentionPolicy={},
    )
    _fill(spec["persistentVolumeClaimRetentionPolicy"], whenDeleted="Retain", whenScaled="Retain")
    _fill(spec["updateStrategy"], type="RollingUpdate")
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _fill(spec["updateStrategy"], rollingUpdate={})
        _fill(spec["updateStrategy"]["rollingUpdate"], partition=0)
    for claim in _each(spec, "volumeClaimTemplates"):
        _fill(claim, apiVersion="v1", kind="PersistentVolumeClaim", status={"phase": "Pending"})
        persistent_volume_claim(claim)
    _template(spec)


def daemon_set(obj: JsonObject) -> None:
    """DaemonSet."""
    spec = obj.setdefault("spec", {})
    _fill(spec, revisionHistoryLimit=10, updateStrategy={})
    _fill(spec["updateStrategy"], type="RollingUpdate")
    if spec["updateStrategy"]["type"] == "RollingUpdate":
        _fill(spec["updateStrategy"], rollingUpdate={})
        _fill(spec["updateStrategy"]["rollingUpdate"], maxUnavailable=1, maxSurge=0)
    _template(spec)


def job(obj: JsonObject) -> None:
    """Job."""
    spec = obj.setdefault("spec", {})
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    _fill(
        spec,
        parallelism=1,
        backoffLimit=6,
        completionMode="NonIndexed",
        suspend=False,
        manualSelector=False,
        podReplacementPolicy="Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed",
    )
    _template(spec)


def cron_job(obj: JsonObject) -> None:
    """CronJob."""
    spec = obj.setdefault("spec", {})
    _fill(spec, concurrencyPolicy="Allow", suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    job_template = spec.setdefault("jobTemplate", {})
    job_template.setdefault("metadata", {})
    _template(job_template.setdefault("spec", {}))


def service(obj: JsonObject) -> None:
    """Service; addresses and node ports are given out elsewhere."""
    spec = obj.setdefault("spec", {})
    _fill(spec, type="ClusterIP", sessionAffinity="None")
    if spec["type"] != "ExternalName":
        _fill(spec, internalTrafficPolicy="Cluster", ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
        if spec["type"] in {"NodePort", "LoadBalancer"}:
            _fill(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _fill(spec, allocateLoadBalancerNodePorts=True)
    if spec["sessionAffinity"] == "ClientIP":
        _fill(spec, sessionAffinityConfig={"clientIP": {"timeoutSeconds": 10800}})
    for port in _each(spec, "ports"):
        _fill(port, protocol="TCP")
        if port.get("targetPort") in {None, ""} and spec["type"] != "ExternalName":
            port["targetPort"] = port.get("port")


def secret(obj: JsonObject) -> None:
    """Secret."""
    _fill(obj, type="Opaque")


def horizontal_pod_autoscaler(obj: JsonObject) -> None:
    """HorizontalPodAutoscaler v2."""
    spec = obj.setdefault("spec", {})
    _fill(spec, minReplicas=1)
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    for metric in _each(spec, "metrics"):
        for source in metric.values():
            goal = source.get("target") if isinstance(source, dict) else None
            for name in ("value", "averageValue"):
                if isinstance(goal, dict) and goal.get(name) is not None:
                    goal[name] = canonical(goal[name])
    if (behavior := spec.get("behavior")) is None:
        return
    _fill(behavior, scaleUp={}, scaleDown={})
    up, down = behavior["scaleUp"], behavior["scaleDown"]
    _fill(
        up,
        stabilizationWindowSeconds=0,
        selectPolicy="Max",
        policies=[
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ],
    )
    _fill(down, selectPolicy="Max", policies=[{"type": "Percent", "value": 100, "periodSeconds": 15}])


def persistent_volume_claim(obj: JsonObject) -> None:
    """PersistentVolumeClaim."""
    spec = obj.setdefault("spec", {})
    _fill(spec, volumeMode="Filesystem")
    _quantities((spec.get("resources") or {}).get("requests"))
    _quantities((spec.get("resources") or {}).get("limits"))


def persistent_volume(obj: JsonObject) -> None:
    """PersistentVolume."""
    spec = obj.setdefault("spec", {})
    _fill(spec, persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem")
    _quantities(spec.get("capacity"))
    if (host_path := spec.get("hostPath")) is not None:
        _fill(host_path, type="")


def resource_quota(obj: JsonObject) -> None:
    """ResourceQuota."""
    _quantities(obj.setdefault("spec", {}).get("hard"))


def limit_range(obj: JsonObject) -> None:
    """LimitRange: for containers, defaults follow from the bounds."""
    for limit in _each(obj.setdefault("spec", {}), "limits"):
        for name in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio"):
            _quantities(limit.get(name))
        if limit.get("type") != "Container":
            continue
        for name, amount in (limit.get("max") or {}).items():
            limit.setdefault("default", {}).setdefault(name, amount)
        for source in ("default", "min"):
            for name, amount in (limit.get(source) or {}).items():
                limit.setdefault("defaultRequest", {}).setdefault(name, amount)


def endpoints(obj: JsonObject) -> None:
    """Endpoints."""
    for subset in _each(obj, "subsets"):
        for port in _each(subset, "ports"):
            _fill(port, protocol="TCP")


def endpoint_slice(obj: JsonObject) -> None:
    """EndpointSlice."""
    for endpoint in _each(obj, "endpoints"):
        _fill(endpoint, conditions={})
    for port in _each(obj, "ports"):
        _fill(port, name="", protocol="TCP")


_RBAC_GROUP: Final = "rbac.authorization.k8s.io"


def role_binding(obj: JsonObject) -> None:
    """RoleBinding and ClusterRoleBinding."""
    if isinstance(reference := obj.get("roleRef"), dict):
        _fill(reference, apiGroup=_RBAC_GROUP)
        if not reference["apiGroup"]:
            reference["apiGroup"] = _RBAC_GROUP
    for subject in _each(obj, "subjects"):
        if subject.get("kind") in {"User", "Group"} and not subject.get("apiGroup"):
            subject["apiGroup"] = _RBAC_GROUP


def network_policy(obj: JsonObject) -> None:
    """NetworkPolicy."""
    spec = obj.setdefault("spec", {})
    for rule in _each(spec, "ingress", "egress"):
        for port in _each(rule, "ports"):
            _fill(port, protocol="TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def webhooks(obj: JsonObject) -> None:
    """Validating- and MutatingWebhookConfiguration."""
    for webhook in _each(obj, "webhooks"):
        _fill(
            webhook,
            failurePolicy="Fail",
            matchPolicy="Equivalent",
            namespaceSelector={},
            objectSelector={},
            timeoutSeconds=10,
        )
        if obj.get("kind") == "MutatingWebhookConfiguration":
            _fill(webhook, reinvocationPolicy="Never")
        for rule in _each(webhook, "rules"):
            _fill(rule, scope="*")
        if (target := (webhook.get("clientConfig") or {}).get("service")) is not None:
            _fill(target, port=443)


def storage_class(obj: JsonObject) -> None:
    """StorageClass."""
    _fill(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def priority_class(obj: JsonObject) -> None:
    """PriorityClass."""
    _fill(obj, preemptionPolicy="PreemptLowerPriority")


def api_service(obj: JsonObject) -> None:
    """APIService."""
    if (target := obj.setdefault("spec", {}).get("service")) is not None:
        _fill(target, port=443)


def node(obj: JsonObject) -> None:
    """Node."""
    obj.setdefault("spec", {})
    status = obj.setdefault("status", {})
    _quantities(status.get("capacity"))
    _quantities(status.get("allocatable"))
    if status.get("capacity"):
        _fill(status, allocatable=dict(status["capacity"]))


def event(obj: JsonObject) -> None:
    """Event of the core group; the other group's events are converted to it."""
    _fill(obj, source={}, reportingComponent="", reportingInstance="")
    for name in ("firstTimestamp", "lastTimestamp", "eventTime"):
        obj.setdefault(name, None)


def custom_resource_definition(obj: JsonObject) -> None:
    """CustomResourceDefinition v1."""
    spec = obj.setdefault("spec", {})
    names = spec.setdefault("names", {})
    if kind := names.get("kind"):
        _fill(names, singular=str(kind).lower(), listKind=f"{kind}List")
    _fill(spec, conversion={"strategy": "None"})
