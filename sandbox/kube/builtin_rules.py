"""What the server itself sets on built-in kinds, and the essentials of their validation.

Owns the rules behind messages that people meet when a manifest is wrong, after k8s.io/kubernetes
`pkg/apis/*/validation` and `pkg/registry/*/strategy.go`. Pure but for changing the object that `prepare_*` functions
are given.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from sandbox.kube.defaulting import qos_class
from sandbox.kube.errors import (
    FieldError,
    FieldErrorType,
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)
from sandbox.kube.quantity import parse_quantity
from sandbox.kube.selectors import selects
from sandbox.kube.validation import name_error, validate_labels

JsonObject = dict[str, Any]
Validator = Callable[[JsonObject, "JsonObject | None"], list[FieldError]]

_IMMUTABLE: Final = "field is immutable"
_PORT_RANGE: Final = "must be between 1 and 65535, inclusive"
_ENV_NAME: Final = re.compile(r"[ -<>-~]+")
_PROBE_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc")


# --- Preparation ------------------------------------------------------------------------------------------------------


def prepare_pod(obj: JsonObject, old: JsonObject | None) -> None:
    """A new pod is Pending; its quality of service never changes."""
    if old is None:
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(obj.get("spec") or {})}


def prepare_namespace(obj: JsonObject, old: JsonObject | None) -> None:
    """Namespaces carry their name as a label, and a finalizer of their own until they are empty."""
    if old is None:
        obj["spec"] = {"finalizers": ["kubernetes"]}
        obj["status"] = {"phase": "Active"}
    else:
        obj["spec"] = old.get("spec", {})
    obj["metadata"].setdefault("labels", {})
    obj["metadata"]["labels"] = {
        **obj["metadata"]["labels"],
        "kubernetes.io/metadata.name": obj["metadata"].get("name", ""),
    }


def prepare_secret(obj: JsonObject, old: JsonObject | None) -> None:
    """`stringData` is write-only and ends up in `data`."""
    del old
    for key, text in (obj.pop("stringData", None) or {}).items():
        data = obj["data"] = dict(obj.get("data") or {})
        data[key] = base64.b64encode(str(text).encode()).decode()


def prepare_job(obj: JsonObject, old: JsonObject | None) -> None:
    """A job selects its pods by labels that the server makes from its uid."""
    if old is not None:
        return
    obj["status"] = {}
    if obj["spec"].get("manualSelector"):
        return
    uid, name = obj["metadata"]["uid"], obj["metadata"]["name"]
    labels = {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
        "controller-uid": uid,
        "job-name": name,
    }
    meta = obj["spec"]["template"]["metadata"]
    meta["labels"] = {**(meta.get("labels") or {}), **labels}
    obj["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    if not obj["metadata"].get("labels"):
        obj["metadata"]["labels"] = dict(meta["labels"])


def prepare_claim(obj: JsonObject, old: JsonObject | None) -> None:
    """A new claim waits for its volume and is protected while a pod uses it."""
    if old is None:
        obj["status"] = {"phase": "Pending"}


def prepare_node(obj: JsonObject, old: JsonObject | None) -> None:
    """A node is born with whatever status its kubelet reports."""
    if old is None:
        obj.setdefault("status", {})


def prepare_volume(obj: JsonObject, old: JsonObject | None) -> None:
    """A new volume is available at once."""
    if old is None:
        obj["status"] = {"phase": "Available"}


def initial_status(status: JsonObject) -> Callable[[JsonObject, JsonObject | None], None]:
    """A `prepare` hook that gives new objects this status."""

    def prepare(obj: JsonObject, old: JsonObject | None) -> None:
        if old is None:
            obj["status"] = dict(status)

    return prepare


def prepare_definition(obj: JsonObject, old: JsonObject | None) -> None:
    """Give a new definition names that nobody has looked at yet, and no conditions: null, not an empty list."""
    if old is None:
        stored = [version["name"] for version in obj["spec"].get("versions") or [] if version.get("storage")]
        obj["status"] = {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}


# --- Pods -------------------------------------------------------------------------------------------------------------


def _port(value: Any, path: str) -> Iterator[FieldError]:
    if not isinstance(value, int) or not 0 < value < 65536:
        yield invalid_value(path, value if value is not None else 0, _PORT_RANGE)


def _resources(resources: JsonObject, path: str) -> Iterator[FieldError]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            if parse_quantity(amount) < 0:
                yield invalid_value(f"{path}.{kind}.{name}", amount, "must be greater than or equal to 0")
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is not None and parse_quantity(amount) > parse_quantity(limit):
            yield invalid_value(f"{path}.requests", amount, f"must be less than or equal to {name} limit of {limit}")


def _handler(owner: JsonObject, path: str, kinds: tuple[str, ...]) -> Iterator[FieldError]:
    found = [kind for kind in kinds if owner.get(kind) is not None]
    if not found:
        yield required(path, "must specify a handler type")
    for extra in found[1:]:
        yield forbidden_field(f"{path}.{extra}", "may not specify more than 1 handler type")


def _container(container: JsonObject, path: str, volumes: set[str], *, init: bool) -> Iterator[FieldError]:
    name = container.get("name") or ""
    if not name:
        yield required(f"{path}.name")
    elif why := name_error("label", name):
        yield invalid_value(f"{path}.name", name, why)
    if not container.get("image"):
        yield required(f"{path}.image")
    if container.get("imagePullPolicy") not in {"Always", "IfNotPresent", "Never"}:
        allowed = ("Always", "IfNotPresent", "Never")
        yield not_supported(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), allowed)
    for index, port in enumerate(container.get("ports") or []):
        yield from _port(port.get("containerPort"), f"{path}.ports[{index}].containerPort")
        if port.get("protocol") not in {"TCP", "UDP", "SCTP"}:
            yield not_supported(f"{path}.ports[{index}].protocol", port.get("protocol"), ("SCTP", "TCP", "UDP"))
    for index, variable in enumerate(container.get("env") or []):
        if not variable.get("name"):
            yield required(f"{path}.env[{index}].name")
        elif not _ENV_NAME.fullmatch(variable["name"]):
            text = "a valid environment variable name must consist only of printable ASCII characters other than '='"
            yield invalid_value(f"{path}.env[{index}].name", variable["name"], text)
        if variable.get("value") and variable.get("valueFrom"):
            text = "may not be specified when `value` is not empty"
            yield invalid_value(f"{path}.env[{index}].valueFrom", "", text)
    for index, mount in enumerate(container.get("volumeMounts") or []):
        if not mount.get("mountPath"):
            yield required(f"{path}.volumeMounts[{index}].mountPath")
        if mount.get("name") not in volumes:
            yield FieldError(FieldErrorType.NOT_FOUND, f"{path}.volumeMounts[{index}].name", mount.get("name"))
    for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
        if (probe := container.get(kind)) is not None:
            if init and container.get("restartPolicy") != "Always":
                yield forbidden_field(
                    f"{path}.{kind}", "may not be set for init containers without restartPolicy=Always"
                )
            yield from _handler(probe, f"{path}.{kind}", _PROBE_HANDLERS)
            if kind != "readinessProbe" and probe.get("successThreshold") != 1:
                yield invalid_value(f"{path}.{kind}.successThreshold", probe.get("successThreshold"), "must be 1")
    for kind, hook in (container.get("lifecycle") or {}).items():
        if isinstance(hook, dict):
            yield from _handler(hook, f"{path}.lifecycle.{kind}", ("exec", "httpGet", "tcpSocket", "sleep"))
    yield from _resources(container.get("resources") or {}, f"{path}.resources")


def _pod_spec(
    spec: JsonObject, path: str, restart_policies: tuple[str, ...], claims: Iterable[str] = ()
) -> Iterator[FieldError]:
    """`claims` are the volumes that a StatefulSet adds to its pods."""
    volumes: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or []):
        where = f"{path}.volumes[{index}]"
        name = volume.get("name") or ""
        if not name:
            yield required(f"{where}.name")
        elif why := name_error("label", name):
            yield invalid_value(f"{where}.name", name, why)
        if name in volumes:
            yield duplicate(f"{where}.name", name)
        sources = [source for source in volume if source != "name"]
        if len(sources) > 1:
            yield forbidden_field(f"{where}.{sources[1]}", "may not specify more than 1 volume type")
        volumes.add(name)
    volumes.update(claims)
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    seen: set[str] = set()
    for field in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(field) or []):
            where = f"{path}.{field}[{index}]"
            yield from _container(container, where, volumes, init=field == "initContainers")
            if container.get("name") in seen:
                yield duplicate(f"{where}.name", container["name"])
            seen.add(container.get("name") or "")
    if spec.get("restartPolicy") not in restart_policies:
        yield not_supported(f"{path}.restartPolicy", spec.get("restartPolicy"), restart_policies)
    grace = spec.get("terminationGracePeriodSeconds")
    if isinstance(grace, int) and grace < 0:
        yield invalid_value(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than or equal to 0")
    deadline = spec.get("activeDeadlineSeconds")
    if isinstance(deadline, int) and deadline < 1:
        yield invalid_value(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    yield from validate_labels(spec.get("nodeSelector"), f"{path}.nodeSelector")


_RESTART_ANY: Final = ("Always", "OnFailure", "Never")
_POD_UPDATE: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def _without_mutable(spec: JsonObject) -> JsonObject:
    result = {
        name: value
        for name, value in spec.items()
        if name not in {"activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds"}
    }
    for field in ("containers", "initContainers"):
        if spec.get(field):
            result[field] = [{**container, "image": ""} for container in spec[field]]
    return result


def validate_pod_status(obj: JsonObject) -> list[FieldError]:
    """A pod has one address of each family at most."""
    return list(_addresses((obj.get("status") or {}).get("podIPs") or []))


def _addresses(given: list[JsonObject]) -> Iterator[FieldError]:
    texts = [str(item.get("ip")) for item in given]
    families = [ipaddress.ip_address(text).version for text in texts if _is_address(text)]
    for index, text in enumerate(texts):
        if not _is_address(text):
            wanted = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            yield invalid_value(f"status.podIPs[{index}]", text, wanted)
    if len(families) != len(set(families)):
        shown = [{"IP": text} for text in texts]
        yield invalid_value("status.podIPs", shown, "may specify no more than one IP for each IP family")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def validate_pod(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """Pod: its spec when it is made, and that little of it changes later."""
    spec = obj.get("spec") or {}
    if old is None:
        return list(_pod_spec(spec, "spec", _RESTART_ANY))
    if spec == old.get("spec"):
        return []
    former = old.get("spec") or {}
    errors = []
    if _without_mutable(spec) != _without_mutable(former):
        errors.append(forbidden_field("spec", _POD_UPDATE))
    kept = spec.get("tolerations") or []
    if any(toleration not in kept for toleration in former.get("tolerations") or []):
        text = "existing toleration can not be modified except its tolerationSeconds"
        errors.append(forbidden_field("spec.tolerations", text))
    return errors


# --- Workloads --------------------------------------------------------------------------------------------------------


def workload(*, restart_policies: tuple[str, ...] = ("Always",)) -> Validator:
    """A validator of kinds with a selector and a pod template."""

    def validate(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
        spec = obj.get("spec") or {}
        errors: list[FieldError] = []
        replicas = spec.get("replicas", 0)
        if isinstance(replicas, int) and replicas < 0:
            errors.append(invalid_value("spec.replicas", replicas, "must be greater than or equal to 0"))
        template = spec.get("template") or {}
        labels = (template.get("metadata") or {}).get("labels")
        selector = spec.get("selector")
        if not selector:
            errors.append(required("spec.selector"))
        elif "matchLabels" not in selector and "matchExpressions" not in selector:
            text = "empty selector is invalid for deployment"
            errors.append(invalid_value("spec.selector", selector, text))
        elif not selects(selector, labels):
            text = "`selector` does not match template `labels`"
            errors.append(invalid_value("spec.template.metadata.labels", labels or {}, text))
        if old is not None and selector != (old.get("spec") or {}).get("selector"):
            errors.append(invalid_value("spec.selector", selector, _IMMUTABLE))
        if old is None or template != (old.get("spec") or {}).get("template"):
            claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates") or []]
            errors += _pod_spec(template.get("spec") or {}, "spec.template.spec", restart_policies, claims)
        return errors

    return validate


def validate_job(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """Job: a template that ends, and that never changes."""
    spec = obj.get("spec") or {}
    if old is None:
        return list(_pod_spec(spec["template"].get("spec") or {}, "spec.template.spec", ("OnFailure", "Never")))
    former = old.get("spec") or {}
    return [
        invalid_value(f"spec.{name}", spec.get(name), _IMMUTABLE)
        for name in ("completions", "selector", "template", "completionMode")
        if spec.get(name) != former.get(name) and not (name == "template" and former.get("suspend"))
    ]


def validate_cron_job(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """CronJob: a schedule of five fields or a macro, and a job that ends."""
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    schedule = spec.get("schedule") or ""
    if not schedule:
        errors.append(required("spec.schedule"))
    elif not schedule.startswith("@") and len(schedule.split()) != 5:
        text = f"expected exactly 5 fields, found {len(schedule.split())}: {schedule.split()}"
        errors.append(invalid_value("spec.schedule", schedule, text))
    if old is None:
        pod = ((spec.get("jobTemplate") or {}).get("spec") or {}).get("template", {}).get("spec") or {}
        errors += _pod_spec(pod, "spec.jobTemplate.spec.template.spec", ("OnFailure", "Never"))
    return errors


def validate_autoscaler(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """HorizontalPodAutoscaler v2."""
    del old
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    low, high = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
    if low < 1:
        errors.append(invalid_value("spec.minReplicas", low, "must be greater than or equal to 1"))
    if high < 1:
        errors.append(invalid_value("spec.maxReplicas", high, "must be greater than 0"))
    elif high < low:
        errors.append(invalid_value("spec.maxReplicas", high, "must be greater than or equal to `minReplicas`"))
    target = spec.get("scaleTargetRef") or {}
    errors += [required(f"spec.scaleTargetRef.{name}") for name in ("kind", "name") if not target.get(name)]
    for index, metric in enumerate(spec.get("metrics") or []):
        kind = metric.get("type") or ""
        field = kind[:1].lower() + kind[1:]
        if kind not in {"ContainerResource", "External", "Object", "Pods", "Resource"}:
            allowed = ("ContainerResource", "External", "Object", "Pods", "Resource")
            errors.append(not_supported(f"spec.metrics[{index}].type", kind, allowed))
        elif not metric.get(field):
            text = "must populate information for the given metric source"
            errors.append(required(f"spec.metrics[{index}].{field}", text))
    return errors


def validate_disruption_budget(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """PodDisruptionBudget: one of the two bounds."""
    del old
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        return [invalid_value("spec", spec, "minAvailable and maxUnavailable cannot be both set")]
    return [
        invalid_value(f"spec.{name}", spec[name], "must be greater than or equal to 0")
        for name in ("minAvailable", "maxUnavailable")
        if isinstance(spec.get(name), int) and spec[name] < 0
    ]


# --- Others -----------------------------------------------------------------------------------------------------------


def validate_service(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """Service: ports, and an address that stays."""
    spec = obj.get("spec") or {}
    errors: list[FieldError] = []
    ports = spec.get("ports") or []
    if not ports and spec.get("type") != "ExternalName" and spec.get("clusterIP") != "None":
        errors.append(required("spec.ports"))
    if spec.get("type") == "ExternalName" and not spec.get("externalName"):
        errors.append(required("spec.externalName"))
    if spec.get("type") not in {"ClusterIP", "ExternalName", "LoadBalancer", "NodePort"}:
        allowed = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
        errors.append(not_supported("spec.type", spec.get("type"), allowed))
    names: set[str] = set()
    for index, port in enumerate(ports):
        name = port.get("name") or ""
        if len(ports) > 1 and not name:
            errors.append(required(f"spec.ports[{index}].name"))
        if name and name in names:
            errors.append(duplicate(f"spec.ports[{index}].name", name))
        names.add(name)
        errors += _port(port.get("port"), f"spec.ports[{index}].port")
    if old is not None:
        former, now = (old.get("spec") or {}).get("clusterIP"), spec.get("clusterIP")
        if former and now != former and spec.get("type") != "ExternalName":
            errors.append(invalid_value("spec.clusterIPs[0]", now, "may not change once set"))
    return errors


def validate_config(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """ConfigMap and Secret: keys, and what `immutable` and a Secret's type forbid."""
    errors: list[FieldError] = []
    for field in ("data", "binaryData"):
        errors += [
            invalid_value(
                f"{field}[{key}]",
                key,
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or "
                "'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            )
            for key in obj.get(field) or {}
            if not re.fullmatch(r"[-._a-zA-Z0-9]+", key)
        ]
    if old is not None:
        if old.get("type") != obj.get("type"):
            errors.append(invalid_value("type", obj.get("type"), _IMMUTABLE))
        if old.get("immutable"):
            errors += [
                forbidden_field(field, "field is immutable when `immutable` is set")
                for field in ("immutable", "data", "binaryData")
                if old.get(field) != obj.get(field)
            ]
    return errors


def validate_role(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """Role and ClusterRole."""
    del old
    errors: list[FieldError] = []
    for index, rule in enumerate(obj.get("rules") or []):
        if not rule.get("verbs"):
            errors.append(required(f"rules[{index}].verbs", "verbs must contain at least one value"))
        if not rule.get("nonResourceURLs"):
            if not rule.get("apiGroups"):
                text = "resource rules must supply at least one api group"
                errors.append(required(f"rules[{index}].apiGroups", text))
            if not rule.get("resources"):
                text = "resource rules must supply at least one resource"
                errors.append(required(f"rules[{index}].resources", text))
    return errors


def validate_role_binding(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """RoleBinding and ClusterRoleBinding: the role that is bound never changes."""
    errors: list[FieldError] = []
    reference = obj.get("roleRef") or {}
    if reference.get("kind") not in {"Role", "ClusterRole"}:
        errors.append(not_supported("roleRef.kind", reference.get("kind", ""), ("ClusterRole", "Role")))
    if not reference.get("name"):
        errors.append(required("roleRef.name"))
    if old is not None and reference != old.get("roleRef"):
        errors.append(invalid_value("roleRef", reference, "cannot change roleRef"))
    for index, subject in enumerate(obj.get("subjects") or []):
        if not subject.get("name"):
            errors.append(required(f"subjects[{index}].name"))
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            errors.append(required(f"subjects[{index}].namespace"))
    return errors


def validate_claim(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """PersistentVolumeClaim: what it asks for stays as it is, but for more room."""
    spec = obj.get("spec") or {}
    if old is None:
        errors = [] if spec.get("accessModes") else [required("spec.accessModes", "at least 1 access mode is required")]
        if not ((spec.get("resources") or {}).get("requests") or {}).get("storage"):
            errors.append(required("spec.resources[storage]"))
        return errors
    former = old.get("spec") or {}
    changeable = {"resources", "volumeName", "volumeAttributesClassName"}
    if any(spec.get(name) != former.get(name) for name in {*spec, *former} - changeable):
        text = (
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
        )
        return [forbidden_field("spec", text)]
    return []


def validate_lease(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """Lease."""
    del old
    spec = obj.get("spec") or {}
    errors = []
    if isinstance(seconds := spec.get("leaseDurationSeconds"), int) and seconds <= 0:
        errors.append(invalid_value("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
    if isinstance(count := spec.get("leaseTransitions"), int) and count < 0:
        errors.append(invalid_value("spec.leaseTransitions", count, "must be greater than or equal to 0"))
    return errors


def validate_priority_class(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """PriorityClass: its value never changes."""
    if old is not None and old.get("value") != obj.get("value"):
        return [forbidden_field("value", "may not be changed in an update.")]
    return []


def validate_api_service(obj: JsonObject, old: JsonObject | None) -> list[FieldError]:
    """APIService: named after what it serves."""
    del old
    spec = obj.get("spec") or {}
    wanted = f"{spec.get('version', '')}.{spec.get('group', '')}"
    errors = []
    if obj["metadata"].get("name") != wanted:
        text = f'must be `spec.version+"."+spec.group`: {wanted!r}'.replace("'", '"')
        errors.append(invalid_value("metadata.name", obj["metadata"].get("name"), text))
    errors += [
        invalid_value(f"spec.{name}", spec.get(name, 0), "must be positive and less than " + limit)
        for name, limit in (("groupPriorityMinimum", "20000"), ("versionPriority", "1000"))
        if not isinstance(spec.get(name), int) or spec[name] <= 0
    ]
    return errors
