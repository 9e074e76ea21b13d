"""Subresources that are more than a view of their object: scale, binding, eviction, finalize, tokens, and reviews.

Owns their semantics on stored objects. Knows nothing of HTTP; logs and proxies are in `proxy.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sandbox.kube.api import Api, PatchType
from sandbox.kube.auth import ISSUER, Attributes, Authenticator, Authorizer, Identity, account_claims
from sandbox.kube.errors import (
    STALE,
    bad_request,
    conflict,
    internal_error,
    invalid,
    required,
    success_status,
    too_many_requests,
    unsupported_media_type,
)
from sandbox.kube.formats import format_time
from sandbox.kube.options import DeleteOptions, WriteOptions, delete_options
from sandbox.kube.patch import json_patch, merge_patch
from sandbox.kube.reading import Target
from sandbox.kube.resources import Resource
from sandbox.kube.schema import MISSING, dig, parse_simple_path
from sandbox.kube.selectors import selects
from sandbox.kube.store import Stored
from sandbox.kube.tables import format_selector

JsonObject = dict[str, Any]

BUDGETS: Final = ("policy", "poddisruptionbudgets")
_BUDGET_REFUSAL: Final = "Cannot evict pod as it would violate the pod's disruption budget."
_MAX_TOKEN_SECONDS: Final = 1 << 32
_MIN_TOKEN_SECONDS: Final = 600


# --- Scale ------------------------------------------------------------------------------------------------------------


def get_scale(api: Api, target: Target) -> JsonObject:
    """The `autoscaling/v1` Scale of an object.

    Raises:
        ApiError: 404, or 500 where the object has no value at the path of its replicas.
    """
    stored = api.get(target.resource, target.namespace, target.name)
    return scale_of(target.resource, api.present(target.resource, stored))


def scale_of(resource: Resource, obj: JsonObject) -> JsonObject:
    """The Scale of an object.

    Raises:
        ApiError: 500 where the object has no value at the path of its replicas.
    """
    paths = resource.scale
    assert paths is not None
    replicas = dig(obj, parse_simple_path(paths.spec))
    if replicas is MISSING:
        raise internal_error(f'the spec replicas field "{paths.spec}" does not exist')
    current = dig(obj, parse_simple_path(paths.status))
    status: JsonObject = {"replicas": 0 if current is MISSING else current}
    if paths.selector and (text := dig(obj, parse_simple_path(paths.selector))) not in {MISSING, ""}:
        status["selector"] = text
    elif paths.selector_object and (selector := dig(obj, parse_simple_path(paths.selector_object))) is not MISSING:
        plain = "matchLabels" not in selector and "matchExpressions" not in selector
        status["selector"] = format_selector({"matchLabels": selector} if plain else selector)
    meta = obj["metadata"]
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: meta[name] for name in names if name in meta},
        "spec": {"replicas": replicas},
        "status": status,
    }


def put_scale(api: Api, target: Target, body: Any, options: WriteOptions) -> JsonObject:
    """Write the replicas of a Scale through to its object.

    Raises:
        ApiError: 404, 409, or whatever is wrong with the number.
    """
    resource = target.resource
    stored = api.get(resource, target.namespace, target.name)
    obj = api.present(resource, stored)
    if not isinstance(body, dict) or body.get("kind", "Scale") != "Scale":
        raise bad_request("the object provided is unrecognized (must be of type Scale)")
    given = (body.get("metadata") or {}).get("resourceVersion")
    if given and given != obj["metadata"]["resourceVersion"]:
        raise conflict(resource.group, resource.plural, target.name, STALE)
    replicas = (body.get("spec") or {}).get("replicas", 0)
    assert resource.scale is not None
    patch: Any = replicas
    for step in reversed(parse_simple_path(resource.scale.spec)):
        patch = {step: patch}
    changed, _ = api.patch(Target(resource, target.namespace, target.name, "scale"), PatchType.MERGE, patch, options)
    return scale_of(resource, api.present(resource, changed))


def patch_scale(api: Api, target: Target, kind: str, patch: Any, options: WriteOptions) -> JsonObject:
    """Patch a Scale.

    Raises:
        ApiError: 404, 409, 415, or whatever is wrong with the result.
    """
    scale = get_scale(api, target)
    match kind:
        case PatchType.JSON:
            changed = json_patch(scale, patch)
        case PatchType.MERGE | PatchType.STRATEGIC | PatchType.APPLY:
            changed = merge_patch(scale, patch)
        case _:
            raise unsupported_media_type(kind, [PatchType.JSON, PatchType.MERGE, PatchType.APPLY])
    return put_scale(api, target, changed, options)


# --- Pods -------------------------------------------------------------------------------------------------------------


def bind(api: Api, target: Target, body: Any, options: WriteOptions) -> JsonObject:
    """Put a pod on a node, as schedulers do.

    Raises:
        ApiError: 404, 409 for a pod that has its node already, or 422 without a node.
    """
    name = target.name
    pod = api.get(target.resource, target.namespace, name).value
    node = ((body or {}).get("target") or {}).get("name")
    if not node:
        raise invalid("", "Binding", name, [required("target.name")])
    if pod["metadata"].get("deletionTimestamp"):
        raise conflict("", "pods/binding", name, f"pod {name} is being deleted, cannot be assigned to a host")
    if pod["spec"].get("nodeName"):
        raise conflict("", "pods/binding", name, f"pod {name} is already assigned to node {pod['spec']['nodeName']!r}")
    scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": api.now()}
    status = pod.get("status") or {}
    others = [item for item in status.get("conditions") or [] if item["type"] != "PodScheduled"]
    changed = {
        **pod,
        "spec": {**pod["spec"], "nodeName": node},
        "status": {**status, "conditions": [*others, scheduled]},
    }
    if not options.dry_run:
        api.rewrite(target.resource, changed)
    return {**success_status(), "code": 201}


def evict(api: Api, target: Target, body: Any, options: WriteOptions) -> JsonObject:
    """Delete a pod where its disruption budget allows it.

    Raises:
        ApiError: 404, 429 where the budget forbids it for now, or 500 where there are several budgets.
    """
    pods, namespace = target.resource, target.namespace
    stored = api.get(pods, namespace, target.name)
    pod = stored.value
    wanted = (body or {}).get("deleteOptions") or {}
    deletion = delete_options({}, {**wanted, **({"dryRun": ["All"]} if options.dry_run else {})})
    phase = (pod.get("status") or {}).get("phase")
    free = phase in {"Succeeded", "Failed", "Pending"} or pod["metadata"].get("deletionTimestamp")
    budgets = [
        item
        for item in api.store.list(BUDGETS, namespace)
        if selects(item.value["spec"].get("selector"), pod["metadata"].get("labels"))
    ]
    if not free and len(budgets) > 1:
        text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise internal_error(text)
    if not free and budgets:
        _spend_budget(api, budgets[0], pod, dry_run=deletion.dry_run)
    if not deletion.dry_run and not pod["metadata"].get("deletionTimestamp"):
        _mark_disrupted(api, pods, stored)
    precondition = deletion.uid or pod["metadata"]["uid"]
    api.delete(
        pods,
        namespace,
        target.name,
        DeleteOptions(deletion.grace_seconds, deletion.propagation, precondition, dry_run=deletion.dry_run),
    )
    return {**success_status(), "code": 201}


def _is_ready(pod: JsonObject) -> bool:
    found = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in found)


def _spend_budget(api: Api, budget: Stored, pod: JsonObject, *, dry_run: bool) -> None:
    """Take one disruption from a budget, or refuse."""
    name, status = budget.value["metadata"]["name"], budget.value.get("status") or {}
    healthy, desired = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    if not _is_ready(pod):
        policy = budget.value["spec"].get("unhealthyPodEvictionPolicy", "IfHealthyBudget")
        if policy == "AlwaysAllow" or (healthy >= desired > 0):
            return
    if status.get("observedGeneration", 0) < budget.value["metadata"].get("generation", 0):
        text = f"The disruption budget {name} is still being processed by the server."
        raise too_many_requests(
            _BUDGET_REFUSAL, retry_after=10, causes=[{"reason": "DisruptionBudget", "message": text}]
        )
    allowed = status.get("disruptionsAllowed", 0)
    if allowed < 1:
        text = f"The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        raise too_many_requests(
            _BUDGET_REFUSAL, retry_after=0, causes=[{"reason": "DisruptionBudget", "message": text}]
        )
    if dry_run:
        return
    resource = api.catalog.by_kind("policy/v1", "PodDisruptionBudget")
    assert resource is not None
    disrupted = {**(status.get("disruptedPods") or {}), pod["metadata"]["name"]: api.now()}
    changed = {**status, "disruptionsAllowed": allowed - 1, "disruptedPods": disrupted}
    api.rewrite(resource, {**budget.value, "status": changed})


def _mark_disrupted(api: Api, pods: Resource, stored: Stored) -> None:
    status = stored.value.get("status") or {}
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastProbeTime": None,
        "lastTransitionTime": api.now(),
    }
    others = [item for item in status.get("conditions") or [] if item["type"] != "DisruptionTarget"]
    api.rewrite(pods, {**stored.value, "status": {**status, "conditions": [*others, condition]}})


# --- Namespaces -------------------------------------------------------------------------------------------------------


def finalize_namespace(api: Api, namespaces: Resource, name: str, body: Any) -> JsonObject:
    """Replace a namespace's own finalizers, which removes it where none is left and it is being deleted.

    Raises:
        ApiError: 404 or 400.
    """
    stored = api.get(namespaces, "", name)
    if not isinstance(body, dict):
        raise bad_request("the object provided is unrecognized (must be of type Namespace)")
    finalizers = (body.get("spec") or {}).get("finalizers") or []
    changed = {**stored.value, "spec": {"finalizers": finalizers} if finalizers else {}}
    if not finalizers and stored.value["metadata"].get("deletionTimestamp"):
        api.remove_now(namespaces, stored)
        return changed
    return api.rewrite(namespaces, changed).value


# --- Tokens and reviews -----------------------------------------------------------------------------------------------


def request_token(api: Api, authenticator: Authenticator, accounts: Resource, target: Target, body: Any) -> JsonObject:
    """A TokenRequest for a service account.

    Raises:
        ApiError: 404, or 409 where the object that the token is bound to is another one.
    """
    account = api.get(accounts, target.namespace, target.name).value
    spec = (body or {}).get("spec") or {}
    seconds = min(max(spec.get("expirationSeconds") or 3600, _MIN_TOKEN_SECONDS), _MAX_TOKEN_SECONDS)
    bound = spec.get("boundObjectRef")
    if bound is not None:
        resource = api.catalog.by_kind(bound.get("apiVersion") or "v1", bound["kind"])
        if resource is None or bound["kind"] not in {"Pod", "Secret"}:
            raise bad_request(f"cannot bind token to object of type {bound.get('kind')}")
        found = api.get(resource, target.namespace, bound["name"]).value["metadata"]
        if bound.get("uid") not in {None, "", found["uid"]}:
            why = f"the UID in the bound object reference ({bound['uid']}) does not match the UID in record"
            raise conflict(resource.group, resource.plural, bound["name"], why)
        bound = {**bound, "uid": found["uid"]}
    audiences = spec.get("audiences") or [ISSUER]
    claims = account_claims(account, audiences=audiences, seconds=seconds, bound=bound)
    expires = format_time(datetime.now(UTC) + timedelta(seconds=seconds))
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": target.name, "namespace": target.namespace, "creationTimestamp": api.now()},
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": bound},
        "status": {"token": authenticator.tokens.issue(claims), "expirationTimestamp": expires},
    }


def review_token(authenticator: Authenticator, body: Any) -> JsonObject:
    """A TokenReview, answered."""
    spec = (body or {}).get("spec") or {}
    asked: Sequence[str] = spec.get("audiences") or [ISSUER]
    found = authenticator.by_token(spec.get("token") or "", asked)
    status: JsonObject = {"authenticated": False, "user": {}, "error": "[invalid bearer token]"}
    if found is not None:
        identity, audiences = found
        status = {"authenticated": True, "user": identity.user_info(), "audiences": audiences}
    return {
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": None},
        "spec": spec,
        "status": status,
    }


def review_access(authorizer: Authorizer, kind: str, identity: Identity, namespace: str, body: Any) -> JsonObject:
    """A SubjectAccessReview of one of the three kinds, answered.

    Raises:
        ApiError: 400 where it asks nothing.
    """
    spec = (body or {}).get("spec") or {}
    who = identity
    if kind != "SelfSubjectAccessReview":
        who = Identity(spec.get("user") or "", tuple(spec.get("groups") or ()))
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        raise bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")
    if resource is not None:
        asked = Attributes(
            verb=resource.get("verb") or "",
            group=resource.get("group") or "",
            resource=resource.get("resource") or "",
            subresource=resource.get("subresource") or "",
            namespace=resource.get("namespace") or namespace,
            name=resource.get("name") or "",
        )
    else:
        assert path is not None
        asked = Attributes(verb=path.get("verb") or "", path=path.get("path") or "")
    allowed, reason = authorizer.allows(who, asked)
    status: JsonObject = {"allowed": allowed}
    if reason:
        status["reason"] = reason
    return {
        "kind": kind,
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {"creationTimestamp": None},
        "spec": spec,
        "status": status,
    }


def review_rules(authorizer: Authorizer, identity: Identity, body: Any) -> JsonObject:
    """A SelfSubjectRulesReview, answered."""
    namespace = ((body or {}).get("spec") or {}).get("namespace") or "default"
    rules = [
        rule for grant in authorizer.grants(identity) if grant.namespace in {"", namespace} for rule in grant.rules
    ]
    resource_fields = ("verbs", "apiGroups", "resources", "resourceNames")
    return {
        "kind": "SelfSubjectRulesReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {"creationTimestamp": None},
        "spec": {},
        "status": {
            "resourceRules": [
                {name: rule[name] for name in resource_fields if name in rule}
                for rule in rules
                if rule.get("resources")
            ],
            "nonResourceRules": [
                {"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]}
                for rule in rules
                if rule.get("nonResourceURLs")
            ],
            "incomplete": False,
        },
    }


def review_self(identity: Identity) -> JsonObject:
    """A SelfSubjectReview, answered."""
    return {
        "kind": "SelfSubjectReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"creationTimestamp": None},
        "status": {"userInfo": identity.user_info()},
    }
