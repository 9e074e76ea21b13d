"""Writes the CRDs from the models in `resources`: `python -m whatsapp_operator.crds DIRECTORY`.

Owns the translation from pydantic's JSON schema to the structural schema of apiextensions.k8s.io/v1, and what a CRD
has beside its schema: names, printer columns, subresources. Must not hold anything that a field's model could say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from session_worker.contract import GROUP, POOL_PLURAL, SESSION_PLURAL, VERSION
from whatsapp_operator.resources import PoolSpec, PoolStatus, SessionSpec, SessionStatus

_KEPT = (
    "description", "type", "format", "default", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "maxProperties", "required", "x-kubernetes-validations", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip
"""Keywords that structural schemas know and our models use; anything else in pydantic's output is for people."""


def structural(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Translate one node of pydantic's JSON schema: references inlined, optional values absent rather than null."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    if "anyOf" in schema:
        alternatives = [option for option in schema["anyOf"] if option.get("type") != "null"]
        if len(alternatives) != 1:
            raise ValueError(f"a structural schema cannot say anyOf: {schema}")
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        return structural({**alternatives[0], **rest}, definitions)
    node = {key: schema[key] for key in _KEPT if key in schema}
    if isinstance(node.get("default"), dict):
        node["default"] = {key: value for key, value in node["default"].items() if value is not None}
    if "const" in schema:
        node["enum"] = [schema["const"]]
    match schema.get("type"):
        case "object" if "properties" in schema:
            node["properties"] = {
                name: structural(field, definitions) for name, field in sorted(schema["properties"].items())
            }
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            node["additionalProperties"] = structural(schema["additionalProperties"], definitions)
        case "array":
            node["items"] = structural(schema["items"], definitions)
        case "integer":
            node["format"] = "int64"
        case _:
            pass
    return node


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The structural schema of a model."""
    schema = model.model_json_schema(by_alias=True)
    return structural(schema, schema.get("$defs", {}))


def default_of(model: BaseModel) -> dict[str, Any]:
    """A default for an object field, whole: the server holds it against the CEL rules before it fills in more."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def _column(name: str, path: str, description: str, kind: str = "string", priority: int = 0) -> dict[str, Any]:
    column = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return {**column, "priority": priority} if priority else column


def _crd(
    *,
    kind: str,
    plural: str,
    short_names: list[str],
    columns: list[dict[str, Any]],
    spec: type[BaseModel],
    status: type[BaseModel],
    description: str,
    scale: dict[str, str] | None = None,
) -> dict[str, Any]:
    schema = {
        "type": "object",
        "description": description,
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {**schema_of(spec), "default": default_of(spec())},
            # Without this default kstatus, Flux and Argo CD would call an object current before anyone looked at it.
            "status": {**schema_of(status), "default": {"observedGeneration": -1}},
        },
        "x-kubernetes-validations": [
            {
                "rule": "self.metadata.name.size() <= 63",
                "message": "metadata.name must have at most 63 characters: it becomes a label",
            }
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": short_names,
                "categories": ["whatsapp"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": columns,
                    "subresources": {"status": {}, **({"scale": scale} if scale else {})},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def session_crd() -> dict[str, Any]:
    """The CRD of `WhatsAppSession`."""
    return _crd(
        kind="WhatsAppSession",
        plural=SESSION_PLURAL,
        short_names=["wa"],
        description="One WhatsApp account, held by a headless browser in a worker pod.",
        spec=SessionSpec,
        status=SessionStatus,
        columns=[
            _column("Phase", ".status.phase", "Where the session is in its life."),
            _column("Account", ".status.account.phoneNumber", "The linked account."),
            _column("Pool", ".spec.poolRef.name", "The pool it runs in.", priority=1),
            _column("Worker", ".status.assignment.worker", "The worker pod that owns it."),
            _column("Epoch", ".status.assignment.epoch", "Changes of owner.", kind="integer", priority=1),
            _column("Restarts", ".status.restarts", "Times the browser was started anew.", kind="integer"),
            _column("Age", ".metadata.creationTimestamp", "Since when the object exists.", kind="date"),
            _column("Message", ".status.message", "Why it is where it is."),
        ],
    )


def pool_crd() -> dict[str, Any]:
    """The CRD of `WhatsAppWorkerPool`."""
    return _crd(
        kind="WhatsAppWorkerPool",
        plural=POOL_PLURAL,
        short_names=["wapool"],
        description="The worker pods that sessions run in.",
        spec=PoolSpec,
        status=PoolStatus,
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
        columns=[
            _column("Desired", ".spec.replicas", "Workers wanted.", kind="integer"),
            _column("Ready", ".status.readyReplicas", "Workers ready for sessions.", kind="integer"),
            _column("Draining", ".status.drainingReplicas", "Workers being emptied.", kind="integer", priority=1),
            _column("Sessions", ".status.sessions", "Sessions assigned.", kind="integer"),
            _column("Capacity", ".status.effectiveCapacity", "Places of the ready workers.", kind="integer"),
            _column("Pending", ".status.pendingSessions", "Sessions that wait for a place.", kind="integer"),
            _column("Age", ".metadata.creationTimestamp", "Since when the object exists.", kind="date"),
            _column("Message", ".status.conditions[?(@.type=='Ready')].message", "How it is.", priority=0),
        ],
    )


def render() -> dict[str, str]:
    """File name -> YAML text of every CRD."""
    header = "# Written by `make crds` from operator/whatsapp_operator/resources.py. Do not edit.\n"
    return {
        f"{crd['spec']['names']['plural']}.yaml": header + yaml.safe_dump(crd, sort_keys=False, width=120)
        for crd in (session_crd(), pool_crd())
    }


def main() -> None:
    """Write the files into the directory named on the command line; with `--check` only compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--check", action="store_true", help="fail when a file differs from what would be written")
    arguments = parser.parse_args()
    stale = []
    for name, text in render().items():
        path = arguments.directory / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(str(path))
        if not arguments.check:
            path.write_text(text)
    if stale and arguments.check:
        sys.exit(f"{', '.join(stale)} differ from the models: run `make crds`")
    sys.stdout.write(f"written: {', '.join(stale)}\n" if stale else "the definitions are up to date\n")


if __name__ == "__main__":
    main()
