"""Objects as rows of a `meta.k8s.io/v1` Table: what `kubectl get` prints.

Pure: the time is an argument. Owns the columns of the built-in kinds, after k8s.io/kubernetes
`pkg/printers/internalversion`, and the cells of CRD columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sandbox.kube.formats import parse_time
from sandbox.kube.goformat import go_json, go_number
from sandbox.kube.jsonpath import first
from sandbox.kube.resources import Column, Resource

JsonObject = dict[str, Any]
Cell = Callable[[JsonObject, datetime], Any]

NONE: Final = "<none>"
UNKNOWN: Final = "<unknown>"
UNSET: Final = "<unset>"


@dataclass(frozen=True, slots=True)
class PrintedColumn:
    """A column and how its cells are made. Columns of priority above 0 are shown by `-o wide` only."""

    name: str
    type: str
    cell: Cell
    priority: int = 0
    format: str = ""
    description: str = ""

    def definition(self) -> JsonObject:
        """The `TableColumnDefinition`."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


def human_duration(seconds: float) -> str:
    """`5m30s`, `3h12m`, `47d`: two or three significant figures, as kubectl prints ages."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    whole = max(whole, 0)
    minutes, hours = whole // 60, whole // 3600
    days, years = hours // 24, hours // 24 // 365
    if whole < 120:
        return f"{whole}s"
    if minutes < 10:
        return _two(minutes, "m", whole % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if hours < 24 * 365 * 2:
        return f"{days}d"
    return _two(years, "y", days % 365, "d") if hours < 24 * 365 * 8 else f"{years}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


def since(text: str | None, now: datetime) -> str:
    """The age of a time in an object."""
    if not text:
        return UNKNOWN
    try:
        return human_duration((now - parse_time(text)).total_seconds())
    except ValueError:
        return "<invalid>"


# --- Small helpers ----------------------------------------------------------------------------------------------------


def _dig(obj: Any, path: str, default: Any = None) -> Any:
    for step in path.split("."):
        if not isinstance(obj, dict):
            return default
        obj = obj.get(step)
    return default if obj is None else obj


def _at(path: str, default: Any = "") -> Cell:
    return lambda obj, _now: _dig(obj, path, default)


def _text(path: str, default: str = "") -> Cell:
    return lambda obj, _now: str(_dig(obj, path, default))


def _count(*paths: str) -> Cell:
    return lambda obj, _now: sum(len(_dig(obj, path, ())) for path in paths)


def _age(obj: JsonObject, now: datetime) -> str:
    return since(_dig(obj, "metadata.creationTimestamp"), now)


def _limited(items: list[str], most: int, total: int | None = None) -> str:
    if not items:
        return UNSET
    count = len(items) if total is None else total
    return ",".join(items[:most]) + (f" + {count - most} more..." if count > most else "")


def format_labels(labels: Mapping[str, str] | None) -> str:
    """`a=b,c=d`, sorted."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def format_selector(selector: JsonObject | None) -> str:
    """A `metav1.LabelSelector` in text form."""
    if not selector:
        return NONE
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or []:
        key, values = expression["key"], ",".join(sorted(expression.get("values") or []))
        match expression["operator"]:
            case "In":
                parts.append(f"{key} in ({values})")
            case "NotIn":
                parts.append(f"{key} notin ({values})")
            case "Exists":
                parts.append(key)
            case _:
                parts.append(f"!{key}")
    return ",".join(parts) or NONE


def _containers(path: str, field: str) -> Cell:
    return lambda obj, _now: ",".join(str(item.get(field, "")) for item in _dig(obj, path, ()))


_NAME: Final = PrintedColumn("Name", "string", _text("metadata.name"), format="name")
_AGE: Final = PrintedColumn("Age", "string", _age)


def _column(name: str, cell: Cell, kind: str = "string", *, wide: bool = False) -> PrintedColumn:
    return PrintedColumn(name, kind, cell, 1 if wide else 0)


