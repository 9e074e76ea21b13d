"""Custom resources: schemas, defaults, validation and CEL rules, in the words of the real API server."""

# ruff: noqa: E501  # one case a line in the tables of cases: input and message side by side, whatever their length

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.kube_cluster import WIDGET, WIDGETS, Api

CRDS = Path(__file__).parents[2] / "crds"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
UNCHECKED_TEXT = (
    "Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing "
    "errors to complete validation"
)
UNCHECKED = ("FieldValueInvalid", "<nil>", UNCHECKED_TEXT)


async def test_defaults_are_filled_in(api: Api) -> None:
    made = (await api.create(api.path(WIDGET), api.widget("a", parts=[{"name": "x"}], size=None))).ok()

    assert made["spec"] == {
        "color": "blue",
        "size": 0,
        "inner": {"mode": "auto"},
        "parts": [{"name": "x", "count": 1}],
    }
    assert made["status"] == {"observedGeneration": -1}


async def test_nulls_go_where_they_are_not_allowed(api: Api) -> None:
    made = (await api.create(api.path(WIDGET), api.widget("a", name=None, maybe=None))).ok()

    assert "name" not in made["spec"]
    assert made["spec"]["maybe"] is None


async def test_unknown_fields_are_pruned_with_a_warning(api: Api) -> None:
    body = api.widget("a", extra=1, parts=[{"name": "x", "more": 1}], free={"any": {"thing": 1}})

    answer = await api.create(api.path(WIDGET), {**body, "top": 1})

    spec = answer.ok()["spec"]
    assert "extra" not in spec
    assert spec["parts"] == [{"name": "x", "count": 1}]
    assert spec["free"] == {"any": {"thing": 1}}
    assert "top" not in answer.body
    assert set(answer.warnings) == {
        'unknown field "spec.extra"',
        'unknown field "spec.parts[0].more"',
        'unknown field "top"',
    }


async def test_unknown_fields_are_refused_when_asked(api: Api) -> None:
    body = api.widget("a", extra=1, metadata={"nope": 1})

    answer = await api.create(api.path(WIDGET), body, fieldValidation="Strict")

    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")
    assert answer.message == (
        'Widget in version "v1" cannot be handled as a Widget: strict decoding error: unknown field "metadata.nope", '
        'unknown field "spec.extra"'
    )
    ignored = await api.create(api.path(WIDGET), body, fieldValidation="Ignore")
    assert (ignored.status, ignored.warnings) == (201, [])


