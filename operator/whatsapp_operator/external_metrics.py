"""The builtin source of the session metric: the operator as an extension API server, external.metrics.k8s.io/v1beta1.

Owns the endpoint behind the cluster's aggregation layer, its serving certificate and its APIService object. Must not
write anything else, and must not take the APIService from another provider: there is one for the whole cluster, and
whoever loses it stops scaling. Every operator serves, whether it leads or not.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from kubeclient import ConflictError, KubeClient, KubernetesError, NotFoundError, Object, path_of
from session_worker.logs import fields
from whatsapp_operator.autoscaling import MANAGED, METRIC
from whatsapp_operator.certificates import Keys, renewed
from whatsapp_operator.cluster import MANAGER
from whatsapp_operator.demand import Demand
from whatsapp_operator.front_proxy import AUTHENTICATION, FrontProxy, Reviewer, refusal
from whatsapp_operator.resources import utc_text

log = logging.getLogger(__name__)

GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
API_SERVICE = f"{VERSION}.{GROUP}"
CHECK_EVERY = 60.0
"""Seconds between two looks at the certificates and the APIService."""
FAILURE_DELAY = 5.0


# --- Selectors ------------------------------------------------------------------------------------------------------

_REQUIREMENT = re.compile(
    r"\s*(?:(?P<absent>!)\s*)?(?P<key>[\w./-]+)\s*"
    r"(?:(?P<operator>==|=|!=)\s*(?P<value>[\w.-]*)|(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?\s*(?:,|$)"
)


def selects(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether labels meet a selector in text form: `a=b,c!=d,e in (f,g),!h`.

    Raises:
        ValueError: `selector` is none.
    """
    position, meets = 0, True
    while position < len(selector):
        match = _REQUIREMENT.match(selector, position)
        if match is None:
            raise ValueError(f"unable to parse label selector {selector!r}")
        meets = meets and _meets(match, labels)
        position = match.end()
    return meets


def _meets(match: re.Match[str], labels: Mapping[str, str]) -> bool:
    value = labels.get(match["key"])
    if match["set"]:
        listed = value is not None and value in {item.strip() for item in match["values"].split(",")}
        return listed is (match["set"] == "in")
    if match["operator"]:
        return (value == match["value"]) is (match["operator"] != "!=")
    return (value is None) is bool(match["absent"])


# --- The server -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the server is, and what its objects are called."""

    namespace: str
    """The operator's own."""
    service: str
    """The Service that leads to the operators."""
    service_port: int = 443
    secret: str
    """The Secret that holds the keys; made where it is missing."""
    owner: str | None = None
    """A ClusterRole with which the APIService goes: one that nobody serves would break discovery for everybody."""
    host: str = "0.0.0.0"  # noqa: S104  # a pod's port is reached on the pod's own address
    port: int = 8443

    @property
    def names(self) -> tuple[str, ...]:
        """Names that the serving certificate is for."""
        return (f"{self.service}.{self.namespace}.svc", f"{self.service}.{self.namespace}")


