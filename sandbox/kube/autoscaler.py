"""A HorizontalPodAutoscaler controller: asks for metrics, decides with `replicas`, writes scales and statuses.

Owns when and what is asked. A client of the API like the scheduler; a real cluster has it in its controller-manager.
Not there: metrics of type Pods and Object, and the check for two autoscalers on the same pods.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from kubeclient import KubeClient, KubernetesError, NotFoundError, path_of
from sandbox.kube.clients import Recorder, key_of
from sandbox.kube.controllers.base import with_condition
from sandbox.kube.events import reference_to
from sandbox.kube.formats import format_time, parse_duration, parse_time
from sandbox.kube.quantity import parse_quantity
from sandbox.kube.replicas import History, MetricError, Usage, Wish, decide, external_wish, resource_wish
from sandbox.kube.tables import format_selector

JsonObject = dict[str, Any]

_LOG: Final = logging.getLogger(__name__)
_FAILED: Final = {
    "ContainerResource": "FailedGetContainerResourceMetric",
    "External": "FailedGetExternalMetric",
    "Resource": "FailedGetResourceMetric",
}
_API: Final = "autoscaling/v2"
_PLURAL: Final = "horizontalpodautoscalers"


class _Round:
    """One autoscaler looked at once: what is known, and the status that grows out of it."""

    def __init__(self, hpa: JsonObject, now: datetime) -> None:
        self.hpa = hpa
        self.spec: JsonObject = hpa["spec"]
        self.namespace: str = hpa["metadata"]["namespace"]
        self.now = now
        self.scale: JsonObject = {}
        self.path = ""
        self.pods: list[JsonObject] = []
        former = hpa.get("status") or {}
        self.status: JsonObject = {
            **former,
            "currentMetrics": former.get("currentMetrics"),
            "conditions": list(former.get("conditions") or []),
        }

    @property
    def replicas(self) -> int:
        """What is wanted of the target now."""
        return int((self.scale.get("spec") or {}).get("replicas", 0))

    @property
    def present(self) -> int:
        """What the target says that it has."""
        return int((self.scale.get("status") or {}).get("replicas", 0))

    def condition(self, kind: str, reason: str, message: str, *, status: bool = True) -> None:
        """Set a condition."""
        self.status["conditions"] = with_condition(
            self.status["conditions"],
            kind,
            status=status,
            reason=reason,
            message=message,
            now=format_time(self.now),
            update_time=False,
        )


class Autoscaler:
    """Looks at all autoscalers again and again; `run` it until it is cancelled."""

    def __init__(
        self, client: KubeClient, *, period: float = 15.0, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._client = client
        self._period = period
        self._now = now
        self._recorder = Recorder(client, "horizontal-pod-autoscaler")
        self._histories: dict[str, History] = {}

    async def run(self) -> None:
        """Look every `period` seconds, through failures of the server."""
        while True:
            try:
                await self.look()
            except KubernetesError as error:
                _LOG.info("autoscalers not looked at: %s", error.message)
            await asyncio.sleep(self._period)

    async def look(self) -> None:
        """Look at all of them once.

        Raises:
            KubernetesError: They cannot be listed.
        """
        items, _ = await self._client.list(path_of(_API, _PLURAL))
        uids = {item["metadata"]["uid"] for item in items}
        self._histories = {uid: history for uid, history in self._histories.items() if uid in uids}
        await asyncio.gather(*(self._tend(item) for item in items))

    async def _tend(self, hpa: JsonObject) -> None:
        now = self._now().replace(microsecond=0)
        turn = _Round(hpa, now)
        try:
            await self._reconcile(turn)
            if turn.status != hpa.get("status"):
                namespace, name = key_of(hpa)
                path = path_of(_API, _PLURAL, namespace=namespace, name=name, subresource="status")
                await self._client.patch(path, {"status": turn.status})
        except NotFoundError:
            return  # It was deleted meanwhile.
        except KubernetesError as error:
            _LOG.info("autoscaler %s: %s", hpa["metadata"]["name"], error.message)

    async def _reconcile(self, turn: _Round) -> None:
        spec, status = turn.spec, turn.status
        status["observedGeneration"] = turn.hpa["metadata"].get("generation", 1)
        try:
            turn.path = await self._scale_path(spec["scaleTargetRef"], turn.namespace)
            turn.scale = await self._client.get(turn.path)
        except (KubernetesError, MetricError) as error:
            text = f"the HPA controller was unable to get the target's current scale: {error}"
            turn.condition("AbleToScale", "FailedGetScale", text, status=False)
            await self._tell(turn, "FailedGetScale", str(error), kind="Warning")
            return
        text = "the HPA controller was able to get the target's current scale"
        turn.condition("AbleToScale", "SucceededGetScale", text)
        status["currentReplicas"], status["desiredReplicas"] = turn.present, turn.replicas
        if turn.replicas == 0 and spec.get("minReplicas", 1) != 0:
            text = "scaling is disabled since the replica count of the target is zero"
            turn.condition("ScalingActive", "ScalingDisabled", text, status=False)
            return
        wanted, why = await self._wanted(turn)
        if wanted is None:
            return
        status["desiredReplicas"] = wanted
        if wanted != turn.replicas:
            await self._rescale(turn, wanted, why)

    async def _wanted(self, turn: _Round) -> tuple[int | None, str]:
        """The number of replicas and what wants it; `None` while nothing can be said."""
        spec, current = turn.spec, turn.replicas
        low, high = spec.get("minReplicas", 1), spec["maxReplicas"]
        if current > high:
            return high, "Current number of replicas above Spec.MaxReplicas"
        if current < low:
            return low, "Current number of replicas below Spec.MinReplicas"
        wish = await self._wish(turn)
        if wish is None:
            return None, ""
        # What there is counts as wanted so far, so that a controller that starts does not begin by scaling in.
        history = self._histories.setdefault(turn.hpa["metadata"]["uid"], History([(turn.now, current)]))
        decision = decide(spec, wish.replicas, current, history, turn.now)
        turn.condition("AbleToScale", decision.able_reason, decision.able_message)
        turn.condition("ScalingLimited", decision.limited_reason, decision.limited_message, status=decision.limited)
        if decision.replicas == current:
            return current, ""
        why = f"{wish.name} above target" if decision.replicas > current else "All metrics below target"
        history.scaled(current, decision.replicas, turn.now)
        return decision.replicas, why

    async def _rescale(self, turn: _Round, wanted: int, why: str) -> None:
        body = {**turn.scale, "spec": {"replicas": wanted}}
        try:
            await self._client.replace(turn.path, body)
        except KubernetesError as error:
            text = f"the HPA controller was unable to update the target scale: {error.message}"
            turn.condition("AbleToScale", "FailedUpdateScale", text, status=False)
            turn.status["desiredReplicas"] = turn.replicas
            return
        turn.status["lastScaleTime"] = format_time(turn.now)
        text = f"the HPA controller was able to update the target scale to {wanted}"
        turn.condition("AbleToScale", "SucceededRescale", text)
        await self._tell(turn, "SuccessfulRescale", f"New size: {wanted}; reason: {why}")

    # --- Metrics ------------------------------------------------------------------------------------------------------

    async def _wish(self, turn: _Round) -> Wish | None:
        """The largest wish of all metrics; `None` where none is to be believed, which the conditions then say."""
        selector = (turn.scale.get("status") or {}).get("selector")
        if not selector:
            text = "the HPA target's scale is missing a selector"
            turn.condition("ScalingActive", "InvalidSelector", text, status=False)
            await self._tell(turn, "InvalidSelector", text, kind="Warning")
            return None
        turn.pods, _ = await self._client.list(path_of("v1", "pods", namespace=turn.namespace), labelSelector=selector)
        best: Wish | None = None
        failures: list[tuple[str, str]] = []
        shown: list[JsonObject] = []
        for metric in turn.spec["metrics"]:
            try:
                wish = await self._one(turn, metric, selector)
            except (KubernetesError, MetricError) as error:
                failures.append((_FAILED.get(metric["type"], "InvalidMetricSourceType"), str(error)))
                shown.append({"type": ""})
                await self._tell(turn, failures[-1][0], str(error), kind="Warning")
            else:
                shown.append(wish.current)
                best = wish if best is None or wish.replicas > best.replicas else best
        turn.status["currentMetrics"] = shown
        # What some metrics do not say must not make anything smaller.
        if failures and (best is None or best.replicas < turn.replicas):
            reason, message = failures[0]
            text = f"the HPA was unable to compute the replica count: {message}"
            turn.condition("ScalingActive", reason, text, status=False)
            return None
        assert best is not None
        text = f"the HPA was able to successfully calculate a replica count from {best.name}"
        turn.condition("ScalingActive", "ValidMetricFound", text)
        return best

    async def _one(self, turn: _Round, metric: JsonObject, selector: str) -> Wish:
        match metric["type"]:
            case "External":
                values = await self._external(turn.namespace, metric["external"]["metric"])
                ready = sum(_is_up(pod) for pod in turn.pods)
                return external_wish(
                    metric["external"],
                    values,
                    spec_replicas=turn.replicas,
                    status_replicas=turn.present,
                    ready=ready,
                )
            case "Resource" | "ContainerResource":
                source = metric["resource" if metric["type"] == "Resource" else "containerResource"]
                usage = await self._usage(turn.namespace, selector, source["name"], source.get("container", ""))
                return resource_wish(metric, turn.pods, usage, replicas=turn.replicas, now=turn.now)
        raise MetricError(f"metrics of type {metric['type']} are not known here")

    async def _external(self, namespace: str, metric: JsonObject) -> list[Any]:
        path = path_of("external.metrics.k8s.io/v1beta1", metric["name"], namespace=namespace)
        selector = format_selector(metric["selector"]) if metric.get("selector") else ""
        try:
            answer = await self._client.get(path, **({"labelSelector": selector} if selector else {}))
        except KubernetesError as error:
            raise MetricError(
                f"unable to get external metric {namespace}/{metric['name']}: unable to fetch metrics from external "
                f"metrics API: {error.message}"
            ) from error
        if not answer["items"]:
            raise MetricError(
                f"unable to get external metric {namespace}/{metric['name']}: no metrics returned from external "
                "metrics API"
            )
        return [parse_quantity(item["value"]) for item in answer["items"]]

    async def _usage(self, namespace: str, selector: str, resource: str, container: str) -> dict[str, Usage]:
        path = path_of("metrics.k8s.io/v1beta1", "pods", namespace=namespace)
        try:
            answer = await self._client.get(path, labelSelector=selector)
        except KubernetesError as error:
            raise MetricError(f"unable to fetch metrics from resource metrics API: {error.message}") from error
        if not answer["items"]:
            raise MetricError(f"unable to get metrics for resource {resource}: no metrics returned from resource API")
        factor = 1000 if resource == "cpu" else 1
        return {
            item["metadata"]["name"]: Usage(
                int(
                    sum(
                        parse_quantity(part["usage"][resource]) * factor
                        for part in item["containers"]
                        if container in {"", part["name"]}
                    )
                ),
                parse_time(item["timestamp"]),
                parse_duration(item["window"]),
            )
            for item in answer["items"]
            if any(container in {"", part["name"]} for part in item["containers"])
        }

    # --- Paths and events ---------------------------------------------------------------------------------------------

    async def _scale_path(self, target: JsonObject, namespace: str) -> str:
        version = target.get("apiVersion", "v1")
        root = "/api/v1" if version == "v1" else f"/apis/{version}"
        found = next(
            (
                item["name"]
                for item in (await self._client.get(root))["resources"]
                if item["kind"] == target["kind"] and "/" not in item["name"]
            ),
            None,
        )
        if found is None:
            raise MetricError(f'no matches for kind "{target["kind"]}" in version "{version}"')
        return path_of(version, found, namespace=namespace, name=target["name"], subresource="scale")

    async def _tell(self, turn: _Round, reason: str, message: str, *, kind: str = "Normal") -> None:
        about = reference_to({"apiVersion": _API, "kind": "HorizontalPodAutoscaler", **turn.hpa})
        await self._recorder.record(about, reason, message, kind=kind)


def _is_up(pod: JsonObject) -> bool:
    status = pod.get("status") or {}
    conditions = status.get("conditions") or []
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return status.get("phase") == "Running" and ready
