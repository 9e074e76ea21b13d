"""The builtin metric source: what it answers, to whom, and how it gets into the cluster's API."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import trustme
from cryptography import x509
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config_from_dict

from kubeclient import KubeClient, KubernetesError, NotFoundError, Object, UnavailableError, path_of
from sandbox.cluster import free_ports
from session_worker.environment import ConfigurationError
from tests.support.kube_product import ProductApi
from whatsapp_operator.certificates import AUTHORITY_LIFE, LIFE, Keys, renewed
from whatsapp_operator.cluster import Cluster
from whatsapp_operator.config import OperatorConfig
from whatsapp_operator.demand import Demand, demands
from whatsapp_operator.external_metrics import API_SERVICE, ExternalMetrics, Place, selects
from whatsapp_operator.fleet import PoolKey
from whatsapp_operator.front_proxy import AUTHENTICATION
from whatsapp_operator.metrics import OperatorMetrics
from whatsapp_operator.probes import ProbeServer
from whatsapp_operator.reconciler import Pulse

SERVICE = "metrics"
API = "/apis/external.metrics.k8s.io/v1beta1"
API_SERVICE_PATH = path_of("apiregistration.k8s.io/v1", "apiservices", name=API_SERVICE)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Source:
    """A source in a namespace, with a clock that a test can turn on."""

    def __init__(self, kube: ProductApi, client: KubeClient, namespace: str, port: int, **place: Any) -> None:
        self.kube = kube
        self.namespace = namespace
        self.time = datetime.now(UTC)
        self.cluster = Cluster(client, ())
        where = {"service": SERVICE, "service_port": port, "secret": "keys", "host": "127.0.0.1", "port": port, **place}
        self.server = ExternalMetrics(client, Demand(self.cluster), Place(namespace=namespace, **where), now=self.now)

    def now(self) -> datetime:
        return self.time

    def path(self, metric: str = "whatsapp_session_demand") -> str:
        return f"{API}/namespaces/{self.namespace}/{metric}"

    async def values(self, selector: str = "") -> dict[str, str]:
        """What the API server answers, by pool."""
        answer = await self.kube.client.get(self.path(), labelSelector=selector)
        return {item["metricLabels"]["pool"]: item["value"] for item in answer["items"]}

    async def keys(self) -> Keys:
        secret = await self.kube.client.get(path_of("v1", "secrets", namespace=self.namespace, name="keys"))
        found = Keys.read({name: b64decode(text).decode() for name, text in secret["data"].items()})
        assert found is not None
        return found


@pytest.fixture
async def source(kube: ProductApi, namespace: str) -> AsyncIterator[Source]:
    """A source that has looked after everything once."""
    (port,) = free_ports(1)
    await leads_here(kube, namespace, SERVICE, port)
    made = Source(kube, await kube.connect(), namespace, port)
    try:
        await made.server.check()
        yield made
    finally:
        await made.server.stop()
        await made.cluster.aclose()
        await without_api_service(kube)


async def leads_here(kube: ProductApi, namespace: str, name: str, port: int) -> None:
    """A Service that leads to this machine."""
    spec = {"type": "ExternalName", "externalName": "127.0.0.1", "ports": [{"port": port}]}
    await kube.client.create(path_of("v1", "services", namespace=namespace), {"metadata": {"name": name}, "spec": spec})


async def without_api_service(kube: ProductApi) -> None:
    try:
        await kube.client.delete(API_SERVICE_PATH)
    except NotFoundError:
        return


async def eventually(look: Callable[[], Any]) -> Any:
    """The first answer that is no error of the API."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await look()
            except KubernetesError:
                await asyncio.sleep(0.05)


# --- The numbers


async def test_the_hpa_gets_the_number_through_the_api_server(kube: ProductApi, source: Source) -> None:
    await kube.create(source.namespace, "p", pool=True, spareSessions=2)
    await kube.create(source.namespace, "q", pool=True)
    for name, pool, state in (
        ("a", "p", "Running"),
        ("b", "p", "Running"),
        ("c", "p", "Stopped"),
        ("d", "q", "Running"),
    ):
        await kube.create(source.namespace, name, poolRef={"name": pool}, state=state)
    assert await source.values() == {"p": "4", "q": "1"}
    assert await source.values(f"namespace={source.namespace},pool=q") == {"q": "1"}
    assert await source.values("pool=nobody") == {}
    with pytest.raises(KubernetesError, match="there is no metric 'other' here"):
        await kube.client.get(source.path("other"))
    with pytest.raises(KubernetesError, match="unable to parse label selector"):
        await kube.client.get(source.path(), labelSelector="a in b")


