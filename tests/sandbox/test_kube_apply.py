"""Server-side apply and the ownership of fields: on the stand-in and on a real API server."""

from __future__ import annotations

from typing import Any

from tests.support.kube_cluster import WIDGET, Answer, Api


def config(name: str = "a", **spec: Any) -> dict[str, Any]:
    """What a manager applies."""
    return {"apiVersion": "example.test/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec}


def owned(obj: dict[str, Any], manager: str) -> dict[str, Any]:
    """The fields that a manager owns."""
    found = [entry for entry in obj["metadata"].get("managedFields", []) if entry["manager"] == manager]
    assert len(found) <= 1, found
    return found[0]["fieldsV1"] if found else {}


async def apply(api: Api, manager: str, body: dict[str, Any], **query: Any) -> Answer:
    """Apply a widget."""
    return await api.apply(api.path(WIDGET, body["metadata"]["name"]), body, manager, **query)


async def test_an_apply_creates_and_owns_what_it_says(api: Api) -> None:
    answer = await apply(api, "me", config(color="red", size=1, labels={"a": "b"}))

    assert answer.status == 201
    assert answer.body["spec"] == {"color": "red", "size": 1, "labels": {"a": "b"}, "inner": {"mode": "auto"}}
    assert owned(answer.body, "me") == {"f:spec": {"f:color": {}, "f:size": {}, "f:labels": {"f:a": {}}}}
    entry = answer.body["metadata"]["managedFields"][0]
    assert (entry["operation"], entry["apiVersion"], entry["fieldsType"]) == ("Apply", "example.test/v1", "FieldsV1")


async def test_a_create_owns_everything_with_its_defaults(api: Api) -> None:
    made = (await api.create(api.path(WIDGET), api.widget("a", tags=["x"]))).ok()

    assert owned(made, "tests") == {
        "f:spec": {
            ".": {},
            "f:color": {},
            "f:inner": {".": {}, "f:mode": {}},
            "f:size": {},
            "f:tags": {".": {}, 'v:"x"': {}},
        }
    }
    assert made["metadata"]["managedFields"][0]["operation"] == "Update"


async def test_two_managers_own_different_fields(api: Api) -> None:
    await apply(api, "one", config(color="red", size=1))

    both = (await apply(api, "two", config(name="a", ratio=0.5))).ok()

    assert both["spec"] == {"color": "red", "size": 1, "ratio": 0.5, "inner": {"mode": "auto"}}
    assert owned(both, "one") == {"f:spec": {"f:color": {}, "f:size": {}}}
    assert owned(both, "two") == {"f:spec": {"f:ratio": {}}}


async def test_another_value_of_an_owned_field_is_a_conflict(api: Api) -> None:
    await apply(api, "one", config(color="red", size=1))

    answer = await apply(api, "two", config(size=2))

    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    assert answer.message == 'Apply failed with 1 conflict: conflict with "one": .spec.size'
    assert answer.causes == {("FieldManagerConflict", ".spec.size", 'conflict with "one"')}


async def test_several_conflicts_are_listed_by_manager(api: Api) -> None:
    await apply(api, "one", config(color="red", size=1))
    await apply(api, "two", config(ratio=0.5))

    answer = await apply(api, "three", config(color="blue", size=2, ratio=0.7))

    assert answer.message == (
        'Apply failed with 3 conflicts: conflicts with "one":\n- .spec.color\n- .spec.size\nconflicts with "two":\n'
        "- .spec.ratio"
    )


async def test_the_same_value_is_owned_together(api: Api) -> None:
    await apply(api, "one", config(color="red", size=1))

    both = (await apply(api, "two", config(size=1))).ok()

    assert owned(both, "one") == {"f:spec": {"f:color": {}, "f:size": {}}}
    assert owned(both, "two") == {"f:spec": {"f:size": {}}}


async def test_force_takes_a_field_away(api: Api) -> None:
    await apply(api, "one", config(color="red", size=1))

    taken = (await apply(api, "two", config(size=2), force="true")).ok()

    assert taken["spec"]["size"] == 2
    assert owned(taken, "one") == {"f:spec": {"f:color": {}}}
    assert owned(taken, "two") == {"f:spec": {"f:size": {}}}


async def test_a_field_that_is_no_longer_applied_goes(api: Api) -> None:
    await apply(api, "one", config(color="red", size=1, ratio=0.5, labels={"a": "1", "b": "2"}))

    left = (await apply(api, "one", config(color="red", size=1, labels={"a": "1"}))).ok()

    assert left["spec"] == {"color": "red", "size": 1, "labels": {"a": "1"}, "inner": {"mode": "auto"}}


async def test_a_field_that_somebody_else_owns_as_well_stays(api: Api) -> None:
    await apply(api, "one", config(color="red", size=1, ratio=0.5))
    await apply(api, "two", config(ratio=0.5))

    left = (await apply(api, "one", config(color="red", size=1))).ok()

    assert left["spec"]["ratio"] == 0.5
    assert owned(left, "two") == {"f:spec": {"f:ratio": {}}}


async def test_a_defaulted_field_comes_back_when_it_is_given_up(api: Api) -> None:
    await apply(api, "one", config(color="green", size=7))

    left = (await apply(api, "one", config(color="green"))).ok()

    assert left["spec"]["size"] == 0


async def test_lists_with_keys_are_merged_by_key(api: Api) -> None:
    parts = [{"name": "x", "count": 1}, {"name": "y", "count": 2}]
    await apply(api, "one", config(color="green", parts=parts))

    both = (await apply(api, "two", config(parts=[{"name": "z", "count": 3}]))).ok()
    assert sorted(item["name"] for item in both["spec"]["parts"]) == ["x", "y", "z"]
    assert owned(both, "two") == {"f:spec": {"f:parts": {'k:{"name":"z"}': {".": {}, "f:count": {}, "f:name": {}}}}}

    left = (await apply(api, "one", config(color="green", parts=[{"name": "x", "count": 1}]))).ok()
    assert sorted(item["name"] for item in left["spec"]["parts"]) == ["x", "z"]

    conflict = await apply(api, "two", config(parts=[{"name": "x", "count": 9}, {"name": "z", "count": 3}]))
    assert conflict.message == 'Apply failed with 1 conflict: conflict with "one": .spec.parts[name="x"].count'


async def test_sets_are_merged_by_value(api: Api) -> None:
    await apply(api, "one", config(color="green", tags=["a", "b"]))

    both = (await apply(api, "two", config(tags=["c"]))).ok()
    assert sorted(both["spec"]["tags"]) == ["a", "b", "c"]

    left = (await apply(api, "one", config(color="green", tags=["b"]))).ok()
    assert sorted(left["spec"]["tags"]) == ["b", "c"]


async def test_a_write_takes_fields_over(api: Api) -> None:
    await apply(api, "one", config(color="red", size=1))

    written = (await api.patch(api.path(WIDGET, "a"), {"spec": {"size": 5}}, fieldManager="editor")).ok()
    assert owned(written, "one") == {"f:spec": {"f:color": {}}}
    assert owned(written, "editor") == {"f:spec": {"f:size": {}}}

    answer = await apply(api, "one", config(color="red", size=1))
    assert answer.status == 409
    assert answer.message == 'Apply failed with 1 conflict: conflict with "editor" using example.test/v1: .spec.size'


async def test_each_door_has_owners_of_its_own(api: Api) -> None:
    await apply(api, "one", config(color="red", size=1, replicas=1))
    await api.patch(api.path(WIDGET, "a", "status"), {"status": {"phase": "Ready"}}, fieldManager="one")

    await api.patch(api.path(WIDGET, "a", "scale"), {"spec": {"replicas": 4}}, fieldManager="scaler")
    obj = (await api.get(api.path(WIDGET, "a"))).ok()

    doors = {(e["manager"], e.get("subresource", "")): e["fieldsV1"] for e in obj["metadata"]["managedFields"]}
    assert doors[("one", "status")] == {"f:status": {"f:phase": {}}}
    assert doors[("scaler", "scale")] == {"f:spec": {"f:replicas": {}}}
    assert doors[("one", "")] == {"f:spec": {"f:color": {}, "f:size": {}}}
    answer = await apply(api, "one", config(color="red", size=1, replicas=2))
    assert 'conflict with "scaler" with subresource "scale" using example.test/v1' in answer.message


async def test_an_apply_to_the_status_owns_the_status(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))
    body = {
        "apiVersion": "example.test/v1",
        "kind": "Widget",
        "metadata": {"name": "a"},
        "status": {"phase": "Ready", "conditions": [{"type": "Ready", "status": "True"}]},
    }

    applied = (await api.apply(api.path(WIDGET, "a", "status"), body, "reporter")).ok()

    assert applied["status"]["phase"] == "Ready"
    assert owned(applied, "reporter") == {
        "f:status": {
            "f:conditions": {'k:{"type":"Ready"}': {".": {}, "f:status": {}, "f:type": {}}},
            "f:phase": {},
        }
    }


