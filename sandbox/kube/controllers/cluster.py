"""What keeps the API itself in order: namespaces, their default contents, and custom resource definitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sandbox.kube import crd
from sandbox.kube.admission import NAMESPACES
from sandbox.kube.api import Api
from sandbox.kube.controllers import Key, object_key
from sandbox.kube.options import DeleteOptions, ListOptions
from sandbox.kube.resources import Resource, StorageKey
from sandbox.kube.store import Event, EventType

JsonObject = dict[str, Any]

_ROOT_CA: Final = "kube-root-ca.crt"
_EMPTYING_SECONDS: Final = 1.0
"""How often a namespace on its way out is looked at; pods need their grace period."""


class NamespaceController:
    """Empties and removes namespaces that are being deleted."""

    name = "namespaces"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._leaving: set[str] = set()

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """Namespaces that are being deleted, and what goes in them."""
        if storage == NAMESPACES:
            _, name = event.stored.key
            if event.type is EventType.DELETED:
                self._leaving.discard(name)
            elif event.stored.value["metadata"].get("deletionTimestamp"):
                self._leaving.add(name)
                yield (name,)
        elif event.type is EventType.DELETED and event.stored.key[0] in self._leaving:
            yield (event.stored.key[0],)

    def reconcile(self, key: Key) -> float | None:
        """Delete everything in the namespace, then the namespace."""
        (name,) = key
        found = self._api.store.get(NAMESPACES, ("", name))
        if found is None or not found.value["metadata"].get("deletionTimestamp"):
            return None
        remaining = 0
        seen: set[StorageKey] = set()
        for resource in self._api.catalog:
            if not resource.namespaced or "delete" not in resource.verbs or resource.storage in seen:
                continue
            seen.add(resource.storage)
            if self._api.store.list(resource.storage, name):
                self._api.delete_collection(resource, name, ListOptions(), DeleteOptions(propagation="Background"))
                remaining += len(self._api.store.list(resource.storage, name))
        if remaining:
            return _EMPTYING_SECONDS
        resource = self._resource()
        self._api.remove_now(resource, found)
        return None

    def _resource(self) -> Resource:
        resource = self._api.catalog.by_kind("v1", "Namespace")
        assert resource is not None
        return resource


class NamespaceContents:
    """Gives every namespace its default service account and the certificate of the API server."""

    name = "namespace contents"

    def __init__(self, api: Api, root_certificate: str) -> None:
        self._api = api
        self._root_certificate = root_certificate

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """New namespaces, and the contents where they were deleted."""
        if storage == NAMESPACES and event.type is EventType.ADDED:
            yield (event.stored.key[1],)
        elif event.type is EventType.DELETED and (
            (storage == ("", "serviceaccounts") and event.stored.key[1] == "default")
            or (storage == ("", "configmaps") and event.stored.key[1] == _ROOT_CA)
        ):
            yield (event.stored.key[0],)

    def reconcile(self, key: Key) -> float | None:
        """Create what is missing."""
        (namespace,) = key
        found = self._api.store.get(NAMESPACES, ("", namespace))
        if found is None or found.value["metadata"].get("deletionTimestamp"):
            return None
        self._ensure("ServiceAccount", namespace, {"metadata": {"name": "default"}})
        annotation = {"kubernetes.io/description": "The certificate of the API server, for pods."}
        config = {
            "metadata": {"name": _ROOT_CA, "annotations": annotation},
            "data": {"ca.crt": self._root_certificate},
        }
        self._ensure("ConfigMap", namespace, config)
        return None

    def _ensure(self, kind: str, namespace: str, body: JsonObject) -> None:
        resource = self._api.catalog.by_kind("v1", kind)
        assert resource is not None
        if self._api.find(resource, namespace, body["metadata"]["name"]) is None:
            self._api.create(resource, namespace, body, self._api.system("kube-controller-manager"))


class DefinitionController:
    """Serves the resources of custom resource definitions, and removes them with their objects."""

    name = "custom resource definitions"

    def __init__(self, api: Api) -> None:
        self._api = api
        self._served: dict[str, tuple[JsonObject, list[Resource]]] = {}

    def concerns(self, storage: StorageKey, event: Event) -> Iterable[Key]:
        """Definitions, and the last objects of one that is being deleted."""
        if storage == crd.DEFINITIONS:
            yield object_key(event)
        elif event.type is EventType.DELETED:
            for name, (spec, _) in self._served.items():
                if storage == (spec["group"], spec["names"]["plural"]):
                    yield ("", name)

    def _definitions(self) -> Resource:
        resource = self._api.catalog.by_kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        assert resource is not None
        return resource

    def reconcile(self, key: Key) -> float | None:
        """Serve, change or stop serving what one definition describes."""
        name = key[1]
        stored = self._api.store.get(crd.DEFINITIONS, ("", name))
        if stored is None:
            self._stop(name)
            return None
        definition = stored.value
        if definition["metadata"].get("deletionTimestamp"):
            return self._remove_objects(name, definition)
        others = [item.value for item in self._api.store.each(crd.DEFINITIONS)]
        problem = crd.name_conflict(definition, others)
        status = self._status(definition, problem)
        if not problem:
            self._serve(name, definition)
        finalizers = definition["metadata"].get("finalizers") or []
        if status != definition.get("status") or crd.CLEANUP_FINALIZER not in finalizers:
            wanted = finalizers if crd.CLEANUP_FINALIZER in finalizers else [*finalizers, crd.CLEANUP_FINALIZER]
            meta = {**definition["metadata"], "finalizers": wanted}
            self._api.rewrite(self._definitions(), {**definition, "metadata": meta, "status": status})
        return None

    def _status(self, definition: JsonObject, problem: str) -> JsonObject:
        former = definition.get("status") or {}
        storage = next(version["name"] for version in definition["spec"]["versions"] if version.get("storage"))
        stored = list(former.get("storedVersions") or [])
        return {
            "conditions": crd.conditions(definition, problem, self._api.now()),
            "acceptedNames": former.get("acceptedNames") or {} if problem else definition["spec"]["names"],
            "storedVersions": stored if storage in stored else [*stored, storage],
        }

    def _serve(self, name: str, definition: JsonObject) -> None:
        spec = definition["spec"]
        former = self._served.get(name)
        if former is not None and former[0] == spec:
            return
        resources = crd.resources_of(definition)
        if former is not None:
            for old in former[1]:
                if not any((old.version, old.plural) == (new.version, new.plural) for new in resources):
                    self._api.catalog.remove(old)
        for resource in resources:
            self._api.catalog.add(resource)
        self._served[name] = (spec, resources)

    def _stop(self, name: str) -> None:
        for resource in self._served.pop(name, ({}, []))[1]:
            self._api.catalog.remove(resource)

    def _remove_objects(self, name: str, definition: JsonObject) -> float | None:
        spec, resources = self._served.get(name, (definition["spec"], []))
        storage = (spec["group"], spec["names"]["plural"])
        if resources:
            self._api.delete_collection(resources[0], "", ListOptions(), DeleteOptions())
        if self._api.store.count(storage):
            return _EMPTYING_SECONDS
        kept = [item for item in definition["metadata"].get("finalizers") or () if item != crd.CLEANUP_FINALIZER]
        meta = {**definition["metadata"], "finalizers": kept}
        if kept:
            self._api.rewrite(self._definitions(), {**definition, "metadata": meta})
            return None
        self._stop(name)
        found = self._api.store.get(crd.DEFINITIONS, ("", name))
        assert found is not None
        self._api.remove_now(self._definitions(), found)
        return None
