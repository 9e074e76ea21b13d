"""The string formats of CRD schemas, Go's durations and times, and Go's regular expressions in Python's dialect.

Pure functions.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from email.utils import parseaddr
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

_RFC3339: Final = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_HOSTNAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_SCALA_DURATION: Final = re.compile(
    r"\d+\s*(ns|nanos?(econds?)?|us|µs|micros?(econds?)?|ms|millis?(econds?)?|s|secs?|seconds?|m|mins?|minutes?"
    r"|h|hrs?|hours?|d|days?|w|wks?|weeks?)"
)


@lru_cache(maxsize=1024)
def go_regex(pattern: str) -> re.Pattern[str]:
    r"""`pattern` in Python's dialect: Go's `$` and `\z` match at the very end only, `\pL` has no counterpart.

    Raises:
        re.error: Python cannot read it either.
    """
    parts: list[str] = []
    in_class = False
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "\\" and position + 1 < len(pattern):
            escape = pattern[position : position + 2]
            parts.append("\\Z" if escape == "\\z" else escape)
            position += 2
            continue
        if char == "[":
            in_class = True
        elif char == "]":
            in_class = False
        parts.append("\\Z" if char == "$" and not in_class else char)
        position += 1
    return re.compile("".join(parts))


def parse_duration(text: str) -> timedelta:
    """`time.ParseDuration`: `1h30m`, `250ms`, `-5s`, `0`.

    Raises:
        ValueError: `text` is no duration.
    """
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return timedelta()
    position, seconds = 0, 0.0
    while match := _DURATION_PART.match(rest, position):
        seconds += float(match[1]) * _UNIT_SECONDS[match[2]]
        position = match.end()
    if not rest or position != len(rest):
        raise ValueError(f"{text!r} is not a duration such as 90s or 1h30m")
    return timedelta(seconds=sign * seconds)


def parse_time(text: str) -> datetime:
    """An RFC 3339 time, with seconds and zone, as an aware datetime.

    Raises:
        ValueError: `text` is no such time.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time such as 2026-01-31T12:00:00Z")
    fraction = (match[3] or "")[:7]
    zone = "+00:00" if match[4] in "Zz" else match[4]
    return datetime.fromisoformat(
        f"{match[1]}T{match[2]}{fraction:0<7}{zone}" if fraction else f"{match[1]}T{match[2]}{zone}"
    )


def format_time(moment: datetime) -> str:
    """`metav1.Time`: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_micro_time(moment: datetime) -> str:
    """`metav1.MicroTime`: UTC, six decimals."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _accepts(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _is_uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme) or text.startswith("/")


def _is_byte(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _is_duration(text: str) -> bool:
    return _accepts(parse_duration)(text) or _SCALA_DURATION.fullmatch(text) is not None


def _matches(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


_HEX: Final = r"[0-9a-fA-F]"

FORMATS: Final[dict[str, Callable[[str], bool]]] = {
    "datetime": _accepts(parse_time),
    "date": _accepts(date.fromisoformat),
    "duration": _is_duration,
    "uri": _is_uri,
    "email": lambda text: "@" in parseaddr(text)[1],
    "hostname": lambda text: len(text) <= 255 and _HOSTNAME.fullmatch(text) is not None,
    "ipv4": _accepts(ipaddress.IPv4Address),
    "ipv6": _accepts(ipaddress.IPv6Address),
    "cidr": _accepts(lambda text: ipaddress.ip_network(text, strict=False)),
    "mac": _matches(rf"{_HEX}{{2}}([:-]{_HEX}{{2}}){{5}}"),
    "uuid": _matches(rf"{_HEX}{{8}}-?{_HEX}{{4}}-?{_HEX}{{4}}-?{_HEX}{{4}}-?{_HEX}{{12}}"),
    "uuid4": _matches(rf"{_HEX}{{8}}-?{_HEX}{{4}}-?4{_HEX}{{3}}-?[89abAB]{_HEX}{{3}}-?{_HEX}{{12}}"),
    "hexcolor": _matches(rf"#?({_HEX}{{3}}|{_HEX}{{6}})"),
    "byte": _is_byte,
    "password": lambda _text: True,
}
"""Format (without dashes) to its check. Other formats are ignored, as the real server ignores unknown ones."""
