"""How many replicas a HorizontalPodAutoscaler wants: the algorithm of Kubernetes as a function of what is known.

Pure. Follows k8s.io/kubernetes `pkg/controller/podautoscaler` (`replica_calculator.go`, `horizontal.go`), with the
defaults of kube-controller-manager. Not there: metrics of type Pods and Object, tolerances of one's own in `behavior`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sandbox.kube.formats import parse_time
from sandbox.kube.quantity import parse_quantity

JsonObject = dict[str, Any]

TOLERANCE: Final = 0.1
CPU_INITIALIZATION: Final = timedelta(minutes=5)
INITIAL_READINESS: Final = timedelta(seconds=30)
_UP: Final[JsonObject] = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
_DOWN: Final[JsonObject] = {
    "stabilizationWindowSeconds": 300,
    "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
}
_KEPT: Final = timedelta(hours=1)
"""The longest window that a behaviour may have."""


class MetricError(Exception):
    """A metric says nothing; the text says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a pod used of one resource, in thousandths of cores or in bytes."""

    value: int
    timestamp: datetime
    window: timedelta


@dataclass(frozen=True, slots=True)
class Wish:
    """What one metric wants, and its entry in `status.currentMetrics`."""

    replicas: int
    current: JsonObject
    name: str


@dataclass(slots=True)
class History:
    """What the past of one autoscaler has to say in its next decision."""

    wishes: list[tuple[datetime, int]] = field(default_factory=list)
    ups: list[tuple[datetime, int]] = field(default_factory=list)
    downs: list[tuple[datetime, int]] = field(default_factory=list)

    def scaled(self, before: int, after: int, now: datetime) -> None:
        """Note a change."""
        (self.ups if after > before else self.downs).append((now, abs(after - before)))

    def forget(self, now: datetime) -> None:
        """Drop what no window reaches."""
        for entries in (self.wishes, self.ups, self.downs):
            entries[:] = [(time, value) for time, value in entries if now - time <= _KEPT]


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas there are to be. The reasons and messages are those of the HPA's conditions."""

    replicas: int
    able_reason: str
    able_message: str
    limited: bool
    limited_reason: str
    limited_message: str


def _within(ratio: float) -> bool:
    return 1 - TOLERANCE <= ratio <= 1 + TOLERANCE


# --- Metrics ----------------------------------------------------------------------------------------------------------


def external_wish(
    source: JsonObject, values: Sequence[Decimal], *, spec_replicas: int, status_replicas: int, ready: int
) -> Wish:
    """What an External metric wants."""
    target, metric = source["target"], source["metric"]
    usage = float(sum(values))
    if target["type"] == "AverageValue":
        goal = float(parse_quantity(target["averageValue"]))
        replicas = status_replicas
        ratio = usage / (goal * replicas) if replicas else math.inf
        if not _within(ratio):
            replicas = math.ceil(usage / goal)
        mean = math.ceil(1000 * usage / status_replicas) if status_replicas else 0
        current: JsonObject = {"averageValue": _milli(mean)}
    else:
        ratio = usage / float(parse_quantity(target["value"]))
        if spec_replicas == 0:
            replicas = math.ceil(ratio)
        else:
            replicas = spec_replicas if _within(ratio) else math.ceil(ratio * ready)
        current = {"value": _milli(math.ceil(1000 * usage))}
    name = f"external metric {metric['name']}({metric.get('selector')})"
    return Wish(replicas, {"type": "External", "external": {"metric": metric, "current": current}}, name)


