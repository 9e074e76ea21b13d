"""What kinds of objects the API serves: the description of one served resource, and the catalog of all of them.

Owns the shape of the kind registry. The built-in rows are in `builtin.py`, those of CRDs are made by `crd.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.kube.errors import FieldError
from sandbox.kube.schema import MISSING, Schema, dig, parse_simple_path

JsonObject = dict[str, Any]
StorageKey = tuple[str, str]
"""Group and plural: where the objects of all versions of a resource lie."""

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where a scale subresource reads and writes."""

    spec: str
    status: str
    selector: str = ""
    """Path to a selector in text form; empty where the resource has none."""
    selector_object: str = ""
    """Path to a `metav1.LabelSelector`, for built-in kinds."""


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column. `path` is a JSONPath."""

    name: str
    type: str
    path: str
    format: str = ""
    description: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Subresource:
    """A subresource for discovery. `kind` is that of the objects it takes and gives."""

    name: str
    kind: str
    verbs: tuple[str, ...]
    group: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a built-in kind does beyond the generic rules. All functions may change the object they are given."""

    default: Callable[[JsonObject], None] | None = None
    """Fill in defaults."""
    prepare: Callable[[JsonObject, JsonObject | None], None] | None = None
    """Set what belongs to the server, before validation; the second argument is the stored object of an update."""
    validate: Callable[[JsonObject, JsonObject | None], list[FieldError]] | None = None
    validate_status: Callable[[JsonObject], list[FieldError]] | None = None
    """For writes of the status subresource."""


@dataclass(slots=True, eq=False)
class Resource:
    """One version of one resource. Compared by identity."""

    group: str
    version: str
    plural: str
    kind: str
    schema: Schema
    """Of the whole object, metadata included."""
    namespaced: bool = True
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    status: bool = False
    scale: ScalePaths | None = None
    name_kind: str = "subdomain"
    generation: bool = False
    """Whether `metadata.generation` counts changes of anything but metadata and status."""
    selectable: tuple[str, ...] = ()
    """Paths for field selectors besides metadata.name and metadata.namespace."""
    columns: tuple[Column, ...] | None = None
    """The printer columns of a custom resource; `None` for built-in kinds, which `tables.py` prints."""
    custom: bool = False
    unconditional_update: bool = True
    """Whether a PUT without resourceVersion overwrites."""
    returns_deleted: bool = False
    """Whether DELETE answers with the object instead of a Status."""
    orphan_by_default: bool = False
    subresources: tuple[Subresource, ...] = ()
    hooks: Hooks = field(default_factory=Hooks)
    storage: StorageKey = ("", "")
    to_storage: Callable[[JsonObject], JsonObject] | None = None
    from_storage: Callable[[JsonObject], JsonObject] | None = None
    has_status_schema: bool = True
    model: str = ""
    """Name of the model in the official client, for built-in kinds."""

    def __post_init__(self) -> None:
        self.singular = self.singular or self.kind.lower()
        if self.storage == ("", ""):
            self.storage = (self.group, self.plural)

    @property
    def api_version(self) -> str:
        """`v1` or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        """Kind of a list of these objects."""
        return f"{self.kind}List"

    def field_problem(self, path: str) -> str:
        """Why a field selector may not name `path`; empty where it may."""
        if path == "metadata.name" or (path == "metadata.namespace" and self.namespaced) or path in self.selectable:
            return ""
        if self.custom or self.selectable:
            return f"field label not supported: {path}"
        return f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'

    def field_text(self, obj: Mapping[str, Any], path: str) -> str:
        """The text that a field selector compares."""
        value = dig(obj, parse_simple_path(f".{path}"))
        if value is MISSING or value is None:
            return ""
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)

    def presents(self, obj: JsonObject) -> JsonObject:
        """A stored object in this version."""
        return self.from_storage(obj) if self.from_storage is not None else obj


def api_version_parts(api_version: str) -> tuple[str, str]:
    """Group and version of an `apiVersion`."""
    group, slash, version = api_version.rpartition("/")
    return (group, version) if slash else ("", api_version)


class Catalog:
    """All served resources."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self._by_kind: dict[tuple[str, str, str], Resource] = {}
        self._custom_groups: list[str] = []
        self.generation = 0
        """Grows with every change, so that documents made from the catalog can be cached."""
        for resource in resources:
            self.add(resource)

    def add(self, resource: Resource) -> None:
        """Serve a resource, in place of an older one of the same group, version and name."""
        self._by_path[resource.group, resource.version, resource.plural] = resource
        self._by_kind[resource.group, resource.version, resource.kind] = resource
        self.generation += 1

    def remove(self, resource: Resource) -> None:
        """Stop serving a resource."""
        if self._by_path.get((resource.group, resource.version, resource.plural)) is resource:
            del self._by_path[resource.group, resource.version, resource.plural]
            self._by_kind.pop((resource.group, resource.version, resource.kind), None)
            self.generation += 1

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource at `/apis/{group}/{version}/{plural}`."""
        return self._by_path.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource of an object's apiVersion and kind."""
        group, version = api_version_parts(api_version)
        return self._by_kind.get((group, version, kind))

    def __iter__(self) -> Iterator[Resource]:
        return iter(list(self._by_path.values()))

    def groups(self) -> dict[str, list[str]]:
        """Groups with their versions, in the order in which they were added, the preferred version first."""
        found: dict[str, list[str]] = {}
        for resource in self._by_path.values():
            versions = found.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
        return {
            group: sorted(versions, key=version_rank, reverse=True) if self._is_custom(group) else versions
            for group, versions in found.items()
        }

    def _is_custom(self, group: str) -> bool:
        return any(resource.custom for resource in self._by_path.values() if resource.group == group)

    def in_group_version(self, group: str, version: str) -> list[Resource]:
        """The resources of one group and version, by name."""
        found = [r for r in self._by_path.values() if r.group == group and r.version == version]
        return sorted(found, key=lambda resource: resource.plural)

    def storage_resource(self, storage: StorageKey) -> Resource | None:
        """Some version of what is stored at `storage`, preferably one without conversion."""
        found = [resource for resource in self._by_path.values() if resource.storage == storage]
        return next((r for r in found if r.from_storage is None), found[0] if found else None)


def version_rank(version: str) -> tuple[int, int, int]:
    """Sort key of Kubernetes versions: v2 above v1 above v1beta2 above v1alpha1; anything else lowest."""
    text = version.removeprefix("v")
    for order, stage in ((1, "beta"), (0, "alpha")):
        major, found, minor = text.partition(stage)
        if found and major.isdigit():
            return order, int(major), int(minor or 0)
    return (2, int(text), 0) if text.isdigit() else (-1, 0, 0)
