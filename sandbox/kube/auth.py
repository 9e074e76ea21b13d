"""Who asks, and whether they may: authentication by token or certificate, and RBAC.

Owns the tokens of service accounts and the evaluation of roles and bindings, after k8s.io/kubernetes
`plugin/pkg/auth/authorizer/rbac`. Not there: the node authorizer, webhooks, and the rule that nobody may grant rights
that they do not have.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.kube.goformat import go_quote
from sandbox.kube.selectors import selects
from sandbox.kube.store import Store

JsonObject = dict[str, Any]

ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
MASTERS: Final = "system:masters"
AUTHENTICATED: Final = "system:authenticated"
ANONYMOUS: Final = "system:anonymous"
_RBAC: Final = "rbac.authorization.k8s.io"
_KINDS: Final = tuple((_RBAC, plural) for plural in ("roles", "rolebindings", "clusterroles", "clusterrolebindings"))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks."""

    user: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict, hash=False, compare=False)

    def user_info(self) -> JsonObject:
        """As in a TokenReview or SelfSubjectReview."""
        info: JsonObject = {"username": self.user, "groups": list(self.groups)}
        if self.uid:
            info["uid"] = self.uid
        if self.extra:
            info["extra"] = {name: list(values) for name, values in self.extra.items()}
        return info


ANONYMOUS_IDENTITY: Final = Identity(ANONYMOUS, ("system:unauthenticated",))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked: a verb on a resource, or on a path where `path` is set."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    def refusal(self, user: str) -> str:
        """The sentence of a 403."""
        who = f"User {go_quote(user)} cannot {self.verb}"
        if self.path:
            return f"{who} path {go_quote(self.path)}"
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        where = f"in the namespace {go_quote(self.namespace)}" if self.namespace else "at the cluster scope"
        return f"{who} resource {go_quote(resource)} in API group {go_quote(self.group)} {where}"


