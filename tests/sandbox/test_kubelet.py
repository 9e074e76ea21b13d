"""Pods as processes: their life, status, environment and volumes, for the stand-in and for a real API server."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.kubelet.__main__ import main
from tests.support.kube_cluster import (
    Answer,
    Api,
    Node,
    container_state,
    cordoned_node,
    is_ready,
    lines_of,
    phase_is,
    running_node,
    until_ended,
    wait_for_file,
)

OWN = "$$$$"
"""A shell's own process id, `$$`, in words that Kubernetes halves."""
LOOP = "while :; do sleep 0.05; done"


async def run(api: Api, node: Node, name: str, script: str, **spec: Any) -> None:
    """Create a pod."""
    (await api.create(api.path("pods"), node.pod(name, script, **spec))).ok()


async def finished(api: Api, name: str) -> dict[str, Any]:
    """A pod, once it has ended."""
    return await api.until(api.path("pods", name), phase_is("Succeeded", "Failed"))


async def log_of(api: Api, name: str, **query: Any) -> str:
    """What a pod has printed."""
    answer = await api.get(api.path("pods", name, "log"), **query)
    return str(answer.ok())


async def printed(api: Api, node: Node, name: str, script: str, **spec: Any) -> str:
    """What a pod prints that runs to its end."""
    await run(api, node, name, script, restartPolicy="Never", **spec)
    assert (await finished(api, name))["status"]["phase"] == "Succeeded", await log_of(api, name)
    return await log_of(api, name)


def ended(**expected: Any) -> Any:
    """Whether the container's run, or the one before, ended like this; a condition for `Api.until`."""

    def holds(answer: Answer) -> bool:
        status = container_state(answer)
        runs = [(status.get(key) or {}).get("terminated") or {} for key in ("state", "lastState")]
        return any(all(item.get(key) == value for key, value in expected.items()) for item in runs)

    return holds


def restarted(times: int) -> Any:
    """Whether the container runs and was restarted at least so often; a condition for `Api.until`."""

    def holds(answer: Answer) -> bool:
        status = container_state(answer)
        return status.get("restartCount", 0) >= times and "running" in status["state"]

    return holds


async def reasons(api: Api, name: str, wanted: set[str]) -> None:
    """Wait until there are events of these reasons about a pod."""

    def told(answer: Answer) -> bool:
        return wanted <= {item["reason"] for item in answer.body["items"] if item["involvedObject"]["name"] == name}

    await api.until(api.path("events"), told)


# --- Life -------------------------------------------------------------------------------------------------------------


async def test_a_pod_runs_to_its_end(api: Api, node: Node) -> None:
    await run(api, node, "a", "echo hello; echo world >&2", restartPolicy="Never")

    pod = await finished(api, "a")

    status = pod["status"]
    [container] = status["containerStatuses"]
    ended_with = container["state"]["terminated"]
    assert (status["phase"], ended_with["exitCode"], ended_with["reason"]) == ("Succeeded", 0, "Completed")
    assert (container["ready"], container["restartCount"]) == (False, 0)
    assert sorted((await log_of(api, "a")).split()) == ["hello", "world"]
    await reasons(api, "a", {"Pulled", "Created", "Started"})


async def test_a_pod_that_fails_tells_its_exit_code(api: Api, node: Node) -> None:
    await run(api, node, "a", "exit 3", restartPolicy="Never")

    pod = await finished(api, "a")

    assert pod["status"]["phase"] == "Failed"
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3


async def test_a_pod_that_a_signal_ends_tells_the_signal(api: Api, node: Node) -> None:
    await run(api, node, "a", f"kill -9 {OWN}", restartPolicy="Never")

    state = (await finished(api, "a"))["status"]["containerStatuses"][0]["state"]["terminated"]

    assert (state["exitCode"], state["signal"], state["reason"]) == (137, 9, "Error")


async def test_a_running_pod_is_ready_and_has_addresses(api: Api, node: Node) -> None:
    await run(api, node, "a", LOOP)
    await run(api, node, "b", LOOP)

    first = (await api.until(api.path("pods", "a"), is_ready))["status"]
    second = (await api.until(api.path("pods", "b"), is_ready))["status"]

    assert first["phase"] == "Running"
    assert first["podIP"] != second["podIP"]
    assert all(item["podIP"].startswith("127.0.") and item["podIP"] != "127.0.0.1" for item in (first, second))
    assert {item["type"]: item["status"] for item in first["conditions"]} == {
        "PodScheduled": "True",
        "Initialized": "True",
        "ContainersReady": "True",
        "Ready": "True",
    }


