"""Who asks an extension API server, and whether he may.

Requests come from the API server, which passes on who asks in headers. They are believed only on a connection with a
client certificate of the front proxy, as `kube-system/extension-apiserver-authentication` names it; what the user may
do is asked by SubjectAccessReview.

Owns both. Must not know what is asked for.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from aiohttp import web

from kubeclient import KubeClient, Object, path_of

AUTHENTICATION = path_of("v1", "configmaps", namespace="kube-system", name="extension-apiserver-authentication")
"""Where every API server tells which front proxy it is."""
REVIEW_KEPT = 10.0
"""Seconds for which the answer to an access review is believed: the HPA controller asks for every pool at a time."""
_REVIEWS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """Whom to believe what they say of others, from the ConfigMap of the API server."""

    authority: str
    """Certificates that its client certificate is signed with, in PEM form."""
    names: frozenset[str]
    """Common names that are allowed; empty: all."""
    user_headers: tuple[str, ...]
    group_headers: tuple[str, ...]
    extra_prefixes: tuple[str, ...]

    @classmethod
    def read(cls, config: Object) -> FrontProxy:
        """Read the ConfigMap.

        Raises:
            ValueError: The API server has no front proxy: aggregation is off.
        """
        data = config.get("data") or {}
        if not data.get("requestheader-client-ca-file"):
            raise ValueError("the API server names no front proxy: aggregation is not configured")

        def listed(name: str) -> tuple[str, ...]:
            return tuple(json.loads(data.get(f"requestheader-{name}") or "[]"))

        return cls(
            authority=data["requestheader-client-ca-file"],
            names=frozenset(listed("allowed-names")),
            user_headers=listed("username-headers"),
            group_headers=listed("group-headers"),
            extra_prefixes=listed("extra-headers-prefix"),
        )

    def user(self, request: web.BaseRequest) -> User:
        """Who asks.

        Raises:
            HTTPUnauthorized: The connection is not the front proxy's, or it names nobody.
        """
        certificate = request.transport.get_extra_info("peercert") if request.transport else None
        subject = (certificate or {}).get("subject", ())
        name = next((value for part in subject for key, value in part if key == "commonName"), None)
        if not certificate or (self.names and name not in self.names):
            raise refusal(web.HTTPUnauthorized, "Unauthorized", "only the API server may ask here")
        headers = request.headers
        user = next((headers[header] for header in self.user_headers if headers.get(header)), None)
        if user is None:
            raise refusal(web.HTTPUnauthorized, "Unauthorized", "the request names no user")
        groups = next((headers.getall(header) for header in self.group_headers if header in headers), [])
        extra: dict[str, list[str]] = {}
        for header, value in headers.items():
            prefix = next((p for p in self.extra_prefixes if header.lower().startswith(p.lower())), None)
            if prefix is not None:
                extra.setdefault(header[len(prefix) :].lower(), []).append(value)
        return User(user, tuple(groups), tuple((key, tuple(values)) for key, values in sorted(extra.items())))


@dataclass(frozen=True, slots=True)
class User:
    """Who asks, as a SubjectAccessReview names it."""

    name: str
    groups: tuple[str, ...]
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Reviewer:
    """Asks the API server what users may do."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._answers: dict[tuple[User, str], tuple[float, bool, str]] = {}

    async def check(self, user: User, attributes: Object) -> None:
        """Return when the user may do it.

        Args:
            user: Who.
            attributes: `resourceAttributes` or `nonResourceAttributes` of a review.

        Raises:
            HTTPForbidden: He may not.
            KubernetesError: The review failed.
        """
        key, clock = (user, json.dumps(attributes, sort_keys=True)), time.monotonic()
        answer = self._answers.get(key)
        if answer is None or clock - answer[0] > REVIEW_KEPT:
            spec = {
                "user": user.name,
                "groups": list(user.groups),
                "extra": {name: list(values) for name, values in user.extra},
                **attributes,
            }
            body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
            path = path_of("authorization.k8s.io/v1", "subjectaccessreviews")
            status = (await self._client.create(path, body))["status"]
            if len(self._answers) > _REVIEWS_KEPT:
                self._answers.clear()
            answer = self._answers[key] = (clock, bool(status.get("allowed")), status.get("reason", ""))
        if not answer[1]:
            text = f"user {user.name!r} may not read this: {answer[2]}".rstrip(": ")
            raise refusal(web.HTTPForbidden, "Forbidden", text)


def refusal(kind: type[web.HTTPError], reason: str, message: str) -> web.HTTPError:
    """An answer with a Kubernetes `Status`, so that kubectl and the HPA show its sentence."""
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    body = {**status, "message": message, "reason": reason, "code": kind.status_code}
    return kind(text=json.dumps(body), content_type="application/json")
