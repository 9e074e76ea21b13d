"""Unmodified kubectl, of any version from 1.20 on, against the stand-in and a real API server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import yaml

from tests.support.kube_cluster import (
    WIDGET,
    Api,
    Kubectl,
    Node,
    is_ready,
    phase_is,
    ready_pod,
    wait_for_file,
)

LOOP = "while :; do sleep 0.05; done"


async def make_widget(api: Api, name: str = "a", **spec: Any) -> None:
    (await api.create(api.path(WIDGET), api.widget(name, **spec))).ok()


def words(table: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in table.splitlines()]


# --- Reading ----------------------------------------------------------------------------------------------------------


async def test_get_prints_the_columns_of_a_custom_kind(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api, size=3)

    header, row = words(await kubectl("get", "wd"))
    wide, wide_row = words(await kubectl("get", "widgets.example.test", "a", "-o", "wide"))

    assert header == ["NAME", "COLOR", "SINCE", "AGE"]
    assert row[:2] == ["a", "blue"]
    assert wide == ["NAME", "COLOR", "SIZE", "SINCE", "AGE"]
    assert wide_row[:3] == ["a", "blue", "3"]
    assert "widget.example.test/a" in await kubectl("get", "gadgets", "-o", "name")


async def test_get_prints_in_every_form(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api, size=3, tags=["x"])

    assert yaml.safe_load(await kubectl("get", "wd", "a", "-o", "yaml"))["spec"]["size"] == 3
    assert json.loads(await kubectl("get", "wd", "-o", "json"))["items"][0]["status"] == {"observedGeneration": -1}
    assert await kubectl("get", "wd", "a", "-o", "jsonpath={.spec.tags[0]} {.spec.size}") == "x 3"
    columns = await kubectl("get", "wd", "-o", "custom-columns=N:.metadata.name,S:.spec.size,U:.spec.none")
    assert words(columns) == [["N", "S", "U"], ["a", "3", "<none>"]]


async def test_get_selects_and_sorts(api: Api, kubectl: Kubectl) -> None:
    for name, size in (("a", 2), ("b", 1)):
        await make_widget(api, name, size=size)
    await kubectl("label", "wd", "a", "team=x")

    assert await kubectl("get", "wd", "-l", "team=x", "-o", "name") == "widget.example.test/a\n"
    assert await kubectl("get", "wd", "--field-selector", "metadata.name=b", "-o", "name") == "widget.example.test/b\n"
    ordered = words(await kubectl("get", "wd", "--sort-by", ".spec.size", "--no-headers"))
    assert [row[0] for row in ordered] == ["b", "a"]
    assert words(await kubectl("get", "wd", "a", "-L", "team", "--no-headers"))[0][-1] == "x"


async def test_get_watches(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api)

    async with asyncio.timeout(30), kubectl.start("get", "wd", "-w", "-o", "wide") as process:
        assert process.stdout is not None
        header = await process.stdout.readline()
        first = await process.stdout.readline()
        await api.patch(api.path(WIDGET, "a"), {"spec": {"size": 9}})
        second = await process.stdout.readline()

    assert header.split()[:3] == [b"NAME", b"COLOR", b"SIZE"]
    assert (first.split()[:3], second.split()[:3]) == ([b"a", b"blue", b"0"], [b"a", b"blue", b"9"])


async def test_what_is_not_there_is_told(kubectl: Kubectl) -> None:
    nothing = await kubectl.run("get", "wd")
    missing = await kubectl.run("get", "wd", "nobody")
    unknown = await kubectl.run("get", "things")

    assert (nothing.code, nothing.err.startswith("No resources found in ")) == (0, True)
    assert (missing.code, missing.err) == (
        1,
        'Error from server (NotFound): widgets.example.test "nobody" not found\n',
    )
    assert 'the server doesn\'t have a resource type "things"' in unknown.err


async def test_describe_shows_an_object_and_its_events(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api, size=3)
    widget = (await api.get(api.path(WIDGET, "a"))).ok()
    about = {
        "apiVersion": "example.test/v1",
        "kind": "Widget",
        "name": "a",
        "namespace": api.namespace,
        "uid": widget["metadata"]["uid"],
    }
    event = {
        "metadata": {"name": "a.1"},
        "involvedObject": about,
        "type": "Normal",
        "reason": "Painted",
        "message": "!",
    }
    (await api.create(api.path("events"), event)).ok()

    text = await kubectl("describe", "wd", "a")

    assert "Color:" in text
    assert "Observed Generation:" in text
    assert "Painted" in text


async def test_describe_knows_pods_nodes_and_definitions(api: Api, kubectl: Kubectl, node: Node) -> None:
    (await api.create(api.path("pods"), node.pod("a", LOOP))).ok()
    await api.until(api.path("pods", "a"), is_ready)

    pod = await kubectl("describe", "pod", "a")
    machine = await kubectl("describe", "node", node.name)

    assert words(pod)[0] == ["Name:", "a"]
    assert "State:          Running" in pod
    assert "Unschedulable:      true" in machine
    assert api.namespace in machine
    assert "Listed Kinds" not in await kubectl("describe", "crd", "widgets.example.test")


async def test_explain_reads_the_schemas(kubectl: Kubectl) -> None:
    assert "columns" not in await kubectl("explain", "wd.spec.inner")
    assert "mode" in await kubectl("explain", "wd.spec.inner")
    pod = await kubectl("explain", "pod.spec.containers.livenessProbe")
    assert "failureThreshold" in pod


async def test_kinds_and_versions_are_listed(kubectl: Kubectl) -> None:
    resources = await kubectl("api-resources", "--no-headers")
    rows = {row[0]: row for row in words(resources)}

    assert rows["widgets"][1] == "wd"
    assert rows["widgets"][-1] == "Widget"
    assert rows["deployments"][1] == "deploy"
    assert "example.test/v1" in (await kubectl("api-versions")).splitlines()


async def test_rights_are_told(kubectl: Kubectl) -> None:
    assert await kubectl("auth", "can-i", "create", "pods") == "yes\n"
    refused = await kubectl.run("auth", "can-i", "create", "pods", "--as", "nobody")
    assert (refused.code, refused.out.strip().partition(" ")[0]) == (1, "no")
    listed = await kubectl("auth", "can-i", "--list")
    assert "*.*" in listed


async def test_events_are_listed(api: Api, kubectl: Kubectl, node: Node) -> None:
    (await api.create(api.path("pods"), node.pod("a", "true", restartPolicy="Never"))).ok()
    await api.until(api.path("pods", "a"), phase_is("Succeeded"))

    header, *rows = words(await kubectl("get", "events"))

    assert header == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert {row[2] for row in rows} >= {"Pulled", "Created", "Started"}
    if await kubectl.minor() >= 26:
        assert "Started" in await kubectl("events", "--for", "pod/a")


# --- Writing ----------------------------------------------------------------------------------------------------------


def manifest(api: Api, **spec: Any) -> str:
    return yaml.safe_dump(api.widget("a", **spec))


async def test_apply_creates_changes_and_leaves_alone(api: Api, kubectl: Kubectl) -> None:
    made = await kubectl("apply", "-f", "-", text=manifest(api, tags=["x"], name="abc"))
    same = await kubectl("apply", "-f", "-", text=manifest(api, tags=["x"], name="abc"))
    changed = await kubectl("apply", "-f", "-", text=manifest(api, tags=["z"]))

    assert made == "widget.example.test/a created\n"
    assert same == "widget.example.test/a unchanged\n"
    assert changed == "widget.example.test/a configured\n"
    spec = (await api.get(api.path(WIDGET, "a"))).ok()["spec"]
    assert (spec["tags"], spec.get("name")) == (["z"], None)


async def test_apply_merges_the_containers_of_a_deployment(api: Api, kubectl: Kubectl) -> None:
    def deployment(image: str, *more: dict[str, Any]) -> str:
        containers = [{"name": "main", "image": image}, *more]
        template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": containers}}
        spec = {"replicas": 0, "selector": {"matchLabels": {"app": "a"}}, "template": template}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": spec}
        return yaml.safe_dump(body)

    await kubectl("apply", "-f", "-", text=deployment("one:1", {"name": "side", "image": "side:1"}))
    await kubectl("set", "env", "deployment/a", "ADDED=1", "-c", "main")
    await kubectl("apply", "-f", "-", text=deployment("two:2"))

    found = (await api.get(api.path("apps/v1/deployments", "a"))).ok()["spec"]["template"]["spec"]["containers"]
    assert [(item["name"], item["image"]) for item in found] == [("main", "two:2")]
    assert found[0]["env"] == [{"name": "ADDED", "value": "1"}]


async def test_server_side_apply_tells_of_conflicts(api: Api, kubectl: Kubectl) -> None:
    await kubectl("apply", "--server-side", "--field-manager", "one", "-f", "-", text=manifest(api, size=1))

    second = ("apply", "--server-side", "--field-manager", "two", "-f", "-")
    refused = await kubectl.run(*second, text=manifest(api, size=2))
    forced = await kubectl(*second, "--force-conflicts", text=manifest(api, size=2))

    assert refused.code == 1
    assert 'conflict with "one": .spec.size' in refused.err
    assert forced == "widget.example.test/a serverside-applied\n"


async def test_a_wrong_manifest_is_refused_with_its_field(api: Api, kubectl: Kubectl) -> None:
    wrong = await kubectl.run("apply", "-f", "-", text=manifest(api, size=500))
    unknown = await kubectl.run("apply", "-f", "-", text=manifest(api, sise=1))

    assert wrong.code == 1
    assert "spec.size in body should be less than or equal to 100" in wrong.err
    assert unknown.code == 1
    assert "sise" in unknown.err


async def test_create_makes_objects_of_its_own(api: Api, kubectl: Kubectl) -> None:
    await kubectl("create", "configmap", "config", "--from-literal", "a=b")
    await kubectl("create", "secret", "generic", "secret", "--from-literal", "a=b")
    await kubectl("create", "serviceaccount", "robot")
    again = await kubectl.run("create", "configmap", "config", "--from-literal", "a=b")

    assert (await api.get(api.path("configmaps", "config"))).ok()["data"] == {"a": "b"}
    assert (await api.get(api.path("secrets", "secret"))).ok()["data"] == {"a": "Yg=="}
    assert 'configmaps "config" already exists' in again.err


async def test_edit_opens_an_editor(api: Api, kubectl: Kubectl, tmp_path: Path) -> None:
    await make_widget(api)
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/color: blue/color: green/; s/size: 0/size: 0/' \"$1\"\n")
    editor.chmod(0o755)

    said = await kubectl("edit", "wd", "a", EDITOR=str(editor))

    assert said == "widget.example.test/a edited\n"
    assert (await api.get(api.path(WIDGET, "a"))).ok()["spec"]["color"] == "green"


async def test_patches_of_all_kinds(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api)
    await api.create(api.path("pods"), api.pod("p", metadata={"finalizers": ["example.test/hold"]}))

    await kubectl("patch", "wd", "a", "--type", "merge", "-p", '{"spec":{"size":4}}')
    await kubectl("patch", "wd", "a", "--type", "json", "-p", '[{"op":"add","path":"/spec/name","value":"abc"}]')
    image = '{"spec":{"containers":[{"name":"main","image":"other:1"}]}}'
    await kubectl("patch", "pod", "p", "-p", image)

    assert (await api.get(api.path(WIDGET, "a"))).ok()["spec"] == {
        "color": "blue",
        "size": 4,
        "name": "abc",
        "inner": {"mode": "auto"},
    }
    assert (await api.get(api.path("pods", "p"))).ok()["spec"]["containers"][0]["image"] == "other:1"
    await kubectl("patch", "pod", "p", "--type", "json", "-p", '[{"op":"remove","path":"/metadata/finalizers"}]')
    if await kubectl.minor() >= 24:
        status = '{"status":{"phase":"Done"}}'
        await kubectl("patch", "wd", "a", "--subresource", "status", "--type", "merge", "-p", status)
        assert (await api.get(api.path(WIDGET, "a"))).ok()["status"]["phase"] == "Done"


async def test_labels_and_annotations(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api)

    await kubectl("label", "wd", "a", "team=x")
    refused = await kubectl.run("label", "wd", "a", "team=y")
    await kubectl("label", "wd", "a", "team=y", "--overwrite")
    await kubectl("annotate", "wd", "a", "note=some text")
    await kubectl("label", "wd", "a", "team-")

    assert refused.code == 1
    meta = (await api.get(api.path(WIDGET, "a"))).ok()["metadata"]
    assert (meta.get("labels"), meta["annotations"]) == (None, {"note": "some text"})


async def test_scale_changes_the_number_of_replicas(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api, replicas=1)

    said = await kubectl("scale", "wd/a", "--replicas", "4")

    assert said == "widget.example.test/a scaled\n"
    assert (await api.get(api.path(WIDGET, "a"))).ok()["spec"]["replicas"] == 4


async def test_delete_waits_until_the_object_is_gone(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api)
    await make_widget(api, "held")
    await kubectl("patch", "wd", "held", "--type", "merge", "-p", '{"metadata":{"finalizers":["example.test/hold"]}}')

    assert await kubectl("delete", "wd", "a") == 'widget.example.test "a" deleted' + await _where(api, kubectl)
    waiting = await kubectl.run("delete", "wd", "held", "--timeout", "1s")
    assert waiting.code == 1
    assert "timed out waiting for the condition" in waiting.err
    await kubectl("patch", "wd", "held", "--type", "merge", "-p", '{"metadata":{"finalizers":null}}')
    await api.until_gone(api.path(WIDGET, "held"))


async def _where(api: Api, kubectl: Kubectl) -> str:
    """Newer versions also tell the namespace."""
    return f" from {api.namespace} namespace\n" if await kubectl.minor() >= 34 else "\n"


async def test_delete_by_force_and_without_dependents(api: Api, kubectl: Kubectl, node: Node) -> None:
    (await api.create(api.path("pods"), node.pod("a", f"trap '' TERM; {LOOP}"))).ok()
    await api.until(api.path("pods", "a"), is_ready)
    await make_widget(api, "owner")
    owner = (await api.get(api.path(WIDGET, "owner"))).ok()
    reference = {"apiVersion": "example.test/v1", "kind": "Widget", "name": "owner", "uid": owner["metadata"]["uid"]}
    await api.create(api.path("configmaps"), api.config_map("owned", metadata={"ownerReferences": [reference]}))

    await kubectl("delete", "pod", "a", "--force", "--grace-period=0")
    await kubectl("delete", "wd", "owner", "--cascade=orphan")

    assert (await api.get(api.path("pods", "a"))).status == 404
    kept = (await api.get(api.path("configmaps", "owned"))).ok()
    assert "ownerReferences" not in kept["metadata"]


# --- Waiting ----------------------------------------------------------------------------------------------------------


async def test_wait_for_a_condition(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api)
    # A status of an older generation does not count, and -1 is the default here.
    condition = {"status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}}

    async with asyncio.timeout(30), kubectl.start("wait", "wd/a", "--for=condition=Ready", "--timeout=20s") as process:
        assert process.stdout is not None
        (await api.patch(api.path(WIDGET, "a", "status"), condition)).ok()
        assert await process.stdout.readline() == b"widget.example.test/a condition met\n"


async def test_wait_gives_up(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api)

    finished = await kubectl.run("wait", "wd/a", "--for=condition=Ready", "--timeout=100ms")

    assert finished.code == 1
    assert "timed out waiting for the condition" in finished.err


async def test_wait_for_a_deletion(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api)

    async with asyncio.timeout(30), kubectl.start("wait", "wd/a", "--for=delete", "--timeout=20s") as process:
        assert process.stdout is not None
        await api.delete(api.path(WIDGET, "a"))
        out, err = await process.communicate()

    # For kubectl of old it is an error if there is nothing when it takes its first look.
    assert process.returncode == 0 or b"no matching resources found" in err or b"not found" in err, (out, err)


async def test_wait_for_a_value(api: Api, kubectl: Kubectl) -> None:
    await make_widget(api)
    if await kubectl.minor() < 23:
        refused = await kubectl.run("wait", "wd/a", "--for=jsonpath={.status.phase}=Done")
        assert refused.code == 1
        return

    words_ = ("wait", "wd/a", "--for=jsonpath={.status.phase}=Done", "--timeout=20s")
    async with asyncio.timeout(30), kubectl.start(*words_) as process:
        assert process.stdout is not None
        await api.patch(api.path(WIDGET, "a", "status"), {"status": {"phase": "Done"}})
        assert await process.stdout.readline() == b"widget.example.test/a condition met\n"


# --- Pods and nodes ---------------------------------------------------------------------------------------------------


async def test_logs_of_a_pod(api: Api, kubectl: Kubectl, node: Node, tmp_path: Path) -> None:
    mark, again = tmp_path / "mark", tmp_path / "again"
    script = (
        f"[ -e {again} ] && {{ echo two; {wait_for_file(mark)}; echo end; exit 0; }}; touch {again}; echo one; exit 1"
    )
    (await api.create(api.path("pods"), node.pod("a", script, restartPolicy="OnFailure"))).ok()

    def second(answer: Any) -> bool:
        statuses = answer.body["status"].get("containerStatuses") or [{}]
        return statuses[0].get("restartCount") == 1 and "running" in statuses[0]["state"]

    await api.until(api.path("pods", "a"), second)
    async with asyncio.timeout(30), kubectl.start("logs", "-f", "a") as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"two\n"
        mark.touch()
        assert await process.stdout.readline() == b"end\n"
        assert await process.wait() == 0

    assert await kubectl("logs", "a", "--previous", "-c", "main") == "one\n"
    assert await kubectl("logs", "a", "--tail", "1") == "end\n"


async def test_drain_evicts_within_the_budget(api: Api, kubectl: Kubectl, node: Node) -> None:
    del node  # Only there so that both servers have one; this test drains a node of its own.
    name = f"drained-{api.namespace}"
    (await api.create("/api/v1/nodes", {"metadata": {"name": name}})).ok()
    pod = api.pod("a", nodeName=name, terminationGracePeriodSeconds=0, metadata={"labels": {"app": "a"}})
    (await api.create(api.path("pods"), pod)).ok()
    await ready_pod(api, "a")
    budget = {"metadata": {"name": "a"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}}
    (await api.create(api.path("policy/v1/poddisruptionbudgets"), budget)).ok()
    path = api.path("policy/v1/poddisruptionbudgets", "a")
    await api.until(path, lambda answer: answer.body.get("status", {}).get("currentHealthy") == 1)

    held = await kubectl.run("drain", name, "--force", "--timeout=1s")
    assert held.code == 1
    assert "Cannot evict pod as it would violate the pod's disruption budget." in held.err
    await api.delete(path)
    await kubectl("drain", name, "--force", "--timeout=20s")

    await api.until_gone(api.path("pods", "a"))
    status = words(await kubectl("get", "node", name, "--no-headers"))[0][1]
    assert status.endswith("SchedulingDisabled")
    await kubectl("uncordon", name)
    assert not (await api.get(f"/api/v1/nodes/{name}")).ok()["spec"].get("unschedulable")
    await kubectl("delete", "node", name)