async def test_an_image_is_a_program_of_the_table_with_the_containers_arguments(api: Api, node: Node) -> None:
    container = {"image": "registry.test/team/echo:2@sha256:0", "command": None, "args": ["a b", "$(X)"]}
    more = {**container, "env": [{"name": "X", "value": "c"}]}

    assert await printed(api, node, "a", "", container=more) == "echo a b c\n"


async def test_an_unknown_image_waits_with_the_known_ones_in_its_message(api: Api, node: Node) -> None:
    await run(api, node, "a", "", container={"image": "example/nobody:1", "command": None})

    def told(answer: Answer) -> bool:
        return bool(container_state(answer).get("state", {}).get("waiting", {}).get("reason") == "ImagePullBackOff")

    pod = await api.until(api.path("pods", "a"), told)

    message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    assert "'example/nobody:1' is not in the table" in message
    assert message.endswith("use one of: echo")
    assert pod["status"]["phase"] == "Pending"


async def test_a_program_that_does_not_exist_is_named(api: Api, node: Node) -> None:
    await run(api, node, "a", "", container={"command": ["/no/such/program"]})

    def told(answer: Answer) -> bool:
        return bool(container_state(answer).get("state", {}).get("waiting", {}).get("reason") == "RunContainerError")

    pod = await api.until(api.path("pods", "a"), told)

    assert "/no/such/program" in pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]


async def test_init_containers_run_one_after_the_other_first(api: Api, node: Node, tmp_path: Path) -> None:
    out = tmp_path / "order"
    steps = [{"name": name, "image": "x", "command": ["sh", "-c", f"echo {name} >> {out}"]} for name in ("one", "two")]

    await run(api, node, "a", f"echo main >> {out}", restartPolicy="Never", initContainers=steps)
    pod = await finished(api, "a")

    assert out.read_text().split() == ["one", "two", "main"]
    assert [item["state"]["terminated"]["exitCode"] for item in pod["status"]["initContainerStatuses"]] == [0, 0]


async def test_an_init_container_that_fails_fails_a_pod_that_is_never_restarted(api: Api, node: Node) -> None:
    steps = [{"name": "one", "image": "x", "command": ["sh", "-c", "exit 4"]}]
    await run(api, node, "a", "echo no", restartPolicy="Never", initContainers=steps)

    pod = await finished(api, "a")

    assert pod["status"]["phase"] == "Failed"
    assert "waiting" in pod["status"]["containerStatuses"][0]["state"]


async def test_a_pod_beyond_its_deadline_fails(api: Api, node: Node) -> None:
    await run(api, node, "a", LOOP, activeDeadlineSeconds=1)

    pod = await finished(api, "a")

    assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "DeadlineExceeded")


# --- Restarts ---------------------------------------------------------------------------------------------------------


async def test_a_container_that_keeps_failing_backs_off(api: Api, node: Node) -> None:
    await run(api, node, "a", "echo again; exit 1")

    def backing_off(answer: Answer) -> bool:
        status = container_state(answer)
        waiting = status.get("state", {}).get("waiting", {}).get("reason")
        return bool(waiting == "CrashLoopBackOff" and status["restartCount"] >= 2)

    pod = await api.until(api.path("pods", "a"), backing_off)

    [container] = pod["status"]["containerStatuses"]
    assert container["lastState"]["terminated"]["exitCode"] == 1
    assert "back-off" in container["state"]["waiting"]["message"]
    assert pod["status"]["phase"] == "Running"
    await reasons(api, "a", {"BackOff"})


