"""The OpenAPI of the public API, made of what the operations declare.

Owns the document. Must not know any operation. Tags, operation ids and names of schemas are WAHA's: n8n and the SDKs
are generated from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, TypeAdapter

from gateway.calls import HEADER
from gateway.operations import Operation

_REF = "#/components/schemas/{model}"
TAGS = {
    "🖥️ Sessions": "Control WhatsApp sessions (accounts)",
    "📱 Pairing": "Pair a session with WhatsApp on your phone.",
    "🆔 Profile": "Your profile information",
    "📤 Chatting": "Chatting methods",
    "✅ Presence": "Presence information",
    "📢 Channels": "Channels (newsletters) methods",
    "🟢 Status": "Status (aka stories) methods",
    "💬 Chats": "Chats methods",
    "🔑 Api Keys": "API Keys management",
    "👤 Contacts": "Contacts methods. Use a phone number, or one with `@c.us` at its end, as `contactId`.",
    "👥 Groups": "Groups methods.",
    "📞 Calls": "Call handling methods",
    "📅 Events": "Event Message",
    "🏷️ Labels": "Labels - available only for WhatsApp Business accounts",
    "🖼️ Media": "Media methods",
    "🧩 Apps": "Applications (built-in integrations)",
    "🔍 Observability": "Other methods",
    "📮 Webhooks": "Events that a webhook did not take, and their second chance",
}


def document(operations: Iterable[Operation], base_url: str) -> dict[str, Any]:
    """The document; `base_url` is where the API is."""
    every = list(operations)
    types = _types(every)
    schemas, components = TypeAdapter.json_schemas(
        [(key, "validation", TypeAdapter(kind)) for key, kind in types.items()], ref_template=_REF
    )
    definitions: dict[str, Any] = components.get("$defs", {})
    found = {key: schema for (key, _), schema in schemas.items()}
    requests = [found[key] for key in types if key.startswith(("body ", "query ", "where "))]
    for name in _reachable(requests, definitions):
        definitions[name] = _simplified(definitions[name])
    paths: dict[str, Any] = {}
    for operation in every:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, found, definitions)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "WhatsApp HTTP API",
            "description": "WAHA's API for WhatsApp sessions that are custom resources of Kubernetes.",
            "version": version("whatsapp-operator"),
        },
        "servers": [{"url": base_url}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": {"api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"}},
            "schemas": definitions | {"Error": _ERROR},
        },
    }


_ERROR: dict[str, Any] = {
    "type": "object",
    "description": "Any failure. `message` is a sentence, or a list of them for a request that is wrong.",
    "properties": {
        "statusCode": {"type": "integer"},
        "message": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        "error": {"description": "A sentence; an object for files"},
        "session": {"type": "string"},
        "status": {"type": "string"},
        "expected": {"type": "array", "items": {"type": "string"}},
        "outcome": {"const": "unknown", "description": "Whether it happened is not known"},
    },
}


def _types(operations: list[Operation]) -> dict[str, Any]:
    """Every type that the document speaks of, by `use operationId`."""
    found: dict[str, Any] = {}
    for operation in operations:
        kinds = {"body": operation.body, "query": operation.query, "where": operation.where, "result": operation.result}
        found |= {f"{use} {operation.operation_id}": kind for use, kind in kinds.items() if kind is not None}
    return found


def _operation(operation: Operation, found: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(operation, found, definitions),
        "responses": _responses(operation, found),
    }
    if operation.why_absent:
        result["description"] = f"Not implemented by the engine: {operation.why_absent}."
    if operation.body is not None:
        required = any(field.is_required() for field in operation.body.model_fields.values())
        content = {"application/json": {"schema": found[f"body {operation.operation_id}"]}}
        result["requestBody"] = {"required": required, "content": content}
    if operation.deprecated:
        result["deprecated"] = True
    if operation.path.startswith("/api/") or operation.path == "/health":
        result["security"] = [{"api_key": []}]
    return result


def _parameters(operation: Operation, found: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    result = []
    typed = _fields(operation, "where", found, definitions)
    for name in re.findall(r"\{(\w+)\}", operation.path):
        schema = typed.get(name, {"type": "string", **({"default": "default"} if name == "session" else {})})
        result.append({"name": name, "in": "path", "required": True, "schema": schema})
    required = _required(operation.query)
    for name, schema in _fields(operation, "query", found, definitions).items():
        result.append({"name": name, "in": "query", "required": name in required, "schema": schema})
    if operation.sends:
        text = "A name for this request: done once, however often it is repeated within a day."
        schema = {"type": "string", "maxLength": 200}
        result.append({"name": HEADER, "in": "header", "required": False, "description": text, "schema": schema})
    return result


def _fields(operation: Operation, use: str, found: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = found.get(f"{use} {operation.operation_id}")
    if schema is None:
        return {}
    properties: dict[str, Any] = definitions[schema["$ref"].rpartition("/")[2]]["properties"]
    return properties


def _required(model: type[BaseModel] | None) -> set[str]:
    fields = model.model_fields if model else {}
    return {field.alias or name for name, field in fields.items() if field.is_required()}


def _responses(operation: Operation, found: dict[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}}
    failures = {str(status): {"description": text, "content": error} for status, text in _failures(operation).items()}
    if operation.why_absent:
        return failures
    content: dict[str, Any] = {
        kind: {"schema": {"type": "string", "format": "binary"}} for kind in operation.media_types
    }
    if operation.result is not None:
        content["application/json"] = {"schema": found[f"result {operation.operation_id}"]}
    done = {"description": "", **({"content": content} if content else {})}
    health = {"503": {**done, "description": "Something is down"}} if operation.path == "/health" else {}
    return {str(operation.status): done, **failures, **health}


def _failures(operation: Operation) -> dict[int, str]:
    if not operation.path.startswith("/api/"):
        return {422: "Not implemented by the engine"} if operation.why_absent else {}
    texts = {401: "No key, or a wrong one", 403: "The key is not for this", 429: "Too many requests"}
    if operation.why_absent:
        return {**texts, 422: "Not implemented by the engine"}
    texts |= {400: "The request is wrong", 404: "Not found", 422: "Not possible, or not in this status", 503: "Not now"}
    if operation.calls is not None:
        texts[504] = "Whether it happened is not known"
    if operation.sends:
        texts[409] = "The request of this name is being done"
    return dict(sorted(texts.items()))


def _reachable(schemas: Iterable[dict[str, Any]], definitions: dict[str, Any]) -> set[str]:
    """Names of the definitions that schemas lead to."""
    found: set[str] = set()
    waiting: list[Any] = list(schemas)
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            name = str(item.get("$ref", "")).rpartition("/")[2]
            if name in definitions and name not in found:
                found.add(name)
                waiting.append(definitions[name])
            waiting += item.values()
    return found


def _simplified(schema: Any) -> Any:
    """A schema of a request as generators of clients read it best.

    They take an optional field as just that, without "or null", and look for `example` and `oneOf`.
    """
    if isinstance(schema, list):
        return [_simplified(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: _simplified(item) for name, item in schema.items()}
    options = result.pop("anyOf", None)
    if isinstance(options, list):
        others = [option for option in options if option != {"type": "null"}]
        result = {**(others[0] if len(others) == 1 else {"oneOf": others}), **result}
        if result.get("default", 0) is None:
            del result["default"]
    examples = result.get("examples")
    if isinstance(examples, list) and examples:
        result["example"] = examples[0]
    return result
