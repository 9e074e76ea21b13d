"""Writes what the chart repeats of other files: `python scripts/chart.py [--check]`.

- `templates/crds/*.yaml` from `crds/*.yaml`, with the switches `crds.install` and `crds.keep`;
- `values.schema.json` from `values.yaml`: types from the defaults, more from comments, the pool's from its CRD;
- the table of values in the chart's README.md from the same comments.

Owns the translation. Must not hold anything that is said of one value only: that stands in values.yaml.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "helm" / "whatsapp-operator"
CRDS = ROOT / "crds"
POOL_CRD = "whatsappworkerpools.yaml"
TABLE = ("<!-- values: written by make crds -->", "<!-- end of values -->")

Schema = dict[str, Any]

_KEY = re.compile(r"^( *)([A-Za-z][\w-]*):")
_COMMENT = re.compile(r"^ *# ?(.*)$")
_ANNOTATION = "@schema "
_CRD_KEYWORDS = frozenset(
    (
        "type", "description", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems",
        "maxItems", "maxProperties", "required", "properties", "items", "additionalProperties",
    )
)  # fmt: skip
"""Keywords that the schemas of CRDs and of values have in common."""

DEFINITIONS: dict[str, Schema] = {
    "strings": {"type": "object", "additionalProperties": {"type": "string"}},
    "quantity": {"type": ["string", "number"], "pattern": r"^[0-9.]+(m|[kMGTPE]i?)?$"},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "reference": {"type": "object", "required": ["name"]},
    "variable": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "value": {"type": "string"}, "valueFrom": {"type": "object"}},
        "additionalProperties": False,
    },
    "resources": {
        "type": "object",
        "properties": {
            name: {"type": "object", "additionalProperties": {"$ref": "#/$defs/quantity"}}
            for name in ("requests", "limits")
        },
        "additionalProperties": False,
    },
    "peer": {
        "type": "object",
        "minProperties": 1,
        "properties": {name: {"type": "object"} for name in ("podSelector", "namespaceSelector", "ipBlock")},
        "additionalProperties": False,
    },
}
"""Shapes that several values have."""


@dataclass(frozen=True, slots=True)
class Value:
    """One key of values.yaml: where it is, its default, and what its comments say."""

    path: tuple[str, ...]
    default: Any
    description: str
    schema: Schema

    @property
    def is_section(self) -> bool:
        """Whether it only groups others: a mapping without a comment of its own."""
        return isinstance(self.default, dict) and not self.description


class ValuesError(Exception):
    """values.yaml breaks its own rules; the text names the key."""


def read_values(text: str) -> list[Value]:
    """All keys of values.yaml that are sections or have a description, in order.

    Raises:
        ValuesError: A key has neither, or a comment `@schema` is not JSON.
    """
    defaults = yaml.safe_load(text)
    found: list[Value] = []
    stack: list[tuple[int, str]] = []
    comments: list[str] = []
    for line in text.splitlines():
        if match := _KEY.match(line):
            indent, name = len(match[1]), match[2]
            stack = [*(entry for entry in stack if entry[0] < indent), (indent, name)]
            path = tuple(key for _, key in stack)
            if not any(path[: len(value.path)] == value.path and not value.is_section for value in found):
                found.append(_value(path, _at(defaults, path), comments))
            comments = []
        elif match := _COMMENT.match(line):
            comments.append(match[1])
        else:
            comments = []
    return found


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _value(path: tuple[str, ...], default: Any, comments: list[str]) -> Value:
    name = ".".join(path)
    annotations = [line.removeprefix(_ANNOTATION) for line in comments if line.startswith(_ANNOTATION)]
    description = " ".join(line for line in comments if not line.startswith(_ANNOTATION))
    if not description and not (isinstance(default, dict) and default):
        raise ValuesError(f"{name} has no comment that describes it")
    try:
        schema = {key: value for text in annotations for key, value in json.loads(text).items()}
    except ValueError as error:
        raise ValuesError(f"the @schema of {name} is not JSON: {error}") from error
    return Value(path, default, description, schema)


# --- values.schema.json -----------------------------------------------------------------------------------------------


def schema_of(values: list[Value], pool_spec: Schema) -> Schema:
    """The JSON schema of the values. `pool_spec` is the schema of a pool's spec in its CRD."""
    root: Schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart whatsapp-operator",
        "type": "object",
        "properties": {"global": {"type": "object", "description": "Helm's own; not used."}},
        "additionalProperties": False,
        "$defs": DEFINITIONS,
    }
    for value in values:
        parent = root
        for key in value.path[:-1]:
            parent = parent["properties"][key]
        parent["properties"][value.path[-1]] = _node(value, pool_spec)
    return root