async def test_a_container_is_restarted_on_failure_only_until_it_succeeds(api: Api, node: Node, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"[ -e {mark} ] && exit 0; touch {mark}; exit 1"

    await run(api, node, "a", script, restartPolicy="OnFailure")
    pod = await finished(api, "a")

    assert pod["status"]["phase"] == "Succeeded"
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 1


async def test_a_container_that_succeeds_is_restarted_always(api: Api, node: Node, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    await run(api, node, "a", f"[ -e {mark} ] || {{ touch {mark}; exit 0; }}; {LOOP}")

    pod = await api.until(api.path("pods", "a"), restarted(1))
    assert pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"] == "Completed"


async def test_a_container_above_its_memory_limit_is_killed(api: Api, node: Node) -> None:
    eater = [sys.executable, "-c", "x = bytearray(120 * 2**20)\nimport time\nwhile True: time.sleep(1)"]
    container = {"command": eater, "resources": {"limits": {"memory": "48Mi"}}}

    await run(api, node, "a", "", restartPolicy="Never", container=container)

    await api.until(api.path("pods", "a"), ended(reason="OOMKilled", exitCode=137))


# --- Logs -------------------------------------------------------------------------------------------------------------


async def test_a_log_is_followed_until_the_container_ends(api: Api, node: Node, tmp_path: Path) -> None:
    mark = tmp_path / "go on"
    await run(api, node, "a", f"echo one; {wait_for_file(mark)}; echo two", restartPolicy="Never")
    await api.until(api.path("pods", "a"), phase_is("Running"))

    url = api.cluster.url + api.path("pods", "a", "log")
    async with asyncio.timeout(20), api.cluster.session.get(url, params={"follow": "true"}) as response:
        assert await response.content.readline() == b"one\n"
        mark.touch()
        assert await response.content.read() == b"two\n"


async def test_the_log_of_the_run_before_is_kept(api: Api, node: Node, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    await run(api, node, "a", f"[ -e {mark} ] && {{ echo second; {LOOP}; }}; touch {mark}; echo first; exit 1")
    await api.until(api.path("pods", "a"), restarted(1))

    assert await log_of(api, "a", previous="true") == "first\n"
    await api.until(api.path("pods", "a", "log"), lambda answer: answer.body == "second\n")


async def test_a_log_is_cut_as_asked(api: Api, node: Node) -> None:
    await printed(api, node, "a", "for i in 1 2 3 4 5; do echo line $i; done")

    assert await log_of(api, "a", tailLines=2) == "line 4\nline 5\n"
    assert await log_of(api, "a", limitBytes=8) == "line 1\nl"
    stamped = await log_of(api, "a", tailLines=1, timestamps="true")
    assert stamped[:2] == "20"
    assert stamped.endswith("Z line 5\n")


async def test_a_log_that_does_not_exist_is_refused(api: Api, node: Node) -> None:
    await run(api, node, "a", LOOP)
    await api.until(api.path("pods", "a"), is_ready)

    previous = await api.get(api.path("pods", "a", "log"), previous="true")
    nobody = await api.get(api.path("pods", "a", "log"), container="nobody")

    assert (previous.status, nobody.status) == (400, 400)
    assert previous.message == 'previous terminated container "main" in pod "a" not found'
    assert nobody.message == "container nobody is not valid for pod a"


# --- Probes and hooks -------------------------------------------------------------------------------------------------


async def test_a_readiness_gate_holds_a_pod_back(api: Api, node: Node) -> None:
    await run(api, node, "a", LOOP, readinessGates=[{"conditionType": "example.test/open"}])

    def waits(answer: Answer) -> bool:
        conditions = {item["type"]: item for item in answer.body["status"].get("conditions") or []}
        return bool(conditions.get("ContainersReady", {}).get("status") == "True" and not is_ready(answer))

    pod = await api.until(api.path("pods", "a"), waits)
    ready = next(item for item in pod["status"]["conditions"] if item["type"] == "Ready")
    assert ready["reason"] == "ReadinessGatesNotReady"

    opened = {"status": {"conditions": [{"type": "example.test/open", "status": "True"}]}}
    (await api.patch(api.path("pods", "a", "status"), opened, "strategic-merge")).ok()
    await api.until(api.path("pods", "a"), is_ready)


async def test_a_pod_is_ready_while_its_probe_succeeds(api: Api, node: Node, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    probe = {"exec": {"command": ["test", "-e", str(mark)]}, "periodSeconds": 1, "failureThreshold": 1}
    await run(api, node, "a", LOOP, container={"readinessProbe": probe})
    path = api.path("pods", "a")

    await api.until(path, phase_is("Running"))
    assert not is_ready(await api.get(path))
    mark.touch()
    await api.until(path, is_ready)
    mark.unlink()
    await api.until(path, lambda answer: not is_ready(answer))
    await reasons(api, "a", {"Unhealthy"})


async def test_a_container_that_fails_its_liveness_probe_is_restarted(api: Api, node: Node, tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    probe = {"exec": {"command": ["test", "!", "-e", str(sick)]}, "periodSeconds": 1, "failureThreshold": 1}
    await run(api, node, "a", f"rm -f {sick}; {LOOP}", container={"livenessProbe": probe})
    await api.until(api.path("pods", "a"), is_ready)

    sick.touch()

    await api.until(api.path("pods", "a"), restarted(1))
    await reasons(api, "a", {"Unhealthy", "Killing"})


async def test_the_other_probes_wait_for_the_startup_probe(api: Api, node: Node, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    startup = {"exec": {"command": ["test", "-e", str(mark)]}, "periodSeconds": 1, "failureThreshold": 60}
    liveness = {"exec": {"command": ["test", "-e", str(mark)]}, "periodSeconds": 1, "failureThreshold": 1}
    await run(api, node, "a", LOOP, container={"startupProbe": startup, "livenessProbe": liveness})
    await reasons(api, "a", {"Unhealthy"})

    status = container_state(await api.get(api.path("pods", "a")))
    assert (status["started"], status["restartCount"]) == (False, 0)
    mark.touch()
    pod = await api.until(api.path("pods", "a"), is_ready)
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


async def test_two_pods_serve_the_same_port_on_their_own_addresses(api: Api, node: Node) -> None:
    server = "import http.server, os; http.server.test(http.server.SimpleHTTPRequestHandler, bind=os.environ['HOST'])"
    container = {
        "command": [sys.executable, "-c", server],
        "ports": [{"name": "web", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"port": "web"}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": 8000}, "initialDelaySeconds": 5},
    }
    for name in ("a", "b"):
        await run(api, node, name, "", container=container)

    for name in ("a", "b"):
        await api.until(api.path("pods", name), is_ready)


async def test_hooks_run_after_the_start_and_before_the_end(api: Api, node: Node, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def say(word: str) -> dict[str, Any]:
        return {"exec": {"command": ["sh", "-c", f"echo {word} >> {out}"]}}

    hooks = {"postStart": say("started"), "preStop": say("stopping")}
    script = f"trap 'echo term >> {out}; exit 0' TERM; {LOOP}"
    await run(api, node, "a", script, container={"lifecycle": hooks})
    await lines_of(out)

    await api.delete(api.path("pods", "a"))

    await api.until_gone(api.path("pods", "a"))
    assert out.read_text().split() == ["started", "stopping", "term"]


# --- Environment ------------------------------------------------------------------------------------------------------


async def test_variables_come_from_everywhere(api: Api, node: Node) -> None:
    await api.create(api.path("configmaps"), api.config_map("config", data={"color": "red", "many": "x"}))
    secret = {"metadata": {"name": "secret"}, "stringData": {"word": "tell nobody"}}
    await api.create(api.path("secrets"), secret)

    def field(path: str) -> dict[str, Any]:
        return {"valueFrom": {"fieldRef": {"fieldPath": path}}}

    sources: dict[str, dict[str, Any]] = {
        "LITERAL": {"value": "plain"},
        "NAME": field("metadata.name"),
        "SPACE": field("metadata.namespace"),
        "UID_": field("metadata.uid"),
        "LABEL": field("metadata.labels['app']"),
        "NODE": field("spec.nodeName"),
        "IP": field("status.podIP"),
        "CPU": {"valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        "MEMORY": {"valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        "COLOR": {"valueFrom": {"configMapKeyRef": {"name": "config", "key": "color"}}},
        "WORD": {"valueFrom": {"secretKeyRef": {"name": "secret", "key": "word"}}},
        "NOTHING": {"valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": True}}},
        "COMPOSED": {"value": "$(NAME)-$(COLOR) $$(NAME) $(UNKNOWN)"},
    }
    container = {
        "command": [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"],
        "env": [{"name": name, **source} for name, source in sources.items()],
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "config"}}],
        "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
    }
    found = json.loads(await printed(api, node, "a", "", container=container, metadata={"labels": {"app": "web"}}))

    pod = (await api.get(api.path("pods", "a"))).ok()
    expected = {
        "LITERAL": "plain",
        "NAME": "a",
        "SPACE": api.namespace,
        "UID_": pod["metadata"]["uid"],
        "LABEL": "web",
        "NODE": node.name,
        "IP": pod["status"]["podIP"],
        "HOST": pod["status"]["podIP"],
        "HOSTNAME": "a",
        "CPU": "1500",
        "MEMORY": "64",
        "COLOR": "red",
        "WORD": "tell nobody",
        "COMPOSED": "a-red $(NAME) $(UNKNOWN)",
        "P_color": "red",
        "P_many": "x",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert "NOTHING" not in found
    assert "KUBEBUILDER_ASSETS" not in found


async def test_a_missing_secret_is_waited_for(api: Api, node: Node) -> None:
    env = [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "late", "key": "word"}}}]
    await run(api, node, "a", "echo $WORD", restartPolicy="Never", container={"env": env})

    def told(answer: Answer) -> bool:
        waiting = container_state(answer).get("state", {}).get("waiting", {})
        return waiting.get("reason") == "CreateContainerConfigError" and 'secret "late" not found' in waiting["message"]

    await api.until(api.path("pods", "a"), told)
    await api.create(api.path("secrets"), {"metadata": {"name": "late"}, "stringData": {"word": "now"}})

    await finished(api, "a")
    assert await log_of(api, "a") == "now\n"


# --- Volumes ----------------------------------------------------------------------------------------------------------


async def test_containers_share_an_empty_directory_under_their_own_mount_paths(api: Api, node: Node) -> None:
    def container(name: str, path: str, script: str) -> dict[str, Any]:
        return {
            "name": name,
            "image": "x",
            "command": ["sh", "-c", script],
            "volumeMounts": [{"name": "scratch", "mountPath": path}],
        }

    reader = container("reader", "/in", f"{wait_for_file(Path('/in/word'))}; cat /in/word")
    writer = container("writer", "/out/here", "echo shared > /out/here/.word; mv /out/here/.word /out/here/word")
    volumes = [{"name": "scratch", "emptyDir": {}}]
    await run(api, node, "a", "", restartPolicy="Never", containers=[reader, writer], volumes=volumes)

    await finished(api, "a")

    assert await log_of(api, "a", container="reader") == "shared\n"
    assert not Path("/out/here").exists()


async def test_configuration_and_secrets_are_files(api: Api, node: Node) -> None:
    await api.create(api.path("configmaps"), api.config_map("config", data={"a.txt": "A", "b.txt": "B"}))
    key = {"data": {"key": base64.b64encode(b"\x00\x01secret").decode()}}
    await api.create(api.path("secrets"), {"metadata": {"name": "secret"}, **key})
    script = "cat /etc/app/renamed; cat $WHERE/key | wc -c; ls /etc/app; cat /single/a.txt; stat -c %a /keys/key"
    container = {
        "env": [{"name": "WHERE", "value": "/keys"}],
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/app"},
            {"name": "keys", "mountPath": "/keys", "readOnly": True},
            {"name": "whole", "mountPath": "/single/a.txt", "subPath": "a.txt"},
        ],
    }
    volumes = [
        {"name": "config", "configMap": {"name": "config", "items": [{"key": "a.txt", "path": "renamed"}]}},
        {"name": "keys", "secret": {"secretName": "secret", "defaultMode": 0o400}},
        {"name": "whole", "configMap": {"name": "config"}},
    ]

    found = await printed(api, node, "a", script, container=container, volumes=volumes)

    assert found == "A8\nrenamed\nA400\n"


async def test_fields_and_a_token_are_files(api: Api, node: Node) -> None:
    await api.create(api.path("serviceaccounts"), {"metadata": {"name": "robot"}})
    sources = [
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
    ]
    container = {"volumeMounts": [{"name": "info", "mountPath": "/info"}]}
    volumes = [{"name": "info", "projected": {"sources": sources}}]

    found = await printed(
        api,
        node,
        "a",
        "cat /info/labels; echo; cat /info/token",
        container=container,
        volumes=volumes,
        serviceAccountName="robot",
        metadata={"labels": {"app": "web"}},
    )

    labels, token = found.split()
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    status = (await api.create("/apis/authentication.k8s.io/v1/tokenreviews", review)).ok()["status"]
    assert labels == 'app="web"'
    assert status["user"]["username"] == f"system:serviceaccount:{api.namespace}:robot"


async def test_a_program_reaches_the_api_as_its_service_account(api: Api, node: Node) -> None:
    script = (
        "import yaml, os, ssl, urllib.request, json\n"
        "c = yaml.safe_load(open(os.environ['KUBECONFIG']))\n"
        "cluster, user = c['clusters'][0]['cluster'], c['users'][0]['user']\n"
        "request = urllib.request.Request(cluster['server'] + '/apis/authentication.k8s.io/v1/selfsubjectreviews',\n"
        "    data=json.dumps({'kind': 'SelfSubjectReview', 'apiVersion': 'authentication.k8s.io/v1'}).encode(),\n"
        "    headers={'Authorization': 'Bearer ' + open(user['tokenFile']).read(),"
        " 'Content-Type': 'application/json'})\n"
        "context = ssl.create_default_context(cafile=cluster['certificate-authority'])\n"
        "print(json.load(urllib.request.urlopen(request, context=context))['status']['userInfo']['username'])\n"
    )

    found = await printed(api, node, "a", "", container={"command": [sys.executable, "-c", script]})

    assert found == f"system:serviceaccount:{api.namespace}:default\n"


async def test_a_claim_keeps_its_files_from_pod_to_pod(api: Api, node: Node) -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Mi"}}},
    }
    (await api.create(api.path("persistentvolumeclaims"), claim)).ok()
    container = {"volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "sub"}]}
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]

    await printed(api, node, "first", "echo kept > /data/file", container=container, volumes=volumes)
    await api.delete(api.path("pods", "first"))
    await api.until_gone(api.path("pods", "first"))
    found = await printed(api, node, "second", "cat /data/file", container=container, volumes=volumes)

    assert found == "kept\n"
    bound = (await api.get(api.path("persistentvolumeclaims", "data"))).ok()
    assert bound["status"]["phase"] == "Bound"


async def test_a_volume_that_is_not_supported_is_named(api: Api, node: Node) -> None:
    volumes = [{"name": "host", "hostPath": {"path": "/"}}]
    await run(api, node, "a", "true", volumes=volumes)

    def told(answer: Answer) -> bool:
        texts = [item["message"] for item in answer.body["items"] if item["reason"] == "FailedMount"]
        return any("volumes of type hostPath are not supported" in text for text in texts)

    await api.until(api.path("events"), told)


# --- The end ----------------------------------------------------------------------------------------------------------


async def test_a_deleted_pod_gets_sigterm_and_is_gone_when_it_has_ended(api: Api, node: Node, tmp_path: Path) -> None:
    out, mark = tmp_path / "out", tmp_path / "mark"
    script = f"trap '{wait_for_file(mark)}; echo bye > {out}; exit 0' TERM; echo up; {LOOP}"
    await run(api, node, "a", script)
    await api.until(api.path("pods", "a"), is_ready)
    await api.until(api.path("pods", "a", "log"), lambda answer: answer.body == "up\n")

    await api.delete(api.path("pods", "a"))
    assert (await api.get(api.path("pods", "a"))).ok()["metadata"]["deletionGracePeriodSeconds"] == 5
    mark.touch()
    await api.until_gone(api.path("pods", "a"))

    assert out.read_text() == "bye\n"


async def test_a_pod_that_ignores_sigterm_is_killed_with_all_its_processes(
    api: Api, node: Node, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    script = f"trap '' TERM; setsid sh -c 'trap \"\" TERM; echo {OWN} >> {pids}; {LOOP}' & echo {OWN} >> {pids}; {LOOP}"
    await run(api, node, "a", script, terminationGracePeriodSeconds=1)
    await lines_of(pids, 2)

    await api.delete(api.path("pods", "a"))
    await api.until_gone(api.path("pods", "a"))

    for pid in pids.read_text().split():
        await until_ended(int(pid))


async def test_a_pod_deleted_by_force_leaves_no_process(api: Api, node: Node, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    await run(api, node, "a", f"trap '' TERM; echo {OWN} > {pid}; {LOOP}")
    number = int((await lines_of(pid))[0])

    await api.delete(api.path("pods", "a"), gracePeriodSeconds=0)

    assert (await api.get(api.path("pods", "a"))).status == 404
    await until_ended(number)


async def test_what_a_container_leaves_running_ends_with_it(api: Api, node: Node, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"setsid sh -c 'echo {OWN} > {pid}; {LOOP}' & {wait_for_file(pid)}; exit 0"
    await run(api, node, "a", script, restartPolicy="Never")

    await finished(api, "a")

    await until_ended(int((await lines_of(pid))[0]))


async def test_a_runner_that_is_closed_leaves_no_process_and_a_restarted_one_takes_its_pods_over(
    api: Api, tmp_path: Path
) -> None:
    pids, name = tmp_path / "pids", f"other-{api.namespace}"
    async with running_node(api.cluster, name, tmp_path / "node") as node:
        await run(api, node, "a", f"echo {OWN} >> {pids}; {LOOP}")
        await api.until(api.path("pods", "a"), is_ready)
        first = int((await lines_of(pids))[0])

    assert not Path(f"/proc/{first}").exists()
    conditions = (await api.get(f"/api/v1/nodes/{name}")).ok()["status"]["conditions"]
    assert {item["type"]: item["status"] for item in conditions}["Ready"] == "False"
    await api.delete(f"/api/v1/nodes/{name}")

    async with running_node(api.cluster, name, tmp_path / "node"):
        pod = await api.until(api.path("pods", "a"), restarted(1))
        last = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
        assert (last["exitCode"], last["reason"]) == (143, "Error")
        await api.delete(api.path("pods", "a"))
        await api.until_gone(api.path("pods", "a"))
    await api.delete(f"/api/v1/nodes/{name}")


async def test_a_runner_that_is_killed_takes_all_processes_with_it(standin_api: Api, tmp_path: Path) -> None:
    api, pids = standin_api, tmp_path / "pids"
    name = f"killed-{api.namespace}"
    await cordoned_node(api.cluster, name)
    runner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sandbox.kubelet", "--kubeconfig", str(api.cluster.kubeconfig), "--node", name),
        *("--directory", str(tmp_path / "node")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert runner.stdout is not None
        assert name in (await asyncio.wait_for(runner.stdout.readline(), 20)).decode()
        node = Node(None, name, tmp_path)  # type: ignore[arg-type]  # it runs in another process
        inner = shlex.quote(f"trap '' TERM; echo {OWN} >> {pids}; {LOOP}")
        await run(api, node, "a", f"trap '' TERM; setsid sh -c {inner} & echo {OWN} >> {pids}; {LOOP}")
        await lines_of(pids, 2)
        await api.until(api.path("pods", "a"), is_ready)
    finally:
        os.kill(runner.pid, signal.SIGKILL)
        await runner.communicate()

    for pid in pids.read_text().split():
        await until_ended(int(pid))
    await api.delete(f"/api/v1/nodes/{name}")
    async with running_node(api.cluster, name, tmp_path / "node"):
        pod = await api.until(api.path("pods", "a"), restarted(1))
        last = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
        assert (last["exitCode"], last["reason"]) == (137, "ContainerStatusUnknown")
        await api.delete(api.path("pods", "a"), gracePeriodSeconds=0)
    await api.delete(f"/api/v1/nodes/{name}")


# --- The node ---------------------------------------------------------------------------------------------------------


async def test_the_node_is_ready_and_renews_its_lease(api: Api, node: Node) -> None:
    found = (await api.get(f"/api/v1/nodes/{node.name}")).ok()
    lease = (await api.get(f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node.name}")).ok()

    conditions = {item["type"]: item["status"] for item in found["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    assert found["status"]["allocatable"]["memory"] == "8Gi"
    assert found["metadata"]["labels"]["kubernetes.io/hostname"] == node.name
    assert found["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == node.runner.port
    assert lease["spec"]["holderIdentity"] == node.name


async def test_usage_is_told_for_each_pod(api: Api, node: Node) -> None:
    await run(api, node, "a", LOOP)
    await api.until(api.path("pods", "a"), is_ready)

    url = f"https://127.0.0.1:{node.runner.port}/stats/summary"
    async with api.cluster.session.get(url, ssl=False) as response:
        summary = await response.json()

    [stats] = [item for item in summary["pods"] if item["podRef"]["namespace"] == api.namespace]
    assert stats["podRef"]["name"] == "a"
    assert stats["memory"]["workingSetBytes"] > 0


@pytest.mark.parametrize("image", ["worker", "=x", "worker="])
def test_the_command_line_refuses_an_image_without_a_command(
    image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kubelet", "--kubeconfig", "x", "--image", image])

    with pytest.raises(SystemExit):
        main()

    assert "is not of the form NAME=COMMAND" in capsys.readouterr().err
