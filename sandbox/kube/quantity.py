"""Kubernetes quantities (`100m`, `2Gi`, `1e3`): text to exact numbers and back.

Pure. The grammar is that of k8s.io/apimachinery `api/resource`.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

_PATTERN: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d+)?")
_BINARY: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}

PATTERN_TEXT: Final = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
"""The pattern that the real server quotes when it refuses a quantity."""


def parse_quantity(text: str | float) -> Decimal:
    """The exact value in base units (cores, bytes, pieces).

    Raises:
        ValueError: `text` is no quantity.
    """
    match = _PATTERN.fullmatch(str(text))
    if match is None:
        raise ValueError(f"quantities must match the regular expression '{PATTERN_TEXT}'")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        return number * _BINARY[suffix]
    if suffix in _DECIMAL:
        return number.scaleb(_DECIMAL[suffix])
    return number.scaleb(int(suffix[1:]))


def format_binary(value: Decimal) -> str:
    """Whole bytes with the largest binary suffix that loses nothing (`1536Mi`)."""
    whole = int(value.to_integral_value(ROUND_CEILING))
    for suffix, factor in reversed(_BINARY.items()):
        if whole and whole % factor == 0:
            return f"{whole // factor}{suffix}"
    return str(whole)


def format_decimal(value: Decimal) -> str:
    """A count or a number of cores with the suffix that loses nothing (`250m`, `3`, `5k`)."""
    if value == value.to_integral_value():
        whole = int(value)
        for suffix in ("E", "P", "T", "G", "M", "k"):
            factor = 10 ** _DECIMAL[suffix]
            if whole and whole % factor == 0:
                return f"{whole // factor}{suffix}"
        return str(whole)
    for suffix in ("m", "u", "n"):
        scaled = value.scaleb(-_DECIMAL[suffix])
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}{suffix}"
    return f"{int(value.scaleb(9).to_integral_value(ROUND_CEILING))}n"


def canonical(text: str | float) -> str:
    """The form in which the server stores a quantity: `1000m` becomes `1`, `1024Mi` becomes `1Gi`.

    Raises:
        ValueError: `text` is no quantity.
    """
    value = parse_quantity(text)
    match = _PATTERN.fullmatch(str(text))
    if match is not None and (match[2] or "") in _BINARY and value == value.to_integral_value():
        # A binary quantity below 1 Ki has no binary suffix left to keep.
        return format_binary(value)
    return format_decimal(value)


def divide_up(text: str | float, divisor: str | float) -> int:
    """`text / divisor`, rounded up: the value of a `resourceFieldRef`.

    Raises:
        ValueError: one of them is no quantity, or the divisor is zero.
    """
    by = parse_quantity(divisor)
    if by == 0:
        raise ValueError("the divisor of a resourceFieldRef must not be 0")
    return int((parse_quantity(text) / by).to_integral_value(ROUND_CEILING))
