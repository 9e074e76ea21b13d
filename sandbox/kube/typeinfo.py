"""Schemas of the built-in kinds, read from the models of the official Kubernetes client.

Owns the knowledge that those models leave out: which lists are merged by which key, which maps are atomic, and where
quantities are. Must not judge values.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any, Final

from kubernetes.client import models

from sandbox.kube.schema import MISSING, Schema

_LIST = re.compile(r"list\[(.*)\]")
_MAP = re.compile(r"dict\[str, (.*)\]")

_KEYED_LISTS: Final[dict[str, tuple[str, ...]]] = {
    # Model.field (JSON name): the keys of its items. The first one is the key of strategic merge patches as well.
    "V1Container.env": ("name",),
    "V1Container.ports": ("containerPort", "protocol"),
    "V1Container.volumeDevices": ("devicePath",),
    "V1Container.volumeMounts": ("mountPath",),
    "V1ContainerStatus.volumeMounts": ("mountPath",),
    "V1EphemeralContainer.env": ("name",),
    "V1EphemeralContainer.ports": ("containerPort", "protocol"),
    "V1EphemeralContainer.volumeDevices": ("devicePath",),
    "V1EphemeralContainer.volumeMounts": ("mountPath",),
    "V1JSONSchemaProps.x-kubernetes-validations": ("rule",),
    "V1MutatingWebhook.matchConditions": ("name",),
    "V1MutatingWebhookConfiguration.webhooks": ("name",),
    "V1NodeStatus.addresses": ("type",),
    "V1ObjectMeta.ownerReferences": ("uid",),
    "V1PodSpec.containers": ("name",),
    "V1PodSpec.ephemeralContainers": ("name",),
    "V1PodSpec.hostAliases": ("ip",),
    "V1PodSpec.imagePullSecrets": ("name",),
    "V1PodSpec.initContainers": ("name",),
    "V1PodSpec.resourceClaims": ("name",),
    "V1PodSpec.schedulingGates": ("name",),
    "V1PodSpec.topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "V1PodSpec.volumes": ("name",),
    "V1PodStatus.podIPs": ("ip",),
    "V1ServiceAccount.secrets": ("name",),
    "V1ServiceSpec.ports": ("port", "protocol"),
    "V1ValidatingWebhook.matchConditions": ("name",),
    "V1ValidatingWebhookConfiguration.webhooks": ("name",),
}
_CONDITIONS: Final = re.compile(r"(V\d+\w+Status)\.conditions")
_ATOMIC_CONDITIONS: Final = frozenset({"V1JobStatus.conditions"})
_PATCH_ONLY_KEYS: Final = {"V1PodStatus.hostIPs": "ip", "V1JobStatus.conditions": "type"}
"""Lists that apply replaces as a whole, but strategic merge patches merge."""
_SETS: Final = frozenset({"V1ObjectMeta.finalizers", "V1NodeSpec.podCIDRs", "V1Endpoint.addresses"})
_PATCHED_SETS: Final = frozenset({"V1ObjectMeta.finalizers", "V1NodeSpec.podCIDRs"})
_RETAIN_KEYS: Final = frozenset({"V1DeploymentSpec.strategy"})

_ATOMIC_MAPS: Final = frozenset(
    {"V1PodSpec.nodeSelector", "V1ReplicationControllerSpec.selector", "V1ServiceSpec.selector"}
)
_ATOMIC_MODELS: Final = frozenset(
    {
        "CoreV1EndpointPort",
        "DiscoveryV1EndpointPort",
        "RbacV1Subject",
        "V1ConfigMapKeySelector",
        "V1CrossVersionObjectReference",
        "V1EndpointAddress",
        "V1LabelSelector",
        "V1LocalObjectReference",
        "V1NodeSelector",
        "V1NodeSelectorTerm",
        "V1ObjectFieldSelector",
        "V1ObjectReference",
        "V1OwnerReference",
        "V1ResourceFieldSelector",
        "V1RoleRef",
        "V1ScopeSelector",
        "V1SecretKeySelector",
        "V1SecretReference",
        "V1ServiceBackendPort",
        "V1TopologySelectorTerm",
        "V1TypedLocalObjectReference",
    }
)
_QUANTITY_MAPS: Final = frozenset(
    {
        "V1ContainerStatus.allocatedResources",
        "V1LimitRangeItem.default",
        "V1LimitRangeItem.defaultRequest",
        "V1LimitRangeItem.max",
        "V1LimitRangeItem.maxLimitRequestRatio",
        "V1LimitRangeItem.min",
        "V1NodeStatus.allocatable",
        "V1NodeStatus.capacity",
        "V1PersistentVolumeClaimStatus.allocatedResources",
        "V1PersistentVolumeClaimStatus.capacity",
        "V1PersistentVolumeSpec.capacity",
        "V1PodSpec.overhead",
        "V1ResourceQuotaSpec.hard",
        "V1ResourceQuotaStatus.hard",
        "V1ResourceQuotaStatus.used",
        "V1ResourceRequirements.limits",
        "V1ResourceRequirements.requests",
        "V1VolumeResourceRequirements.limits",
        "V1VolumeResourceRequirements.requests",
    }
)
_QUANTITIES: Final = frozenset(
    {
        "V1EmptyDirVolumeSource.sizeLimit",
        "V1ResourceFieldSelector.divisor",
        "V2MetricTarget.averageValue",
        "V2MetricTarget.value",
        "V2MetricValueStatus.averageValue",
        "V2MetricValueStatus.value",
    }
)
_INT_OR_STRING: Final = frozenset(
    {
        "V1HTTPGetAction.port",
        "V1NetworkPolicyPort.port",
        "V1PodDisruptionBudgetSpec.maxUnavailable",
        "V1PodDisruptionBudgetSpec.minAvailable",
        "V1RollingUpdateDaemonSet.maxSurge",
        "V1RollingUpdateDaemonSet.maxUnavailable",
        "V1RollingUpdateDeployment.maxSurge",
        "V1RollingUpdateDeployment.maxUnavailable",
        "V1ServicePort.targetPort",
        "V1TCPSocketAction.port",
    }
)
_KEY_DEFAULTS: Final = {"V1ContainerPort.protocol": "TCP", "V1ServicePort.protocol": "TCP"}
_BYTES: Final = frozenset(
    {"V1Secret.data", "V1ConfigMap.binaryData", "V1APIServiceSpec.caBundle", "V1WebhookClientConfig.caBundle"}
)


def _scalar(type_name: str) -> Schema:
    match type_name:
        case "str":
            return Schema(type="string")
        case "int":
            return Schema(type="integer", format="int64")
        case "float":
            return Schema(type="number", format="double")
        case "bool":
            return Schema(type="boolean")
        case "datetime":
            return Schema(type="string", format="date-time")
    return Schema(closed=False, preserve_unknown=True)


_known: dict[str, Schema] = {}


def _schema_of_type(type_name: str) -> Schema:
    if match := _LIST.fullmatch(type_name):
        return Schema(type="array", items=_schema_of_type(match[1]))
    if match := _MAP.fullmatch(type_name):
        return Schema(type="object", additional=_schema_of_type(match[1]))
    if hasattr(models, type_name):
        return model_schema(type_name)
    return _scalar(type_name)


def _quantity() -> Schema:
    return Schema(int_or_string=True, type="", format="quantity")


def _field(model: str, name: str, type_name: str) -> Schema:
    where = f"{model}.{name}"
    if where in _QUANTITIES:
        return _quantity()
    if where in _INT_OR_STRING:
        return Schema(int_or_string=True, format="int-or-string")
    if where in _QUANTITY_MAPS:
        return Schema(type="object", additional=_quantity())
    schema = _schema_of_type(type_name)
    if where in _BYTES:
        target = schema.additional if schema.additional is not None else schema
        target.format = "byte"
    if where in _KEYED_LISTS or (_CONDITIONS.fullmatch(where) and where not in _ATOMIC_CONDITIONS):
        schema.list_type = "map"
        schema.list_keys = _KEYED_LISTS.get(where, ("type",))
        schema.patch_merge, schema.merge_key = True, schema.list_keys[0]
    elif where in _SETS:
        schema.list_type = "set"
        schema.patch_merge = where in _PATCHED_SETS
    elif where in _PATCH_ONLY_KEYS:
        schema.patch_merge, schema.merge_key = True, _PATCH_ONLY_KEYS[where]
    if where in _ATOMIC_MAPS:
        schema.map_type = "atomic"
    if where in _KEY_DEFAULTS:
        schema.default = _KEY_DEFAULTS[where]
    return schema


def _is_required(model: Any, attribute: str) -> bool:
    """Ask the model itself: its setter refuses `None` for a required field."""
    probe = model.__new__(model)
    probe.local_vars_configuration = _strict_configuration()
    try:
        setattr(probe, attribute, None)
    except ValueError:
        return True
    return False


@lru_cache(maxsize=1)
def _strict_configuration() -> Any:
    from kubernetes.client import Configuration  # noqa: PLC0415  # its import reads the environment: only when asked

    configuration = Configuration()
    configuration.client_side_validation = True
    return configuration


def _description(model: Any, attribute: str) -> str:
    """The field's text, between the first and the second paragraph break of the generated docstring."""
    lines = (getattr(model, attribute).__doc__ or "").split("\n")
    text = lines[2] if len(lines) > 2 else ""
    return text.replace("# noqa: E501", "").strip()


