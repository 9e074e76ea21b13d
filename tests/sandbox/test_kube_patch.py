"""The four kinds of patches: on the stand-in and on a real API server."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.kube_cluster import WIDGET, Answer, Api


async def test_a_merge_patch_merges_objects_and_removes_nulls(api: Api) -> None:
    body = api.widget("a", size=1, labels={"a": "1", "b": "2"}, tags=["x", "y"])
    (await api.create(api.path(WIDGET), body)).ok()

    patch = {"spec": {"size": 2, "labels": {"a": None, "c": "3"}, "tags": ["z"]}}
    spec = (await api.patch(api.path(WIDGET, "a"), patch)).ok()["spec"]

    assert (spec["size"], spec["labels"], spec["tags"]) == (2, {"b": "2", "c": "3"}, ["z"])


async def test_a_merge_patch_may_name_the_version_it_expects(api: Api) -> None:
    made = (await api.create(api.path(WIDGET), api.widget("a"))).ok()
    path = api.path(WIDGET, "a")

    stale = await api.patch(path, {"metadata": {"resourceVersion": "1"}, "spec": {"size": 2}})
    current = made["metadata"]["resourceVersion"]
    right = await api.patch(path, {"metadata": {"resourceVersion": current}, "spec": {"size": 2}})

    assert (stale.status, stale.body["reason"]) == (409, "Conflict")
    assert right.status == 200


async def test_a_json_patch_is_a_list_of_operations(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a", size=1, tags=["x"]))
    path = api.path(WIDGET, "a")
    operations = [
        {"op": "test", "path": "/spec/size", "value": 1},
        {"op": "replace", "path": "/spec/size", "value": 2},
        {"op": "add", "path": "/spec/tags/-", "value": "y"},
        {"op": "add", "path": "/metadata/labels", "value": {"a/b": "c"}},
    ]

    changed = (await api.patch(path, operations, "json")).ok()

    assert changed["spec"]["size"] == 2
    assert changed["spec"]["tags"] == ["x", "y"]
    assert changed["metadata"]["labels"] == {"a/b": "c"}
    removed = (await api.patch(path, [{"op": "remove", "path": "/metadata/labels/a~1b"}], "json")).ok()
    assert not removed["metadata"].get("labels")


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/spec/size", "value": 7},
        {"op": "remove", "path": "/spec/nope"},
        {"op": "replace", "path": "/spec/nope/further", "value": 1},
        {"op": "bogus", "path": "/spec/size", "value": 1},
    ],
)
async def test_a_json_patch_that_does_not_fit_is_refused_as_a_whole(api: Api, operation: dict[str, Any]) -> None:
    await api.create(api.path(WIDGET), api.widget("a", size=1))
    path = api.path(WIDGET, "a")
    first = {"op": "replace", "path": "/spec/size", "value": 2}

    answer = await api.patch(path, [{"op": "test", "path": "/spec/size", "value": 1}, operation, first], "json")

    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert answer.message == "the server rejected our request due to an error in our request"
    assert (await api.get(path)).ok()["spec"]["size"] == 1


async def test_a_custom_resource_takes_no_strategic_merge_patch(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    answer = await api.patch(api.path(WIDGET, "a"), {}, "strategic-merge")

    assert (answer.status, answer.body["reason"]) == (415, "UnsupportedMediaType")
    assert answer.message == (
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, "
        "application/merge-patch+json, application/apply-patch+yaml"
    )


async def test_an_unknown_patch_type_is_refused(api: Api) -> None:
    await api.create(api.path("configmaps"), api.config_map("a"))

    answer = await api.request("PATCH", api.path("configmaps", "a"), {}, headers={"Content-Type": "application/json"})

    assert answer.status == 415


async def test_a_patch_that_is_no_json_is_refused(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    answer = await api.patch(api.path(WIDGET, "a"), "x")

    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
    assert answer.message.startswith("error decoding patch: ")


async def test_a_patch_of_nothing_is_not_found(api: Api) -> None:
    for kind, body in (("merge", {}), ("json", [])):
        answer = await api.patch(api.path(WIDGET, "nobody"), body, kind)
        assert (answer.status, answer.body["reason"]) == (404, "NotFound")


def deployment(**pod: Any) -> dict[str, Any]:
    """A deployment with two containers."""
    containers = [
        {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
        {"name": "b", "image": "b:1", "ports": [{"containerPort": 80}]},
    ]
    labels = {"app": "d"}
    spec = {"containers": containers, "tolerations": [{"key": "k", "operator": "Exists"}], **pod}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    }


async def change_pods(api: Api, **spec: Any) -> dict[str, Any]:
    """Patch the deployment's pod template strategically; its new pod spec."""
    body = {"spec": {"template": {"spec": spec}}}
    changed = (await api.patch(api.path("apps/v1/deployments", "d"), body, "strategic-merge")).ok()
    return changed["spec"]["template"]["spec"]  # type: ignore[no-any-return]  # JSON