async def test_the_same_apply_again_changes_nothing(api: Api) -> None:
    body = config(color="red", size=1)
    await apply(api, "one", body)
    first = (await api.patch(api.path(WIDGET, "a", "status"), {"status": {"phase": "x"}})).ok()

    again = await apply(api, "one", body)

    assert again.status == 200
    assert again.body["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_an_apply_says_who_it_is(api: Api) -> None:
    answer = await api.patch(api.path(WIDGET, "a"), config(color="red"), "apply")

    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert answer.message == (
        'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
    )


async def test_an_apply_knows_the_schema(api: Api) -> None:
    unknown = await apply(api, "one", config(color="red", nope=1))
    wrong = await apply(api, "one", config(color="red", tags="x"))
    other = await apply(api, "one", {**config(color="red"), "apiVersion": "example.test/v2"})

    assert unknown.message.endswith(": .spec.nope: field not declared in schema")
    assert wrong.message.endswith(": .spec.tags: expected list, got &{x}")
    assert (unknown.status, wrong.status) == (500, 500)
    assert (other.status, other.message) == (400, "invalid object type: example.test/v2, Kind=Widget")


async def test_an_object_without_owners_gets_one_before_the_first_apply(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a", size=3))
    cleared = (await api.patch(api.path(WIDGET, "a"), {"metadata": {"managedFields": [{}]}})).ok()
    assert "managedFields" not in cleared["metadata"]

    applied = (await apply(api, "one", config(ratio=0.5))).ok()

    assert "f:size" in owned(applied, "before-first-apply")["f:spec"]
    assert owned(applied, "one") == {"f:spec": {"f:ratio": {}}}


async def test_built_in_kinds_are_applied_by_their_keys(api: Api) -> None:
    labels = {"app": "d"}

    def deployment(*containers: dict[str, Any]) -> dict[str, Any]:
        template = {"metadata": {"labels": labels}, "spec": {"containers": list(containers)}}
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "d"},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
        }

    path = api.path("apps/v1/deployments", "d")
    port = {"containerPort": 80}
    first = await api.apply(path, deployment({"name": "a", "image": "a:1", "ports": [port]}), "one")
    assert first.status == 201
    assert owned(first.body, "one")["f:spec"]["f:template"]["f:spec"] == {
        "f:containers": {
            'k:{"name":"a"}': {
                ".": {},
                "f:image": {},
                "f:name": {},
                "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
            }
        }
    }

    (await api.apply(path, deployment({"name": "b", "image": "b:1"}), "two")).ok()
    left = (await api.apply(path, deployment({"name": "c", "image": "c:1"}), "one")).ok()
    assert sorted(item["name"] for item in left["spec"]["template"]["spec"]["containers"]) == ["b", "c"]
