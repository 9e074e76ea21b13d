"""Endpoints and EndpointSlices of Services, and the status of PodDisruptionBudgets: what follows from pods by label."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sandbox.kube.api import Api
from sandbox.kube.controllers import Key
from sandbox.kube.controllers.base import Actor, is_ready, with_condition
from sandbox.kube.errors import ApiError
from sandbox.kube.events import reference_to
from sandbox.kube.formats import parse_time
from sandbox.kube.resources import StorageKey, api_version_parts
from sandbox.kube.selectors import selects
from sandbox.kube.store import Event
from sandbox.kube.subresources import scale_of

JsonObject = dict[str, Any]

_PODS: Final = ("", "pods")
_SERVICES: Final = ("", "services")
_ENDPOINTS: Final = ("", "endpoints")
_SLICES: Final = ("discovery.k8s.io", "endpointslices")
_BUDGETS: Final = ("policy", "poddisruptionbudgets")
_DISRUPTED_SECONDS: Final = 120
"""An evicted pod that is still there after this is no longer counted as going."""


class ServiceEndpoints:
    """Lists the pods behind each Service with a selector."""

    name = "service endpoints"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._actor = Actor(api, "endpoint-controller")

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """Services, and those that select a pod that changed."""
        namespace, name = event.stored.key
        if storage == _SERVICES:
            yield (namespace, name)
        elif storage == _PODS:
            versions = [event.stored] + ([event.previous] if event.previous is not None else [])
            for service in self._api.store.list(_SERVICES, namespace):
                selector = service.value["spec"].get("selector")
                if selector and any(
                    selects({"matchLabels": selector}, pod.value["metadata"].get("labels")) for pod in versions
                ):
                    yield service.key

    def reconcile(self, key: Key) -> float | None:
        """Write the addresses of one service."""
        namespace, name = key
        found = self._api.store.get(_SERVICES, (namespace, name))
        if found is None or not found.value["spec"].get("selector") or found.value["metadata"].get("deletionTimestamp"):
            if found is None:
                self._remove(namespace, name)
            return None
        service = found.value
        selector = {"matchLabels": service["spec"]["selector"]}
        pods = [
            stored.value
            for stored in self._api.store.list(_PODS, namespace)
            if selects(selector, stored.value["metadata"].get("labels"))
            and (stored.value.get("status") or {}).get("podIP")
            and (stored.value.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}
        ]
        self._write_endpoints(service, [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")])
        self._write_slice(service, pods)
        return None

    def _ports(self, service: JsonObject, pod: JsonObject | None) -> list[JsonObject]:
        found = []
        for port in service["spec"].get("ports") or []:
            number = _target_port(port, pod)
            if number is not None:
                entry = {"port": number, "protocol": port.get("protocol", "TCP")}
                if port.get("name"):
                    entry["name"] = port["name"]
                found.append(entry)
        return found

    def _remove(self, namespace: str, name: str) -> None:
        endpoints = self._api.store.get(_ENDPOINTS, (namespace, name))
        if endpoints is not None:
            self._actor.delete(self._actor.resource("v1", "Endpoints"), endpoints.value)

    def _write_endpoints(self, service: JsonObject, pods: list[JsonObject]) -> None:
        subsets: list[JsonObject] = []
        publish = service["spec"].get("publishNotReadyAddresses")
        for pod in pods:
            ports = self._ports(service, pod)
            address = {
                "ip": pod["status"]["podIP"],
                "nodeName": pod["spec"].get("nodeName"),
                "targetRef": {k: v for k, v in reference_to(pod).items() if k in {"kind", "namespace", "name", "uid"}},
            }
            field = "addresses" if is_ready(pod) or publish else "notReadyAddresses"
            subset = next((item for item in subsets if item.get("ports", []) == ports), None)
            if subset is None:
                subset = {"ports": ports} if ports else {}
                subsets.append(subset)
            subset.setdefault(field, []).append(address)
        meta = service["metadata"]
        resource = self._actor.resource("v1", "Endpoints")
        found = self._api.store.get(_ENDPOINTS, (meta["namespace"], meta["name"]))
        if found is None:
            body = {"metadata": {"name": meta["name"], "labels": meta.get("labels") or {}}, "subsets": subsets}
            self._actor.create(resource, meta["namespace"], body)
        elif (found.value.get("subsets") or []) != subsets:
            self._actor.patch(resource, found.value, {"subsets": subsets})

    def _write_slice(self, service: JsonObject, pods: list[JsonObject]) -> None:
        endpoints = []
        for pod in pods:
            going, ready = bool(pod["metadata"].get("deletionTimestamp")), is_ready(pod)
            endpoints.append(
                {
                    "addresses": [pod["status"]["podIP"]],
                    "conditions": {"ready": ready and not going, "serving": ready, "terminating": going},
                    "nodeName": pod["spec"].get("nodeName"),
                    "targetRef": {
                        k: v for k, v in reference_to(pod).items() if k in {"kind", "namespace", "name", "uid"}
                    },
                }
            )
        ports = [{"name": "", **port} for port in self._ports(service, pods[0] if pods else None)]
        meta = service["metadata"]
        resource = self._actor.resource("discovery.k8s.io/v1", "EndpointSlice")
        label = "kubernetes.io/service-name"
        found = next(
            (
                stored.value
                for stored in self._api.store.list(_SLICES, meta["namespace"])
                if (stored.value["metadata"].get("labels") or {}).get(label) == meta["name"]
            ),
            None,
        )
        content = {"addressType": "IPv4", "endpoints": endpoints, "ports": ports}
        if found is None:
            owner = {**_owner(service), "blockOwnerDeletion": True, "controller": True}
            labels = {label: meta["name"], "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
            body = {
                "metadata": {"generateName": f"{meta['name']}-", "labels": labels, "ownerReferences": [owner]},
                **content,
            }
            self._actor.create(resource, meta["namespace"], body)
        elif any(found.get(name) != content[name] for name in ("endpoints", "ports")):
            self._actor.patch(resource, found, content)


def _owner(obj: JsonObject) -> JsonObject:
    meta = obj["metadata"]
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "name": meta["name"], "uid": meta["uid"]}


def _target_port(port: JsonObject, pod: JsonObject | None) -> int | None:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    containers = pod["spec"]["containers"] if pod is not None else []
    return next(
        (item["containerPort"] for c in containers for item in c.get("ports") or [] if item.get("name") == target), None
    )


class DisruptionBudgets:
    """Says how many pods each budget can spare."""

    name = "disruption budgets"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._actor = Actor(api, "disruption-controller")

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """Budgets, and all of a namespace where a pod changed."""
        if storage == _BUDGETS:
            yield event.stored.key
        elif storage == _PODS:
            for budget in self._api.store.list(_BUDGETS, event.stored.key[0]):
                yield budget.key

    def reconcile(self, key: Key) -> float | None:
        """Count the pods of one budget."""
        found = self._api.store.get(_BUDGETS, (key[0], key[1]))
        if found is None:
            return None
        budget, now = found.value, datetime.now(UTC)
        selector = budget["spec"].get("selector")
        pods = [
            stored.value
            for stored in self._api.store.list(_PODS, key[0])
            if selects(selector, stored.value["metadata"].get("labels"))
            and (stored.value.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}
        ]
        expected, desired = self._bounds(budget["spec"], pods)
        former = budget.get("status") or {}
        names = {pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")}
        disrupted = {
            name: since
            for name, since in (former.get("disruptedPods") or {}).items()
            if name in names and now - parse_time(since) < timedelta(seconds=_DISRUPTED_SECONDS)
        }
        healthy = sum(
            1
            for pod in pods
            if is_ready(pod)
            and not pod["metadata"].get("deletionTimestamp")
            and pod["metadata"]["name"] not in disrupted
        )
        allowed = max(healthy - desired, 0) if expected > 0 else 0
        status: JsonObject = {
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "disruptionsAllowed": allowed,
            "observedGeneration": budget["metadata"]["generation"],
        }
        if disrupted:
            status["disruptedPods"] = disrupted
        conditions = with_condition(
            former.get("conditions") or [],
            "DisruptionAllowed",
            status=allowed > 0,
            reason="SufficientPods" if allowed > 0 else "InsufficientPods",
            message="",
            now=self._api.now(),
            update_time=False,
        )
        generation = budget["metadata"]["generation"]
        status["conditions"] = [{**item, "observedGeneration": generation} for item in conditions]
        self._actor.set_status(self._actor.resource("policy/v1", "PodDisruptionBudget"), budget, status)
        return 5.0 if disrupted else None

    def _bounds(self, spec: JsonObject, pods: list[JsonObject]) -> tuple[int, int]:
        """Expected pods and desired healthy ones."""
        least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
        if isinstance(least, int):
            return len(pods), least
        expected = self._expected(pods)
        if least is not None:
            return expected, math.ceil(int(least[:-1]) * expected / 100)
        if most is None:
            return expected, 0
        down = most if isinstance(most, int) else math.ceil(int(most[:-1]) * expected / 100)
        return expected, max(expected - down, 0)

    def _expected(self, pods: list[JsonObject]) -> int:
        """The pods that their controllers want, by the scale of each controller; lone pods count as themselves."""
        total, seen = 0, set()
        for pod in pods:
            owner = next((o for o in pod["metadata"].get("ownerReferences") or () if o.get("controller")), None)
            if owner is None:
                total += 1
                continue
            if owner["uid"] in seen:
                continue
            seen.add(owner["uid"])
            total += self._scale(owner, pod["metadata"]["namespace"], pods)
        return total

    def _scale(self, owner: JsonObject, namespace: str, pods: list[JsonObject]) -> int:
        group, version = api_version_parts(owner["apiVersion"])
        resource = self._api.catalog.by_kind(f"{group}/{version}" if group else version, owner["kind"])
        if resource is not None and resource.scale is not None:
            found = self._api.find(resource, namespace, owner["name"])
            if found is not None:
                try:
                    return int(scale_of(resource, self._api.present(resource, found))["spec"]["replicas"])
                except ApiError:
                    return 0
        return sum(1 for pod in pods for o in pod["metadata"].get("ownerReferences") or () if o["uid"] == owner["uid"])