class ExternalMetrics:
    """The extension API server. `start` and `stop` it with the operator."""

    def __init__(
        self,
        client: KubeClient,
        demand: Demand,
        place: Place,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        check_every: float = CHECK_EVERY,
    ) -> None:
        self._client = client
        self._demand = demand
        self._place = place
        self._now = now
        self._check_every = check_every
        self._reviewer = Reviewer(client)
        self._proxy: FrontProxy | None = None
        self._keys: Keys | None = None
        self._context: ssl.SSLContext | None = None
        self._runner: web.AppRunner | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = place.port
        """The one that is listened on, once started."""
        self.problem: str | None = None
        """Why the metric is not served through the cluster; None while it is, for all that is known."""

    async def start(self) -> None:
        """Begin: the port opens as soon as the keys are there."""
        self._task = asyncio.create_task(self._run(), name="external metrics")

    async def stop(self) -> None:
        """Close the port. The APIService stays: other operators serve it too, and this one may just be restarted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    async def _run(self) -> None:
        while True:
            try:
                await self.check()
                delay = self._check_every if self.problem is None else FAILURE_DELAY
            except KubernetesError as error:
                self.problem, delay = error.message, FAILURE_DELAY
                log.warning("The builtin metric source has a problem", extra=fields(error=error.message))
            except (OSError, ValueError) as error:
                self.problem, delay = str(error), FAILURE_DELAY
                log.warning("The builtin metric source has a problem", extra=fields(error=error))
            await asyncio.sleep(delay)

    async def check(self) -> None:
        """Bring keys, trust and the APIService up to date, and listen.

        Raises:
            KubernetesError: The API failed or refused.
            ValueError: The API server has no front proxy.
            OSError: The port is taken.
        """
        proxy = FrontProxy.read(await self._client.get(AUTHENTICATION))
        keys = await self._current_keys()
        if proxy != self._proxy or keys != self._keys:
            self._context = _tls(keys, proxy.authority)
            self._proxy, self._keys = proxy, keys
        if self._runner is None:
            await self._listen()
        problem = await self._register(keys)
        if problem != self.problem and problem is not None:
            log.warning("The builtin metric source does not serve", extra=fields(reason=problem))
        self.problem = problem

    async def _listen(self) -> None:
        app = web.Application()
        root = f"/apis/{API_VERSION}"
        app.router.add_get("/livez", _alive)
        app.router.add_get("/apis", self._groups)
        app.router.add_get(f"/apis/{GROUP}", self._group)
        app.router.add_get(root, self._resources)
        app.router.add_get(f"{root}/namespaces/{{namespace}}/{{metric}}", self._values)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self._place.host, self._place.port, ssl_context=self._door())
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self.port = runner, runner.addresses[0][1]

    def _door(self) -> ssl.SSLContext:
        """A context that hands every new connection to the current one: keys and trust change while we listen."""
        assert self._context is not None
        door = _bare()

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            assert self._context is not None
            connection.context = self._context

        door.sni_callback = choose
        return door

    # --- Keys

    async def _current_keys(self) -> Keys:
        """The keys that all operators share, made or renewed where it is time. Whoever writes first wins."""
        place = self._place
        path = path_of("v1", "secrets", namespace=place.namespace, name=place.secret)
        while True:
            try:
                secret: Object | None = await self._client.get(path)
            except NotFoundError:
                secret = None
            known = _keys_in(secret) if secret else None
            fresh = renewed(known, place.names, self._now())
            if fresh is known and known is not None:
                return known
            body: Object = {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "Opaque",
                "metadata": {"name": place.secret, "namespace": place.namespace, "labels": MANAGED},
                "data": {name: b64encode(text.encode()).decode() for name, text in fresh.files().items()},
            }
            try:
                if secret is None:
                    await self._client.create(path_of("v1", "secrets", namespace=place.namespace), body)
                else:
                    body["metadata"]["resourceVersion"] = secret["metadata"]["resourceVersion"]
                    await self._client.replace(path, body)
            except (ConflictError, NotFoundError):
                continue  # Another operator was faster: its keys are as good.
            log.info("Made new serving keys", extra=fields(secret=place.secret, until=fresh.expires))
            return fresh

    # --- APIService

    async def _register(self, keys: Keys) -> str | None:
        """Make the cluster send the metric's requests to us; what is in the way of it."""
        path = path_of("apiregistration.k8s.io/v1", "apiservices", name=API_SERVICE)
        place = self._place
        service = {"namespace": place.namespace, "name": place.service, "port": place.service_port}
        try:
            live = await self._client.get(path)
        except NotFoundError:
            live = None
        if live is not None:
            spec = live["spec"].get("service") or {}
            if (spec.get("namespace"), spec.get("name")) != (place.namespace, place.service):
                other = f"{spec.get('namespace')}/{spec.get('name')}" if spec else "the API server itself"
                return f"APIService {API_SERVICE} belongs to {other}: use its source, or remove it"
        bundle = b64encode(keys.authorities.encode()).decode()
        wanted = {
            "group": GROUP,
            "version": VERSION,
            "service": service,
            "caBundle": bundle,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        }
        if live is None or any(live["spec"].get(name) != value for name, value in wanted.items()):
            manifest: Object = {
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {"name": API_SERVICE, "labels": MANAGED, **await self._owned()},
                "spec": wanted,
            }
            if live is None:
                # Not an apply: should another provider have been faster, this fails instead of taking it over.
                live = await self._client.create(path_of("apiregistration.k8s.io/v1", "apiservices"), manifest)
            else:
                manifest["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
                live = await self._client.apply(path, manifest, manager=MANAGER)
        return _unavailability(live)

    async def _owned(self) -> Object:
        if self._place.owner is None:
            return {}
        version, kind = "rbac.authorization.k8s.io/v1", "ClusterRole"
        role = await self._client.get(path_of(version, "clusterroles", name=self._place.owner))
        reference = {"apiVersion": version, "kind": kind, "name": self._place.owner, "uid": role["metadata"]["uid"]}
        return {"ownerReferences": [reference]}

    # --- Answers

    async def _allow(self, request: web.Request, attributes: Object | None = None) -> None:
        """Return when whoever asks may do so.

        Raises:
            HTTPError: He may not.
        """
        assert self._proxy is not None
        user = self._proxy.user(request)
        plain = {"nonResourceAttributes": {"path": request.path, "verb": "get"}}
        try:
            await self._reviewer.check(user, attributes or plain)
        except KubernetesError as error:
            raise refusal(web.HTTPServiceUnavailable, "ServiceUnavailable", error.message) from error

    async def _groups(self, request: web.Request) -> web.Response:
        await self._allow(request)
        return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": [_GROUP]})

    async def _group(self, request: web.Request) -> web.Response:
        await self._allow(request)
        return web.json_response({"kind": "APIGroup", "apiVersion": "v1", **_GROUP})

    async def _resources(self, request: web.Request) -> web.Response:
        await self._allow(request)
        resource = {"name": METRIC, "singularName": "", "namespaced": True, "kind": "ExternalMetricValueList"}
        entry = {**resource, "verbs": ["get"]}
        return web.json_response(
            {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": API_VERSION, "resources": [entry]}
        )

    async def _values(self, request: web.Request) -> web.Response:
        namespace, metric = request.match_info["namespace"], request.match_info["metric"]
        attributes = {"group": GROUP, "version": VERSION, "resource": metric, "namespace": namespace, "verb": "list"}
        await self._allow(request, {"resourceAttributes": attributes})
        if metric != METRIC:
            raise refusal(web.HTTPNotFound, "NotFound", f"there is no metric {metric!r} here, only {METRIC}")
        selector = request.query.get("labelSelector", "")
        try:
            found = await self._demand.of(namespace)
            chosen = {
                key: value
                for key, value in found.items()
                if selects(selector, {"namespace": key.namespace, "pool": key.name})
            }
        except ValueError as error:
            raise refusal(web.HTTPBadRequest, "BadRequest", str(error)) from error
        except KubernetesError as error:
            raise refusal(web.HTTPServiceUnavailable, "ServiceUnavailable", error.message) from error
        items = [
            {
                "metricName": METRIC,
                "metricLabels": {"namespace": key.namespace, "pool": key.name},
                "timestamp": utc_text(self._now()),
                "value": str(value),
            }
            for key, value in sorted(chosen.items())
        ]
        kind = {"kind": "ExternalMetricValueList", "apiVersion": API_VERSION, "metadata": {}}
        return web.json_response({**kind, "items": items})


_VERSION = {"groupVersion": API_VERSION, "version": VERSION}
_GROUP: dict[str, Any] = {"name": GROUP, "versions": [_VERSION], "preferredVersion": _VERSION}


async def _alive(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def _unavailability(live: Object) -> str | None:
    """Why the API server does not reach us; None while it does, or has not tried yet."""
    conditions = (live.get("status") or {}).get("conditions") or []
    found = next((item for item in conditions if item["type"] == "Available"), None)
    if found is None or found["status"] != "False":
        return None
    return f"APIService {API_SERVICE} is not available: {found.get('message', found.get('reason', ''))}"


def _keys_in(secret: Object) -> Keys | None:
    data = secret.get("data") or {}
    return Keys.read({name: b64decode(text).decode() for name, text in data.items()})


def _bare() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A session that is resumed would not be held against trust that has changed since.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    # Probes have no certificate; whoever asks for a number needs one.
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _tls(keys: Keys, clients: str) -> ssl.SSLContext:
    """Serve with our keys, and accept client certificates of one authority only."""
    context = _bare()
    context.load_verify_locations(cadata=clients)
    with tempfile.TemporaryDirectory() as directory:  # the ssl module reads keys from files only
        certificate, key = Path(directory, "tls.crt"), Path(directory, "tls.key")
        certificate.write_text(keys.certificate)
        key.touch(mode=0o600)
        key.write_text(keys.key)
        context.load_cert_chain(certificate, key)
    return context
