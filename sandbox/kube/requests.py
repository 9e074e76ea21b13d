"""What a request is about, from its method, path and query; and in which form its answer is wanted.

Pure. Follows k8s.io/apiserver `endpoints/request/requestinfo.go` and the `Accept` headers of Kubernetes clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sandbox.kube.auth import Attributes
from sandbox.kube.errors import bad_request, not_acceptable
from sandbox.kube.options import ListOptions, truthy
from sandbox.kube.resources import Resource
from sandbox.kube.selectors import EVERYTHING, FieldSelector, parse_field_selector, parse_label_selector

_NAMESPACE_SUBRESOURCES: Final = ("status", "finalize")
_VERBS: Final = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
OFFERED: Final = ("application/json", "application/yaml")


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """A request on a resource."""

    verb: str
    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    """What follows the subresource, for proxies."""

    def attributes(self) -> Attributes:
        """For the authorizer."""
        return Attributes(self.verb, self.group, self.plural, self.subresource, self.namespace, self.name)


def parse_path(method: str, path: str, query: Mapping[str, str]) -> RequestInfo | None:
    """The request's subject; `None` for paths that are no resource (discovery, health, OpenAPI)."""
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
        namespace, rest = rest[1], rest[2:]
    plural = rest[0]
    name = rest[1] if len(rest) > 1 else ""
    if plural == "namespaces" and group == "" and name:
        namespace = name
    verb = _VERBS.get(method, method.lower())
    if not name:
        if verb == "get":
            verb = "watch" if truthy(query.get("watch")) else "list"
        elif verb == "delete":
            verb = "deletecollection"
    return RequestInfo(
        verb, group, version, plural, namespace, name, rest[2] if len(rest) > 2 else "", "/".join(rest[3:])
    )


def list_options(query: Mapping[str, str], resource: Resource) -> ListOptions:
    """The options of a list or watch.

    Raises:
        ApiError: 400, one of them does not parse.
    """
    labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
    try:
        limit = int(query.get("limit") or 0)
        seconds = query.get("timeoutSeconds")
        timeout_seconds = int(seconds) if seconds else None
    except ValueError as error:
        raise bad_request(f"limit and timeoutSeconds are numbers: {error}") from None
    return ListOptions(
        labels=parse_label_selector(labels) if labels else EVERYTHING,
        fields=parse_field_selector(fields, resource.field_problem) if fields else FieldSelector(),
        limit=max(limit, 0),
        continue_token=query.get("continue", ""),
        resource_version=query.get("resourceVersion", ""),
        version_match=query.get("resourceVersionMatch", ""),
        watch=truthy(query.get("watch")),
        bookmarks=truthy(query.get("allowWatchBookmarks")),
        timeout_seconds=timeout_seconds,
        send_initial_events=truthy(query.get("sendInitialEvents")),
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """The form of an answer. `transform` is empty, `Table`, `PartialObjectMetadata` or `PartialObjectMetadataList`."""

    media_type: str = "application/json"
    transform: str = ""


_PLAIN: Final = Wanted()


def negotiate(accept: str) -> Wanted:
    """The first form that the client takes and we can give.

    Raises:
        ApiError: 406.
    """
    if not accept or accept == "*/*" or accept.startswith("application/json,") or accept == "application/json":
        return _PLAIN
    for clause in accept.split(","):
        media_type, *parameters = (part.strip() for part in clause.split(";"))
        options = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media_type in {"*/*", "application/*"}:
            media_type = "application/json"
        if media_type not in OFFERED:
            continue
        transform = options.get("as", "")
        if not transform:
            return Wanted(media_type)
        known = transform in {"Table", "PartialObjectMetadata", "PartialObjectMetadataList"}
        if known and options.get("g") == "meta.k8s.io" and options.get("v") == "v1":
            return Wanted(media_type, transform)
    raise not_acceptable(OFFERED)
