"""OpenAPI v2 documents in gnostic's protobuf form, which kubectl before 1.27 reads and nothing else.

Pure. Field numbers are those of github.com/google/gnostic-models `openapiv2/OpenAPIv2.proto`; only the fields that
`openapi.py` writes are there.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any, Final

JsonObject = dict[str, Any]

_METHODS: Final = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}


def _varint(value: int) -> bytes:
    parts = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _text(number: int, value: str | None) -> bytes:
    return _bytes(number, value.encode()) if value else b""


def _integer(number: int, value: int | None) -> bytes:
    return b"" if value is None else _varint(number << 3) + _varint(value)


def _double(number: int, value: float | None) -> bytes:
    return b"" if value is None else _varint(number << 3 | 1) + struct.pack("<d", value)


def _texts(number: int, values: Iterable[str]) -> bytes:
    return b"".join(_bytes(number, value.encode()) for value in values)


def _any(value: Any) -> bytes:
    # JSON is YAML, which is what this field holds.
    return _text(2, json.dumps(value) + "\n")


def _named(name: str, value: bytes) -> bytes:
    return _text(1, name) + _bytes(2, value)


def _extensions(number: int, source: JsonObject) -> bytes:
    return b"".join(
        _bytes(number, _named(name, _any(value))) for name, value in source.items() if name.startswith("x-")
    )


def _schema(source: JsonObject) -> bytes:
    additional = source.get("additionalProperties")
    properties = source.get("properties") or {}
    parts = [
        _text(1, source.get("$ref")),
        _text(2, source.get("format")),
        _text(4, source.get("description")),
        _bytes(5, _any(source["default"])) if "default" in source else b"",
        _double(7, source.get("maximum")),
        _double(9, source.get("minimum")),
        _integer(11, source.get("maxLength")),
        _integer(12, source.get("minLength")),
        _text(13, source.get("pattern")),
        _integer(14, source.get("maxItems")),
        _integer(15, source.get("minItems")),
        _texts(19, source.get("required") or ()),
        b"".join(_bytes(20, _any(value)) for value in source.get("enum") or ()),
        _bytes(21, _bytes(1, _schema(additional))) if isinstance(additional, dict) else b"",
        _bytes(22, _text(1, source["type"])) if source.get("type") else b"",
        _bytes(23, _bytes(1, _schema(source["items"]))) if "items" in source else b"",
        _bytes(25, _named_schemas(properties)) if properties else b"",
        _extensions(31, source),
    ]
    return b"".join(parts)


def _named_schemas(schemas: JsonObject) -> bytes:
    return b"".join(_bytes(1, _named(name, _schema(item))) for name, item in schemas.items())


def _parameter(source: JsonObject) -> bytes:
    query = _text(2, source["in"]) + _text(4, source["name"]) + _text(6, source.get("type"))
    return _bytes(1, _bytes(2, _bytes(3, query)))


def _operation(source: JsonObject) -> bytes:
    parts = [
        _text(5, source.get("operationId")),
        b"".join(_bytes(8, _parameter(item)) for item in source.get("parameters") or ()),
        _bytes(9, b""),
        _extensions(13, source),
    ]
    return b"".join(parts)


def _path(source: JsonObject) -> bytes:
    return b"".join(_bytes(_METHODS[method], _operation(item)) for method, item in source.items() if method in _METHODS)


def encode(document: JsonObject) -> bytes:
    """A whole document."""
    info = document["info"]
    paths = b"".join(_bytes(2, _named(path, _path(item))) for path, item in document["paths"].items())
    parts = [
        _text(1, document["swagger"]),
        _bytes(2, _text(1, info["title"]) + _text(2, info["version"])),
        _bytes(8, paths),
        _bytes(9, _named_schemas(document["definitions"])),
    ]
    return b"".join(parts)