def _template_columns(selector: Cell | None = None, path: str = "spec.template.spec.containers") -> list[PrintedColumn]:
    columns = [
        _column("Containers", _containers(path, "name"), wide=True),
        _column("Images", _containers(path, "image"), wide=True),
    ]
    return columns + ([_column("Selector", selector, wide=True)] if selector is not None else [])


def _selector_cell(obj: JsonObject, _now: datetime) -> str:
    return format_selector(_dig(obj, "spec.selector"))


# --- Pods -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _PodSummary:
    ready: int
    total: int
    reason: str
    restarts: int
    last_restart: str


def _terminated_reason(state: JsonObject) -> str:
    if state.get("reason"):
        return str(state["reason"])
    return f"Signal:{state['signal']}" if state.get("signal") else f"ExitCode:{state.get('exitCode', 0)}"


def _last_end(status: JsonObject) -> str:
    return str(_dig(status, "lastState.terminated.finishedAt", ""))


def _summary(pod: JsonObject) -> _PodSummary:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    sidecars = {c["name"] for c in spec.get("initContainers") or [] if c.get("restartPolicy") == "Always"}
    total = len(spec.get("containers") or []) + len(sidecars)
    result = _PodSummary(0, total, status.get("reason") or status.get("phase") or "", 0, "")
    initializing, sidecar_restarts = _summarise_init(spec, status, sidecars, result)
    conditions = {item["type"]: item.get("status") for item in status.get("conditions") or []}
    if not initializing or conditions.get("Initialized") == "True":
        result.restarts, result.last_restart = sidecar_restarts, ""
        _summarise_main(status, conditions, result)
    if pod["metadata"].get("deletionTimestamp") and status.get("phase") not in {"Succeeded", "Failed"}:
        result.reason = "Terminating"
    return result


def _summarise_init(spec: JsonObject, status: JsonObject, sidecars: set[str], result: _PodSummary) -> tuple[bool, int]:
    """Account for init containers; whether they are still at work, and the restarts of sidecars."""
    sidecar_restarts = 0
    for index, container in enumerate(status.get("initContainerStatuses") or []):
        state = container.get("state") or {}
        result.restarts += container.get("restartCount", 0)
        result.last_restart = max(result.last_restart, _last_end(container))
        if container["name"] in sidecars:
            sidecar_restarts += container.get("restartCount", 0)
        terminated, waiting = state.get("terminated"), state.get("waiting") or {}
        if terminated is not None and terminated.get("exitCode", 0) == 0:
            continue
        if container["name"] in sidecars and container.get("started"):
            result.ready += bool(container.get("ready"))
            continue
        if terminated is not None:
            result.reason = f"Init:{_terminated_reason(terminated)}"
        elif waiting.get("reason") not in {None, "", "PodInitializing"}:
            result.reason = f"Init:{waiting['reason']}"
        else:
            result.reason = f"Init:{index}/{len(spec.get('initContainers') or [])}"
        return True, sidecar_restarts
    return False, sidecar_restarts


def _summarise_main(status: JsonObject, conditions: Mapping[str, Any], result: _PodSummary) -> None:
    running, error = False, ""
    for container in reversed(status.get("containerStatuses") or []):
        state = container.get("state") or {}
        result.restarts += container.get("restartCount", 0)
        result.last_restart = max(result.last_restart, _last_end(container))
        waiting, terminated = state.get("waiting") or {}, state.get("terminated")
        if waiting.get("reason"):
            result.reason = waiting["reason"]
        elif terminated is not None:
            result.reason = _terminated_reason(terminated)
            if terminated.get("exitCode", 0) != 0:
                error = result.reason
        elif container.get("ready") and state.get("running") is not None:
            running = True
            result.ready += 1
    if result.reason == "Completed":
        if running and conditions.get("Ready") == "True":
            result.reason = "Running"
        elif error:
            result.reason = error
        elif running:
            result.reason = "NotReady"


