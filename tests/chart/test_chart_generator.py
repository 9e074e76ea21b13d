"""What `scripts/chart.py` makes of values.yaml and of the definitions."""

from __future__ import annotations

import pytest

from scripts.chart import ValuesError, crd_template, plain, read_values, schema_of, table_of, with_table

VALUES = """
# How many.
# @schema {"minimum": 0}
replicas: 2
part:
  # Labels,
  # on two lines.
  labels: {}
  # What it needs.
  resources:
    limits: {memory: 1Gi}
"""


def test_types_come_from_defaults_and_more_from_comments() -> None:
    schema = schema_of(read_values(VALUES), {})

    assert schema["properties"]["replicas"] == {"description": "How many.", "type": "integer", "minimum": 0}
    assert schema["properties"]["part"] == {
        "type": "object",
        "properties": {
            "labels": {"description": "Labels, on two lines.", "type": "object"},
            "resources": {"description": "What it needs.", "type": "object"},
        },
        "additionalProperties": False,
    }
    assert schema["additionalProperties"] is False


def test_the_table_has_a_row_for_every_value_and_none_for_sections() -> None:
    assert table_of(read_values(VALUES)).splitlines()[2:] == [
        "| `replicas` | `2` | How many. |",
        "| `part.labels` |  | Labels, on two lines. |",
        '| `part.resources` | `{"limits": {"memory": "1Gi"}}` | What it needs. |',
    ]


def test_the_schema_of_a_definition_is_closed_and_loses_what_only_kubernetes_knows() -> None:
    crd = {
        "type": "object",
        "properties": {"a": {"type": "integer", "format": "int64", "default": 1}},
        "x-kubernetes-validations": [],
    }

    assert plain(crd) == {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("part:\n  replicas: 2\n", "part.replicas has no comment that describes it"),
        ("# Some.\n# @schema {minimum}\nreplicas: 2\n", "the @schema of replicas is not JSON"),
    ],
)
def test_values_that_say_too_little_are_refused_by_name(text: str, sentence: str) -> None:
    with pytest.raises(ValuesError, match=sentence):
        read_values(text)


def test_a_default_without_a_type_is_refused_by_name() -> None:
    with pytest.raises(ValuesError, match=r"part\.size has a default of no type"):
        schema_of(read_values("part:\n  # Size.\n  size:\n"), {})


def test_a_definition_that_helm_would_evaluate_is_refused() -> None:
    with pytest.raises(ValuesError, match=r"crds/a\.yaml contains"):
        crd_template("a.yaml", "apiVersion: v1\nmetadata:\n  name: '{{ x }}'\n")


def test_a_readme_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValuesError, match=r"README\.md needs the lines"):
        with_table("# Chart\n", "")
