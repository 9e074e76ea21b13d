"""Request bodies in Kubernetes' protobuf form, which some commands of kubectl send for built-in kinds.

Pure. Owns the field numbers of the messages that kubectl makes (`create <kind>`, `drain`, `auth can-i`); their types
come from the models of the official client. Answers are always JSON, which every client takes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from sandbox.kube.errors import bad_request
from sandbox.kube.formats import format_time
from sandbox.kube.schema import Schema
from sandbox.kube.typeinfo import model_schema

JsonObject = dict[str, Any]

MEDIA_TYPE: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\x00"

# The fields of each message in the order of their numbers; `-` is a number that is not in use.
_FIELDS: Final = {
    "V1ObjectMeta": "name generateName namespace selfLink uid resourceVersion generation creationTimestamp "
    "deletionTimestamp deletionGracePeriodSeconds labels annotations ownerReferences finalizers",
    "V1OwnerReference": "kind - name uid apiVersion controller blockOwnerDeletion",
    "V1Namespace": "metadata spec status",
    "V1NamespaceSpec": "finalizers",
    "V1ConfigMap": "metadata data binaryData immutable",
    "V1Secret": "metadata data type stringData immutable",
    "V1ServiceAccount": "metadata secrets imagePullSecrets automountServiceAccountToken",
    "V1Role": "metadata rules",
    "V1ClusterRole": "metadata rules aggregationRule",
    "V1PolicyRule": "verbs apiGroups resources resourceNames nonResourceURLs",
    "V1AggregationRule": "clusterRoleSelectors",
    "V1RoleBinding": "metadata subjects roleRef",
    "V1ClusterRoleBinding": "metadata subjects roleRef",
    "V1RoleRef": "apiGroup kind name",
    "RbacV1Subject": "kind apiGroup name namespace",
    "V1Deployment": "metadata spec status",
    "V1DeploymentSpec": "replicas selector template strategy minReadySeconds revisionHistoryLimit paused - "
    "progressDeadlineSeconds",
    "V1DeploymentStrategy": "type rollingUpdate",
    "V1RollingUpdateDeployment": "maxUnavailable maxSurge",
    "V1LabelSelector": "matchLabels matchExpressions",
    "V1LabelSelectorRequirement": "key operator values",
    "V1PodTemplateSpec": "metadata spec",
    "V1Pod": "metadata spec status",
    "V1PodSpec": "volumes containers restartPolicy terminationGracePeriodSeconds activeDeadlineSeconds dnsPolicy "
    "nodeSelector serviceAccountName serviceAccount nodeName hostNetwork hostPID hostIPC securityContext "
    "imagePullSecrets hostname subdomain affinity schedulerName initContainers automountServiceAccountToken",
    "V1Container": "name image command args workingDir ports env resources volumeMounts livenessProbe readinessProbe "
    "lifecycle terminationMessagePath imagePullPolicy securityContext stdin stdinOnce tty envFrom "
    "terminationMessagePolicy",
    "V1EnvVar": "name value valueFrom",
    "V1ContainerPort": "name hostPort containerPort protocol hostIP",
    "V1ResourceRequirements": "limits requests claims",
    "V1LocalObjectReference": "name",
    "V1ObjectReference": "kind namespace name uid apiVersion resourceVersion fieldPath",
    "V1Job": "metadata spec status",
    "V1JobSpec": "parallelism completions activeDeadlineSeconds selector manualSelector template backoffLimit "
    "ttlSecondsAfterFinished completionMode suspend",
    "V1JobTemplateSpec": "metadata spec",
    "V1CronJob": "metadata spec status",
    "V1CronJobSpec": "schedule startingDeadlineSeconds concurrencyPolicy suspend jobTemplate "
    "successfulJobsHistoryLimit failedJobsHistoryLimit timeZone",
    "V1Service": "metadata spec status",
    "V1ServiceSpec": "ports selector clusterIP type externalIPs - sessionAffinity loadBalancerIP "
    "loadBalancerSourceRanges externalName externalTrafficPolicy healthCheckNodePort publishNotReadyAddresses",
    "V1ServicePort": "name protocol port targetPort nodePort appProtocol",
    "V1ResourceQuota": "metadata spec status",
    "V1ResourceQuotaSpec": "hard scopes scopeSelector",
    "V1PodDisruptionBudget": "metadata spec status",
    "V1PodDisruptionBudgetSpec": "minAvailable selector maxUnavailable unhealthyPodEvictionPolicy",
    "V1PriorityClass": "metadata value globalDefault description preemptionPolicy",
    "V1Ingress": "metadata spec status",
    "V1IngressSpec": "defaultBackend tls rules ingressClassName",
    "V1IngressBackend": "- - resource service",
    "V1IngressServiceBackend": "name port",
    "V1ServiceBackendPort": "name number",
    "V1IngressRule": "host http",
    "V1HTTPIngressRuleValue": "paths",
    "V1HTTPIngressPath": "path backend pathType",
    "V1IngressTLS": "hosts secretName",
    "V1Lease": "metadata spec",
    "V1LeaseSpec": "holderIdentity leaseDurationSeconds acquireTime renewTime leaseTransitions",
    "AuthenticationV1TokenRequest": "metadata spec status",
    "V1TokenRequestSpec": "audiences - boundObjectRef expirationSeconds",
    "V1BoundObjectReference": "kind apiVersion name uid",
    "V1SelfSubjectAccessReview": "metadata spec status",
    "V1SubjectAccessReview": "metadata spec status",
    "V1SelfSubjectAccessReviewSpec": "resourceAttributes nonResourceAttributes",
    "V1SubjectAccessReviewSpec": "resourceAttributes nonResourceAttributes user groups",
    "V1ResourceAttributes": "namespace verb group version resource subresource name",
    "V1NonResourceAttributes": "path verb",
    "V1SelfSubjectRulesReview": "metadata spec status",
    "V1SelfSubjectRulesReviewSpec": "namespace",
    "V1SelfSubjectReview": "metadata status",
    "V1Eviction": "metadata deleteOptions",
    "V1DeleteOptions": "gracePeriodSeconds preconditions orphanDependents propagationPolicy dryRun",
    "V1Preconditions": "uid resourceVersion",
}

_ZERO_COUNTS: Final = frozenset(
    {
        "allowPrivilegeEscalation",
        "automountServiceAccountToken",
        "backoffLimit",
        "blockOwnerDeletion",
        "completions",
        "controller",
        "enableServiceLinks",
        "failedJobsHistoryLimit",
        "gracePeriodSeconds",
        "immutable",
        "minAvailable",
        "maxUnavailable",
        "parallelism",
        "replicas",
        "revisionHistoryLimit",
        "successfulJobsHistoryLimit",
        "suspend",
        "terminationGracePeriodSeconds",
        "ttlSecondsAfterFinished",
    }
)
"""Fields where 0 and false say something; elsewhere they stand for "not given", as Go writes them."""
_EMPTY_COUNTS: Final = frozenset({"selector", "podSelector", "namespaceSelector", "emptyDir"})


class _Reader:
    """The fields of one message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def _varint(self) -> int:
        value = shift = 0
        while True:
            if self._position >= len(self._data):
                raise bad_request("error decoding protobuf: unexpected end")
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def fields(self) -> Iterator[tuple[int, int | bytes]]:
        while self._position < len(self._data):
            tag = self._varint()
            match tag & 7:
                case 0:
                    value = self._varint()
                    yield tag >> 3, value - (1 << 64) if value >= 1 << 63 else value
                case 2:
                    length = self._varint()
                    yield tag >> 3, self._data[self._position : self._position + length]
                    self._position += length
                case kind:
                    raise bad_request(f"error decoding protobuf: wire type {kind} is not in use")


