"""The HorizontalPodAutoscaler's algorithm, as a model to simulate with.

Owns what kube-controller-manager does with its numbers: ratio, tolerance, stabilization, scaling policies
(pkg/controller/podautoscaler of Kubernetes, `horizontal.go` and `replica_calculator.go`; documented at
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/). Must not know sessions or workers: it sees
a metric and two replica counts, as the real one does.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

SYNC_SECONDS = 15.0
"""`--horizontal-pod-autoscaler-sync-period`."""
TOLERANCE = 0.1
"""`--horizontal-pod-autoscaler-tolerance`: a ratio this near to 1 changes nothing."""


class Unit(StrEnum):
    """What a scaling policy counts in."""

    PODS = "Pods"
    PERCENT = "Percent"


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """At most `value` pods, or percent of the pods, within `period` seconds."""

    unit: Unit
    value: int
    period: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """`spec.behavior`, by default that of Kubernetes. Of several policies the one that allows most wins."""

    up_window: float = 0.0
    """Seconds of stabilization; scaling out takes the lowest proposal in it."""
    up: tuple[ScalingPolicy, ...] = (ScalingPolicy(Unit.PERCENT, 100, 15), ScalingPolicy(Unit.PODS, 4, 15))
    down_window: float = 300.0
    """Seconds of stabilization; scaling in takes the highest proposal in it."""
    down: tuple[ScalingPolicy, ...] = (ScalingPolicy(Unit.PERCENT, 100, 15),)

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Self:
        """From the form that it has in an HPA; `selectPolicy` is taken to be `Max`."""
        up, down = manifest["scaleUp"], manifest["scaleDown"]
        return cls(
            up_window=up["stabilizationWindowSeconds"],
            up=_policies(up),
            down_window=down["stabilizationWindowSeconds"],
            down=_policies(down),
        )


def _policies(rules: Mapping[str, Any]) -> tuple[ScalingPolicy, ...]:
    return tuple(ScalingPolicy(Unit(rule["type"]), rule["value"], rule["periodSeconds"]) for rule in rules["policies"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilization:
    """A resource metric: use of the ready pods as a share of their request, summed."""

    total: float
    ready: int
    starting: int = 0
    """Pods without a sample yet."""
    target: float = 0.8


def average_value(metric: float, target: float, status_replicas: int) -> int:
    """Replicas that an External metric with an `AverageValue` target asks for.

    Within the tolerance it returns `status.replicas`, whatever `spec.replicas` is; draining pods must not be in it.
    """
    if status_replicas and abs(metric / (target * status_replicas) - 1) <= TOLERANCE:
        return status_replicas
    return math.ceil(metric / target)


def resource(use: Utilization, spec_replicas: int) -> int:
    """Replicas that a Resource or ContainerResource metric with a `Utilization` target asks for.

    Pods without a sample count as idle when the metric would scale out, and are left out when it would scale in.
    """
    if use.ready == 0:
        return spec_replicas
    ratio = use.total / use.ready / use.target
    if ratio <= 1 or use.starting == 0:
        return spec_replicas if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * use.ready)
    pods = use.ready + use.starting
    damped = use.total / pods / use.target
    if damped <= 1 + TOLERANCE:
        return spec_replicas
    return max(math.ceil(damped * pods), spec_replicas)


@dataclass(slots=True)
class Autoscaler:
    """One HPA with its memory of what it has proposed and done."""

    target: float
    """`AverageValue` of the session metric."""
    min_replicas: int
    max_replicas: int
    behavior: Behavior = field(default_factory=Behavior)
    changes: list[tuple[float, int, int]] = field(default_factory=list)
    """Time, replicas before, replicas after; the whole history."""
    _proposals: deque[tuple[float, int]] = field(default_factory=deque)

    def sync(self, now: float, *, metric: float, spec_replicas: int, status_replicas: int, use: Utilization) -> int:
        """`spec.replicas` after one sync.

        Args:
            now: Seconds; syncs come in order.
            metric: Value of the session metric.
            spec_replicas: `spec.replicas` of the scale subresource.
            status_replicas: `status.replicas` of the scale subresource.
            use: Memory of the pods that the scale subresource selects.
        """
        proposed = max(average_value(metric, self.target, status_replicas), resource(use, spec_replicas))
        wanted = self._limited(now, spec_replicas, self._stabilized(now, spec_replicas, proposed))
        if wanted != spec_replicas:
            self.changes.append((now, spec_replicas, wanted))
        return wanted

    def direction_changes(self) -> int:
        """Times that it turned round within the stabilization window of scaling in: flapping."""
        window = self.behavior.down_window
        return sum(
            later - earlier < window and (after > before) != (after_next > before_next)
            for (earlier, before, after), (later, before_next, after_next) in zip(
                self.changes, self.changes[1:], strict=False
            )
        )

    def _stabilized(self, now: float, current: int, proposed: int) -> int:
        up, down = self.behavior.up_window, self.behavior.down_window
        if not self._proposals:
            # A new HPA, as one after a restart of its controller, takes what it finds for its first proposal.
            self._proposals.append((now, current))
        while self._proposals and now - self._proposals[0][0] >= max(up, down):
            self._proposals.popleft()
        lowest = min([proposed, *(count for time, count in self._proposals if now - time < up)])
        highest = max([proposed, *(count for time, count in self._proposals if now - time < down)])
        self._proposals.append((now, proposed))
        return min(max(current, lowest), highest)

    def _limited(self, now: float, current: int, wanted: int) -> int:
        if wanted > current:
            allowed = max(self._limit(now, current, policy, up=True) for policy in self.behavior.up)
            return min(wanted, max(allowed, current), max(self.max_replicas, self.min_replicas))
        if wanted < current:
            allowed = min(self._limit(now, current, policy, up=False) for policy in self.behavior.down)
            return max(wanted, min(allowed, current), self.min_replicas)
        return current

    def _limit(self, now: float, current: int, policy: ScalingPolicy, *, up: bool) -> int:
        """The count that a policy allows, from what there was when its period began."""
        began = current
        for time, before, after in reversed(self.changes):
            if now - time >= policy.period:
                break
            began -= after - before
        step = policy.value if policy.unit is Unit.PODS else began * policy.value / 100
        return math.ceil(began + step) if up else math.floor(began - step)