def _pod_restarts(pod: JsonObject, now: datetime) -> str:
    summary = _summary(pod)
    if summary.restarts and summary.last_restart:
        return f"{summary.restarts} ({since(summary.last_restart, now)} ago)"
    return str(summary.restarts)


def _pod_ready(pod: JsonObject, _now: datetime) -> str:
    summary = _summary(pod)
    return f"{summary.ready}/{summary.total}"


def _pod_gates(pod: JsonObject, _now: datetime) -> str:
    gates = [gate["conditionType"] for gate in _dig(pod, "spec.readinessGates", ())]
    met = {item["type"] for item in _dig(pod, "status.conditions", ()) if item.get("status") == "True"}
    return f"{sum(1 for gate in gates if gate in met)}/{len(gates)}" if gates else NONE


# --- Other cells ------------------------------------------------------------------------------------------------------


def _job_status(job: JsonObject, _now: datetime) -> str:
    true = {item["type"] for item in _dig(job, "status.conditions", ()) if item.get("status") == "True"}
    if "Complete" in true or "Failed" in true:
        return "Complete" if "Complete" in true else "Failed"
    if job["metadata"].get("deletionTimestamp"):
        return "Terminating"
    return next((kind for kind in ("Suspended", "FailureTarget", "SuccessCriteriaMet") if kind in true), "Running")


def _job_completions(job: JsonObject, _now: datetime) -> str:
    done, wanted = _dig(job, "status.succeeded", 0), _dig(job, "spec.completions")
    if wanted is not None:
        return f"{done}/{wanted}"
    parallelism = _dig(job, "spec.parallelism", 0)
    return f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"


def _job_duration(job: JsonObject, now: datetime) -> str:
    start, end = _dig(job, "status.startTime"), _dig(job, "status.completionTime")
    if not start:
        return ""
    return human_duration(((parse_time(end) if end else now) - parse_time(start)).total_seconds())


def _external_address(service: JsonObject, _now: datetime) -> str:
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    found = list(spec.get("externalIPs") or [])
    if spec.get("type") == "LoadBalancer":
        ingress = _dig(service, "status.loadBalancer.ingress", ())
        found = [item.get("ip") or item.get("hostname") or "" for item in ingress] + found
        return ",".join(found) or "<pending>"
    return ",".join(found) or NONE


def _service_ports(service: JsonObject, _now: datetime) -> str:
    ports = _dig(service, "spec.ports", ())
    texts = [
        f"{port['port']}:{port['nodePort']}/{port['protocol']}"
        if port.get("nodePort")
        else f"{port['port']}/{port.get('protocol', 'TCP')}"
        for port in ports
    ]
    return ",".join(texts) or NONE


def _endpoint_addresses(endpoints: JsonObject, _now: datetime) -> str:
    found: list[str] = []
    for subset in endpoints.get("subsets") or []:
        addresses = [item["ip"] for item in subset.get("addresses") or []]
        ports = subset.get("ports") or []
        found += [f"{ip}:{port['port']}" for port in ports for ip in addresses] if ports else addresses
    return _limited(found, 3) if found else NONE


def _slice_addresses(item: JsonObject, _now: datetime) -> str:
    return _limited([ip for endpoint in item.get("endpoints") or [] for ip in endpoint.get("addresses") or []], 3)


def _slice_ports(item: JsonObject, _now: datetime) -> str:
    return _limited([str(port.get("port") or port.get("name") or "*") for port in item.get("ports") or []], 3)


def _node_status(node: JsonObject, _now: datetime) -> str:
    ready = next((c for c in _dig(node, "status.conditions", ()) if c["type"] == "Ready"), None)
    text = "Unknown" if ready is None else "Ready" if ready["status"] == "True" else "NotReady"
    return f"{text},SchedulingDisabled" if _dig(node, "spec.unschedulable") else text


def _node_roles(node: JsonObject, _now: datetime) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = node["metadata"].get("labels") or {}
    return ",".join(sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))) or NONE


