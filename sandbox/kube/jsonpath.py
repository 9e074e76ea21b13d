"""The JSONPath of printer columns: fields, indices, wildcards and filters by equality.

Pure. A subset of k8s.io/client-go `util/jsonpath`; not there are slices, unions, recursive descent and `range`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

_TOKEN = re.compile(
    r"""
    \.(?P<field>(?:[A-Za-z0-9_$-]|\\.)+)
    | \[\s*'(?P<quoted>(?:[^'\\]|\\.)*)'\s*\]
    | \[\s*"(?P<double>(?:[^"\\]|\\.)*)"\s*\]
    | \[\s*(?P<index>-?\d+)\s*\]
    | (?P<all>\[\s*\*\s*\]|\.\*)
    | \[\?\(\s*@(?P<path>[^=!<>)]*?)\s*(?:(?P<op>==|!=)\s*(?P<value>"[^"]*"|'[^']*'|[^)\s]+)\s*)?\)\]
    """,
    re.VERBOSE,
)

Step = Callable[[Any], Iterator[Any]]


def _field(name: str) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, dict) and name in value:
            yield value[name]

    return step


def _index(position: int) -> Step:
    def step(value: Any) -> Iterator[Any]:
        if isinstance(value, list) and -len(value) <= position < len(value):
            yield value[position]

    return step


def _all(value: Any) -> Iterator[Any]:
    yield from value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _literal(text: str) -> Any:
    if text[0] in "\"'":
        return text[1:-1]
    if text in {"true", "false"}:
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def _filter(path: str, op: str | None, literal: str | None) -> Step:
    inner = compile_path(path)
    wanted = _literal(literal) if literal is not None else None

    def step(value: Any) -> Iterator[Any]:
        for item in value if isinstance(value, list) else ():
            found = list(inner(item))
            if found and (op is None or (found[0] == wanted) is (op == "==")):
                yield item

    return step


@lru_cache(maxsize=1024)
def compile_path(path: str) -> Callable[[Any], Iterator[Any]]:
    """A function that finds the values at `path`, with or without braces around it.

    Raises:
        ValueError: the path is not of the supported subset.
    """
    text = path.strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    steps: list[Step] = []
    position = 0
    while position < len(text) and text != ".":
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"{path!r} is not a JSONPath of fields, indices, wildcards and equality filters")
        name = next((match[g] for g in ("field", "quoted", "double") if match[g] is not None), None)
        if name is not None:
            steps.append(_field(re.sub(r"\\(.)", r"\1", name)))
        elif match["index"] is not None:
            steps.append(_index(int(match["index"])))
        elif match["all"] is not None:
            steps.append(_all)
        else:
            steps.append(_filter(match["path"], match["op"], match["value"]))
        position = match.end()

    def find(value: Any, remaining: int = 0) -> Iterator[Any]:
        if remaining == len(steps):
            yield value
            return
        for item in steps[remaining](value):
            yield from find(item, remaining + 1)

    return find


def first(path: str, value: Any) -> Any:
    """The first value at `path`, or `None`."""
    return next(compile_path(path)(value), None)
