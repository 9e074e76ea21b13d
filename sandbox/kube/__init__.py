"""A Kubernetes API server in memory, for tests and demos: `KubeStandIn`.

Owns how its parts are put together: certificates, the HTTP server, controllers and the objects that every cluster has.
What it does not do is listed in `sandbox/README.md`.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import tempfile
from pathlib import Path
from typing import Any, Final, Self

import trustme
import yaml
from aiohttp import web

from sandbox.kube.api import Api
from sandbox.kube.auth import MASTERS, Authenticator, Authorizer, Identity, bootstrap_roles
from sandbox.kube.builtin import builtin_resources
from sandbox.kube.controllers import Controller, Manager
from sandbox.kube.controllers.cluster import DefinitionController, NamespaceContents, NamespaceController
from sandbox.kube.controllers.garbage import GarbageCollector
from sandbox.kube.controllers.jobs import Jobs
from sandbox.kube.controllers.network import DisruptionBudgets, ServiceEndpoints
from sandbox.kube.controllers.workloads import Deployments, ReplicaSets
from sandbox.kube.crd import DEFINITIONS
from sandbox.kube.crd_rules import validate_definition
from sandbox.kube.resources import Catalog, StorageKey
from sandbox.kube.server import Server
from sandbox.kube.store import Event, Store

JsonObject = dict[str, Any]

_NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")
_MAX_REQUEST: Final = 4 * 1024 * 1024


class KubeStandIn:
    """The API server. Use it as an async context manager, or call `start` and `aclose`."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: bool = True,
        history: int = 4096,
        bookmark_seconds: float = 30,
    ) -> None:
        """Prepare a server.

        Args:
            host: Address to listen on; one of loopback, because anonymous requests learn what discovery tells.
            port: Port to listen on; 0 for a free one.
            tls: Whether to serve HTTPS. kubectl sends no token without it.
            history: Events per resource that watches can go back to at least.
            bookmark_seconds: Time between the bookmarks of a watch.
        """
        self._host, self._port, self._tls = host, port, tls
        self.store = Store(history=history)
        self.catalog = Catalog(builtin_resources())
        self.api = Api(self.store, self.catalog)
        self.api.validators[DEFINITIONS] = validate_definition
        self._authenticator = Authenticator(self.store)
        self._authority = trustme.CA(organization_name="sandbox")
        self._admin_token = self._authenticator.tokens.issue_fixed(Identity("admin", (MASTERS, "system:authenticated")))
        self._server = Server(self.api, self._authenticator, Authorizer(self.store), bookmark_seconds=bookmark_seconds)
        self._manager = Manager(self.api, self._controllers())
        self._runner: web.ServerRunner | None = None

    def _controllers(self) -> list[Controller]:
        return [
            NamespaceContents(self.api, self.certificate_authority),
            NamespaceController(self.api),
            DefinitionController(self.api),
            GarbageCollector(self.api),
            ReplicaSets(self.api),
            Deployments(self.api),
            Jobs(self.api),
            ServiceEndpoints(self.api),
            DisruptionBudgets(self.api),
        ]

    @property
    def certificate_authority(self) -> str:
        """The certificate that the server's own is signed with, in PEM form."""
        return self._authority.cert_pem.bytes().decode()

    @property
    def url(self) -> str:
        """`https://host:port`, once started."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    async def start(self) -> None:
        """Fill in what every cluster has, and listen."""
        populated = asyncio.Event()

        def notice(storage: StorageKey, event: Event) -> None:
            if storage == ("", "serviceaccounts") and event.stored.key == ("default", "default"):
                populated.set()

        self.store.listeners.append(notice)
        self._manager.start()
        self._bootstrap()
        self._server.aggregator.start()
        self._runner = web.ServerRunner(web.Server(self._server.handle, access_log=None))
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port, ssl_context=self._ssl_context() if self._tls else None)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self._server.address = f"{self._host}:{self._port}"
        # The controllers give the namespaces their contents before the first client looks.
        await populated.wait()
        self.store.listeners.remove(notice)

    async def aclose(self) -> None:
        """Stop listening, end all streams and controllers."""
        await self._server.aclose()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._manager.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = ("127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        self._authority.issue_cert(*dict.fromkeys((self._host, *names))).configure_cert(context)
        self._authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def kubeconfig(self) -> JsonObject:
        """A kubeconfig for an administrator, with everything inside."""
        certificate = self._authority.issue_cert("admin", common_name="admin", organization_name=MASTERS)
        cluster: JsonObject = {"server": self.url}
        user: JsonObject = {"token": self._admin_token}
        if self._tls:
            cluster["certificate-authority-data"] = _base64(self._authority.cert_pem.bytes())
            user["client-certificate-data"] = _base64(certificate.cert_chain_pems[0].bytes())
            user["client-key-data"] = _base64(certificate.private_key_pem.bytes())
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": "admin"}}],
            "current-context": "sandbox",
        }

    def write_kubeconfig(self, path: Path) -> None:
        """Write `kubeconfig` to a file that only its owner can read."""
        text = yaml.safe_dump(self.kubeconfig())
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(path)

    def _bootstrap(self) -> None:
        options = self.api.system("kube-apiserver")

        def create(api_version: str, kind: str, namespace: str, body: JsonObject) -> None:
            resource = self.catalog.by_kind(api_version, kind)
            assert resource is not None
            self.api.create(resource, namespace, body, options)

        for name in _NAMESPACES:
            create("v1", "Namespace", "", {"metadata": {"name": name}})
        create("v1", "ConfigMap", "kube-system", self._server.aggregator.authentication())
        rbac = "rbac.authorization.k8s.io/v1"
        roles, bindings = bootstrap_roles()
        for role in roles:
            create(rbac, "ClusterRole", "", role)
        for binding in bindings:
            create(rbac, "ClusterRoleBinding", "", binding)
        config_maps = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}
        name = "extension-apiserver-authentication"
        reader = {
            "metadata": {"name": f"{name}-reader"},
            "rules": [{**config_maps, "resourceNames": [name]}],
        }
        create(rbac, "Role", "kube-system", reader)
        for name, value in (("system-cluster-critical", 2000000000), ("system-node-critical", 2000001000)):
            create("scheduling.k8s.io/v1", "PriorityClass", "", {"metadata": {"name": name}, "value": value})


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