def _pairs(data: bytes) -> tuple[bytes, bytes]:
    found = dict(_Reader(data).fields())
    key, value = found.get(1, b""), found.get(2, b"")
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    return key, value


def _number(data: bytes, field: int) -> int:
    value = dict(_Reader(data).fields()).get(field, 0)
    return value if isinstance(value, int) else 0


def _inner_text(data: bytes, field: int) -> str:
    value = dict(_Reader(data).fields()).get(field, b"")
    return value.decode() if isinstance(value, bytes) else ""


def _scalar(value: int | bytes, schema: Schema, path: str) -> Any:
    if schema.int_or_string and isinstance(value, bytes):
        if schema.format == "quantity":
            return _inner_text(value, 1)
        return _inner_text(value, 3) if _number(value, 1) == 1 else _number(value, 2)
    if schema.type == "boolean":
        return bool(value)
    if isinstance(value, int):
        return value
    if schema.format == "date-time":
        seconds = _number(value, 1)
        return format_time(datetime.fromtimestamp(seconds, UTC)) if seconds else None
    if schema.format == "byte":
        return base64.b64encode(value).decode()
    if schema.type == "string":
        return value.decode()
    raise bad_request(f"error decoding protobuf: {path} cannot be read in this form; send JSON")


def _value(value: int | bytes, schema: Schema, path: str) -> Any:
    if schema.reference:
        assert isinstance(value, bytes)
        return _message(value, schema, path)
    return _scalar(value, schema, path)


def _message(data: bytes, schema: Schema, path: str) -> JsonObject:
    names = _FIELDS.get(schema.reference, "").split()
    result: JsonObject = {}
    for number, raw in _Reader(data).fields():
        name = names[number - 1] if number <= len(names) else "-"
        if name not in schema.properties:
            if raw in {b"", 0}:
                continue
            where = f"field {number} of {path or 'the object'}"
            raise bad_request(f"error decoding protobuf: {where} ({schema.reference}) is not known here; send JSON")
        child = schema.properties[name]
        if name == "status" and child.reference not in _FIELDS:
            continue  # The server sets it, whatever a client sends.
        below = f"{path}.{name}" if path else name
        if child.additional is not None:
            assert isinstance(raw, bytes)
            key, item = _pairs(raw)
            result.setdefault(name, {})[key.decode()] = _value(item, child.additional, below)
        elif child.items is not None:
            result.setdefault(name, []).append(_value(raw, child.items, below))
        else:
            value = _value(raw, child, below)
            meant = _EMPTY_COUNTS if isinstance(value, dict) else _ZERO_COUNTS if isinstance(value, int) else ()
            if value or name in meant:
                result[name] = value
    return result


def decode(data: bytes, model: str) -> JsonObject:
    """The object in a body; `model` is the name of its model in the official client.

    Raises:
        ApiError: 400, the body is malformed or holds a message that is not in the table.
    """
    if not data.startswith(_MAGIC):
        raise bad_request("error decoding protobuf: the body does not start with the Kubernetes magic number")
    envelope = dict(_Reader(data[len(_MAGIC) :]).fields())
    kinds, raw = envelope.get(1, b""), envelope.get(2, b"")
    assert isinstance(kinds, bytes)
    assert isinstance(raw, bytes)
    head = {"apiVersion": _inner_text(kinds, 1), "kind": _inner_text(kinds, 2)}
    return {**head, **_message(raw, model_schema(model), "")}