async def test_a_strategic_merge_patch_merges_lists_by_key(api: Api) -> None:
    (await api.create(api.path("apps/v1/deployments"), deployment())).ok()

    spec = await change_pods(api, containers=[{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "3"}]}])

    by_name = {item["name"]: item for item in spec["containers"]}
    assert (by_name["a"]["image"], by_name["b"]["image"]) == ("a:2", "b:1")
    assert {item["name"]: item["value"] for item in by_name["a"]["env"]} == {"X": "1", "Y": "3"}


async def test_a_strategic_merge_patch_deletes_and_replaces_by_directive(api: Api) -> None:
    (await api.create(api.path("apps/v1/deployments"), deployment())).ok()

    spec = await change_pods(api, containers=[{"name": "b", "$patch": "delete"}, {"name": "c", "image": "c:1"}])
    assert [item["name"] for item in spec["containers"]] == ["c", "a"] or [
        item["name"] for item in spec["containers"]
    ] == ["a", "c"]

    spec = await change_pods(api, containers=[{"name": "d", "image": "d:1"}, {"$patch": "replace"}])
    assert [item["name"] for item in spec["containers"]] == ["d"]


async def test_a_strategic_merge_patch_replaces_atomic_lists(api: Api) -> None:
    (await api.create(api.path("apps/v1/deployments"), deployment())).ok()

    spec = await change_pods(api, tolerations=[{"key": "other", "operator": "Exists"}])

    assert spec["tolerations"] == [{"key": "other", "operator": "Exists"}]


async def test_a_strategic_merge_patch_adds_finalizers_and_takes_them_away(api: Api) -> None:
    await api.create(api.path("configmaps"), api.config_map("a", metadata={"finalizers": ["x.y/a"]}))
    path = api.path("configmaps", "a")

    more = (await api.patch(path, {"metadata": {"finalizers": ["x.y/b"]}}, "strategic-merge")).ok()
    assert sorted(more["metadata"]["finalizers"]) == ["x.y/a", "x.y/b"]

    less = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.y/a"]}}
    assert (await api.patch(path, less, "strategic-merge")).ok()["metadata"]["finalizers"] == ["x.y/b"]
    await api.patch(path, {"metadata": {"finalizers": None}})


async def test_a_strategic_merge_patch_changes_one_condition_of_a_status(api: Api) -> None:
    await api.create(api.path("pods"), api.pod("a"))
    path = api.path("pods", "a", "status")
    for kind, status in (("Ready", "False"), ("Other", "True"), ("Ready", "True")):
        body = {"status": {"conditions": [{"type": kind, "status": status}]}}
        (await api.patch(path, body, "strategic-merge")).ok()

    conditions = (await api.get(api.path("pods", "a"))).ok()["status"]["conditions"]

    found = {item["type"]: item["status"] for item in conditions}
    assert (found["Ready"], found["Other"]) == ("True", "True")