def _node_kernel(node: JsonObject, _now: datetime) -> str:
    kernel = _dig(node, "status.nodeInfo.kernelVersion") or UNKNOWN
    architecture = _dig(node, "status.nodeInfo.architecture")
    return f"{kernel} ({architecture})" if architecture else str(kernel)


def _node_address(kind: str) -> Cell:
    def cell(node: JsonObject, _now: datetime) -> str:
        found = _dig(node, "status.addresses", ())
        return next((item["address"] for item in found if item["type"] == kind), NONE)

    return cell


def _event_object(event: JsonObject, _now: datetime) -> str:
    about = event.get("involvedObject") or event.get("regarding") or {}
    kind = str(about.get("kind", "")).lower()
    return f"{kind}/{about['name']}" if about.get("name") else kind


def _event_first(event: JsonObject, now: datetime) -> str:
    return since(event.get("firstTimestamp") or event.get("deprecatedFirstTimestamp") or event.get("eventTime"), now)


def _event_last(event: JsonObject, now: datetime) -> str:
    observed = _dig(event, "series.lastObservedTime")
    last = observed or event.get("lastTimestamp") or event.get("deprecatedLastTimestamp")
    return since(last, now) if last else _event_first(event, now)


def _event_source(event: JsonObject, _now: datetime) -> str:
    source = event.get("source") or event.get("deprecatedSource") or {}
    component = source.get("component") or event.get("reportingComponent") or event.get("reportingController") or ""
    host = source.get("host") or event.get("reportingInstance") or ""
    return f"{component}, {host}" if host else str(component)


def _event_count(event: JsonObject, _now: datetime) -> int:
    return int(_dig(event, "series.count") or event.get("count") or event.get("deprecatedCount") or 1)


def _event_message(event: JsonObject, _now: datetime) -> str:
    return str(event.get("message") or event.get("note") or "").strip()


_MODES: Final = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


def _modes(path: str) -> Cell:
    return lambda obj, _now: ",".join(_MODES.get(mode, mode) for mode in _dig(obj, path, ()))


def _phase(obj: JsonObject, _now: datetime) -> str:
    return "Terminating" if obj["metadata"].get("deletionTimestamp") else str(_dig(obj, "status.phase", ""))


def _bound_only(cell: Cell) -> Cell:
    return lambda obj, now: cell(obj, now) if _dig(obj, "spec.volumeName") else ""


def _volume_claim(volume: JsonObject, _now: datetime) -> str:
    claim = _dig(volume, "spec.claimRef")
    return f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else ""


def _hpa_targets(hpa: JsonObject, _now: datetime) -> str:
    statuses = _dig(hpa, "status.currentMetrics", ()) or ()
    found = []
    for index, metric in enumerate(_dig(hpa, "spec.metrics", ())):
        kind = metric["type"]
        field = kind[:1].lower() + kind[1:]
        source = metric.get(field) or {}
        target = source.get("target") or {}
        current = _dig(statuses[index], f"{field}.current", {}) if index < len(statuses) else {}
        name = source.get("name", "")
        prefix = f"{name}: " if kind in {"Resource", "ContainerResource"} else ""
        if target.get("averageUtilization") is not None:
            now_text = current.get("averageUtilization")
            found.append(f"{prefix}{UNKNOWN if now_text is None else f'{now_text}%'}/{target['averageUtilization']}%")
        elif target.get("averageValue") is not None:
            suffix = " (avg)" if kind in {"External", "Object"} else ""
            found.append(f"{prefix}{current.get('averageValue') or UNKNOWN}/{target['averageValue']}{suffix}")
        else:
            found.append(f"{prefix}{current.get('value') or UNKNOWN}/{target.get('value', '<auto>')}")
    return _limited(found, 2) if found else NONE


def _fraction(part: str, whole: str) -> Cell:
    return lambda obj, _now: f"{_dig(obj, part, 0)}/{_dig(obj, whole, 0)}"