def _milli(thousandths: int) -> str:
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def resource_wish(
    metric: JsonObject, pods: Sequence[JsonObject], usage: Mapping[str, Usage], *, replicas: int, now: datetime
) -> Wish:
    """What a Resource or ContainerResource metric wants.

    Args:
        metric: The entry of `spec.metrics`.
        pods: Those that the scale's selector matches.
        usage: What is measured, by pod.
        replicas: `spec.replicas` of the target.
        now: The time.

    Raises:
        MetricError: Nothing can be said.
    """
    kind = metric["type"]
    source = metric[kind[:1].lower() + kind[1:]]
    resource, container, target = source["name"], source.get("container", ""), source["target"]
    if not pods:
        raise MetricError("no pods returned by selector while calculating replica count")
    groups = _group(pods, usage, resource, now)
    measured = {name: usage[name].value for name in usage if name in groups.ready}
    if not measured:
        raise MetricError("did not receive metrics for targeted pods (pods might be unready)")
    average = target["type"] == "AverageValue"
    if average:
        goal = parse_quantity(target["averageValue"]) * (1000 if resource == "cpu" else 1)
        base = dict.fromkeys((pod["metadata"]["name"] for pod in pods), int(goal))
        percent = 100
    else:
        base, percent = _requests(pods, container, resource), int(target["averageUtilization"])
    wanted = _by_usage(measured, base, percent, groups, replicas)
    mean = sum(measured.values()) // len(measured)
    current: JsonObject = {"averageValue": f"{mean}m" if resource == "cpu" else str(mean)}
    if not average:
        current["averageUtilization"] = sum(measured.values()) * 100 // sum(base[name] for name in measured)
    own = {"name": resource, **({"container": container} if container else {}), "current": current}
    key = kind[:1].lower() + kind[1:]
    what = "utilization (percentage of request)" if not average else ""
    label = f"{resource} {'container ' if container else ''}resource {what}".strip()
    return Wish(wanted, {"type": kind, key: own}, label)


@dataclass(frozen=True, slots=True)
class _Groups:
    ready: set[str]
    unready: set[str]
    missing: set[str]


def _group(pods: Iterable[JsonObject], usage: Mapping[str, Usage], resource: str, now: datetime) -> _Groups:
    groups = _Groups(set(), set(), set())
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        if pod["metadata"].get("deletionTimestamp") or status.get("phase") == "Failed":
            continue
        if status.get("phase") == "Pending":
            groups.unready.add(name)
        elif name not in usage:
            groups.missing.add(name)
        elif resource == "cpu" and _starting(status, usage[name], now):
            groups.unready.add(name)
        else:
            groups.ready.add(name)
    return groups


def _starting(status: JsonObject, sample: Usage, now: datetime) -> bool:
    """Whether a pod's CPU use says nothing of its work yet."""
    ready = next((item for item in status.get("conditions") or [] if item["type"] == "Ready"), None)
    if ready is None or not status.get("startTime"):
        return True
    started, changed = parse_time(status["startTime"]), parse_time(ready["lastTransitionTime"])
    is_ready = ready["status"] != "False"
    if started + CPU_INITIALIZATION > now:
        return not is_ready or sample.timestamp < changed + sample.window
    return not is_ready and started + INITIAL_READINESS > changed