def model_schema(name: str) -> Schema:
    """The schema of one model of the client, `V1Pod` say. The same object every time; recursive models form a cycle."""
    if name in _known:
        return _known[name]
    model = getattr(models, name)
    schema = Schema(type="object", reference=name, map_type="atomic" if name in _ATOMIC_MODELS else "")
    _known[name] = schema
    for attribute, type_name in model.openapi_types.items():
        field_name = model.attribute_map[attribute]
        schema.properties[field_name] = _field(name, field_name, type_name)
    return schema


@cache
def details(name: str) -> tuple[frozenset[str], dict[str, str]]:
    """Required fields and descriptions of a model, which only OpenAPI documents need and which are slow to find out."""
    model = getattr(models, name)
    required = frozenset(json for attr, json in model.attribute_map.items() if _is_required(model, attr))
    texts = {json: _description(model, attr) for attr, json in model.attribute_map.items()}
    return required, texts


def object_meta() -> Schema:
    """The schema of `metadata`."""
    return model_schema("V1ObjectMeta")


def with_object_meta(schema: Schema) -> Schema:
    """A custom resource's root schema with the fields that every object has, for apply and for OpenAPI."""
    root = Schema(**{name: getattr(schema, name) for name in Schema.__slots__})
    root.properties = {
        **schema.properties,
        "apiVersion": Schema(type="string"),
        "kind": Schema(type="string"),
        "metadata": object_meta(),
    }
    if root.default is not MISSING:
        root.default = MISSING
    return root
