"""Label and field selectors: text or object form to a predicate.

Pure. The grammar is that of k8s.io/apimachinery `labels` and `fields`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sandbox.kube.errors import bad_request
from sandbox.kube.goformat import go_quote

Labels = Mapping[str, str]

_SET = re.compile(r"(?P<key>[^\s!=<>(),]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)")
_COMPARE = re.compile(r"(?P<key>[^\s!=<>(),]+)\s*(?P<op>==|!=|=|<|>)\s*(?P<value>[^\s!=<>(),]*)")
_EXISTS = re.compile(r"(?P<not>!?)\s*(?P<key>[^\s!=<>(),]+)")
_NAME: Final = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def is_qualified_name(text: str) -> bool:
    """Whether `text` may be a label key: `[dns.prefix/]name`, 253 and 63 characters at most."""
    prefix, slash, name = text.rpartition("/")
    if slash and not (0 < len(prefix) <= 253 and _PREFIX.fullmatch(prefix)):
        return False
    return 0 < len(name) <= 63 and _NAME.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Whether `text` may be a label's value."""
    return not text or (len(text) <= 63 and _NAME.fullmatch(text) is not None)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on the labels; `op` is one of in, notin, exists, !, >, <."""

    key: str
    op: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Labels) -> bool:
        """Whether `labels` meet the condition."""
        value = labels.get(self.key)
        match self.op:
            case "in":
                return value in self.values
            case "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        bound = int(next(iter(self.values)))
        if value is None or not value.lstrip("-").isdigit():
            return False
        return int(value) > bound if self.op == ">" else int(value) < bound


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels | None) -> bool:
        """Whether an object with these labels is selected."""
        found = labels or {}
        return all(requirement.matches(found) for requirement in self.requirements)

    @property
    def everything(self) -> bool:
        """Whether nothing is filtered out."""
        return not self.requirements


EVERYTHING: Final = LabelSelector()


def _checked(requirement: Requirement) -> Requirement:
    if not is_qualified_name(requirement.key):
        raise bad_request(
            f"unable to parse requirement: key: Invalid value: {go_quote(requirement.key)}: not a label key"
        )
    for value in requirement.values:
        if requirement.op in "<>":
            if not value.lstrip("-").isdigit():
                raise bad_request("unable to parse requirement: for 'Gt', 'Lt' operators, the value must be an integer")
        elif not is_label_value(value):
            raise bad_request(
                f"unable to parse requirement: values[0][{requirement.key}]: Invalid value: {go_quote(value)}: "
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
                "and must start and end with an alphanumeric character"
            )
    return requirement


def parse_label_selector(text: str) -> LabelSelector:
    """The text form, as in `?labelSelector=`.

    Raises:
        ApiError: 400, the text does not parse.
    """
    rest = text.strip()
    found: list[Requirement] = []
    while rest:
        if match := _SET.match(rest):
            values = frozenset(value.strip() for value in match["values"].split(","))
            found.append(_checked(Requirement(match["key"], match["op"], values)))
        elif match := _COMPARE.match(rest):
            op = {"==": "in", "=": "in", "!=": "notin"}.get(match["op"], match["op"])
            found.append(_checked(Requirement(match["key"], op, frozenset({match["value"]}))))
        elif match := _EXISTS.match(rest):
            found.append(_checked(Requirement(match["key"], "!" if match["not"] else "exists")))
        else:
            raise bad_request(f"unable to parse requirement: found {rest!r}, expected: identifier")
        rest = rest[match.end() :].lstrip()
        if rest:
            if not rest.startswith(","):
                raise bad_request(f"couldn't parse the selector string {go_quote(text)}: found {rest!r}, expected: ','")
            rest = rest[1:].lstrip()
            if not rest:
                raise bad_request(
                    f"couldn't parse the selector string {go_quote(text)}: found '', expected: identifier"
                )
    return LabelSelector(tuple(found))


def label_selector_from_object(selector: Mapping[str, Any] | None) -> LabelSelector | None:
    """A `metav1.LabelSelector`; `None` (no selector) selects nothing and an empty one everything.

    Raises:
        ValueError: an expression has an unknown operator.
    """
    if selector is None:
        return None
    found = [
        Requirement(key, "in", frozenset({str(value)})) for key, value in (selector.get("matchLabels") or {}).items()
    ]
    for expression in selector.get("matchExpressions") or []:
        operator = expression.get("operator")
        op = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!"}.get(operator)
        if op is None:
            raise ValueError(
                f"{operator!r} is not a valid label selector operator: use In, NotIn, Exists or DoesNotExist"
            )
        found.append(Requirement(expression["key"], op, frozenset(expression.get("values") or ())))
    return LabelSelector(tuple(found))


def selects(selector: Mapping[str, Any] | None, labels: Labels | None) -> bool:
    """Whether a `metav1.LabelSelector` selects an object with these labels."""
    parsed = label_selector_from_object(selector)
    return parsed is not None and parsed.matches(labels)


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """Conditions `path = value` or `path != value`, all of which must hold."""

    terms: tuple[tuple[str, str, bool], ...] = ()
    """Path, value, and whether they must be equal."""

    def matches(self, fields: Callable[[str], str]) -> bool:
        """Whether an object is selected; `fields` gives the text of a field, empty where there is none."""
        return all((fields(path) == value) is equal for path, value, equal in self.terms)

    def required_value(self, path: str) -> str | None:
        """The value that `path` must have, where the selector fixes one."""
        return next((value for found, value, equal in self.terms if equal and found == path), None)

    @property
    def everything(self) -> bool:
        """Whether nothing is filtered out."""
        return not self.terms


def parse_field_selector(text: str, problem: Callable[[str], str]) -> FieldSelector:
    """The text form, as in `?fieldSelector=`; `problem` says why a path cannot be selected by, or nothing.

    Raises:
        ApiError: 400, the text does not parse or names a field that cannot be selected by.
    """
    terms: list[tuple[str, str, bool]] = []
    for term in re.split(r"(?<!\\),", text):
        if not term:
            continue
        match = re.fullmatch(r"(?P<path>.+?)(?P<op>==|!=|=)(?P<value>.*)", term)
        if match is None:
            raise bad_request(f"invalid selector: {go_quote(term)}; can't understand {go_quote(term)}")
        path, value = match["path"], re.sub(r"\\([\\,=])", r"\1", match["value"])
        if why := problem(path):
            raise bad_request(why)
        terms.append((path, value, match["op"] != "!="))
    return FieldSelector(tuple(terms))
