"""The parameters of requests, parsed.

Owns their meaning and defaults; knows nothing of HTTP beyond names and texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox.kube.errors import bad_request, invalid, not_supported
from sandbox.kube.selectors import EVERYTHING, FieldSelector, LabelSelector

JsonObject = dict[str, Any]


def truthy(text: str | None) -> bool:
    """A boolean query parameter: present and neither `false` nor `0`."""
    return text is not None and text not in {"false", "0"}


@dataclass(slots=True)
class WriteOptions:
    """Of create, update and patch."""

    manager: str = "unknown"
    """Who owns the fields that are written."""
    dry_run: bool = False
    field_validation: str = "Warn"
    """`Strict`, `Warn` or `Ignore`: what to do about unknown fields."""
    force: bool = False
    """Whether an apply takes fields from other managers."""
    user: str = "system:admin"
    warnings: list[str] = field(default_factory=list)
    """Texts for the client, filled in while the request is served."""


def parse_dry_run(query: Mapping[str, str], kind: str) -> bool:
    """The `dryRun` parameter.

    Raises:
        ApiError: 422, it has another value than `All`.
    """
    value = query.get("dryRun", "")
    if value not in {"", "All"}:
        raise invalid("meta.k8s.io", kind, "", [not_supported("dryRun", value, ("All",))])
    return value == "All"


def write_options(query: Mapping[str, str], *, kind: str, user: str, user_agent: str) -> WriteOptions:
    """The options of a create, update or patch (`kind` is `CreateOptions` and so on).

    Raises:
        ApiError: 422, a parameter has an unknown value.
    """
    validation = query.get("fieldValidation", "") or "Warn"
    if validation not in {"Strict", "Warn", "Ignore"}:
        error = not_supported("fieldValidation", validation, ("", "Ignore", "Strict", "Warn"))
        raise invalid("meta.k8s.io", kind, "", [error])
    return WriteOptions(
        # Without a name of its own, a client is known by the first part of its user agent.
        manager=query.get("fieldManager") or user_agent.partition("/")[0][:128] or "unknown",
        dry_run=parse_dry_run(query, kind),
        field_validation=validation,
        force=truthy(query.get("force")),
        user=user,
    )


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """Of delete and deletecollection."""

    grace_seconds: int | None = None
    propagation: str = ""
    """`Background`, `Foreground`, `Orphan`, or empty for the kind's own policy."""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False


def delete_options(query: Mapping[str, str], body: JsonObject | None) -> DeleteOptions:
    """From the query or from a `DeleteOptions` body, which wins.

    Raises:
        ApiError: 400 or 422, an option has an impossible value.
    """
    source: Mapping[str, Any] = body or {}
    grace = source.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    propagation = source.get("propagationPolicy") or query.get("propagationPolicy") or ""
    orphan = source.get("orphanDependents", query.get("orphanDependents"))
    if not propagation and orphan is not None:
        propagation = "Orphan" if orphan in {True, "true"} else "Background"
    if propagation not in {"", "Background", "Foreground", "Orphan"}:
        error = not_supported("propagationPolicy", propagation, ("Foreground", "Background", "Orphan", "nil"))
        raise invalid("meta.k8s.io", "DeleteOptions", "", [error])
    try:
        grace_seconds = None if grace is None else int(grace)
    except (TypeError, ValueError):
        raise bad_request(f"gracePeriodSeconds: {grace!r} is not a number of seconds") from None
    preconditions = source.get("preconditions") or {}
    dry_run = source.get("dryRun")
    return DeleteOptions(
        grace_seconds=grace_seconds,
        propagation=propagation,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        dry_run=bool(dry_run) if dry_run is not None else parse_dry_run(query, "DeleteOptions"),
    )


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Of list and watch."""

    labels: LabelSelector = EVERYTHING
    fields: FieldSelector = field(default_factory=FieldSelector)
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    version_match: str = ""
    watch: bool = False
    bookmarks: bool = False
    timeout_seconds: int | None = None
    send_initial_events: bool = False

    @property
    def everything(self) -> bool:
        """Whether no selector filters."""
        return self.labels.everything and self.fields.everything


def revision_of(text: str) -> int:
    """A resourceVersion as a number; 0 where there is none.

    Raises:
        ApiError: 400, it is no number.
    """
    if not text:
        return 0
    if not text.isdigit():
        raise bad_request(f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)