def _subjects(kind: str) -> Cell:
    def cell(binding: JsonObject, _now: datetime) -> str:
        found = [item for item in binding.get("subjects") or [] if item.get("kind") == kind]
        if kind == "ServiceAccount":
            return ", ".join(f"{item.get('namespace', '')}/{item['name']}" for item in found)
        return ", ".join(item["name"] for item in found)

    return cell


def _role_reference(binding: JsonObject, _now: datetime) -> str:
    return f"{_dig(binding, 'roleRef.kind', '')}/{_dig(binding, 'roleRef.name', '')}"


def _quota(kind: str) -> Cell:
    def cell(quota: JsonObject, _now: datetime) -> str:
        hard, used = _dig(quota, "status.hard", {}), _dig(quota, "status.used", {})
        names = sorted(name for name in hard if name.startswith("limits.") is (kind == "limits"))
        return ", ".join(f"{name}: {used.get(name, 0)}/{hard[name]}" for name in names)

    return cell


def _api_service_target(service: JsonObject, _now: datetime) -> str:
    target = _dig(service, "spec.service")
    return f"{target['namespace']}/{target['name']}" if target else "Local"


def _api_service_available(service: JsonObject, _now: datetime) -> str:
    found = next((c for c in _dig(service, "status.conditions", ()) if c["type"] == "Available"), None)
    if found is None:
        return "Unknown"
    return found["status"] if found["status"] == "True" else f"{found['status']} ({found.get('reason', '')})"


def _ingress_hosts(ingress: JsonObject, _now: datetime) -> str:
    hosts = [rule["host"] for rule in _dig(ingress, "spec.rules", ()) if rule.get("host")]
    return _limited(hosts, 3) if hosts else "*"


# --- The tables -------------------------------------------------------------------------------------------------------


def _workload(*columns: PrintedColumn) -> list[PrintedColumn]:
    return [_NAME, *columns, _AGE, *_template_columns(_selector_cell)]


_NUMBER: Final = "integer"
_RBAC: Final = "rbac.authorization.k8s.io"
_BINDING: Final = [
    _NAME,
    _column("Role", _role_reference),
    _AGE,
    _column("Users", _subjects("User"), wide=True),
    _column("Groups", _subjects("Group"), wide=True),
    _column("ServiceAccounts", _subjects("ServiceAccount"), wide=True),
]
_CREATED_AT: Final = [_NAME, PrintedColumn("Created At", "date", _at("metadata.creationTimestamp"))]
_WEBHOOKS: Final = [_NAME, _column("Webhooks", _count("webhooks"), _NUMBER), _AGE]