async def test_the_group_is_discovered(kube: ProductApi, source: Source) -> None:
    (entry,) = (await kube.client.get(API))["resources"]
    assert (entry["name"], entry["kind"]) == ("whatsapp_session_demand", "ExternalMetricValueList")

    async def listed() -> None:
        groups = {group["name"] for group in (await kube.client.get("/apis"))["groups"]}
        if "external.metrics.k8s.io" not in groups:
            raise UnavailableError("not yet")

    await eventually(listed)
    await source.server.check()
    assert source.server.problem is None


def test_demand_follows_the_measurement_in_the_pool_s_status() -> None:
    pool: Object = {
        "metadata": {"namespace": "ns", "name": "p"},
        "spec": {"spareSessions": 1},
        "status": {"readyReplicas": 2, "effectiveCapacity": 10},
    }
    sessions: list[Object] = [
        {"metadata": {"namespace": "ns", "name": name, **more}, "spec": {"poolRef": {"name": "p"}}}
        for name, more in (("a", {}), ("b", {}), ("c", {"deletionTimestamp": "2026-01-01T00:00:00Z"}))
    ]
    # Three places, each of which is three of the spec's fifteen to a worker.
    assert demands([pool], sessions) == {PoolKey("ns", "p"): 9}


async def test_keda_reads_the_number_from_the_metrics_port(kube: ProductApi, source: Source) -> None:
    await kube.create(source.namespace, "p", pool=True)
    await kube.create(source.namespace, "a", poolRef={"name": "p"})
    ports = free_ports(2)
    variables = {"REDIS_URL": "redis://127.0.0.1", "WORKER_IMAGE": "w", "HOST": "127.0.0.1"}
    config = OperatorConfig.from_env({**variables, "PORT": str(ports[0]), "PROMETHEUS_PORT": str(ports[1])})
    server = ProbeServer(Pulse(), None, OperatorMetrics(), config, Demand(source.cluster))
    await server.start()
    try:
        url = f"http://127.0.0.1:{ports[1]}/demand/{source.namespace}"
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/p") as response:
                assert await response.json() == {"namespace": source.namespace, "pool": "p", "demand": 1}
            async with http.get(f"{url}/q") as response:
                assert response.status == 404
    finally:
        await server.stop()


def test_the_source_is_off_unless_it_is_asked_for() -> None:
    variables = {"REDIS_URL": "redis://127.0.0.1", "WORKER_IMAGE": "w", "POD_NAMESPACE": "ops"}
    assert OperatorConfig.from_env(variables).external_metrics is None
    wanted = OperatorConfig.from_env({**variables, "EXTERNAL_METRICS": "true"}).external_metrics
    assert wanted is not None
    assert (wanted.namespace, wanted.port, wanted.service_port, wanted.owner) == ("ops", 8443, 443, None)
    with pytest.raises(ConfigurationError, match="DEMAND_URL is 'operator', but must be an address"):
        OperatorConfig.from_env({**variables, "DEMAND_URL": "operator"})


@pytest.mark.parametrize(
    ("selector", "answer"),
    [
        ("", True),
        ("pool=p", True),
        ("pool==p,namespace=ns", True),
        ("pool = q", False),
        ("pool!=q", True),
        ("other!=q", True),
        ("pool in (a, p)", True),
        ("pool notin (a,p),namespace", False),
        ("other notin (a)", True),
        ("!other,pool", True),
        ("!pool", False),
        ("other", False),
    ],
)
def test_selectors_mean_what_they_mean_in_kubernetes(selector: str, *, answer: bool) -> None:
    assert selects(selector, {"namespace": "ns", "pool": "p"}) is answer


@pytest.mark.parametrize("selector", ["a=b c", "a in b", "=", "a in (b", "!"])
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match="unable to parse label selector"):
        selects(selector, {})


