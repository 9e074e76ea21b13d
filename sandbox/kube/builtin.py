"""The table of built-in kinds: adding one is adding a row.

Owns which kinds are served in which versions, and the conversions between the versions that share objects. What a kind
does is in `defaulting.py` and `builtin_rules.py`, how it prints in `tables.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sandbox.kube import builtin_rules as rules
from sandbox.kube import defaulting
from sandbox.kube.resources import Hooks, Resource, ScalePaths, Subresource
from sandbox.kube.typeinfo import model_schema

JsonObject = dict[str, Any]

_SCALE: Final = ScalePaths(spec=".spec.replicas", status=".status.replicas", selector_object=".spec.selector")
_RBAC: Final = "rbac.authorization.k8s.io"
_ADMISSION: Final = "admissionregistration.k8s.io"
_ALL: Final = ("all",)
_EXTENSIONS: Final = ("api-extensions",)
_CREATE_ONLY: Final = ("create",)


def _row(group: str, version: str, plural: str, kind: str, *short_names: str, **more: Any) -> Resource:
    model = more.pop("model", f"{version[0].upper()}{version[1:]}{kind}")
    return Resource(
        group=group,
        version=version,
        plural=plural,
        kind=kind,
        short_names=short_names,
        schema=model_schema(model),
        model=model,
        **more,
    )


_POD_SUBRESOURCES: Final = (
    Subresource("binding", "Binding", ("create",)),
    Subresource("eviction", "Eviction", ("create",), "policy", "v1"),
    Subresource("log", "Pod", ("get",)),
    Subresource("proxy", "PodProxyOptions", ("create", "delete", "get", "patch", "update")),
)
_EVENT_FIELDS: Final = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)


# --- Conversions ------------------------------------------------------------------------------------------------------

_EVENT_NAMES: Final = {
    # events.k8s.io/v1 : v1
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}


def _renamed(obj: JsonObject, names: dict[str, str], api_version: str) -> JsonObject:
    return {**{names.get(name, name): value for name, value in obj.items()}, "apiVersion": api_version}


def _event_to_core(obj: JsonObject) -> JsonObject:
    return _renamed(obj, _EVENT_NAMES, "v1")


def _event_from_core(obj: JsonObject) -> JsonObject:
    names = {core: newer for newer, core in _EVENT_NAMES.items()}
    return _renamed(obj, names, "events.k8s.io/v1")


def _hpa_from_v2(obj: JsonObject) -> JsonObject:
    """autoscaling/v1 knows of one metric, the CPU utilisation."""
    spec = dict(obj.get("spec") or {})
    for metric in spec.pop("metrics", None) or []:
        resource = metric.get("resource") or {}
        utilization = (resource.get("target") or {}).get("averageUtilization")
        if metric.get("type") == "Resource" and resource.get("name") == "cpu" and utilization is not None:
            spec["targetCPUUtilizationPercentage"] = utilization
    spec.pop("behavior", None)
    former = obj.get("status") or {}
    status = {name: former[name] for name in ("observedGeneration", "lastScaleTime") if former.get(name) is not None}
    status |= {name: former.get(name, 0) for name in ("currentReplicas", "desiredReplicas")}
    for metric in former.get("currentMetrics") or []:
        resource = metric.get("resource") or {}
        if metric.get("type") == "Resource" and resource.get("name") == "cpu":
            status["currentCPUUtilizationPercentage"] = (resource.get("current") or {}).get("averageUtilization")
    return {**obj, "apiVersion": "autoscaling/v1", "spec": spec, "status": status}


def _hpa_to_v2(obj: JsonObject) -> JsonObject:
    spec = dict(obj.get("spec") or {})
    utilization = spec.pop("targetCPUUtilizationPercentage", None)
    if utilization is not None:
        target = {"type": "Utilization", "averageUtilization": utilization}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    return {**obj, "apiVersion": "autoscaling/v2", "spec": spec}


# --- The table --------------------------------------------------------------------------------------------------------


def _core() -> Iterable[Resource]:
    yield _row(
        "", "v1", "namespaces", "Namespace", "ns",
        namespaced=False, status=True, name_kind="label", selectable=("status.phase",),
        verbs=("create", "delete", "get", "list", "patch", "update", "watch"),
        subresources=(Subresource("finalize", "Namespace", ("update",)),),
        hooks=Hooks(prepare=rules.prepare_namespace),
    )  # fmt: skip
    yield _row(
        "", "v1", "pods", "Pod", "po",
        categories=_ALL, status=True, generation=True, returns_deleted=True, subresources=_POD_SUBRESOURCES,
        selectable=(
            "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
            "status.phase", "status.podIP", "status.nominatedNodeName",
        ),
        hooks=Hooks(defaulting.pod, rules.prepare_pod, rules.validate_pod, rules.validate_pod_status),
    )  # fmt: skip
    yield _row(
        "", "v1", "nodes", "Node", "no",
        namespaced=False, status=True, selectable=("spec.unschedulable",),
        hooks=Hooks(defaulting.node, rules.prepare_node),
    )  # fmt: skip
    yield _row(
        "", "v1", "services", "Service", "svc",
        categories=_ALL, status=True, name_kind="dns1035", returns_deleted=True,
        selectable=("spec.clusterIP", "spec.type"),
        subresources=(Subresource("proxy", "ServiceProxyOptions", ("create", "delete", "get", "patch", "update")),),
        hooks=Hooks(defaulting.service, rules.initial_status({"loadBalancer": {}}), rules.validate_service),
    )  # fmt: skip
    yield _row("", "v1", "endpoints", "Endpoints", "ep", singular="endpoints", hooks=Hooks(defaulting.endpoints))
    yield _row("", "v1", "configmaps", "ConfigMap", "cm", hooks=Hooks(validate=rules.validate_config))
    yield _row(
        "", "v1", "secrets", "Secret",
        selectable=("type",), hooks=Hooks(defaulting.secret, rules.prepare_secret, rules.validate_config),
    )  # fmt: skip
    yield _row(
        "", "v1", "serviceaccounts", "ServiceAccount", "sa",
        returns_deleted=True,
        subresources=(Subresource("token", "TokenRequest", ("create",), "authentication.k8s.io", "v1"),),
    )  # fmt: skip
    yield _row(
        "", "v1", "events", "Event", "ev",
        model="CoreV1Event", selectable=_EVENT_FIELDS, hooks=Hooks(defaulting.event),
    )  # fmt: skip
    yield _row(
        "", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "pvc",
        status=True, returns_deleted=True,
        hooks=Hooks(defaulting.persistent_volume_claim, rules.prepare_claim, rules.validate_claim),
    )  # fmt: skip
    yield _row(
        "", "v1", "persistentvolumes", "PersistentVolume", "pv",
        namespaced=False, status=True, returns_deleted=True,
        hooks=Hooks(defaulting.persistent_volume, rules.prepare_volume),
    )  # fmt: skip
    yield _row(
        "", "v1", "resourcequotas", "ResourceQuota", "quota",
        status=True, returns_deleted=True, hooks=Hooks(defaulting.resource_quota, rules.initial_status({})),
    )  # fmt: skip
    yield _row("", "v1", "limitranges", "LimitRange", "limits", hooks=Hooks(defaulting.limit_range))
    yield _row("", "v1", "podtemplates", "PodTemplate", returns_deleted=True)
    yield _row(
        "", "v1", "replicationcontrollers", "ReplicationController", "rc",
        categories=_ALL, status=True, generation=True, orphan_by_default=True, selectable=("status.replicas",),
        scale=ScalePaths(spec=".spec.replicas", status=".status.replicas", selector_object=".spec.selector"),
        hooks=Hooks(defaulting.replication_controller, rules.initial_status({"replicas": 0})),
    )  # fmt: skip


def _apps_and_batch() -> Iterable[Resource]:
    yield _row(
        "apps", "v1", "deployments", "Deployment", "deploy",
        categories=_ALL, status=True, generation=True, scale=_SCALE,
        hooks=Hooks(defaulting.deployment, rules.initial_status({}), rules.workload()),
    )  # fmt: skip
    yield _row(
        "apps", "v1", "replicasets", "ReplicaSet", "rs",
        categories=_ALL, status=True, generation=True, scale=_SCALE, selectable=("status.replicas",),
        hooks=Hooks(defaulting.replica_set, rules.initial_status({"replicas": 0}), rules.workload()),
    )  # fmt: skip
    yield _row(
        "apps", "v1", "statefulsets", "StatefulSet", "sts",
        categories=_ALL, status=True, generation=True, scale=_SCALE,
        hooks=Hooks(
            defaulting.stateful_set, rules.initial_status({"availableReplicas": 0, "replicas": 0}), rules.workload()
        ),
    )  # fmt: skip
    counts = ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady")
    yield _row(
        "apps", "v1", "daemonsets", "DaemonSet", "ds",
        categories=_ALL, status=True, generation=True,
        hooks=Hooks(defaulting.daemon_set, rules.initial_status(dict.fromkeys(counts, 0)), rules.workload()),
    )  # fmt: skip
    yield _row("apps", "v1", "controllerrevisions", "ControllerRevision")
    yield _row(
        "batch", "v1", "jobs", "Job",
        categories=_ALL, status=True, generation=True, orphan_by_default=True, selectable=("status.successful",),
        hooks=Hooks(
            defaulting.job,
            rules.prepare_job,
            rules.validate_job,
        ),
    )  # fmt: skip
    yield _row(
        "batch", "v1", "cronjobs", "CronJob", "cj",
        categories=_ALL, status=True, generation=True,
        hooks=Hooks(defaulting.cron_job, rules.initial_status({}), rules.validate_cron_job),
    )  # fmt: skip


def _policies() -> Iterable[Resource]:
    new_budget = {"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0}
    yield _row(
        "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "pdb",
        status=True, generation=True,
        hooks=Hooks(prepare=rules.initial_status(new_budget), validate=rules.validate_disruption_budget),
    )  # fmt: skip
    new_autoscaler = {"currentMetrics": None, "desiredReplicas": 0}
    hooks = Hooks(defaulting.horizontal_pod_autoscaler, rules.initial_status(new_autoscaler), rules.validate_autoscaler)
    name = "horizontalpodautoscalers"
    yield _row("autoscaling", "v2", name, "HorizontalPodAutoscaler", "hpa", categories=_ALL, status=True, hooks=hooks)
    yield _row(
        "autoscaling", "v1", name, "HorizontalPodAutoscaler", "hpa",
        categories=_ALL, status=True, hooks=hooks, to_storage=_hpa_to_v2, from_storage=_hpa_from_v2,
    )  # fmt: skip
    yield _row("coordination.k8s.io", "v1", "leases", "Lease", hooks=Hooks(validate=rules.validate_lease))
    yield _row(
        "events.k8s.io", "v1", "events", "Event", "ev",
        model="EventsV1Event", storage=("", "events"), to_storage=_event_to_core, from_storage=_event_from_core,
        hooks=Hooks(defaulting.event), selectable=("regarding.kind", "regarding.name", "reason", "type"),
    )  # fmt: skip
    yield _row(
        "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice",
        generation=True, hooks=Hooks(defaulting.endpoint_slice),
    )  # fmt: skip
    yield _row(
        "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "pc",
        namespaced=False, generation=True,
        hooks=Hooks(defaulting.priority_class, validate=rules.validate_priority_class),
    )  # fmt: skip
    yield _row(
        "storage.k8s.io", "v1", "storageclasses", "StorageClass", "sc",
        namespaced=False, hooks=Hooks(defaulting.storage_class),
    )  # fmt: skip
    yield _row(
        "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "netpol",
        generation=True, hooks=Hooks(defaulting.network_policy),
    )  # fmt: skip
    yield _row(
        "networking.k8s.io", "v1", "ingresses", "Ingress", "ing",
        status=True, generation=True, hooks=Hooks(prepare=rules.initial_status({"loadBalancer": {}})),
    )  # fmt: skip
    yield _row("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False, generation=True)


def _access() -> Iterable[Resource]:
    role, binding = (
        Hooks(validate=rules.validate_role),
        Hooks(defaulting.role_binding, validate=rules.validate_role_binding),
    )
    yield _row(_RBAC, "v1", "roles", "Role", name_kind="path", hooks=role)
    yield _row(_RBAC, "v1", "rolebindings", "RoleBinding", name_kind="path", hooks=binding)
    yield _row(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False, name_kind="path", hooks=role)
    yield _row(
        _RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False, name_kind="path", hooks=binding
    )
    for plural, kind, namespaced in (
        ("selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
        ("subjectaccessreviews", "SubjectAccessReview", False),
        ("localsubjectaccessreviews", "LocalSubjectAccessReview", True),
        ("selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
    ):
        yield _row("authorization.k8s.io", "v1", plural, kind, namespaced=namespaced, verbs=_CREATE_ONLY)
    for plural, kind in (("tokenreviews", "TokenReview"), ("selfsubjectreviews", "SelfSubjectReview")):
        yield _row("authentication.k8s.io", "v1", plural, kind, namespaced=False, verbs=_CREATE_ONLY)


def _extensions() -> Iterable[Resource]:
    yield _row(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", "crd", "crds",
        namespaced=False, categories=_EXTENSIONS, status=True, generation=True, unconditional_update=False,
        hooks=Hooks(defaulting.custom_resource_definition, rules.prepare_definition),
    )  # fmt: skip
    yield _row(
        "apiregistration.k8s.io", "v1", "apiservices", "APIService",
        namespaced=False, categories=_EXTENSIONS, status=True, unconditional_update=False, name_kind="path",
        hooks=Hooks(defaulting.api_service, rules.initial_status({}), rules.validate_api_service),
    )  # fmt: skip
    for plural, kind in (
        ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
        ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
    ):
        yield _row(
            _ADMISSION, "v1", plural, kind,
            namespaced=False, categories=_EXTENSIONS, generation=True, hooks=Hooks(defaulting.webhooks),
        )  # fmt: skip


def builtin_resources() -> list[Resource]:
    """All built-in resources, in the order in which discovery lists their groups."""
    return [*_core(), *_extensions(), *_apps_and_batch(), *_policies(), *_access()]