_PRINTERS: Final[Mapping[tuple[str, str], list[PrintedColumn]]] = {
    ("", "pods"): [
        _NAME,
        _column("Ready", _pod_ready),
        _column("Status", lambda pod, _now: _summary(pod).reason),
        _column("Restarts", _pod_restarts),
        _AGE,
        _column("IP", _text("status.podIP", NONE), wide=True),
        _column("Node", _text("spec.nodeName", NONE), wide=True),
        _column("Nominated Node", _text("status.nominatedNodeName", NONE), wide=True),
        _column("Readiness Gates", _pod_gates, wide=True),
    ],
    ("", "namespaces"): [_NAME, _column("Status", _text("status.phase")), _AGE],
    ("", "nodes"): [
        _NAME,
        _column("Status", _node_status),
        _column("Roles", _node_roles),
        _AGE,
        _column("Version", _text("status.nodeInfo.kubeletVersion")),
        _column("Internal-IP", _node_address("InternalIP"), wide=True),
        _column("External-IP", _node_address("ExternalIP"), wide=True),
        _column("OS-Image", _text("status.nodeInfo.osImage", UNKNOWN), wide=True),
        _column("Kernel-Version", _node_kernel, wide=True),
        _column("Container-Runtime", _text("status.nodeInfo.containerRuntimeVersion", UNKNOWN), wide=True),
    ],
    ("", "services"): [
        _NAME,
        _column("Type", _text("spec.type")),
        _column("Cluster-IP", _text("spec.clusterIP", NONE)),
        _column("External-IP", _external_address),
        _column("Port(s)", _service_ports),
        _AGE,
        _column("Selector", lambda obj, _now: format_labels(_dig(obj, "spec.selector")), wide=True),
    ],
    ("", "endpoints"): [_NAME, _column("Endpoints", _endpoint_addresses), _AGE],
    ("", "configmaps"): [_NAME, _column("Data", lambda o, n: str(_count("data", "binaryData")(o, n))), _AGE],
    ("", "secrets"): [
        _NAME,
        _column("Type", _text("type")),
        _column("Data", lambda o, n: str(_count("data")(o, n))),
        _AGE,
    ],
    ("", "serviceaccounts"): [_NAME, _AGE],
    ("", "events"): [
        _column("Last Seen", _event_last),
        _column("Type", _text("type")),
        _column("Reason", _text("reason")),
        _column("Object", _event_object),
        _column("Subobject", _text("involvedObject.fieldPath"), wide=True),
        _column("Source", _event_source, wide=True),
        _column("Message", _event_message),
        _column("First Seen", _event_first, wide=True),
        _column("Count", _event_count, wide=True),
        PrintedColumn("Name", "string", _text("metadata.name"), 1, "name"),
    ],
    ("", "persistentvolumeclaims"): [
        _NAME,
        _column("Status", _phase),
        _column("Volume", _text("spec.volumeName")),
        _column("Capacity", _bound_only(_text("status.capacity.storage"))),
        _column("Access Modes", _bound_only(_modes("status.accessModes"))),
        _column("StorageClass", _text("spec.storageClassName")),
        _column("VolumeAttributesClass", _text("spec.volumeAttributesClassName", UNSET)),
        _AGE,
        _column("VolumeMode", _text("spec.volumeMode", UNSET), wide=True),
    ],
    ("", "persistentvolumes"): [
        _NAME,
        _column("Capacity", _text("spec.capacity.storage")),
        _column("Access Modes", _modes("spec.accessModes")),
        _column("Reclaim Policy", _text("spec.persistentVolumeReclaimPolicy")),
        _column("Status", _phase),
        _column("Claim", _volume_claim),
        _column("StorageClass", _text("spec.storageClassName")),
        _column("VolumeAttributesClass", _text("spec.volumeAttributesClassName", UNSET)),
        _column("Reason", _text("status.reason")),
        _AGE,
        _column("VolumeMode", _text("spec.volumeMode", UNSET), wide=True),
    ],
    ("", "resourcequotas"): [_NAME, _column("Request", _quota("requests")), _column("Limit", _quota("limits")), _AGE],
    ("", "limitranges"): _CREATED_AT,
    ("", "podtemplates"): [
        _NAME,
        _column("Containers", _containers("template.spec.containers", "name")),
        _column("Images", _containers("template.spec.containers", "image")),
        _column("Pod Labels", lambda obj, _now: format_labels(_dig(obj, "template.metadata.labels"))),
    ],
    ("", "replicationcontrollers"): [
        _NAME,
        _column("Desired", _at("spec.replicas", 0), _NUMBER),
        _column("Current", _at("status.replicas", 0), _NUMBER),
        _column("Ready", _at("status.readyReplicas", 0), _NUMBER),
        _AGE,
        *_template_columns(lambda obj, _now: format_labels(_dig(obj, "spec.selector"))),
    ],
    ("apps", "deployments"): _workload(
        _column("Ready", _fraction("status.readyReplicas", "spec.replicas")),
        _column("Up-to-date", _at("status.updatedReplicas", 0)),
        _column("Available", _at("status.availableReplicas", 0)),
    ),
    ("apps", "replicasets"): _workload(
        _column("Desired", _at("spec.replicas", 0), _NUMBER),
        _column("Current", _at("status.replicas", 0), _NUMBER),
        _column("Ready", _at("status.readyReplicas", 0), _NUMBER),
    ),
    ("apps", "statefulsets"): [
        _NAME,
        _column("Ready", _fraction("status.readyReplicas", "spec.replicas")),
        _AGE,
        *_template_columns(),
    ],
    ("apps", "daemonsets"): _workload(
        _column("Desired", _at("status.desiredNumberScheduled", 0), _NUMBER),
        _column("Current", _at("status.currentNumberScheduled", 0), _NUMBER),
        _column("Ready", _at("status.numberReady", 0), _NUMBER),
        _column("Up-to-date", _at("status.updatedNumberScheduled", 0), _NUMBER),
        _column("Available", _at("status.numberAvailable", 0), _NUMBER),
        _column("Node Selector", lambda obj, _now: format_labels(_dig(obj, "spec.template.spec.nodeSelector"))),
    ),
    ("apps", "controllerrevisions"): [
        _NAME,
        _column("Controller", lambda obj, _now: _controller(obj)),
        _column("Revision", _at("revision", 0)),
        _AGE,
    ],
    ("batch", "jobs"): _workload(
        _column("Status", _job_status),
        _column("Completions", _job_completions),
        _column("Duration", _job_duration),
    ),
    ("batch", "cronjobs"): [
        _NAME,
        _column("Schedule", _text("spec.schedule")),
        _column("Timezone", _text("spec.timeZone", NONE)),
        _column("Suspend", lambda obj, _now: str(bool(_dig(obj, "spec.suspend"))), "boolean"),
        _column("Active", _count("status.active"), _NUMBER),
        _column(
            "Last Schedule",
            lambda obj, now: (
                since(_dig(obj, "status.lastScheduleTime"), now) if _dig(obj, "status.lastScheduleTime") else NONE
            ),
        ),
        _AGE,
        *_template_columns(lambda _obj, _now: NONE, "spec.jobTemplate.spec.template.spec.containers"),
    ],
    ("policy", "poddisruptionbudgets"): [
        _NAME,
        _column("Min Available", _text("spec.minAvailable", "N/A")),
        _column("Max Unavailable", _text("spec.maxUnavailable", "N/A")),
        _column("Allowed Disruptions", _at("status.disruptionsAllowed", 0), _NUMBER),
        _AGE,
    ],
    ("autoscaling", "horizontalpodautoscalers"): [
        _NAME,
        _column(
            "Reference",
            lambda o, _n: f"{_dig(o, 'spec.scaleTargetRef.kind', '')}/{_dig(o, 'spec.scaleTargetRef.name', '')}",
        ),
        _column("Targets", _hpa_targets),
        _column("MinPods", _text("spec.minReplicas", UNSET)),
        _column("MaxPods", _at("spec.maxReplicas", 0)),
        _column("Replicas", _at("status.currentReplicas", 0)),
        _AGE,
    ],
    ("coordination.k8s.io", "leases"): [_NAME, _column("Holder", _text("spec.holderIdentity")), _AGE],
    ("discovery.k8s.io", "endpointslices"): [
        _NAME,
        _column("AddressType", _text("addressType")),
        _column("Ports", _slice_ports),
        _column("Endpoints", _slice_addresses),
        _AGE,
    ],
    ("scheduling.k8s.io", "priorityclasses"): [
        _NAME,
        _column("Value", _at("value", 0), _NUMBER),
        _column("Global-Default", _at("globalDefault", default=False), "boolean"),
        _AGE,
        _column("PreemptionPolicy", _text("preemptionPolicy")),
    ],
    ("storage.k8s.io", "storageclasses"): [
        _NAME,
        _column("Provisioner", _text("provisioner")),
        _column("ReclaimPolicy", _text("reclaimPolicy")),
        _column("VolumeBindingMode", _text("volumeBindingMode")),
        _column("AllowVolumeExpansion", _at("allowVolumeExpansion", default=False)),
        _AGE,
    ],
    ("networking.k8s.io", "networkpolicies"): [
        _NAME,
        _column("Pod-Selector", lambda obj, _now: format_selector(_dig(obj, "spec.podSelector"))),
        _AGE,
    ],
    ("networking.k8s.io", "ingresses"): [
        _NAME,
        _column("Class", _text("spec.ingressClassName", NONE)),
        _column("Hosts", _ingress_hosts),
        _column(
            "Address",
            lambda o, _n: ",".join(
                i.get("ip") or i.get("hostname") or "" for i in _dig(o, "status.loadBalancer.ingress", ())
            ),
        ),
        _column("Ports", lambda obj, _now: "80, 443" if _dig(obj, "spec.tls") else "80"),
        _AGE,
    ],
    (_RBAC, "roles"): _CREATED_AT,
    (_RBAC, "clusterroles"): _CREATED_AT,
    (_RBAC, "rolebindings"): _BINDING,
    (_RBAC, "clusterrolebindings"): _BINDING,
    ("apiextensions.k8s.io", "customresourcedefinitions"): _CREATED_AT,
    ("apiregistration.k8s.io", "apiservices"): [
        _NAME,
        _column("Service", _api_service_target),
        _column("Available", _api_service_available),
        _AGE,
    ],
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): _WEBHOOKS,
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"): _WEBHOOKS,
}