# --- Who may ask


async def ask(kube: ProductApi, source: Source, user: str) -> tuple[int, Object]:
    """Ask the API server in somebody's name."""
    config = kube._standin.kubeconfig()
    headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}", "Impersonate-User": user}
    url = config["clusters"][0]["cluster"]["server"] + source.path()
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as response:
        return response.status, await response.json()


async def test_whoever_may_list_the_metric_gets_it_and_nobody_else(kube: ProductApi, source: Source) -> None:
    account = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
    status, body = await ask(kube, source, account)
    assert status == 403, body
    group, rbac = "external.metrics.k8s.io", "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [group], "resources": ["*"], "verbs": ["get", "list"]}]
    subject = {"kind": "ServiceAccount", "name": "horizontal-pod-autoscaler", "namespace": "kube-system"}
    reference = {"apiGroup": rbac, "kind": "Role", "name": "r"}
    root = f"/apis/{rbac}/v1/namespaces/{source.namespace}"
    await kube.client.create(f"{root}/roles", {"metadata": {"name": "r"}, "rules": rules})
    binding = {"metadata": {"name": "r"}, "roleRef": reference, "subjects": [subject]}
    await kube.client.create(f"{root}/rolebindings", binding)
    status, body = await ask(kube, source, account)
    assert (status, body.get("kind")) == (200, "ExternalMetricValueList"), body


def tls(authorities: str, client: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authorities)
    context.check_hostname = False
    if client is not None:
        client.configure_cert(context)
    return context


async def directly(source: Source, context: ssl.SSLContext, **headers: str) -> tuple[int, Object]:
    """Ask past the API server."""
    url = f"https://127.0.0.1:{source.server.port}{source.path()}"
    async with aiohttp.ClientSession() as http, http.get(url, ssl=context, headers=headers) as response:
        return response.status, await response.json()


async def test_headers_are_believed_only_from_the_front_proxy(kube: ProductApi, source: Source) -> None:
    trusted = (await source.keys()).authorities
    admin = {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}
    status, body = await directly(source, tls(trusted), **admin)
    assert (status, body["message"]) == (401, "only the API server may ask here")
    stranger = trustme.CA().issue_cert("x", common_name="front-proxy-client")
    with pytest.raises(aiohttp.ClientError):
        await directly(source, tls(trusted, stranger), **admin)
    # Another front proxy takes over, as when a cluster renews its certificates.
    before = await kube.client.get(AUTHENTICATION)
    proxy = trustme.CA()
    data = {"requestheader-client-ca-file": proxy.cert_pem.bytes().decode()}
    await kube.client.patch(AUTHENTICATION, {"data": data})
    try:
        await source.server.check()
        known = proxy.issue_cert("x", common_name="front-proxy-client")
        status, body = await directly(source, tls(trusted, known), **admin)
        assert status == 200, body
        status, body = await directly(source, tls(trusted, known))
        assert (status, body["message"]) == (401, "the request names no user")
        unlisted = proxy.issue_cert("x", common_name="somebody")
        assert (await directly(source, tls(trusted, unlisted), **admin))[0] == 401
        names = {"requestheader-allowed-names": json.dumps([])}
        await kube.client.patch(AUTHENTICATION, {"data": names})
        await source.server.check()
        assert (await directly(source, tls(trusted, unlisted), **admin))[0] == 200
    finally:
        await kube.client.patch(AUTHENTICATION, {"data": before["data"]})


async def test_without_aggregation_it_says_so(kube: ProductApi, source: Source) -> None:
    before = await kube.client.get(AUTHENTICATION)
    await kube.client.patch(AUTHENTICATION, {"data": {"requestheader-client-ca-file": ""}})
    try:
        with pytest.raises(ValueError, match="aggregation is not configured"):
            await source.server.check()
    finally:
        await kube.client.patch(AUTHENTICATION, {"data": before["data"]})


# --- The APIService