async def test_a_patch_with_unknown_fields_is_refused_when_asked(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    answer = await api.patch(api.path(WIDGET, "a"), {"spec": {"extra": 1}}, fieldValidation="Strict")

    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert answer.message.endswith(': strict decoding error: unknown field "spec.extra"')


@pytest.mark.parametrize(
    ("spec", "cause"),
    [
        ({"color": "pink"}, ("FieldValueNotSupported", "spec.color", 'Unsupported value: "pink": supported values: "red", "green", "blue"')),
        ({"size": "x"}, ("FieldValueTypeInvalid", "spec.size", 'Invalid value: "string": spec.size in body must be of type integer: "string"')),
        ({"size": -1}, ("FieldValueInvalid", "spec.size", "Invalid value: -1: spec.size in body should be greater than or equal to 0")),
        ({"size": 101}, ("FieldValueInvalid", "spec.size", "Invalid value: 101: spec.size in body should be less than or equal to 100")),
        ({"name": "ab1"}, ("FieldValueInvalid", "spec.name", "Invalid value: \"ab1\": spec.name in body should match '^[a-z]+$'")),
        ({"name": "a"}, ("FieldValueInvalid", "spec.name", 'Invalid value: "a": spec.name in body should be at least 2 chars long')),
        ({"name": "a" * 11}, ("FieldValueTooLong", "spec.name", "Too long: may not be more than 10 bytes")),
        ({"tags": []}, ("FieldValueInvalid", "spec.tags", "Invalid value: 0: spec.tags in body should have at least 1 items")),
        ({"tags": ["a", "b", "c", "d"]}, ("FieldValueTooMany", "spec.tags", "Too many: 4: must have at most 3 items")),
        ({"tags": ["a", "b", "a"]}, ("FieldValueDuplicate", "spec.tags[2]", 'Duplicate value: "a"')),
        ({"parts": [{"name": "x"}, {"name": "x"}]}, ("FieldValueDuplicate", "spec.parts[1]", 'Duplicate value: {"name":"x"}')),
        ({"parts": [{"count": 1}]}, ("FieldValueRequired", "spec.parts[0].name", "Required value")),
        ({"parts": {}}, ("FieldValueTypeInvalid", "spec.parts", 'Invalid value: "object": spec.parts in body must be of type array: "object"')),
        ({"port": True}, ("FieldValueTypeInvalid", "spec.port", 'Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean"')),
        ({"labels": {"a": 1}}, ("FieldValueTypeInvalid", "spec.labels.a", 'Invalid value: "integer": spec.labels.a in body must be of type string: "integer"')),
        ({"when": "today"}, ("FieldValueTypeInvalid", "spec.when", 'Invalid value: "today": spec.when in body must be of type date-time: "today"')),
        ({"replicas": -1}, ("FieldValueInvalid", ".spec.replicas", "Invalid value: -1: should be a non-negative integer")),
    ],
    ids=lambda value: "-".join(f"{k}" for k in value) if isinstance(value, dict) else value[0],
)  # fmt: skip
async def test_a_wrong_value_is_named(api: Api, spec: dict[str, Any], cause: tuple[str, str, str]) -> None:
    answer = await api.create(api.path(WIDGET), api.widget("a", **spec))

    assert (answer.status, answer.body["reason"]) == (422, "Invalid")
    assert cause in answer.causes
    assert answer.causes <= {cause, UNCHECKED}
    assert answer.message.startswith('Widget.example.test "a" is invalid: ')


@pytest.mark.parametrize("size", [1.5, 1e20])
async def test_a_number_that_is_no_integer_is_named_twice(api: Api, size: float) -> None:
    answer = await api.create(api.path(WIDGET), api.widget("a", size=size))

    text = "must be of type int32"
    assert ("FieldValueTypeInvalid", "spec.size", f'Invalid value: "float64": spec.size in body {text}: "float64"') in (
        answer.causes
    )
    text = "must be of type integer with format int32"
    assert ("FieldValueInvalid", "<nil>", f'Invalid value: "": Checked value {text} in spec.size') in answer.causes


async def test_numbers_are_written_as_the_real_server_does(api: Api) -> None:
    schema = {
        "a": {"type": "integer", "maximum": 3600000, "multipleOf": 2},
        "b": {"type": "number", "maximum": 2097152.5, "minimum": -0.00001},
        "c": {"type": "number", "enum": [1, 2.5, 1000000]},
    }
    kind = await define(api, schema)

    async def messages(spec: dict[str, Any]) -> list[str]:
        answer = await api.create(kind.path, kind.body("a", **spec))
        return sorted(message for _, _, message in answer.causes)

    assert await messages({"a": 3600001}) == [
        "Invalid value: 3600001: spec.a in body should be a multiple of 2",
        "Invalid value: 3600001: spec.a in body should be less than or equal to 3600000",
    ]
    assert await messages({"b": 123456789.5}) == [
        "Invalid value: 1.234567895e+08: spec.b in body should be less than or equal to 2.0971525e+06"
    ]
    assert await messages({"b": 1e21}) == [
        "Invalid value: 1e+21: spec.b in body should be less than or equal to 2.0971525e+06"
    ]
    assert await messages({"b": 123456789}) == [
        "Invalid value: 123456789: spec.b in body should be less than or equal to 2097152"
    ]
    assert await messages({"b": -0.5}) == [
        "Invalid value: -0.5: spec.b in body should be greater than or equal to -1e-05"
    ]
    assert await messages({"c": 30000000.5}) == [
        'Unsupported value: 3.00000005e+07: supported values: "1", "2.5", "1000000"'
    ]


async def test_several_wrong_values_are_all_named(api: Api) -> None:
    body = api.widget("a", size="x", tags=["a", "a"])
    del body["spec"]["color"]

    answer = await api.create(api.path(WIDGET), body)

    assert {(reason, field) for reason, field, _ in answer.causes} == {
        ("FieldValueTypeInvalid", "spec.size"),
        ("FieldValueRequired", "spec.color"),
        ("FieldValueDuplicate", "spec.tags[1]"),
        ("FieldValueInvalid", "<nil>"),
    }
    assert answer.message.startswith('Widget.example.test "a" is invalid: [')


async def test_a_wrong_status_is_named(api: Api) -> None:
    await api.create(api.path(WIDGET), api.widget("a"))

    answer = await api.patch(api.path(WIDGET, "a", "status"), {"status": {"phase": 5}})

    wrong = 'Invalid value: "integer": phase in body must be of type string: "integer"'
    assert ("FieldValueTypeInvalid", "status.phase", wrong) in answer.causes


async def test_names_must_be_names(api: Api) -> None:
    answer = await api.create(api.path(WIDGET), api.widget("Not_a_name", metadata={"labels": {"a b": "c"}}))

    fields = {(reason, field) for reason, field, _ in answer.causes}
    assert fields == {("FieldValueInvalid", "metadata.name"), ("FieldValueInvalid", "metadata.labels")}
    subdomain = next(message for _, field, message in answer.causes if field == "metadata.name")
    assert subdomain == (
        'Invalid value: "Not_a_name": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric '
        "characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
        r"for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    )


# --- CEL --------------------------------------------------------------------------------------------------------------


async def test_a_rule_refuses_with_its_message(api: Api) -> None:
    answer = await api.create(api.path(WIDGET), api.widget("a", color="red", size=0))

    assert answer.status == 422
    assert answer.causes == {("FieldValueInvalid", "spec", "Invalid value: red widgets have a size")}
    assert answer.message == ('Widget.example.test "a" is invalid: spec: Invalid value: red widgets have a size')


async def test_a_transition_rule_looks_at_changes_only(api: Api) -> None:
    (await api.create(api.path(WIDGET), api.widget("a", color="blue", size=1))).ok()
    path = api.path(WIDGET, "a")

    refused = await api.patch(path, {"spec": {"color": "green"}})
    allowed = await api.patch(path, {"spec": {"color": "green", "size": 0}})

    assert refused.causes == {("FieldValueInvalid", "spec", "Invalid value: color is immutable")}
    assert allowed.status == 200


async def test_what_was_stored_is_not_judged_again(api: Api) -> None:
    """An object from before a rule was made stricter can still change elsewhere."""
    kind = await define(api, {"n": {"type": "integer"}})
    (await api.create(kind.path, kind.body("a", n=5))).ok()
    await kind.change({"n": {"type": "integer", "maximum": 3}, "m": {"type": "integer"}})

    elsewhere = await api.patch(f"{kind.path}/a", {"spec": {"m": 1}})
    there = await api.patch(f"{kind.path}/a", {"spec": {"n": 6}})

    assert elsewhere.status == 200
    assert there.status == 422


class Kind:
    """A kind of a test's own."""

    def __init__(self, api: Api, plural: str) -> None:
        self._api = api
        self.plural = plural
        self.path = api.path(f"example.test/v1/{plural}")
        self.definition = f"{DEFINITIONS}/{plural}.example.test"

    def body(self, name: str, **spec: Any) -> dict[str, Any]:
        """An object of it."""
        kind = self.plural.capitalize()
        return {"apiVersion": "example.test/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}

    async def change(self, properties: dict[str, Any], **more: Any) -> None:
        """Change the schema of `spec`, and wait until it is in force."""
        current = (await self._api.get(self.definition)).ok()
        schema = current["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        marker = f"m{current['metadata']['resourceVersion']}"
        schema["properties"] = {
            "spec": {"type": "object", "properties": properties, **more},
            marker: {"type": "string", "enum": ["in force"]},
        }
        (await self._api.replace(self.definition, current)).ok()
        probe = {**self.body("probe"), marker: "?"}
        async with asyncio.timeout(30):
            while True:
                answer = await self._api.create(self.path, probe, dryRun="All")
                if any(field == marker for _, field, _ in answer.causes):
                    return


_kinds = iter(f"thing{first}{second}s" for first in "abcdefgh" for second in "abcdefghijklmnopqrstuvwxyz")


def definition(plural: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A CustomResourceDefinition with these properties of `spec`."""
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": properties, **more}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.example.test"},
        "spec": {
            "group": "example.test",
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": plural[:-1], "kind": plural.capitalize()},
            "versions": [version],
        },
    }


async def define(api: Api, properties: dict[str, Any], **more: Any) -> Kind:
    """Define a kind of the test's own."""
    kind = Kind(api, next(_kinds))
    (await api.create(DEFINITIONS, definition(kind.plural, properties, **more))).ok()
    await api.until(kind.path, lambda answer: answer.status == 200)
    return kind


RULES: list[tuple[dict[str, Any], dict[str, Any], tuple[str, str, str] | None]] = [
    # rule, spec, the cause or nothing where the spec is fine
    ({"rule": "self.a < self.b"}, {"a": 1, "b": 2}, None),
    ({"rule": "self.a < self.b"}, {"a": 2, "b": 1}, ("FieldValueInvalid", "spec", "Invalid value: failed rule: self.a < self.b")),
    ({"rule": "!has(self.a) || self.a > 3", "fieldPath": ".a"}, {"a": 1}, ("FieldValueInvalid", "spec.a", "Invalid value: failed rule: !has(self.a) || self.a > 3")),
    ({"rule": "has(self.a)", "reason": "FieldValueRequired", "message": "a is needed", "fieldPath": ".a"}, {}, ("FieldValueRequired", "spec.a", "Required value: a is needed")),
    ({"rule": "!has(self.a)", "reason": "FieldValueForbidden", "message": "no a"}, {"a": 1}, ("FieldValueForbidden", "spec", "Forbidden: no a")),
    ({"rule": "self.a == 1", "messageExpression": "'a is ' + (self.a > 1 ? 'big' : 'small')"}, {"a": 2}, ("FieldValueInvalid", "spec", "Invalid value: a is big")),
    ({"rule": "self.a == 1", "message": "fixed", "messageExpression": "self.s"}, {"a": 2}, ("FieldValueInvalid", "spec", "Invalid value: fixed")),
    ({"rule": "self.a > 1"}, {}, ("FieldValueInvalid", "spec", 'Invalid value: "object": no such key: a evaluating rule: self.a > 1')),
    ({"rule": "self.l.all(x, x > 1)"}, {"l": [2, 3]}, None),
    ({"rule": "self.l.all(x, x > 1)"}, {"l": [1]}, ("FieldValueInvalid", "spec", "Invalid value: failed rule: self.l.all(x, x > 1)")),
    ({"rule": "self.l.exists_one(x, x == 1) && size(self.l) == 2"}, {"l": [1, 2]}, None),
    ({"rule": "self.s.startsWith('ab') && self.s.matches('^[a-c]+$')"}, {"s": "abc"}, None),
    ({"rule": "self.s.split(',').size() == 2 && self.s.lowerAscii() == 'x,y'"}, {"s": "X,y"}, None),
    ({"rule": "self.m.all(k, self.m[k] == 'v')"}, {"m": {"a": "v"}}, None),
    ({"rule": "'a' in self.m"}, {"m": {"b": "v"}}, ("FieldValueInvalid", "spec", "Invalid value: failed rule: 'a' in self.m")),
    ({"rule": "self.d > duration('1m')"}, {"d": "5m"}, None),
    ({"rule": "self.d > duration('1m')"}, {"d": "5s"}, ("FieldValueInvalid", "spec", "Invalid value: failed rule: self.d > duration('1m')")),
    ({"rule": "self.t < timestamp('2020-01-01T00:00:00Z')"}, {"t": "2019-01-01T00:00:00Z"}, None),
    ({"rule": "self.f == 1.0"}, {"f": 1}, None),
    ({"rule": "type(self.i) == int ? self.i > 1 : self.i == 'x'"}, {"i": "x"}, None),
    ({"rule": "quantity(self.s).isGreaterThan(quantity('1Mi'))"}, {"s": "1Gi"}, None),
    ({"rule": "isURL(self.s) && url(self.s).getHost() == 'example.com:80'"}, {"s": "https://example.com:80/x"}, None),
    ({"rule": "self.s.find('[0-9]+') == '12'"}, {"s": "a12b"}, None),
    ({"rule": "self.l.isSorted() && self.l.sum() == 6 && self.l.max() == 3"}, {"l": [1, 2, 3]}, None),
    ({"rule": "self.in__dash__ner == 'x'"}, {"in-ner": "x"}, None),
    ({"rule": "self.?a.orValue(5) == 5"}, {}, None),
]  # fmt: skip
PROPERTIES = {
    "a": {"type": "integer"},
    "b": {"type": "integer"},
    "f": {"type": "number"},
    "s": {"type": "string", "maxLength": 100},
    "l": {"type": "array", "maxItems": 10, "items": {"type": "integer"}},
    "m": {"type": "object", "maxProperties": 10, "additionalProperties": {"type": "string", "maxLength": 10}},
    "d": {"type": "string", "format": "duration"},
    "t": {"type": "string", "format": "date-time"},
    "i": {"x-kubernetes-int-or-string": True},
    "in-ner": {"type": "string", "maxLength": 10},
}


async def test_rules_judge_as_the_real_server_does(api: Api) -> None:
    """All rules on one kind, one after the other, because making a kind takes a while on a real server."""
    kind = await define(api, PROPERTIES)
    for rule, spec, cause in RULES:
        await kind.change(PROPERTIES, **{"x-kubernetes-validations": [rule]})

        answer = await api.create(kind.path, kind.body("a", **spec), dryRun="All")

        assert answer.status == (201 if cause is None else 422), (rule, spec, answer.body)
        if cause is not None:
            assert answer.causes == {cause}, (rule, spec)


async def test_an_optional_old_value_is_there_on_updates(api: Api) -> None:
    rule = {
        "rule": "!oldSelf.hasValue() || self.a >= oldSelf.value().a",
        "optionalOldSelf": True,
        "message": "a must not shrink",
    }
    kind = await define(api, PROPERTIES, **{"x-kubernetes-validations": [rule]})

    (await api.create(kind.path, kind.body("a", a=5))).ok()
    grown = await api.patch(f"{kind.path}/a", {"spec": {"a": 6}})
    shrunk = await api.patch(f"{kind.path}/a", {"spec": {"a": 1}})

    assert grown.status == 200
    assert shrunk.causes == {("FieldValueInvalid", "spec", "Invalid value: a must not shrink")}


# --- Definitions ------------------------------------------------------------------------------------------------------


async def test_a_definition_is_established(api: Api) -> None:
    found = (await api.get(f"{DEFINITIONS}/widgets.example.test")).ok()

    conditions = {
        item["type"]: (item["status"], item["reason"], item["message"]) for item in found["status"]["conditions"]
    }
    assert conditions == {
        "NamesAccepted": ("True", "NoConflicts", "no conflicts found"),
        "Established": ("True", "InitialNamesAccepted", "the initial names have been accepted"),
    }
    assert found["status"]["storedVersions"] == ["v1"]
    assert found["status"]["acceptedNames"]["listKind"] == "WidgetList"


async def test_names_that_are_taken_are_not_accepted(api: Api) -> None:
    body = definition("gizmos", {"a": {"type": "integer"}})
    body["spec"]["names"]["shortNames"] = ["wd"]
    (await api.create(DEFINITIONS, body)).ok()
    path = f"{DEFINITIONS}/gizmos.example.test"

    found = await api.until(path, lambda answer: bool(answer.body.get("status", {}).get("conditions")))

    conditions = {item["type"]: (item["status"], item["reason"]) for item in found["status"]["conditions"]}
    assert conditions["NamesAccepted"][0] == "False"
    assert conditions["Established"] == ("False", "NotAccepted")
    await api.delete(path)


async def test_a_deleted_definition_takes_its_objects_along(api: Api) -> None:
    kind = await define(api, {"a": {"type": "integer"}})
    (await api.create(kind.path, kind.body("a", a=1))).ok()

    await api.delete(kind.definition)

    await api.until_gone(kind.definition)
    await api.until_gone(kind.path)


async def test_a_new_default_shows_on_old_objects(api: Api) -> None:
    kind = await define(api, {"a": {"type": "integer"}})
    (await api.create(kind.path, kind.body("a", a=1))).ok()
    await kind.change({"a": {"type": "integer"}, "b": {"type": "string", "default": "x"}})

    assert (await api.get(f"{kind.path}/a")).ok()["spec"] == {"a": 1, "b": "x"}
    assert (await api.get(kind.path)).ok()["items"][0]["spec"] == {"a": 1, "b": "x"}


NULL = 'Invalid value: "null": p in body must be of type string: "null"'
NULLS: list[tuple[dict[str, Any], Any, tuple[str, str, str] | None]] = [
    # schema of spec.x, its default, what is wrong with the definition or nothing
    ({"properties": {"p": {"type": "string"}}}, {"p": None}, ("FieldValueTypeInvalid", "default.p", NULL)),
    (
        {"properties": {"p": {"type": "string", "default": "d"}}},
        {"p": None},
        ("FieldValueTypeInvalid", "default.p", NULL),
    ),
    ({"properties": {"p": {"type": "string", "nullable": True}}}, {"p": None}, None),
    ({"properties": {"p": {"type": "string", "nullable": True, "pattern": "^a"}}}, {"p": None}, None),
    (
        {"properties": {"p": {"type": "string", "nullable": True, "enum": ["a"]}}},
        {"p": None},
        ("FieldValueNotSupported", "default.p", 'Unsupported value: null: supported values: "a"'),
    ),
    ({"x-kubernetes-preserve-unknown-fields": True}, {"p": None}, None),
    (
        {"additionalProperties": {"type": "string"}},
        {"p": None},
        ("FieldValueTypeInvalid", "default.p", 'Invalid value: "null": .p in body must be of type string: "null"'),
    ),
    (
        {"properties": {"p": {"type": "string"}}},
        {"p": "a", "q": None},
        ("FieldValueInvalid", "default", 'Invalid value: {"p":"a","q":null}: must not have unknown fields'),
    ),
]


@pytest.mark.parametrize(("schema", "default", "cause"), NULLS, ids=range(len(NULLS)))
async def test_nulls_in_defaults_are_judged_like_values(
    api: Api, schema: dict[str, Any], default: Any, cause: tuple[str, str, str] | None
) -> None:
    kind = Kind(api, next(_kinds))
    made = await api.create(
        DEFINITIONS, definition(kind.plural, {"x": {"type": "object", **schema, "default": default}})
    )

    if cause is None:
        made.ok()
        await api.until(kind.path, lambda answer: answer.status == 200)
        assert (await api.create(kind.path, kind.body("a"))).ok()["spec"] == {"x": default}
    else:
        reason, field, message = cause
        prefix = "spec.validation.openAPIV3Schema.properties[spec].properties[x]"
        assert made.causes == {(reason, f"{prefix}.{field}", message)}


async def test_a_default_of_an_int_or_string_is_judged_when_it_is_used(api: Api) -> None:
    kind = await define(api, {"x": {"x-kubernetes-int-or-string": True, "default": True}})

    answer = await api.create(kind.path, kind.body("a"))

    assert answer.causes == {
        (
            "FieldValueTypeInvalid",
            "spec.x",
            'Invalid value: "boolean": spec.x in body must be of type integer,string: "boolean"',
        )
    }


def broken(**changes: Any) -> dict[str, Any]:
    """The definition of widgets with other names, and something wrong in its schema."""
    body: dict[str, Any] = copy.deepcopy(WIDGETS)
    body["metadata"]["name"] = "brokens.example.test"
    body["spec"]["names"] = {"plural": "brokens", "singular": "broken", "kind": "Broken"}
    for path, value in changes.items():
        node: Any = body
        *steps, last = path.split("__")
        for step in steps:
            node = node[int(step)] if isinstance(node, list) else node[step]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return body


VERSION = "spec__versions__0"
PROPS = f"{VERSION}__schema__openAPIV3Schema__properties__spec__properties"
SCHEMA = "spec.validation.openAPIV3Schema.properties[spec].properties"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"metadata__name": "other.example.test"}, ("FieldValueInvalid", "metadata.name", 'Invalid value: "other.example.test": must be spec.names.plural+"."+spec.group')),
        ({f"{PROPS}__color__type": None}, ("FieldValueRequired", f"{SCHEMA}[color].type", "Required value: must not be empty for specified object fields")),
        ({f"{PROPS}__tags__items": None}, ("FieldValueRequired", f"{SCHEMA}[tags].items", "Required value: must be specified")),
        ({f"{PROPS}__tags__uniqueItems": True}, ("FieldValueForbidden", f"{SCHEMA}[tags].uniqueItems", "Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic")),
        ({f"{PROPS}__parts__x-kubernetes-list-map-keys": ["nope"]}, ("FieldValueInvalid", f"{SCHEMA}[parts].x-kubernetes-list-map-keys", 'Invalid value: ["nope"]: entries must all be names of item properties')),
        ({f"{PROPS}__size__default": "x"}, ("FieldValueTypeInvalid", f"{SCHEMA}[size].default", 'Invalid value: "string":  in body must be of type integer: "string"')),
        ({f"{PROPS}__labels__properties": {"a": {"type": "string"}}}, ("FieldValueForbidden", f"{SCHEMA}[labels].additionalProperties", "Forbidden: additionalProperties and properties are mutual exclusive")),
        ({f"{PROPS}__name__pattern": "["}, ("FieldValueInvalid", f"{SCHEMA}[name].pattern", None)),
        ({f"{PROPS}__name__anyOf": [{"type": "string"}]}, ("FieldValueForbidden", f"{SCHEMA}[name].anyOf[0].type", "Forbidden: must be empty to be structural")),
        ({f"{VERSION}__storage": False}, ("FieldValueInvalid", "spec.versions", None)),
        ({f"{VERSION}__subresources__scale__specReplicasPath": ".status.x"}, ("FieldValueInvalid", "spec.subresources.scale.specReplicasPath", 'Invalid value: ".status.x": should be a json path under .spec')),
        ({f"{VERSION}__selectableFields": [{"jsonPath": ".spec.nope"}]}, ("FieldValueInvalid", "spec.selectableFields[0].jsonPath", 'Invalid value: ".spec.nope": is an invalid path: does not refer to a valid field')),
        ({f"{PROPS}__color__x-kubernetes-validations": [{"rule": "self =="}]}, ("FieldValueInvalid", f"{SCHEMA}[color].x-kubernetes-validations[0].rule", None)),
        ({f"{PROPS}__color__x-kubernetes-validations": [{"rule": "1 + 'a' == 2"}]}, ("FieldValueInvalid", f"{SCHEMA}[color].x-kubernetes-validations[0].rule", None)),
        ({f"{PROPS}__tags__items__x-kubernetes-validations": [{"rule": "self == oldSelf"}]}, ("FieldValueInvalid", f"{SCHEMA}[tags].items.x-kubernetes-validations[0].rule", None)),
        ({"spec__scope": "Nowhere"}, ("FieldValueNotSupported", "spec.scope", 'Unsupported value: "Nowhere": supported values: "Cluster", "Namespaced"')),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value[1],
)  # fmt: skip
async def test_a_bad_definition_is_refused(
    api: Api, change: dict[str, Any], cause: tuple[str, str, str | None]
) -> None:
    answer = await api.create(DEFINITIONS, broken(**change))

    assert (answer.status, answer.body.get("reason")) == (422, "Invalid"), answer.body
    reason, field, message = cause
    found = {(r, f): m for r, f, m in answer.causes}
    assert (reason, field) in found, answer.causes
    if message is not None:
        assert found[reason, field] == message


async def test_a_schema_is_required(api: Api) -> None:
    answer = await api.create(DEFINITIONS, broken(**{f"{VERSION}__schema": None}))

    assert answer.status == 422
    assert ("FieldValueRequired", "spec.versions[0].schema.openAPIV3Schema", "Required value") in answer.causes


@pytest.mark.parametrize("path", sorted(CRDS.glob("*.yaml")), ids=lambda path: path.stem)
async def test_the_definitions_of_the_product_are_accepted(api: Api, path: Path) -> None:
    answer = await api.create(DEFINITIONS, yaml.safe_load(path.read_text()), dryRun="All", fieldValidation="Strict")

    assert (answer.status, answer.warnings) == (201, [])


async def test_a_new_definition_has_null_for_conditions_until_its_names_are_looked_at(api: Api) -> None:
    definition = yaml.safe_load((CRDS / "whatsappsessions.yaml").read_text())
    answer = await api.create(DEFINITIONS, definition, dryRun="All")

    assert answer.ok()["status"] == {
        "conditions": None,
        "acceptedNames": {"plural": "", "kind": ""},
        "storedVersions": ["v1alpha1"],
    }
