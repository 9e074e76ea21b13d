"""From a CustomResourceDefinition to the resources that it makes the API serve.

Pure. Which definitions are acceptable is decided in `crd_rules.py`; the controller in `controllers/` serves and removes
what is made here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sandbox.kube.resources import Column, Resource, ScalePaths
from sandbox.kube.schema import parse_schema
from sandbox.kube.typeinfo import with_object_meta

JsonObject = dict[str, Any]

CLEANUP_FINALIZER: Final = "customresourcecleanup.apiextensions.k8s.io"
DEFINITIONS: Final = ("apiextensions.k8s.io", "customresourcedefinitions")

_AGE: Final = Column(
    name="Age",
    type="date",
    path=".metadata.creationTimestamp",
    description=(
        "CreationTimestamp is a timestamp representing the server time when this object was created. It is not "
        "guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It "
        "is represented in RFC3339 form and is in UTC."
    ),
)


def resources_of(crd: JsonObject) -> list[Resource]:
    """The resources of all served versions, under the names that were accepted."""
    spec = crd["spec"]
    names = spec["names"]
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        subresources = version.get("subresources") or {}
        scale = subresources.get("scale")
        schema = with_object_meta(parse_schema(version["schema"]["openAPIV3Schema"]))
        found.append(
            Resource(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                schema=schema,
                namespaced=spec["scope"] == "Namespaced",
                singular=names.get("singular") or "",
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                status="status" in subresources,
                scale=_scale(scale) if scale is not None else None,
                generation=True,
                selectable=tuple(
                    field["jsonPath"].removeprefix(".") for field in version.get("selectableFields") or ()
                ),
                columns=_columns(version.get("additionalPrinterColumns")),
                custom=True,
                unconditional_update=False,
            )
        )
    return found


def _scale(raw: JsonObject) -> ScalePaths:
    return ScalePaths(
        spec=raw["specReplicasPath"], status=raw["statusReplicasPath"], selector=raw.get("labelSelectorPath") or ""
    )


def _columns(raw: list[JsonObject] | None) -> tuple[Column, ...]:
    if not raw:
        return (_AGE,)
    return tuple(
        Column(
            name=column["name"],
            type=column["type"],
            path=column["jsonPath"],
            format=column.get("format") or "",
            description=column.get("description")
            or f"Custom resource definition column (in JSONPath format): {column['jsonPath']}",
            priority=column.get("priority") or 0,
        )
        for column in raw
    )


def name_conflict(crd: JsonObject, others: Iterable[JsonObject]) -> str:
    """Why the names of a definition cannot be accepted; empty where they can."""
    spec = crd["spec"]
    mine = spec["names"]
    for other in others:
        if other["metadata"]["name"] == crd["metadata"]["name"] or other["spec"]["group"] != spec["group"]:
            continue
        theirs = (other.get("status") or {}).get("acceptedNames") or {}
        taken = {theirs.get("plural"), theirs.get("singular"), *(theirs.get("shortNames") or [])}
        for name in (mine["plural"], mine.get("singular"), *(mine.get("shortNames") or [])):
            if name and name in taken:
                return f'"{name}" is already in use'
        kinds = {theirs.get("kind"), theirs.get("listKind")}
        for name in (mine["kind"], mine.get("listKind")):
            if name and name in kinds:
                return f'"{name}" is already in use'
    return ""


def conditions(crd: JsonObject, problem: str, now: str) -> list[JsonObject]:
    """The conditions of a definition whose names have been looked at; times change only with the status."""
    accepted = not problem
    wanted = [
        (
            "NamesAccepted",
            accepted,
            "NoConflicts" if accepted else "NotAccepted",
            "no conflicts found" if accepted else problem,
        ),
        (
            "Established",
            accepted,
            "InitialNamesAccepted" if accepted else "NotAccepted",
            "the initial names have been accepted" if accepted else "not all names are accepted",
        ),
    ]
    former = {item["type"]: item for item in (crd.get("status") or {}).get("conditions") or []}
    result = []
    for kind, true, reason, message in wanted:
        status = "True" if true else "False"
        before = former.pop(kind, {})
        since = before.get("lastTransitionTime", now) if before.get("status") == status else now
        result.append(
            {"lastTransitionTime": since, "message": message, "reason": reason, "status": status, "type": kind}
        )
    return result + list(former.values())


def is_established(crd: JsonObject) -> bool:
    """Whether the definition's resources are served."""
    found = (crd.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Established" and item["status"] == "True" for item in found)