# --- Tokens -----------------------------------------------------------------------------------------------------------


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unpart(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Tokens:
    """Bearer tokens: fixed ones for users, and JSON web tokens for service accounts (HS256, this server's key)."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._fixed: dict[str, Identity] = {}

    def issue_fixed(self, identity: Identity) -> str:
        """A token that stands for `identity` as long as the server runs."""
        token = secrets.token_urlsafe(32)
        self._fixed[token] = identity
        return token

    def issue(self, claims: JsonObject) -> str:
        """A signed token with these claims."""
        head = _part(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        body = _part(json.dumps(claims, separators=(",", ":")).encode())
        return f"{head}.{body}.{self._signature(f'{head}.{body}')}"

    def _signature(self, text: str) -> str:
        return _part(hmac.new(self._key, text.encode(), hashlib.sha256).digest())

    def fixed(self, token: str) -> Identity | None:
        """The identity of a fixed token."""
        return self._fixed.get(token)

    def claims(self, token: str) -> JsonObject | None:
        """The claims of a signed token that is ours and has not expired."""
        text, _, signature = token.rpartition(".")
        if text.count(".") != 1 or not hmac.compare_digest(self._signature(text), signature):
            return None
        claims: JsonObject = json.loads(_unpart(text.partition(".")[2]))
        return claims if claims.get("exp", 0) > time.time() else None


def account_claims(
    account: JsonObject, *, audiences: Sequence[str], seconds: int, bound: JsonObject | None
) -> JsonObject:
    """The claims of a service account's token; `bound` is the pod or secret that it dies with."""
    meta = account["metadata"]
    now = int(time.time())
    about: JsonObject = {"namespace": meta["namespace"], "serviceaccount": {"name": meta["name"], "uid": meta["uid"]}}
    if bound is not None:
        about[bound["kind"].lower()] = {"name": bound["name"], "uid": bound.get("uid", "")}
    return {
        "aud": list(audiences),
        "exp": now + seconds,
        "iat": now,
        "nbf": now,
        "iss": ISSUER,
        "jti": secrets.token_hex(16),
        "kubernetes.io": about,
        "sub": f"system:serviceaccount:{meta['namespace']}:{meta['name']}",
    }


class Authenticator:
    """Turns a bearer token or a verified client certificate into an identity."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.tokens = Tokens()

    def by_token(self, token: str, audiences: Sequence[str] = (ISSUER,)) -> tuple[Identity, list[str]] | None:
        """The identity behind a token and the audiences that it is good for; `None` for a token that is not valid.

        A service account's token dies with the account, and with the pod that it is bound to.
        """
        if (identity := self.tokens.fixed(token)) is not None:
            return identity, list(audiences)
        claims = self.tokens.claims(token)
        if claims is None:
            return None
        matching = [audience for audience in claims["aud"] if audience in audiences]
        about = claims["kubernetes.io"]
        namespace, account = about["namespace"], about["serviceaccount"]
        if not matching or not self._exists(("", "serviceaccounts"), namespace, account):
            return None
        extra: dict[str, list[str]] = {"authentication.kubernetes.io/credential-id": [f"JTI={claims['jti']}"]}
        if (pod := about.get("pod")) is not None:
            if not self._exists(("", "pods"), namespace, pod):
                return None
            extra["authentication.kubernetes.io/pod-name"] = [pod["name"]]
            extra["authentication.kubernetes.io/pod-uid"] = [pod["uid"]]
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
        return Identity(claims["sub"], groups, account["uid"], extra), matching

    def _exists(self, storage: tuple[str, str], namespace: str, about: JsonObject) -> bool:
        found = self._store.get(storage, (namespace, about["name"]))
        return found is not None and found.value["metadata"]["uid"] == about["uid"]

    @staticmethod
    def by_certificate(certificate: Mapping[str, Any] | None) -> Identity | None:
        """The identity in a verified client certificate, in the form of `ssl.SSLSocket.getpeercert`."""
        if not certificate:
            return None
        subject = [pair for part in certificate.get("subject", ()) for pair in part]
        user = next((value for name, value in subject if name == "commonName"), "")
        groups = tuple(value for name, value in subject if name == "organizationName")
        return Identity(user, (*groups, AUTHENTICATED)) if user else None


# --- RBAC -------------------------------------------------------------------------------------------------------------


def _rule_covers(rule: JsonObject, asked: Attributes) -> bool:
    verbs = rule.get("verbs") or ()
    if "*" not in verbs and asked.verb not in verbs:
        return False
    if asked.path:
        return any(
            url in {"*", asked.path} or (url.endswith("*") and asked.path.startswith(url[:-1]))
            for url in rule.get("nonResourceURLs") or ()
        )
    groups, resources = rule.get("apiGroups") or (), rule.get("resources") or ()
    if "*" not in groups and asked.group not in groups:
        return False
    wanted = f"{asked.resource}/{asked.subresource}" if asked.subresource else asked.resource
    covered = {"*", wanted} | ({f"*/{asked.subresource}"} if asked.subresource else set())
    if not covered & set(resources):
        return False
    names = rule.get("resourceNames") or ()
    return not names or asked.name in names


def _is_subject(subject: JsonObject, identity: Identity) -> bool:
    match subject.get("kind"):
        case "User":
            return bool(subject.get("name") == identity.user)
        case "Group":
            return subject.get("name") in identity.groups
        case "ServiceAccount":
            name = f"system:serviceaccount:{subject.get('namespace', '')}:{subject.get('name', '')}"
            return name == identity.user
    return False


@dataclass(frozen=True, slots=True)
class Grant:
    """A role that an identity has, by which binding; `namespace` is empty for the whole cluster."""

    namespace: str
    rules: Sequence[JsonObject]
    reason: str


class Authorizer:
    """RBAC on the stored roles and bindings."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stamp: tuple[int, ...] = ()
        self._grants: dict[Identity, list[Grant]] = {}

    def allows(self, identity: Identity, asked: Attributes) -> tuple[bool, str]:
        """Whether the identity may do what is asked, and why."""
        if MASTERS in identity.groups:
            return True, ""
        for grant in self.grants(identity):
            # A RoleBinding grants nothing outside its namespace, so nothing on paths either.
            reaches = not grant.namespace or (grant.namespace == asked.namespace and not asked.path)
            if reaches and any(_rule_covers(rule, asked) for rule in grant.rules):
                return True, grant.reason
        return False, ""

    def grants(self, identity: Identity) -> list[Grant]:
        """Everything that an identity has been granted."""
        stamp = tuple(self._store.changed(kind) for kind in _KINDS)
        if stamp != self._stamp:
            self._stamp = stamp
            self._grants.clear()
        key = Identity(identity.user, identity.groups)
        found = self._grants.get(key)
        if found is None:
            found = self._grants[key] = list(self._find(identity))
        return found

    def _find(self, identity: Identity) -> Iterator[Grant]:
        for plural in ("clusterrolebindings", "rolebindings"):
            for stored in self._store.list((_RBAC, plural)):
                binding = stored.value
                subject = next((s for s in binding.get("subjects") or [] if _is_subject(s, identity)), None)
                if subject is None:
                    continue
                namespace, name = stored.key
                reference = binding["roleRef"]
                kind = "ClusterRoleBinding" if plural == "clusterrolebindings" else "RoleBinding"
                label = f"{name}/{namespace}" if namespace else name
                who = f"{subject['kind']} {go_quote(subject['name'])}"
                if subject["kind"] == "ServiceAccount":
                    who = f"ServiceAccount {go_quote(subject['name'] + '/' + subject.get('namespace', ''))}"
                role = f"{reference['kind']} {go_quote(reference['name'])}"
                reason = f"RBAC: allowed by {kind} {go_quote(label)} of {role} to {who}"
                yield Grant(namespace, self._rules(reference, namespace), reason)

    def _rules(self, reference: JsonObject, namespace: str) -> list[JsonObject]:
        cluster_wide = reference["kind"] == "ClusterRole"
        storage = (_RBAC, "clusterroles" if cluster_wide else "roles")
        found = self._store.get(storage, ("" if cluster_wide else namespace, reference["name"]))
        if found is None:
            return []
        rules = list(found.value.get("rules") or [])
        for selector in (found.value.get("aggregationRule") or {}).get("clusterRoleSelectors") or []:
            for role in self._store.each((_RBAC, "clusterroles")):
                if selects(selector, role.value["metadata"].get("labels")) and role is not found:
                    rules += role.value.get("rules") or []
        return rules


# --- What a new cluster has -------------------------------------------------------------------------------------------


def _rule(groups: Sequence[str], resources: Sequence[str], verbs: Sequence[str]) -> JsonObject:
    return {"apiGroups": list(groups), "resources": list(resources), "verbs": list(verbs)}


_READ: Final = ("get", "list", "watch")
_WRITE: Final = ("create", "delete", "deletecollection", "patch", "update")
_WORKLOADS: Final = (
    (("",), ("configmaps", "endpoints", "events", "persistentvolumeclaims", "pods", "pods/log", "pods/status")),
    (
        ("",),
        ("replicationcontrollers", "replicationcontrollers/scale", "resourcequotas", "serviceaccounts", "services"),
    ),
    (("",), ("limitranges", "namespaces")),
    (
        ("apps",),
        (
            "controllerrevisions",
            "daemonsets",
            "deployments",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ),
    ),
    (("autoscaling",), ("horizontalpodautoscalers",)),
    (("batch",), ("cronjobs", "jobs")),
    (("discovery.k8s.io",), ("endpointslices",)),
    (("networking.k8s.io",), ("ingresses", "networkpolicies")),
    (("policy",), ("poddisruptionbudgets",)),
)
_READ_ONLY: Final = {"events", "limitranges", "namespaces", "resourcequotas", "pods/log", "pods/status"}


def _view_rules() -> list[JsonObject]:
    return [_rule(groups, resources, _READ) for groups, resources in _WORKLOADS]


def _edit_rules() -> list[JsonObject]:
    writable = [(groups, [name for name in names if name not in _READ_ONLY]) for groups, names in _WORKLOADS]
    rules = [_rule(groups, names, _WRITE) for groups, names in writable if names]
    rules.append(
        _rule(("",), ("secrets", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"), (*_READ, *_WRITE))
    )
    rules.append(_rule(("",), ("pods/eviction", "serviceaccounts/token"), ("create",)))
    rules.append(_rule(("",), ("serviceaccounts",), ("impersonate",)))
    return [*rules, _rule(("coordination.k8s.io",), ("leases",), (*_READ, *_WRITE))]


def _role(name: str, rules: list[JsonObject], **more: Any) -> JsonObject:
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults", **more.pop("labels", {})}
    return {"metadata": {"name": name, "labels": labels}, "rules": rules, **more}


def _binding(name: str, subjects: Sequence[str]) -> JsonObject:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": _RBAC, "kind": "Group", "name": subject} for subject in subjects],
    }


def bootstrap_roles() -> tuple[list[JsonObject], list[JsonObject]]:
    """The ClusterRoles and ClusterRoleBindings that every cluster has, as far as people use them."""

    def aggregates(name: str) -> JsonObject:
        return {f"{_RBAC}/aggregate-to-{name}": "true"}

    def aggregate(name: str) -> JsonObject:
        return {"clusterRoleSelectors": [{"matchLabels": aggregates(name)}]}

    everything = [_rule(("*",), ("*",), ("*",)), {"nonResourceURLs": ["*"], "verbs": ["*"]}]
    roles_and_bindings = [_rule((_RBAC,), ("roles", "rolebindings"), (*_READ, *_WRITE))]
    documents = ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz"]
    public = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
    reviews = [
        _rule(("authorization.k8s.io",), ("selfsubjectaccessreviews", "selfsubjectrulesreviews"), ("create",)),
        _rule(("authentication.k8s.io",), ("selfsubjectreviews",), ("create",)),
    ]
    delegation = [
        _rule(("authentication.k8s.io",), ("tokenreviews",), ("create",)),
        _rule(("authorization.k8s.io",), ("subjectaccessreviews",), ("create",)),
    ]
    roles = [
        _role("cluster-admin", everything),
        _role("admin", [], aggregationRule=aggregate("admin")),
        _role("edit", [], aggregationRule=aggregate("edit"), labels=aggregates("admin")),
        _role("view", [], aggregationRule=aggregate("view"), labels=aggregates("edit")),
        _role("system:aggregate-to-admin", roles_and_bindings, labels=aggregates("admin")),
        _role("system:aggregate-to-edit", _edit_rules(), labels={**aggregates("edit"), **aggregates("admin")}),
        _role(
            "system:aggregate-to-view",
            _view_rules(),
            labels={**aggregates("view"), **aggregates("edit"), **aggregates("admin")},
        ),
        _role("system:discovery", [{"nonResourceURLs": [*documents, "/version", "/version/"], "verbs": ["get"]}]),
        _role("system:public-info-viewer", [{"nonResourceURLs": public, "verbs": ["get"]}]),
        _role("system:basic-user", reviews),
        _role("system:auth-delegator", delegation),
    ]
    bindings = [
        _binding("cluster-admin", [MASTERS]),
        _binding("system:discovery", [AUTHENTICATED]),
        _binding("system:basic-user", [AUTHENTICATED]),
        _binding("system:public-info-viewer", [AUTHENTICATED, "system:unauthenticated"]),
    ]
    return roles, bindings
