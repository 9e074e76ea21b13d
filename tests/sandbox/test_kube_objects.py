"""Create, read, replace, delete: on the stand-in and on a real API server."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.support.kube_cluster import WIDGET, Api

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def test_a_created_object_gets_an_identity(api: Api) -> None:
    made = (await api.create(api.path(WIDGET), api.widget("a"))).ok()

    meta = made["metadata"]
    assert _UUID.fullmatch(meta["uid"])
    assert meta["namespace"] == api.namespace
    assert meta["generation"] == 1
    assert int(meta["resourceVersion"]) > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", meta["creationTimestamp"])
    assert (await api.get(api.path(WIDGET, "a"))).body == made


async def test_a_name_is_taken_once(api: Api) -> None:
    await api.create(api.path("configmaps"), api.config_map("a"))

    again = await api.create(api.path("configmaps"), api.config_map("a"))

    assert (again.status, again.body["reason"]) == (409, "AlreadyExists")
    assert again.message == 'configmaps "a" already exists'
    assert again.body["details"] == {"name": "a", "kind": "configmaps"}


async def test_an_object_that_is_not_there_is_not_found(api: Api) -> None:
    answer = await api.get(api.path(WIDGET, "nobody"))

    assert (answer.status, answer.body["reason"]) == (404, "NotFound")
    assert answer.message == 'widgets.example.test "nobody" not found'
    assert answer.body["details"] == {"name": "nobody", "group": "example.test", "kind": "widgets"}


@pytest.mark.parametrize("path", ["/api/v1/nopes", "/apis/apps/v1/nopes", "/apis/apps/v9", "/api/v2"])
async def test_a_resource_that_is_not_served_is_not_found(api: Api, path: str) -> None:
    answer = await api.get(path)

    assert answer.status == 404
    assert answer.message == "the server could not find the requested resource"


@pytest.mark.parametrize("path", ["/nope", "/apis/nope.io", "/apis/nope.io/v1", "/apis/example.test/v1/nopes"])
async def test_other_paths_are_plainly_not_found(api: Api, path: str) -> None:
    answer = await api.get(path)

    assert (answer.status, answer.body) == (404, "404 page not found\n")


async def test_names_are_generated_from_a_prefix(api: Api) -> None:
    body = {"metadata": {"generateName": "made-"}}

    names = {(await api.create(api.path("configmaps"), body)).ok()["metadata"]["name"] for _ in range(3)}

    assert len(names) == 3
    assert all(re.fullmatch(r"made-[bcdfghjklmnpqrstvwxz2456789]{5}", name) for name in names)


async def test_what_belongs_to_the_server_cannot_be_created(api: Api) -> None:
    mine = {"generation": 7, "uid": "mine", "creationTimestamp": "2001-01-01T00:00:00Z"}
    gone = {"deletionTimestamp": "2001-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3}

    made = (await api.create(api.path(WIDGET), api.widget("a", metadata={**mine, **gone}))).ok()

    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"] != "mine"
    assert made["metadata"]["creationTimestamp"] > "2020"
    assert not {"deletionTimestamp", "deletionGracePeriodSeconds"} & made["metadata"].keys()


async def test_a_resource_version_cannot_be_created(api: Api) -> None:
    answer = await api.create(api.path(WIDGET), api.widget("a", metadata={"resourceVersion": "5"}))

    assert (answer.status, answer.message) == (500, "resourceVersion should not be set on objects to be created")


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"kind": "Gadget"}, 422, 'Gadget.example.test "a" is invalid: kind: Invalid value: "Gadget": must be Widget'),
        (
            {"apiVersion": "example.test/v2"},
            400,
            "the API version in the data (example.test/v2) does not match the expected API version (example.test/v1)",
        ),
        (
            {"metadata": {"name": "a", "namespace": "elsewhere"}},
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
    ],
)
async def test_an_object_must_be_what_its_path_says(
    api: Api, change: dict[str, Any], status: int, message: str
) -> None:
    answer = await api.create(api.path(WIDGET), {**api.widget("a"), **change})

    assert (answer.status, answer.message) == (status, message)


async def test_a_replacement_with_a_stale_version_conflicts(api: Api) -> None:
    first = (await api.create(api.path(WIDGET), api.widget("a"))).ok()
    await api.patch(api.path(WIDGET, "a"), {"spec": {"size": 1}})

    answer = await api.replace(api.path(WIDGET, "a"), {**first, "spec": {"color": "green", "size": 0}})

    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    assert answer.message == (
        'Operation cannot be fulfilled on widgets.example.test "a": the object has been modified; please apply your '
        "changes to the latest version and try again"
    )


async def test_a_custom_resource_is_not_replaced_without_a_version(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    answer = await api.replace(api.path(WIDGET, "a"), api.widget("a", size=3))

    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert answer.causes == {
        ("FieldValueInvalid", "metadata.resourceVersion", "Invalid value: 0: must be specified for an update")
    }


async def test_a_built_in_object_is_replaced_without_a_version(api: Api) -> None:
    await api.create(api.path("configmaps"), api.config_map("a", data={"x": "1"}))

    answer = await api.replace(api.path("configmaps", "a"), api.config_map("a", data={"x": "2"}))

    assert answer.ok()["data"] == {"x": "2"}


async def test_a_replacement_must_have_the_name_of_its_path(api: Api) -> None:
    await api.create(api.path("configmaps"), api.config_map("a"))

    answer = await api.replace(api.path("configmaps", "a"), api.config_map("b"))

    assert (answer.status, answer.message) == (
        400,
        "the name of the object (b) does not match the name on the URL (a)",
    )


async def test_the_generation_counts_changes_of_the_specification_only(api: Api) -> None:
    path = api.path(WIDGET, "a")
    await api.create(api.path(WIDGET), api.widget("a"))

    async def generation() -> int:
        return int((await api.get(path)).ok()["metadata"]["generation"])

    await api.patch(path, {"metadata": {"labels": {"x": "y"}}})
    assert await generation() == 1
    await api.patch(f"{path}/status", {"status": {"phase": "Ready"}})
    assert await generation() == 1
    await api.patch(path, {"spec": {"size": 5}})
    assert await generation() == 2
    await api.patch(path, {"spec": {"size": 5}})
    assert await generation() == 2


async def test_a_change_that_changes_nothing_makes_no_version(api: Api) -> None:
    path = api.path(WIDGET, "a")
    await api.create(api.path(WIDGET), api.widget("a", size=4))
    made = (await api.patch(path, {"spec": {"size": 5}})).ok()

    same = (await api.patch(path, {"spec": {"size": 5}})).ok()

    assert same == made


async def test_the_status_has_a_door_of_its_own(api: Api) -> None:
    path = api.path(WIDGET, "a")
    made = (await api.create(api.path(WIDGET), api.widget("a", status={"phase": "Mine"}))).ok()
    assert made["status"] == {"observedGeneration": -1}

    through_main = (await api.patch(path, {"status": {"phase": "Mine"}, "spec": {"size": 4}})).ok()
    assert through_main["status"] == {"observedGeneration": -1}
    assert through_main["spec"]["size"] == 4

    patch = {"status": {"phase": "Ready"}, "spec": {"size": 9}, "metadata": {"labels": {"a": "b"}}}
    through_status = (await api.patch(f"{path}/status", patch)).ok()
    assert through_status["status"] == {"observedGeneration": -1, "phase": "Ready"}
    assert through_status["spec"]["size"] == 4
    assert "labels" not in through_status["metadata"]


async def test_a_dry_run_changes_nothing(api: Api) -> None:
    made = (await api.create(api.path(WIDGET), api.widget("a"), dryRun="All")).ok()
    assert made["metadata"]["uid"]
    assert (await api.get(api.path(WIDGET, "a"))).status == 404

    await api.create(api.path(WIDGET), api.widget("a", size=1))
    changed = await api.patch(api.path(WIDGET, "a"), {"spec": {"size": 2}}, dryRun="All")
    assert changed.ok()["spec"]["size"] == 2
    await api.delete(api.path(WIDGET, "a"), dryRun="All")
    assert (await api.get(api.path(WIDGET, "a"))).ok()["spec"]["size"] == 1


async def test_a_deletion_tells_what_it_deleted(api: Api) -> None:
    made = (await api.create(api.path(WIDGET), api.widget("a"))).ok()

    answer = await api.delete(api.path(WIDGET, "a"))

    assert answer.ok()["details"] == {
        "name": "a",
        "group": "example.test",
        "kind": "widgets",
        "uid": made["metadata"]["uid"],
    }
    assert answer.body["status"] == "Success"
    assert (await api.get(api.path(WIDGET, "a"))).status == 404


async def test_preconditions_guard_a_deletion(api: Api) -> None:
    made = (await api.create(api.path("configmaps"), api.config_map("a"))).ok()
    path = api.path("configmaps", "a")

    other = await api.delete(path, {"preconditions": {"uid": "other"}})
    stale = await api.delete(path, {"preconditions": {"resourceVersion": "1"}})
    right = await api.delete(path, {"preconditions": {"uid": made["metadata"]["uid"]}})

    assert (other.status, stale.status, right.status) == (409, 409, 200)
    uid = made["metadata"]["uid"]
    assert other.message == (
        'Operation cannot be fulfilled on ConfigMap "a": the UID in the precondition (other) does not match the UID '
        f"in record ({uid}). The object might have been deleted and then recreated"
    )


async def test_a_deleted_object_with_a_finalizer_stays_until_it_is_removed(api: Api) -> None:
    path = api.path(WIDGET, "a")
    await api.create(api.path(WIDGET), api.widget("a", metadata={"finalizers": ["example.test/hold"]}))

    deleted = (await api.delete(path)).ok()
    assert deleted["kind"] == "Widget"
    assert deleted["metadata"]["deletionTimestamp"]
    assert deleted["metadata"]["deletionGracePeriodSeconds"] == 0
    assert deleted["metadata"]["generation"] == 2

    again = (await api.delete(path)).ok()
    assert again["metadata"]["resourceVersion"] == deleted["metadata"]["resourceVersion"]

    removed = await api.patch(path, {"metadata": {"finalizers": None}})
    assert removed.status == 200
    assert (await api.get(path)).status == 404


async def test_no_finalizer_is_added_to_a_deleted_object(api: Api) -> None:
    path = api.path(WIDGET, "a")
    await api.create(api.path(WIDGET), api.widget("a", metadata={"finalizers": ["example.test/hold"]}))
    await api.delete(path)

    answer = await api.patch(path, {"metadata": {"finalizers": ["example.test/hold", "example.test/more"]}})

    added = (
        "no new finalizers can be added if the object is being deleted, "
        'found new finalizers []string{"example.test/more"}'
    )
    assert answer.status == 422
    assert answer.causes == {("FieldValueForbidden", "metadata.finalizers", f"Forbidden: {added}")}
    await api.patch(path, {"metadata": {"finalizers": None}})


async def test_finalizers_without_a_domain_are_warned_of(api: Api) -> None:
    answer = await api.create(api.path(WIDGET), api.widget("a", metadata={"finalizers": ["hold", "b.c"]}))

    prefer = "prefer a domain-qualified finalizer name"
    avoid = "to avoid accidental conflicts with other finalizer writers"
    assert set(answer.warnings) == {
        f'metadata.finalizers: "hold": {prefer} {avoid}',
        f'metadata.finalizers: "b.c": {prefer} including a path (/) {avoid}',
    }
    await api.patch(api.path(WIDGET, "a"), {"metadata": {"finalizers": None}})


async def test_a_collection_is_deleted_by_selector(api: Api) -> None:
    for name, color in (("a", "red"), ("b", "red"), ("c", "blue")):
        body = api.widget(name, color=color, size=1, metadata={"labels": {"color": color}})
        (await api.create(api.path(WIDGET), body)).ok()

    answer = await api.delete(api.path(WIDGET), labelSelector="color=red")

    assert answer.ok()["kind"] == "WidgetList"
    assert {item["metadata"]["name"] for item in answer.body["items"]} == {"a", "b"}
    left = (await api.get(api.path(WIDGET))).ok()["items"]
    assert [item["metadata"]["name"] for item in left] == ["c"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "configmaps/a", 405),
        ("PUT", "configmaps", 405),
        ("PATCH", "configmaps", 405),
        ("POST", "example.test/v1/widgets/a/status", 405),
        ("DELETE", "example.test/v1/widgets/a/status", 405),
    ],
)
async def test_verbs_that_a_path_does_not_have_are_not_allowed(api: Api, method: str, path: str, status: int) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))
    group, plural, rest = re.fullmatch(r"(.*/)?(configmaps|widgets)/?(.*)", path).groups()  # type: ignore[union-attr]  # it matches
    name, _, subresource = rest.partition("/")

    answer = await api.request(method, api.path(f"{group or ''}{plural}", name, subresource), api.widget("a"))

    assert (answer.status, answer.body["reason"]) == (status, "MethodNotAllowed")


async def test_lists_are_sorted_and_carry_their_version(api: Api) -> None:
    for name in ("b", "c", "a"):
        await api.create(api.path("configmaps"), api.config_map(name))

    listed = (await api.get(api.path("configmaps"), labelSelector="!none")).ok()

    names = [item["metadata"]["name"] for item in listed["items"]]
    assert listed["kind"] == "ConfigMapList"
    assert [name for name in names if name in "abc"] == ["a", "b", "c"]
    newest = max(int(item["metadata"]["resourceVersion"]) for item in listed["items"])
    assert int(listed["metadata"]["resourceVersion"]) >= newest


async def test_a_list_in_pages_shows_one_moment(api: Api) -> None:
    for number in range(5):
        await api.create(api.path(WIDGET), api.widget(f"w{number}"))

    first = (await api.get(api.path(WIDGET), limit=2)).ok()
    assert first["metadata"]["remainingItemCount"] == 3
    await api.delete(api.path(WIDGET, "w3"))
    await api.create(api.path(WIDGET), api.widget("w9"))
    second = (await api.get(api.path(WIDGET), limit=2, **{"continue": first["metadata"]["continue"]})).ok()
    third = (await api.get(api.path(WIDGET), limit=2, **{"continue": second["metadata"]["continue"]})).ok()

    names = [item["metadata"]["name"] for page in (first, second, third) for item in page["items"]]
    assert names == ["w0", "w1", "w2", "w3", "w4"]
    assert not third["metadata"].get("continue")
    assert first["metadata"]["resourceVersion"] == third["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("tier=front", "ab"),
        ("tier==front,size!=big", "b"),
        ("tier in (front,back)", "abc"),
        ("tier notin (front)", "cd"),
        ("tier", "abc"),
        ("!tier", "d"),
        ("size", "a"),
        ("tier=front,tier=back", ""),
    ],
)
async def test_label_selectors_select(api: Api, selector: str, expected: str) -> None:
    labels = {"a": {"tier": "front", "size": "big"}, "b": {"tier": "front"}, "c": {"tier": "back"}, "d": {}}
    for name, values in labels.items():
        await api.create(api.path(WIDGET), api.widget(name, metadata={"labels": values}))

    found = (await api.get(api.path(WIDGET), labelSelector=selector)).ok()["items"]

    assert "".join(item["metadata"]["name"] for item in found) == expected


async def test_field_selectors_select(api: Api) -> None:
    for name, color in (("a", "green"), ("b", "blue")):
        await api.create(api.path(WIDGET), api.widget(name, color=color))

    async def names(selector: str) -> list[str]:
        found = (await api.get(api.path(WIDGET), fieldSelector=selector)).ok()["items"]
        return [item["metadata"]["name"] for item in found]

    assert await names("metadata.name=b") == ["b"]
    assert await names("spec.color=green") == ["a"]
    assert await names("spec.color!=green") == ["b"]
    assert await names("spec.color=green,metadata.name=b") == []


@pytest.mark.parametrize(
    ("path", "selector", "message"),
    [
        (WIDGET, "spec.size=1", "field label not supported: spec.size"),
        ("pods", "spec.foo=1", "field label not supported: spec.foo"),
        (
            "configmaps",
            "data.a=b",
            '"data.a" is not a known field selector: only "metadata.name", "metadata.namespace"',
        ),
    ],
)
async def test_other_fields_cannot_be_selected_by(api: Api, path: str, selector: str, message: str) -> None:
    answer = await api.get(api.path(path), fieldSelector=selector)

    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
    assert answer.message == message


async def test_pods_are_selected_by_their_node_and_phase(api: Api) -> None:
    for name in ("a", "b"):
        (await api.create(api.path("pods"), api.pod(name))).ok()
    binding = {"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "somewhere"}}
    (await api.create(api.path("pods", "a", "binding"), binding)).ok()

    async def names(selector: str) -> list[str]:
        found = (await api.get(api.path("pods"), fieldSelector=selector)).ok()["items"]
        return [item["metadata"]["name"] for item in found]

    assert await names("spec.nodeName=somewhere") == ["a"]
    assert await names("spec.nodeName=") == ["b"]
    assert await names("status.phase=Pending") == ["a", "b"]
    assert await names("status.phase!=Pending") == []


async def test_writers_at_the_same_time_lose_nothing(api: Api) -> None:
    """Merge patches without a version never conflict, and each of them counts."""
    await api.create(api.path("configmaps"), api.config_map("a", data={}))
    path = api.path("configmaps", "a")

    answers = await asyncio.gather(*(api.patch(path, {"data": {f"k{n}": "v"}}) for n in range(12)))

    assert {answer.status for answer in answers} == {200}
    assert len((await api.get(path)).ok()["data"]) == 12