def _node(value: Value, pool_spec: Schema) -> Schema:
    if value.is_section:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    described: Schema = {"description": value.description}
    extra = dict(value.schema)
    if "$ref" in extra:
        # Draft 7 ignores what stands beside a $ref.
        return {**described, "allOf": [extra]}
    if "crd" in extra:
        return {**plain(pool_spec["properties"][extra["crd"]]), **described}
    return {**described, "type": _type_of(value), **extra}


def _type_of(value: Value) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value.default, kind):
            return name
    raise ValuesError(f"{'.'.join(value.path)} has a default of no type that values have: {value.default!r}")


def plain(schema: Schema) -> Schema:
    """A CRD's schema as a schema of values: without Kubernetes' keywords, and closed to unknown keys."""
    node = {key: value for key, value in schema.items() if key in _CRD_KEYWORDS}
    if "properties" in node:
        node["properties"] = {name: plain(field) for name, field in node["properties"].items()}
        node["additionalProperties"] = False
    if isinstance(node.get("additionalProperties"), dict):
        node["additionalProperties"] = plain(node["additionalProperties"])
    if "items" in node:
        node["items"] = plain(node["items"])
    return node


# --- README.md --------------------------------------------------------------------------------------------------------


def table_of(values: list[Value]) -> str:
    """The values as a Markdown table."""
    rows = [f"| `{'.'.join(value.path)}` | {_cell(value.default)} | {value.description} |" for value in values
            if not value.is_section]  # fmt: skip
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def _cell(default: Any) -> str:
    if default in ("", [], {}):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def with_table(readme: str, table: str) -> str:
    """The README with its table replaced.

    Raises:
        ValuesError: The README has no place for it.
    """
    before, start, rest = readme.partition(TABLE[0])
    _, end, after = rest.partition(TABLE[1])
    if not (start and end):
        raise ValuesError(f"README.md needs the lines {TABLE[0]} and {TABLE[1]}")
    return f"{before}{start}\n\n{table}\n\n{end}{after}"


# --- templates/crds ---------------------------------------------------------------------------------------------------


def crd_template(name: str, text: str) -> str:
    """A CRD as a template.

    Raises:
        ValuesError: Its text would be taken for a template's.
    """
    if "{{" in text:
        raise ValuesError(f"crds/{name} contains '{{{{', which Helm would evaluate")
    _, _, body = text.partition("apiVersion:")  # the comments before it say how to write the other file
    head, line, rest = f"apiVersion:{body}".partition("metadata:\n")
    if not line:
        raise ValuesError(f"crds/{name} has no metadata")
    return (
        f"{{{{/* Written by `make crds` from crds/{name}. Do not edit. */ -}}}}\n"
        "{{- if .Values.crds.install }}\n"
        f"{head}metadata:\n"
        "  labels:\n"
        '    {{- include "whatsapp.labels" . | nindent 4 }}\n'
        "  {{- if or .Values.crds.keep .Values.commonAnnotations }}\n"
        "  annotations:\n"
        "    {{- if .Values.crds.keep }}\n"
        "    helm.sh/resource-policy: keep\n"
        "    {{- end }}\n"
        "    {{- with .Values.commonAnnotations }}\n"
        "    {{- toYaml . | nindent 4 }}\n"
        "    {{- end }}\n"
        "  {{- end }}\n"
        f"{rest}"
        "{{- end }}\n"
    )


# --- All --------------------------------------------------------------------------------------------------------------


def render() -> dict[Path, str]:
    """Path -> text of every file that is written."""
    values = read_values((CHART / "values.yaml").read_text())
    sources = {path.name: path.read_text() for path in sorted(CRDS.glob("*.yaml"))}
    pool = yaml.safe_load(sources[POOL_CRD])
    pool_spec = pool["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    readme = CHART / "README.md"
    return {
        CHART / "values.schema.json": json.dumps(schema_of(values, pool_spec), indent=2) + "\n",
        readme: with_table(readme.read_text(), table_of(values)),
        **{CHART / "templates" / "crds" / name: crd_template(name, text) for name, text in sources.items()},
    }


def main() -> None:
    """Write the files; with `--check` only compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail when a file differs from what would be written")
    check = parser.parse_args().check
    try:
        files = render()
    except ValuesError as error:
        sys.exit(f"chart: {error}")
    stale = {path: text for path, text in files.items() if not path.exists() or path.read_text() != text}
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
    if stale and check:
        sys.exit(f"{names} differ from values.yaml and crds/: run `make crds`")
    for path, text in stale.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(f"written: {names}" if stale else "the chart's generated files are up to date")


if __name__ == "__main__":
    main()