async def test_another_provider_keeps_its_api_service(kube: ProductApi, namespace: str) -> None:
    theirs: Object = {
        "metadata": {"name": API_SERVICE},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"namespace": "keda", "name": "keda-operator-metrics-apiserver"},
        },
    }
    await kube.client.create(path_of("apiregistration.k8s.io/v1", "apiservices"), theirs)
    made = Source(kube, await kube.connect(), namespace, free_ports(1)[0])
    try:
        await made.server.check()
        assert made.server.problem == (
            "APIService v1beta1.external.metrics.k8s.io belongs to keda/keda-operator-metrics-apiserver: "
            "use its source, or remove it"
        )
        assert (await kube.client.get(API_SERVICE_PATH))["spec"]["service"]["namespace"] == "keda"
        # As soon as it is free it is taken.
        await kube.client.delete(API_SERVICE_PATH)
        await made.server.check()
        assert (await kube.client.get(API_SERVICE_PATH))["spec"]["service"]["namespace"] == namespace
    finally:
        await made.server.stop()
        await made.cluster.aclose()
        await without_api_service(kube)


async def test_the_api_service_goes_with_the_role_that_it_is_given(kube: ProductApi, namespace: str) -> None:
    """An APIService whose server is gone breaks discovery for the whole cluster."""
    roles = path_of("rbac.authorization.k8s.io/v1", "clusterroles")
    await kube.client.create(roles, {"metadata": {"name": f"owner-{namespace}"}, "rules": []})
    made = Source(kube, await kube.connect(), namespace, free_ports(1)[0], owner=f"owner-{namespace}")
    try:
        await made.server.check()
        await kube.client.delete(f"{roles}/owner-{namespace}")
        async with asyncio.timeout(30):
            while True:
                try:
                    await kube.client.get(API_SERVICE_PATH)
                except NotFoundError:
                    break
                await asyncio.sleep(0.05)
    finally:
        await made.server.stop()
        await made.cluster.aclose()
        await without_api_service(kube)


async def test_a_server_that_cannot_be_reached_is_told(kube: ProductApi, source: Source) -> None:
    await kube.client.delete(path_of("v1", "services", namespace=source.namespace, name=SERVICE))

    async def told() -> str:
        await source.server.check()
        if source.server.problem is None:
            raise UnavailableError("not yet")
        return source.server.problem

    assert "is not available: failing or missing response" in await eventually(told)


# --- Rights


