"""What the chart renders to, without a cluster."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import GatewayConfig
from session_worker.contract import CONTROL_PORT, METRICS_PORT
from tests.chart.charts import (
    CHART,
    ROOT,
    VARIANTS,
    Helm,
    HelmRefusedError,
    JsonObject,
    documents,
    of_kind,
    pod_templates,
    settings_of,
)
from whatsapp_operator.cluster import POD_SELECTOR
from whatsapp_operator.config import OperatorConfig
from whatsapp_operator.pods import WorkerDefaults, pod_template, worker_pod
from whatsapp_operator.resources import PoolSpec


@pytest.mark.parametrize("variant", VARIANTS)
async def test_the_linter_has_no_complaint(helm: Helm, variant: str) -> None:
    report = await helm("lint", VARIANTS[variant], namespace="ns")

    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


async def test_the_generated_files_are_up_to_date() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("scripts/chart.py", "--check"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()


async def test_the_definitions_are_those_of_the_repository(helm: Helm) -> None:
    rendered = of_kind(await helm.objects({}), "CustomResourceDefinition")
    originals = [yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml")]

    assert {name: item["spec"] for name, item in rendered.items()} == {
        item["metadata"]["name"]: item["spec"] for item in originals
    }
    for item in rendered.values():
        assert item["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


async def test_definitions_can_be_left_out_or_left_to_helm(helm: Helm) -> None:
    assert of_kind(await helm.objects({"crds": {"install": False}}), "CustomResourceDefinition") == {}
    for item in of_kind(await helm.objects({"crds": {"keep": False}}), "CustomResourceDefinition").values():
        assert "annotations" not in item["metadata"]


# --- Values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"gatway": {}}, "additional properties 'gatway' not allowed"),
        ({"gateway": {"replicass": 3}}, "at '/gateway': additional properties 'replicass' not allowed"),
        ({"gateway": {"replicas": "3"}}, "at '/gateway/replicas': got string, want integer"),
        ({"operator": {"logLevel": "info"}}, "at '/operator/logLevel': value must be one of 'DEBUG', 'INFO'"),
        ({"operator": {"resources": {"request": {}}}}, "additional properties 'request' not allowed"),
        (
            {"defaultPool": {"autoscaling": {"maxReplica": 3}}},
            "at '/defaultPool/autoscaling': additional properties 'maxReplica' not allowed",
        ),
        ({"defaultPool": {"placement": "pack"}}, "at '/defaultPool/placement': value must be one of 'Pack', 'Spread'"),
        ({"watchNamespaces": ["Team A"]}, "at '/watchNamespaces/0': 'Team A' does not match pattern"),
        ({"redis": {"external": {"url": "redis:6379"}}}, "at '/redis/external/url'"),
        ({"redis": {"external": {"url": "redis://:pw@r:1"}}}, "redis.external.url holds a password"),
        ({"redis": {"external": {"password": "x"}}}, "redis.external.password needs redis.external.url"),
        ({"gateway": {"ingress": {"enabled": True}}}, "gateway.ingress.enabled needs gateway.ingress.hosts"),
        ({"gateway": {"httpRoute": {"enabled": True}}}, "gateway.httpRoute.enabled needs gateway.httpRoute.parentRefs"),
        ({"gateway": {"autoscaling": {"minReplicas": 99}}}, "minReplicas must not exceed"),
        (
            {"workers": {"serviceAccount": {"create": False}}},
            "workers.serviceAccount.create is false, so workers.serviceAccount.name must name one that exists",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_values_that_make_no_sense_are_refused_by_name(helm: Helm, values: JsonObject, sentence: str) -> None:
    with pytest.raises(HelmRefusedError, match=re.escape(sentence)):
        await helm("render", values, namespace="ns")


async def test_a_pool_that_scales_itself_has_no_replicas(helm: Helm) -> None:
    fixed = of_kind(await helm.objects({}), "WhatsAppWorkerPool")["default"]
    scaled = of_kind(
        await helm.objects({"defaultPool": {"autoscaling": {"enabled": True}}}), "WhatsAppWorkerPool"
    )["default"]  # fmt: skip

    assert fixed["spec"]["replicas"] == 2
    assert "replicas" not in scaled["spec"]


async def test_a_gateway_that_scales_itself_has_no_replicas(helm: Helm) -> None:
    objects = await helm.objects(VARIANTS["everything"])

    assert "replicas" not in of_kind(objects, "Deployment")["chat-gateway"]["spec"]
    assert of_kind(objects, "HorizontalPodAutoscaler")["chat-gateway"]["spec"]["maxReplicas"] == 10


@pytest.mark.parametrize("variant", VARIANTS)
async def test_the_parts_accept_their_environment(helm: Helm, variant: str) -> None:
    templates = pod_templates(await helm.objects(VARIANTS[variant]))
    readers: dict[str, Any] = {"operator": OperatorConfig.from_env, "gateway": GatewayConfig.from_env}

    for label, spec in templates.items():
        if (reader := readers.get(spec["containers"][0]["name"])) is not None:
            variables = {name: entry.get("value", "from-elsewhere") for name, entry in settings_of(spec).items()}
            config = reader(variables)
            ports = {port["name"]: port["containerPort"] for port in spec["containers"][0]["ports"]}
            assert (label, config.port, config.metrics_port) == (label, ports["http"], ports["metrics"])


async def test_secrets_reach_only_those_who_need_them(helm: Helm) -> None:
    """Workers get the whole shared Secret, so it must hold nothing else; passwords are in no plain variable."""
    objects = await helm.objects({})
    secrets, templates = of_kind(objects, "Secret"), pod_templates(objects)

    assert set(secrets["wa-credentials"]["data"]) == {"REDIS_PASSWORD", "WORKER_TOKEN"}
    assert set(secrets["wa-api-key"]["data"]) == {"WAHA_API_KEY"}
    asked = {
        label: {
            entry["valueFrom"]["secretKeyRef"]["key"]
            for entry in settings_of(spec).values()
            if "secretKeyRef" in entry.get("valueFrom", {})
        }
        for label, spec in templates.items()
    }
    assert asked == {
        "Deployment/wa-operator": {"REDIS_PASSWORD"},
        "Deployment/wa-gateway": {"REDIS_PASSWORD", "WORKER_TOKEN", "WAHA_API_KEY"},
        "StatefulSet/wa-redis": {"REDIS_PASSWORD"},
        "Pod/wa-gateway-test": {"WAHA_API_KEY"},
    }
    for spec in templates.values():
        for name, entry in settings_of(spec).items():
            assert "value" not in entry or not re.search("PASSWORD|TOKEN|KEY|AUTH", name)


async def test_every_namespace_that_is_looked_after_gets_what_workers_need(helm: Helm) -> None:
    objects = await helm.objects(VARIANTS["namespaced"])
    found: dict[str, set[str]] = {}
    values = set()
    for item in objects:
        found.setdefault(f"{item['kind']}/{item['metadata']['name']}", set()).add(item["metadata"].get("namespace", ""))
        if item["metadata"]["name"] == "wa-credentials":
            values.add((item["data"]["REDIS_PASSWORD"], item["data"]["WORKER_TOKEN"]))

    everywhere = {"ns", "team-a", "team-b"}
    for label in ("Secret/wa-credentials", "ServiceAccount/wa-worker", "NetworkPolicy/wa-worker", "Role/wa-operator"):
        assert found[label] == everywhere, label
    assert len(values) == 1
    assert settings_of(pod_templates(objects)["Deployment/wa-operator"])["WATCH_NAMESPACES"]["value"] == (
        "ns,team-a,team-b"
    )
    assert not [label for label in found if label.startswith("ClusterRole/") and label.endswith("operator")]


# --- Security ---------------------------------------------------------------------------------------------------------


def offences(spec: JsonObject) -> list[str]:
    """What a pod breaks of the Pod Security Standard `restricted`, and of ours: a read-only root, no service links.

    After https://kubernetes.io/docs/concepts/security/pod-security-standards/.
    """
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC", "hostAliases") if spec.get(key)]
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in spec.get("volumes", []):
        found += [f"volume {volume['name']} is a {kind}" for kind in volume.keys() - allowed - {"name"}]
    pod = spec.get("securityContext", {})
    if spec.get("enableServiceLinks") is not False:
        found.append("service links are on")
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        name, own = container["name"], container.get("securityContext", {})
        both = {**pod, **own}
        capabilities = own.get("capabilities", {})
        checks = {
            "may gain privileges": own.get("allowPrivilegeEscalation") is not False,
            "is privileged": bool(own.get("privileged")),
            "keeps capabilities": capabilities.get("drop") != ["ALL"],
            "adds capabilities": bool(set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}),
            "may run as root": both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0,
            "has no seccomp profile": both.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"},
            "has host ports": any("hostPort" in port for port in container.get("ports", [])),
            "has a procMount": own.get("procMount", "Default") != "Default",
            "writes to its root": own.get("readOnlyRootFilesystem") is not True,
            "has no resources": not container.get("resources", {}).get("limits", {}).get("memory"),
        }
        found += [f"{name} {text}" for text, broken in checks.items() if broken]
    return found


@pytest.mark.parametrize("variant", VARIANTS)
async def test_every_pod_keeps_to_the_restricted_standard(helm: Helm, variant: str) -> None:
    templates = pod_templates(await helm.objects(VARIANTS[variant]))

    assert {label: offences(spec) for label, spec in templates.items()} == {label: [] for label in templates}


@pytest.mark.parametrize("variant", ["defaults", "small", "everything", "own Secrets"])
async def test_worker_pods_keep_to_the_restricted_standard(helm: Helm, variant: str) -> None:
    pod = await worker_of(helm, VARIANTS[variant])

    assert offences(pod["spec"]) == []
    assert pod["spec"]["automountServiceAccountToken"] is False


async def worker_of(helm: Helm, values: JsonObject) -> JsonObject:
    """A worker pod as the operator of a release would make it."""
    objects = await helm.objects(values)
    pool = of_kind(objects, "WhatsAppWorkerPool")["default"]
    operator = next(spec for spec in pod_templates(objects).values() if spec["containers"][0]["name"] == "operator")
    settings = {name: str(entry.get("value", "")) for name, entry in settings_of(operator).items()}
    defaults = WorkerDefaults(
        image=settings["WORKER_IMAGE"],
        redis_url=settings["REDIS_URL"],
        secret_name=settings["WORKER_SECRET"],
        service_account=settings["WORKER_SERVICE_ACCOUNT"],
    )
    template = pod_template(PoolSpec.model_validate(pool["spec"]), defaults)
    return worker_pod(name="w-1", pool="default", pool_uid="u", namespace="ns", template=template)


async def test_only_operator_and_gateway_get_tokens(helm: Helm) -> None:
    objects = await helm.objects({})
    tokens = {label for label, spec in pod_templates(objects).items() if spec["automountServiceAccountToken"]}

    assert tokens == {"Deployment/wa-operator", "Deployment/wa-gateway"}
    for account in of_kind(objects, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False
    subjects = {
        subject["name"]
        for item in objects
        if item["kind"].endswith("RoleBinding")
        for subject in item["subjects"]
    }  # fmt: skip
    assert subjects == {"wa-operator", "wa-gateway"}


async def test_network_policies_select_every_pod_and_only_let_in_whom_they_name(helm: Helm) -> None:
    objects = await helm.objects({})
    policies = of_kind(objects, "NetworkPolicy")
    worker = (await worker_of(helm, {}))["metadata"]["labels"]
    pods = {item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"] for item in objects
            if item["kind"] in {"Deployment", "StatefulSet"}} | {"wa-worker": worker}  # fmt: skip

    selected = {
        pod: [name for name, policy in policies.items() if matches(policy["spec"]["podSelector"], labels)]
        for pod, labels in pods.items()
    }
    assert selected == {name: [name] for name in pods}
    assert who_enters(policies["wa-worker"], CONTROL_PORT, pods) == {"wa-gateway", "wa-operator"}
    assert who_enters(policies["wa-redis"], 6379, pods) == {"wa-gateway", "wa-operator", "wa-worker"}
    assert who_enters(policies["wa-worker"], METRICS_PORT, pods) == set()
    assert policies["wa-redis"]["spec"]["egress"] == []
    ports = {port["port"] for rule in policies["wa-worker"]["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 443, 6379}
    internet = policies["wa-worker"]["spec"]["egress"][-1]["to"]
    assert all("except" in peer["ipBlock"] for peer in internet)


def matches(selector: JsonObject, labels: JsonObject) -> bool:
    """Whether a selector of labels alone covers a pod."""
    assert selector.keys() <= {"matchLabels"}
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def who_enters(policy: JsonObject, port: int, pods: dict[str, JsonObject]) -> set[str]:
    """The pods of the release that a policy lets in at a port, were their namespace the right one."""
    peers = [
        peer
        for rule in policy["spec"]["ingress"]
        if port in {entry["port"] for entry in rule["ports"]}
        for peer in rule["from"]
    ]
    return {name for name, labels in pods.items() for peer in peers
            if "podSelector" in peer and matches(peer["podSelector"], labels)}  # fmt: skip


async def test_the_workers_are_found_by_their_labels(helm: Helm) -> None:
    objects = await helm.objects(VARIANTS["everything"])
    wanted = dict(pair.split("=") for pair in POD_SELECTOR.split(","))

    assert of_kind(objects, "NetworkPolicy")["chat-worker"]["spec"]["podSelector"] == {"matchLabels": wanted}
    assert of_kind(objects, "PodMonitor")["chat-worker"]["spec"]["selector"] == {"matchLabels": wanted}


# --- What others evaluate ---------------------------------------------------------------------------------------------


PASSWORD = 'one "two" $three \\four'


async def test_redis_starts_from_its_configuration_with_its_password(helm: Helm, tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("there is no redis-server here")
    objects = await helm.objects({})
    spec = pod_templates(objects)["StatefulSet/wa-redis"]
    config = tmp_path / "redis.conf"
    text = of_kind(objects, "ConfigMap")["wa-redis"]["data"]["redis.conf"].replace("/data", str(tmp_path))
    config.write_text(f"{text}\nport 0\nunixsocket {tmp_path}/socket\n")
    command = [word.replace("/etc/redis/redis.conf", str(config)) for word in spec["containers"][0]["command"]]
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "REDISCLI_AUTH": PASSWORD}
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            while line := await process.stdout.readline():
                if b"Ready to accept connections" in line or b"The server is now ready" in line:
                    break
        assert await _redis(tmp_path, "ping", password=PASSWORD) == "PONG"
        assert "NOAUTH" in await _redis(tmp_path, "ping")
        assert "yes" in await _redis(tmp_path, "config get appendonly", password=PASSWORD)
        assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "appendonlydir").is_dir() or (tmp_path / "appendonly.aof").is_file()


async def _redis(directory: Path, command: str, password: str = "") -> str:
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", **({"REDISCLI_AUTH": password} if password else {})}
    process = await asyncio.create_subprocess_exec(
        *("redis-cli", "-s", str(directory / "socket"), *command.split()),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return out.decode().strip()


RULE_TESTS = """
rule_files: [rules.yaml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: whatsapp_memory_usage_bytes{pod="w-1"}
        values: 1700000000x20
      - series: whatsapp_active_sessions{pod="w-1"}
        values: 13x20
      - series: whatsapp_active_sessions{pod="w-2"}
        values: 12x20
      - series: whatsapp_message_processing_duration_seconds_bucket{namespace="ns", pod="w-1", le="2"}
        values: 0+1x20
      - series: whatsapp_message_processing_duration_seconds_bucket{namespace="ns", pod="w-1", le="5"}
        values: 0+60x20
      - series: whatsapp_message_processing_duration_seconds_bucket{namespace="ns", pod="w-1", le="+Inf"}
        values: 0+60x20
    alert_rule_test:
      - {eval_time: 4m, alertname: HighMemoryUsage, exp_alerts: []}
      - eval_time: 5m
        alertname: HighMemoryUsage
        exp_alerts: [{exp_labels: {severity: warning, pod: w-1}, exp_annotations: {summary: A, description: B}}]
      - {eval_time: 1m, alertname: TooManyActiveSessions, exp_alerts: []}
      - eval_time: 2m
        alertname: TooManyActiveSessions
        exp_alerts: [{exp_labels: {severity: warning, pod: w-1}, exp_annotations: {summary: A, description: B}}]
      - {eval_time: 5m, alertname: HighMessageProcessingTime, exp_alerts: []}
      - eval_time: 7m
        alertname: HighMessageProcessingTime
        exp_alerts:
          - exp_labels: {severity: critical, namespace: ns, pod: w-1}
            exp_annotations: {summary: A, description: B}
"""


async def test_the_alerts_fire_when_they_should(helm: Helm, tmp_path: Path) -> None:
    """The texts of the alerts are taken out: what matters is when each fires, and for which worker."""
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool here (Debian: apt-get install prometheus)")
    rule = of_kind(await helm.objects(VARIANTS["everything"]), "PrometheusRule")["chat"]["spec"]
    (tmp_path / "shipped.yaml").write_text(yaml.safe_dump(rule))
    for alert in rule["groups"][0]["rules"]:
        alert["annotations"] = {"summary": "A", "description": "B"}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule))
    (tmp_path / "tests.yaml").write_text(RULE_TESTS)

    for words in (("check", "rules", "shipped.yaml"), ("test", "rules", "tests.yaml")):
        process = await asyncio.create_subprocess_exec(
            "promtool", *words, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()


async def test_the_alerts_use_metrics_that_exist(helm: Helm) -> None:
    rule = of_kind(await helm.objects({"monitoring": {"rules": {"enabled": True}}}), "PrometheusRule")["wa"]["spec"]
    named = {
        name
        for alert in rule["groups"][0]["rules"]
        for name in re.findall(r"whatsapp_\w+", alert["expr"])
    }  # fmt: skip
    from session_worker.metrics import WorkerMetrics

    known = {
        sample for family in WorkerMetrics().registry.collect() for sample in (family.name, f"{family.name}_bucket")
    }
    assert named <= known
    assert {alert["alert"] for alert in rule["groups"][0]["rules"]} == {
        "HighMemoryUsage",
        "TooManyActiveSessions",
        "HighMessageProcessingTime",
    }


async def test_the_notes_name_the_next_commands(helm: Helm) -> None:
    rendered = await helm("render", {}, namespace="ns")
    notes = next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))
    services = of_kind(list(documents(rendered)), "Service")

    assert "helm -n ns test wa" in notes
    assert "kubectl -n ns get secret wa-api-key -o jsonpath='{.data.WAHA_API_KEY}'" in notes
    assert "service/wa-gateway" in notes
    assert "wa-gateway" in services
    assert yaml.safe_load(notes.partition("<<END\n")[2].partition("     END")[0])["kind"] == "WhatsAppSession"


async def test_the_chart_has_the_version_of_the_project() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert project is not None
    assert chart["appVersion"] == project[1]
