"""Discovery documents: which groups, versions and resources there are.

Pure functions of the catalog.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sandbox.kube.resources import Catalog, Resource, Subresource

JsonObject = dict[str, Any]

KUBERNETES_MINOR: Final = 36
"""The minor version of Kubernetes whose behaviour this follows."""


def version() -> JsonObject:
    """`/version`."""
    text = f"v1.{KUBERNETES_MINOR}.0+sandbox"
    return {
        "major": "1",
        "minor": str(KUBERNETES_MINOR),
        "gitVersion": text,
        "gitCommit": "0" * 40,
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "cpython",
        "platform": "linux/amd64",
    }


def api_versions(address: str) -> JsonObject:
    """`/api`."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def _group(name: str, versions: list[str]) -> JsonObject:
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": entries, "preferredVersion": entries[0]}


def group_list(catalog: Catalog, others: Mapping[str, list[str]]) -> JsonObject:
    """`/apis`; `others` are the groups that other servers serve."""
    groups = [_group(name, versions) for name, versions in {**catalog.groups(), **others}.items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(catalog: Catalog, name: str, others: Mapping[str, list[str]]) -> JsonObject | None:
    """`/apis/{group}`."""
    versions = catalog.groups().get(name) or others.get(name)
    if versions is None or not name:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(name, versions)}


def subresources_of(resource: Resource) -> list[Subresource]:
    """All subresources, sorted by name."""
    found = list(resource.subresources)
    if resource.status:
        found.append(Subresource("status", resource.kind, ("get", "patch", "update")))
    if resource.scale is not None:
        found.append(Subresource("scale", "Scale", ("get", "patch", "update"), "autoscaling", "v1"))
    return sorted(found, key=lambda item: item.name)


def resource_list(catalog: Catalog, group_name: str, version_name: str) -> JsonObject | None:
    """`/api/v1` or `/apis/{group}/{version}`."""
    found = catalog.in_group_version(group_name, version_name)
    if not found:
        return None
    entries: list[JsonObject] = []
    for resource in found:
        entry: JsonObject = {
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short_names:
            entry["shortNames"] = list(resource.short_names)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        entries.append(entry)
        entries += [_subresource(resource, item) for item in subresources_of(resource)]
    name = f"{group_name}/{version_name}" if group_name else version_name
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": entries}


def _subresource(resource: Resource, item: Subresource) -> JsonObject:
    return {
        "name": f"{resource.plural}/{item.name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        **({"group": item.group} if item.group else {}),
        **({"version": item.version} if item.version else {}),
        "kind": item.kind,
        "verbs": list(item.verbs),
    }


def aggregated(catalog: Catalog, *, core: bool, version_name: str) -> JsonObject:
    """`/api` or `/apis` in the one-document form, `apidiscovery.k8s.io/v2` or `v2beta1`."""
    items = []
    for name, versions in catalog.groups().items():
        if bool(name) is core:
            continue
        entries = [
            {
                "version": version_text,
                "resources": [_aggregated_resource(item) for item in catalog.in_group_version(name, version_text)],
                "freshness": "Current",
            }
            for version_text in versions
        ]
        items.append({"metadata": {"name": name, "creationTimestamp": None}, "versions": entries})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version_name}",
        "metadata": {},
        "items": items,
    }


def foreign_group(name: str, versions: Mapping[str, list[JsonObject]]) -> JsonObject:
    """A group of another server in the one-document form, from the entries of its `APIResourceList`s."""
    entries = [
        {
            "version": version_name,
            "resources": [
                {
                    "resource": item["name"],
                    "responseKind": {"group": name, "version": version_name, "kind": item["kind"]},
                    "scope": "Namespaced" if item["namespaced"] else "Cluster",
                    "singularResource": item.get("singularName", ""),
                    "verbs": item["verbs"],
                }
                for item in resources
            ],
            "freshness": "Current",
        }
        for version_name, resources in versions.items()
    ]
    return {"metadata": {"name": name, "creationTimestamp": None}, "versions": entries}


def _aggregated_resource(resource: Resource) -> JsonObject:
    def kind(group_name: str, version_name: str, name: str) -> JsonObject:
        return {"group": group_name, "version": version_name, "kind": name}

    entry: JsonObject = {
        "resource": resource.plural,
        "responseKind": kind(resource.group, resource.version, resource.kind),
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if subresources := subresources_of(resource):
        entry["subresources"] = [
            {
                "subresource": item.name,
                "responseKind": kind(
                    item.group or ("" if item.version else resource.group), item.version or resource.version, item.kind
                ),
                "verbs": list(item.verbs),
            }
            for item in subresources
        ]
    return entry
