"""Reads configuration from the environment, for all parts.

Owns the wording of what is wrong with a variable. Every error names the variable, what it holds and what it may hold,
and all errors are reported at once. Must not know which variables there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")
Number = TypeVar("Number", int, float)

_REDIS = re.compile(r"(rediss?(\+cluster)?|unix)://.|rediss?\+sentinel://[^/]+/[^/]")
"""The forms that `registry.Registry.connect` takes."""


class ConfigurationError(Exception):
    """The environment is not usable; the text names each variable and how to mend it."""


class Environment:
    """A mapping of variables that collects what is wrong; call `check` after the last one was read."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._problems: list[str] = []

    def text(self, name: str, default: str | None = None) -> str:
        """A text; required when there is no default."""
        value = self._variables.get(name, "").strip()
        if value:
            return value
        if default is None:
            self._problems.append(f"{name} is not set")
            return ""
        return default

    def optional(self, name: str) -> str | None:
        """A text that may be absent."""
        return self._variables.get(name, "").strip() or None

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        """A whole number between `low` and `high`."""
        return self._parse(
            name, default, lambda value: _bounded(int(value), low, high), f"a whole number from {low} to {high}"
        )

    def number(self, name: str, default: float, *, low: float, high: float) -> float:
        """A number between `low` and `high`."""
        return self._parse(
            name, default, lambda value: _bounded(float(value), low, high), f"a number from {low:g} to {high:g}"
        )

    def flag(self, name: str, *, default: bool) -> bool:
        """`true` or `false`."""
        return self._parse(name, default, lambda value: {"true": True, "false": False}[value.lower()], "true or false")

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        """One of a few words."""
        return self._parse(name, default, lambda value: choices[choices.index(value)], " or ".join(choices))

    def address(self, name: str, default: str) -> str:
        """An http(s) address."""
        return self._parse(name, default, _web_address, "an address that begins with http:// or https://")

    def redis(self, name: str, default: str | None = None) -> str:
        """Where Redis is; required when there is no default."""
        value = self.text(name, default)
        if value and value != default and not _REDIS.match(value):
            forms = "redis://, rediss://, redis+cluster://, unix:// or redis+sentinel://host:26379/service"
            self.complain(name, f"an address that begins with {forms}")
        return value

    def parsed(self, name: str, default: T, parse: Callable[[str], T], expected: str) -> T:
        """Any value: `parse` raises ValueError or KeyError for what is not `expected`."""
        return self._parse(name, default, parse, expected)

    def complain(self, name: str, expected: str) -> None:
        """Note that a variable is wrong for a reason of the caller's; its value is not repeated, it may be secret."""
        self._problems.append(f"{name} must be {expected}")

    def check(self) -> None:
        """Raise if anything was wrong.

        Raises:
            ConfigurationError: Lists every problem.
        """
        if self._problems:
            raise ConfigurationError("; ".join(self._problems))

    def _parse(self, name: str, default: T, parse: Callable[[str], T], expected: str) -> T:
        value = self._variables.get(name, "").strip()
        if not value:
            return default
        try:
            return parse(value)
        except (ValueError, KeyError):
            self._problems.append(f"{name} is {value!r}, but must be {expected}")
            return default


def _web_address(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError
    return text


def _bounded(value: Number, low: Number, high: Number) -> Number:
    if not low <= value <= high:
        raise ValueError
    return value