def _controller(obj: JsonObject) -> str:
    owner = next((o for o in obj["metadata"].get("ownerReferences") or [] if o.get("controller")), None)
    if owner is None:
        return NONE
    group = str(owner["apiVersion"]).partition("/")[0] if "/" in owner["apiVersion"] else ""
    return f"{str(owner['kind']).lower()}.{group}/{owner['name']}"


def _custom_cell(column: Column) -> Cell:
    def cell(obj: JsonObject, now: datetime) -> Any:
        value = first(column.path, obj)
        if value is None:
            return None
        match column.type:
            case "string":
                if isinstance(value, str):
                    return value
                return go_number(value) if isinstance(value, float) else go_json(value)
            case "integer":
                return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
            case "number":
                return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
            case "boolean":
                return value if isinstance(value, bool) else None
            case "date":
                return since(value, now) if isinstance(value, str) else None
        return None

    return cell


def columns_of(resource: Resource) -> list[PrintedColumn]:
    """The columns in which objects of a resource are printed."""
    if resource.columns is not None:
        custom = [
            PrintedColumn(c.name, c.type, _custom_cell(c), c.priority, c.format, c.description)
            for c in resource.columns
        ]
        return [_NAME, *custom]
    key = ("", "events") if resource.plural == "events" else (resource.group, resource.plural)
    return _PRINTERS.get(key, [_NAME, _AGE])


def scale_columns() -> list[PrintedColumn]:
    """The columns of a Scale."""
    return [
        _NAME,
        _column("Desired", _at("spec.replicas", 0), _NUMBER),
        _column("Available", _at("status.replicas", 0), _NUMBER),
        _AGE,
    ]


def rows(
    columns: Iterable[PrintedColumn], objects: Iterable[JsonObject], now: datetime, include: str
) -> Iterator[JsonObject]:
    """The rows of a table. `include` is what each row carries of its object: `None`, `Metadata` or `Object`."""
    wanted = list(columns)
    for obj in objects:
        row: JsonObject = {"cells": [column.cell(obj, now) for column in wanted]}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = partial_metadata(obj)
        yield row


def partial_metadata(obj: JsonObject) -> JsonObject:
    """A `PartialObjectMetadata`."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def table(columns: Iterable[PrintedColumn], table_rows: Iterable[JsonObject], metadata: JsonObject) -> JsonObject:
    """A `meta.k8s.io/v1` Table."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [column.definition() for column in columns],
        "rows": list(table_rows),
    }