async def limited(kube: ProductApi, namespace: str) -> KubeClient:
    """A connection with no more rights than docs/autoscaling.md names."""
    subject = {"kind": "ServiceAccount", "name": "operator", "namespace": namespace}
    accounts = path_of("v1", "serviceaccounts", namespace=namespace)
    await kube.client.create(accounts, {"metadata": {"name": "operator"}})
    rbac = "/apis/rbac.authorization.k8s.io/v1"

    async def bind(kind: str, role: str, where: str) -> None:
        root = f"{rbac}/namespaces/{where}/rolebindings" if where else f"{rbac}/clusterrolebindings"
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role}
        body = {"metadata": {"name": f"{namespace}-{role}".replace(":", "-")}, "roleRef": reference}
        await kube.client.create(root, {**body, "subjects": [subject]})

    name = f"limited-{namespace}"
    rules = [
        {"apiGroups": ["whatsapp.28web.io"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": ["apiregistration.k8s.io"], "resources": ["apiservices"], "verbs": ["create"]},
        {
            "apiGroups": ["apiregistration.k8s.io"],
            "resources": ["apiservices"],
            "resourceNames": [API_SERVICE],
            "verbs": ["get", "patch"],
        },
        {
            "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["clusterroles"],
            "resourceNames": [name],
            "verbs": ["get"],
        },
    ]
    await kube.client.create(f"{rbac}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    secrets = [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["keys"], "verbs": ["get", "update"]},
    ]
    await kube.client.create(f"{rbac}/namespaces/{namespace}/roles", {"metadata": {"name": name}, "rules": secrets})
    await bind("ClusterRole", name, "")
    await bind("Role", name, namespace)
    await bind("ClusterRole", "system:auth-delegator", "")
    await bind("Role", "extension-apiserver-authentication-reader", "kube-system")
    answer = await kube.client.create(f"{accounts}/operator/token", {"spec": {}})
    config = kube._standin.kubeconfig()
    config["users"][0]["user"] = {"token": answer["status"]["token"]}
    configuration = Configuration()
    await load_kube_config_from_dict(config, client_configuration=configuration)
    return KubeClient(ApiClient(configuration))


async def test_the_rights_in_the_documentation_are_enough(kube: ProductApi, namespace: str) -> None:
    (port,) = free_ports(1)
    await leads_here(kube, namespace, SERVICE, port)
    made = Source(kube, await limited(kube, namespace), namespace, port, owner=f"limited-{namespace}")
    try:
        await kube.create(namespace, "p", pool=True)
        await made.server.check()
        assert await made.values("pool=p") == {"p": "0"}
        # New keys of a new authority, and an APIService to be told of it.
        made.time += AUTHORITY_LIFE - LIFE / 2
        await made.server.check()
        kept = (await kube.client.get(API_SERVICE_PATH))["spec"]["caBundle"]
        assert b64decode(kept).decode() == (await made.keys()).authorities
    finally:
        await made.server.stop()
        await made.cluster.aclose()
        await without_api_service(kube)


# --- Keys


async def test_operators_share_their_keys(kube: ProductApi, source: Source) -> None:
    other = Source(kube, await kube.connect(), source.namespace, free_ports(1)[0], service_port=source.server.port)
    try:
        before = await source.keys()
        await other.server.check()
        assert await source.keys() == before
    finally:
        await other.server.stop()
        await other.cluster.aclose()


async def test_the_serving_certificate_is_renewed_while_it_serves(kube: ProductApi, source: Source) -> None:
    before = await source.keys()
    source.time += LIFE * 2 / 3 + timedelta(hours=1)
    await source.server.check()
    after = await source.keys()
    assert (after.authorities, after.certificate != before.certificate) == (before.authorities, True)
    _, writer = await asyncio.open_connection("127.0.0.1", source.server.port, ssl=unverified())
    served = ssl.DER_cert_to_PEM_cert(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.close()
    await writer.wait_closed()
    assert served == after.certificate


def unverified() -> ssl.SSLContext:
    """For a certificate that is valid in the test's future only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_keys_that_will_do_are_kept() -> None:
    keys = renewed(None, ["a.b.svc"], NOW)
    assert renewed(keys, ["a.b.svc"], NOW + LIFE / 2) is keys
    assert keys.expires == NOW + LIFE


@pytest.mark.parametrize("names", [["a.b.svc", "c"], ["other.b.svc"]])
def test_other_names_need_another_certificate_of_the_same_authority(names: list[str]) -> None:
    keys = renewed(None, ["a.b.svc"], NOW)
    fresh = renewed(keys, names, NOW)
    assert fresh.certificate != keys.certificate
    assert fresh.authorities == keys.authorities


def test_an_authority_is_replaced_before_it_ends_and_both_are_trusted_meanwhile() -> None:
    keys = renewed(None, ["a"], NOW)
    later = NOW + AUTHORITY_LIFE - LIFE / 2
    fresh = renewed(keys, ["a"], later)
    new, old = x509.load_pem_x509_certificates(fresh.authorities.encode())
    x509.load_pem_x509_certificate(fresh.certificate.encode()).verify_directly_issued_by(new)
    x509.load_pem_x509_certificate(keys.certificate.encode()).verify_directly_issued_by(old)
    assert len(x509.load_pem_x509_certificates(renewed(fresh, ["b"], later).authorities.encode())) == 2


@pytest.mark.parametrize("part", ["ca.crt", "ca.key", "tls.crt"])
def test_unreadable_keys_are_replaced(part: str) -> None:
    keys = renewed(None, ["a"], NOW)
    broken = Keys.read({**keys.files(), part: "no PEM"})
    fresh = renewed(broken, ["a"], NOW)
    assert fresh.authorities != keys.authorities
    assert renewed(fresh, ["a"], NOW) is fresh
    assert Keys.read({"tls.crt": "x"}) is None


def test_a_certificate_of_another_authority_is_replaced() -> None:
    keys, other = renewed(None, ["a"], NOW), renewed(None, ["a"], NOW)
    mixed = Keys(other.authorities, other.authority_key, keys.certificate, keys.key)
    fresh = renewed(mixed, ["a"], NOW)
    assert (fresh.authorities, fresh.certificate != keys.certificate) == (other.authorities, True)