async def test_a_json_patch_may_replace_what_is_not_there(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    answer = await api.patch(api.path(WIDGET, "a"), [{"op": "replace", "path": "/spec/name", "value": "abc"}], "json")

    assert answer.ok()["spec"]["name"] == "abc"


async def test_a_patch_does_not_change_the_uid(api: Api) -> None:
    await api.create(api.path("pods"), api.pod("a"))

    answer = await api.patch(api.path("pods", "a", "status"), {"metadata": {"uid": "other"}}, "strategic-merge")

    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert ("FieldValueInvalid", "metadata.uid", 'Invalid value: "other": field is immutable') in answer.causes


async def test_the_uid_in_a_replacement_is_a_precondition(api: Api) -> None:
    made = (await api.create(api.path(WIDGET), api.widget("a"))).ok()
    made["metadata"]["uid"] = "other"

    answer = await api.replace(api.path(WIDGET, "a"), made)

    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition: other" in answer.message


async def test_scale_reads_and_writes_replicas(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a", replicas=3))
    await api.patch(api.path(WIDGET, "a", "status"), {"status": {"replicas": 2, "selector": "x=y"}})
    path = api.path(WIDGET, "a", "scale")

    scale = (await api.get(path)).ok()
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"] == {"replicas": 3}
    assert scale["status"] == {"replicas": 2, "selector": "x=y"}

    assert (await api.patch(path, {"spec": {"replicas": 5}})).ok()["spec"]["replicas"] == 5
    assert (await api.replace(path, {**scale, "spec": {"replicas": 6}})).status == 409
    fresh = (await api.get(path)).ok()
    assert (await api.replace(path, {**fresh, "spec": {"replicas": 7}})).ok()["spec"]["replicas"] == 7
    widget = (await api.get(api.path(WIDGET, "a"))).ok()
    assert widget["spec"]["replicas"] == 7
    assert widget["metadata"]["generation"] == 3


async def test_scale_fails_where_there_is_no_number(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    answer = await api.get(api.path(WIDGET, "a", "scale"))

    assert answer.status == 500
    assert answer.message == 'Internal error occurred: the spec replicas field ".spec.replicas" does not exist'


async def test_a_deployment_has_a_scale_with_its_selector(api: Api) -> None:
    await api.create(api.path("apps/v1/deployments"), deployment())
    path = api.path("apps/v1/deployments", "d", "scale")

    assert (await api.get(path)).ok()["status"] == {"replicas": 0, "selector": "app=d"}
    assert (await api.patch(path, {"spec": {"replicas": 0}})).status == 200
    negative = await api.patch(path, {"spec": {"replicas": -1}})
    assert (negative.status, negative.body["reason"]) == (422, "Invalid")


async def test_new_items_of_a_list_come_first_unless_the_patch_names_their_neighbours(api: Api) -> None:
    """A quirk of the real server, which people see when they patch a container in."""
    containers = [{"name": name, "image": "x"} for name in ("a", "b")]
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": containers}}
    spec = {"replicas": 0, "selector": {"matchLabels": {"app": "x"}}, "template": template}
    await api.create(api.path("apps/v1/deployments"), {"metadata": {"name": "order"}, "spec": spec})

    async def patched(*items: dict[str, str]) -> list[str]:
        body = {"spec": {"template": {"spec": {"containers": items}}}}
        answer = await api.patch(api.path("apps/v1/deployments", "order"), body, "strategic-merge")
        return [item["name"] for item in answer.ok()["spec"]["template"]["spec"]["containers"]]

    assert await patched({"name": "c", "image": "y"}) == ["c", "a", "b"]
    assert await patched({"name": "b", "image": "z"}, {"name": "d", "image": "y"}) == ["c", "a", "b", "d"]
    assert await patched({"name": "d", "image": "z"}, {"name": "c", "$patch": "delete"}) == ["a", "b", "d"]


async def test_addresses_of_a_pod_agree_and_there_is_one_of_each_family(api: Api) -> None:
    await api.create(api.path("pods"), api.pod("ips"))

    async def patched(**status: Any) -> Answer:
        return await api.patch(api.path("pods", "ips", "status"), {"status": status}, "strategic-merge")

    first = (await patched(podIP="127.0.0.2")).ok()
    second = await patched(podIP="127.0.0.3", podIPs=[{"ip": "127.0.0.3"}])
    replaced = (await patched(podIP="127.0.0.3", podIPs=[{"$patch": "replace"}, {"ip": "127.0.0.3"}])).ok()

    assert first["status"]["podIPs"] == [{"ip": "127.0.0.2"}]
    assert second.status == 422
    assert second.message == (
        'Pod "ips" is invalid: status.podIPs: Invalid value: [{"IP":"127.0.0.3"},{"IP":"127.0.0.2"}]: '
        "may specify no more than one IP for each IP family"
    )
    assert replaced["status"]["podIPs"] == [{"ip": "127.0.0.3"}]
