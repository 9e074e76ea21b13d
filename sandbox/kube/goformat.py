"""Go's ways to write a value, because clients and people compare our messages with those of the real API server.

Pure functions.
"""

from __future__ import annotations

import json
from typing import Any

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def go_quote(text: str) -> str:
    """`strconv.Quote`: double quotes, escapes for control characters, other printable characters as they are."""
    parts = []
    for char in text:
        if char in _ESCAPES:
            parts.append(_ESCAPES[char])
        elif char.isprintable():
            parts.append(char)
        elif ord(char) < 0x80:
            parts.append(f"\\x{ord(char):02x}")
        else:
            parts.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")
    return f'"{"".join(parts)}"'


def go_json(value: Any) -> str:
    """`json.Marshal`: sorted keys, no blanks, `<`, `>` and `&` escaped."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def go_number(value: float) -> str:
    """`%v` of a number: floats in their shortest form, with an exponent from 1e+06 on and below 0.0001."""
    if isinstance(value, int):
        return str(value)
    exponent = f"{value:.16e}".partition("e")[2]
    digits = repr(value).partition("e")[0]
    if -4 <= int(exponent) < 6 or value == 0:
        return digits.removesuffix(".0")
    plain = digits.replace(".", "").strip("-0")
    mantissa = f"{plain[0]}.{plain[1:]}" if plain[1:] else plain
    return f"{'-' if value < 0 else ''}{mantissa}e{exponent[0]}{int(exponent[1:]):02d}"


def go_value(value: Any) -> str:
    """The value part of a field error: `%v` for numbers and booleans, JSON for everything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return go_number(value)
    return go_json(value)