def _requests(pods: Iterable[JsonObject], container: str, resource: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for pod in pods:
        name, total, seen = pod["metadata"]["name"], Decimal(0), False
        for item in pod["spec"]["containers"]:
            if container and item["name"] != container:
                continue
            seen = True
            request = ((item.get("resources") or {}).get("requests") or {}).get(resource)
            if request is None:
                raise MetricError(
                    f"failed to get {resource} utilization: missing request for {resource} in container "
                    f"{item['name']} of Pod {name}"
                )
            total += parse_quantity(request)
        if not seen:
            raise MetricError(f"container {container} is not present in pod {name}")
        found[name] = int(total * (1000 if resource == "cpu" else 1))
    return found


def _ratio(measured: Mapping[str, int], base: Mapping[str, int], percent: int) -> float:
    whole = sum(base[name] for name in measured)
    if not whole:
        raise MetricError("no metrics returned matched known pods")
    return int(sum(measured.values()) * 100 / whole) / percent


def _by_usage(
    measured: Mapping[str, int], base: Mapping[str, int], percent: int, groups: _Groups, replicas: int
) -> int:
    ratio = _ratio(measured, base, percent)
    up_with_unready = bool(groups.unready) and ratio > 1
    if not up_with_unready and not groups.missing:
        return replicas if _within(ratio) else math.ceil(ratio * len(groups.ready))
    assumed = dict(measured)
    if ratio < 1:
        # On the way down, a pod that nobody measures is taken to use all that it may; on the way up, nothing.
        assumed |= {name: base[name] * max(100, percent) // 100 for name in groups.missing}
    elif ratio > 1:
        assumed |= dict.fromkeys(groups.missing, 0)
    if up_with_unready:
        assumed |= dict.fromkeys(groups.unready, 0)
    careful = _ratio(assumed, base, percent)
    if _within(careful) or (ratio < 1 < careful) or (careful < 1 < ratio):
        return replicas
    wanted = math.ceil(careful * len(assumed))
    turned = (careful < 1 and wanted > replicas) or (careful > 1 and wanted < replicas)
    return replicas if turned else wanted


# --- Behaviour --------------------------------------------------------------------------------------------------------


def decide(spec: JsonObject, wish: int, current: int, history: History, now: datetime) -> Decision:
    """Bring a wish within windows, rates and limits. The history gets the wish, not the change."""
    behavior = spec.get("behavior") or {}
    up, down = {**_UP, **(behavior.get("scaleUp") or {})}, {**_DOWN, **(behavior.get("scaleDown") or {})}
    history.forget(now)
    wanted, able_reason, able_message = _stabilized((wish, current), up, down, history, now)
    history.wishes.append((now, wish))
    if wanted > current:
        rate = max(_up_limit(current, up, history, now), current)
        fast = rate < spec["maxReplicas"]
        bound = min(rate, spec["maxReplicas"])
        beyond = wanted > bound
        reason, message = _TOO_FAST_UP if fast else _TOO_MANY
    else:
        least = spec.get("minReplicas", 1)
        rate = min(_down_limit(current, down, history, now), current)
        fast = rate > least
        bound = max(rate, least)
        beyond = wanted < bound and wanted < current
        reason, message = _TOO_FAST_DOWN if fast else _TOO_FEW
    if not beyond:
        bound, (reason, message) = wanted, _WITHIN
    return Decision(bound, able_reason, able_message, beyond, reason, message)


_TOO_MANY: Final = ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
_TOO_FEW: Final = ("TooFewReplicas", "the desired replica count is less than the minimum replica count")
_TOO_FAST_UP: Final = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
_TOO_FAST_DOWN: Final = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
_WITHIN: Final = ("DesiredWithinRange", "the desired count is within the acceptable range")


def _stabilized(
    wish_and_current: tuple[int, int], up: JsonObject, down: JsonObject, history: History, now: datetime
) -> tuple[int, str, str]:
    """The wish after the windows: as little up and as much down as every wish in them agrees to."""
    wish, current = wish_and_current
    lowest = highest = wish
    for time, former in history.wishes:
        if now - time < timedelta(seconds=up["stabilizationWindowSeconds"]):
            lowest = min(lowest, former)
        if now - time < timedelta(seconds=down["stabilizationWindowSeconds"]):
            highest = max(highest, former)
    wanted = min(max(current, lowest), highest)
    if wanted == wish:
        return wanted, "ReadyForNewScale", "recommended size matches current size"
    if wish < current:
        text = "recent recommendations were higher than current one, applying the highest recent recommendation"
        return wanted, "ScaleDownStabilized", text
    text = "recent recommendations were lower than current one, applying the lowest recent recommendation"
    return wanted, "ScaleUpStabilized", text


def _start(current: int, seconds: int, history: History, now: datetime) -> int:
    """How many replicas there were when a policy's period began."""

    def recent(entries: Iterable[tuple[datetime, int]]) -> int:
        return sum(value for time, value in entries if now - time < timedelta(seconds=seconds))

    return current - recent(history.ups) + recent(history.downs)


def _up_limit(current: int, rules: JsonObject, history: History, now: datetime) -> int:
    if rules["selectPolicy"] == "Disabled":
        return current
    offers: list[int] = []
    for policy in rules["policies"]:
        start = _start(current, policy["periodSeconds"], history, now)
        grown = start + policy["value"]
        offers.append(grown if policy["type"] == "Pods" else math.ceil(start * (1 + policy["value"] / 100)))
    return min(offers) if rules["selectPolicy"] == "Min" else max(offers)


def _down_limit(current: int, rules: JsonObject, history: History, now: datetime) -> int:
    if rules["selectPolicy"] == "Disabled":
        return current
    offers: list[int] = []
    for policy in rules["policies"]:
        start = _start(current, policy["periodSeconds"], history, now)
        shrunk = start - policy["value"]
        offers.append(shrunk if policy["type"] == "Pods" else int(start * (1 - policy["value"] / 100)))
    return max(offers) if rules["selectPolicy"] == "Min" else min(offers)
