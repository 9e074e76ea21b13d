"""CEL rules of CRD schemas (`x-kubernetes-validations`), evaluated with Google's CEL runtime.

Owns what Kubernetes adds to CEL: the values `self` and `oldSelf`, escaped field names, the Kubernetes function library
(the part that rules of CRDs use; `indexOf` on lists is not there), and which rules run when. Pure apart from a cache of
compiled programs.

Types are checked at run time only: `self` is dynamic, so a rule that names an unknown field is accepted here, and the
real server refuses it when the CRD is created.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

from cel_expr_python import cel
from cel_expr_python.ext import ext_bindings, ext_encoders, ext_math, ext_optional, ext_strings

from sandbox.kube.errors import (
    OMITTED,
    FieldError,
    FieldErrorType,
    duplicate,
    forbidden_field,
    invalid_value,
    required,
)
from sandbox.kube.formats import go_regex
from sandbox.kube.quantity import parse_quantity
from sandbox.kube.schema import MISSING, Rule, Schema
from sandbox.kube.validation import json_equal, list_key

_NO_PATH: Final = "<nil>"
# fmt: off
_KEYWORDS: Final = frozenset((
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
    "let", "loop", "package", "namespace", "return", "var", "void", "while",
))
# fmt: on
_STRING_LITERAL: Final = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_OLD_SELF: Final = re.compile(r"(?<![.\w])oldSelf\b")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MISSING_KEY: Final = re.compile(r'Key not found in map : "(.*)"')


# --- The Kubernetes function library ----------------------------------------------------------------------------------

_T: Final = cel.Type


def _quantity(text: str) -> dict[str, str]:
    """A quantity is carried as a map with its exact decimal text, because CEL has no type for it."""
    return {"quantity": str(parse_quantity(text))}


def _amount(value: Any) -> Decimal:
    return Decimal(str(value["quantity"]))


def _accepts(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _url(text: str) -> dict[str, str]:
    parts = urlsplit(text)
    if not parts.scheme and not text.startswith("/"):
        raise ValueError(f"URL parse error during conversion from string: parse {text!r}: invalid URI for request")
    return {
        "scheme": parts.scheme,
        "host": parts.netloc.rpartition("@")[2],
        "hostname": parts.hostname or "",
        "port": str(parts.port or ""),
        "path": parts.path,
    }


def _find(text: str, pattern: str) -> str:
    match = go_regex(pattern).search(text)
    return match[0] if match else ""


def _find_all(text: str, pattern: str) -> list[str]:
    return [match[0] for match in go_regex(pattern).finditer(text)]


def _is_sorted(items: list[Any]) -> bool:
    return all(a <= b for a, b in pairwise(items))


def _contains_all(container: list[Any], wanted: list[Any]) -> bool:
    return all(item in container for item in wanted)


_MAP: Final = _T.Map(_T.STRING, _T.STRING)
_LIST: Final = _T.List(_T.DYN)
_STRINGS: Final = _T.List(_T.STRING)

_LIBRARY: Final[tuple[tuple[str, bool, list[Any], Any, Callable[..., Any]], ...]] = (
    # name, member function, parameters, result, implementation
    ("find", True, [_T.STRING, _T.STRING], _T.STRING, _find),
    ("findAll", True, [_T.STRING, _T.STRING], _STRINGS, _find_all),
    ("isSorted", True, [_LIST], _T.BOOL, _is_sorted),
    ("sum", True, [_LIST], _T.DYN, sum),
    ("min", True, [_LIST], _T.DYN, min),
    ("max", True, [_LIST], _T.DYN, max),
    ("sets.contains", False, [_LIST, _LIST], _T.BOOL, _contains_all),
    ("sets.equivalent", False, [_LIST, _LIST], _T.BOOL, lambda a, b: _contains_all(a, b) and _contains_all(b, a)),
    ("sets.intersects", False, [_LIST, _LIST], _T.BOOL, lambda a, b: any(item in b for item in a)),
    ("isQuantity", False, [_T.STRING], _T.BOOL, _accepts(parse_quantity)),
    ("quantity", False, [_T.STRING], _MAP, _quantity),
    ("isGreaterThan", True, [_MAP, _MAP], _T.BOOL, lambda a, b: _amount(a) > _amount(b)),
    ("isLessThan", True, [_MAP, _MAP], _T.BOOL, lambda a, b: _amount(a) < _amount(b)),
    ("compareTo", True, [_MAP, _MAP], _T.INT, lambda a, b: int(_amount(a).compare(_amount(b)))),
    ("asInteger", True, [_MAP], _T.INT, lambda a: int(_amount(a))),
    ("asApproximateFloat", True, [_MAP], _T.DOUBLE, lambda a: float(_amount(a))),
    ("isURL", False, [_T.STRING], _T.BOOL, _accepts(_url)),
    ("url", False, [_T.STRING], _MAP, _url),
    ("getScheme", True, [_MAP], _T.STRING, lambda u: u["scheme"]),
    ("getHost", True, [_MAP], _T.STRING, lambda u: u["host"]),
    ("getHostname", True, [_MAP], _T.STRING, lambda u: u["hostname"]),
    ("getPort", True, [_MAP], _T.STRING, lambda u: u["port"]),
    ("getEscapedPath", True, [_MAP], _T.STRING, lambda u: u["path"]),
    ("isIP", False, [_T.STRING], _T.BOOL, _accepts(ip_address)),
    ("isCIDR", False, [_T.STRING], _T.BOOL, _accepts(ip_network)),
)


@lru_cache(maxsize=1)
def _environment() -> Any:
    functions = [
        cel.FunctionDecl(
            name,
            [cel.Overload(f"k8s_{name}", return_type=result, parameters=parameters, is_member=member, impl=run)],
        )
        for name, member, parameters, result, run in _LIBRARY
    ]
    return cel.NewEnv(
        variables={"self": _T.DYN, "oldSelf": _T.DYN, "hasOldSelf": _T.BOOL, "rawSelf": _T.DYN, "rawOldSelf": _T.DYN},
        functions=functions,
        extensions=[
            ext_strings.ExtStrings(),
            ext_optional.ExtOptional(),
            ext_bindings.ExtBindings(),
            ext_math.ExtMath(),
            ext_encoders.ExtEncoders(),
        ],
    )


class CelError(ValueError):
    """A rule that does not compile, or whose evaluation failed; the text is for people."""


@dataclass(frozen=True, slots=True)
class _Program:
    expression: Any
    uses_old_self: bool

    def run(self, values: dict[str, Any]) -> Any:
        try:
            result = self.expression.eval(data=values)
        except RuntimeError as error:
            raise CelError(str(error)) from error
        if result.type() == _T.ERROR:
            raise CelError(_readable(str(result.value())))
        return result.plain_value()


def _readable(error: str) -> str:
    """The runtime's error in the words of cel-go, which the real server quotes."""
    if match := _MISSING_KEY.search(error):
        return f"no such key: {match[1]}"
    text = re.sub(r"^[A-Z_]+: ", "", error)
    if text.startswith("No matching overloads"):
        return "no such overload"
    if text == "divide by zero":
        return "division by zero"
    if match := re.match(r"Index error: index=(-?\d+)", text):
        return f"index out of bounds: {match[1]}"
    return text


@lru_cache(maxsize=4096)
def _compile(
    source: str, typed_self: str = "", typed_old_self: str = "", *, optional_old_self: bool = False
) -> _Program:
    """Compile `source`; `typed_self` and `typed_old_self` are the expressions that `_typed` made for its schema.

    Values that the runtime cannot take from Python (optionals, times, durations, bytes) are made inside the expression
    from plain ones, and bound to their names by a macro over a list of one.
    """
    text = source
    if optional_old_self:
        text = (
            f"[hasOldSelf ? optional.of({typed_old_self or 'rawOldSelf'}) : optional.none()].map(oldSelf, {text}\n)[0]"
        )
    elif typed_old_self:
        text = f"[{typed_old_self}].map(oldSelf, {text}\n)[0]"
    if typed_self:
        text = f"[{typed_self}].map(self, {text}\n)[0]"
    try:
        expression = _environment().compile(text)
    except RuntimeError as error:
        raise CelError(f"compilation failed: {str(error).removeprefix('INVALID_ARGUMENT: ')}") from error
    return _Program(expression, _uses_old_self(source))


def _uses_old_self(source: str) -> bool:
    return _OLD_SELF.search(_STRING_LITERAL.sub("''", source)) is not None


def _rule_program(rule: Rule, schema: Schema) -> _Program:
    typed_old_self = _typed(schema, "rawOldSelf") if _uses_old_self(rule.rule) else ""
    return _compile(rule.rule, _typed(schema, "rawSelf"), typed_old_self, optional_old_self=rule.optional_old_self)


def check_rule(rule: Rule, schema: Schema) -> None:
    """Compile a rule of `schema` and its message.

    Raises:
        CelError: one of them does not compile, or is of the wrong type.
    """
    program = _rule_program(rule, schema)
    if program.expression.return_type().name() not in {"BOOL", "DYN"}:
        raise CelError("compilation failed: cel expression must evaluate to a bool")
    if rule.message_expression:
        message = _compile(rule.message_expression)
        if message.expression.return_type().name() not in {"STRING", "DYN"}:
            raise CelError("messageExpression compilation failed: must evaluate to a string")


def uses_old_self(rule: Rule) -> bool:
    """Whether the rule is a transition rule."""
    return _uses_old_self(rule.rule)


# --- Values -----------------------------------------------------------------------------------------------------------


def _escape(name: str) -> str:
    if name in _KEYWORDS:
        return f"__{name}__"
    text = name.replace("__", "__underscores__")
    return text.replace(".", "__dot__").replace("-", "__dash__").replace("/", "__slash__")


_MAKERS: Final = {"date-time": "timestamp({})", "date": "timestamp({} + 'T00:00:00Z')", "duration": "duration({})"}
_MAKERS["byte"] = "base64.decode({})"


def _typed(schema: Schema, raw: str, depth: int = 0) -> str:
    """A CEL expression for the value `raw` of `schema` with times, durations and bytes in their own types.

    Empty where the schema has none of them. Such values below `additionalProperties` stay strings, because CEL cannot
    build a map of unknown keys.
    """
    if schema.type in {"string", ""} and schema.format in _MAKERS:
        return _MAKERS[schema.format].format(raw)
    variable = f"v{depth}"
    if schema.items is not None:
        item = _typed(schema.items, variable, depth + 1)
        return f"{raw}.map({variable}, {item})" if item else ""
    if not schema.properties:
        return ""
    entries = []
    found = False
    for name, child in schema.properties.items():
        field = f"{raw}.{_escape(name)}"
        value = _typed(child, field, depth)
        found = found or bool(value)
        if _IDENTIFIER.fullmatch(_escape(name)):
            entries.append(f"?'{_escape(name)}': has({field}) ? optional.of({value or field}) : optional.none()")
    return "{" + ", ".join(entries) + "}" if found else ""


def _convert(value: Any, schema: Schema | None, *, root: bool = False) -> Any:
    """`value` with the field names and numbers that CEL sees; shared with the input where nothing changes."""
    if schema is None:
        return value
    if isinstance(value, dict):
        result: dict[str, Any] = {}
        changed = False
        for name, item in value.items():
            if root and name == "metadata":
                result[name] = {key: item[key] for key in ("name", "generateName") if key in item}
                changed = True
                continue
            child = schema.properties.get(name)
            key = _escape(name) if child is not None else name
            new = _convert(item, child or schema.additional)
            result[key] = new
            changed = changed or new is not item or key != name
        return result if changed else value
    if isinstance(value, list):
        items = [_convert(item, schema.items) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if schema.type == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


# --- Evaluation -------------------------------------------------------------------------------------------------------


def evaluate(value: Any, schema: Schema, old: Any = MISSING, *, root: bool = True) -> list[FieldError]:
    """Run the rules of `schema` on `value`; `old` is the stored value of an update, for `oldSelf` and ratcheting."""
    return list(_evaluate(value, schema, old, "", root=root))


def _evaluate(value: Any, schema: Schema, old: Any, path: str, *, root: bool) -> Iterator[FieldError]:
    if value is None or not schema.has_rules:
        return
    if schema.rules:
        yield from _run_rules(value, schema, old, path, root=root)
    for option in schema.all_of:
        yield from _evaluate(value, option, old, path, root=root)
    if isinstance(value, dict):
        former = old if isinstance(old, dict) else {}
        for name, item in value.items():
            child = schema.properties.get(name)
            if child is not None:
                below = f"{path}.{name}" if path else name
                yield from _evaluate(item, child, former.get(name, MISSING), below, root=child.embedded)
            elif schema.additional is not None:
                yield from _evaluate(item, schema.additional, former.get(name, MISSING), f"{path}[{name}]", root=False)
    elif isinstance(value, list) and schema.items is not None and schema.items.has_rules:
        before: dict[str | None, Any] = {}
        if schema.list_type == "map" and isinstance(old, list):
            before = {list_key(item, schema.list_keys): item for item in old}
        for index, item in enumerate(value):
            former_item = before.get(list_key(item, schema.list_keys), MISSING) if before else MISSING
            yield from _evaluate(item, schema.items, former_item, f"{path}[{index}]", root=schema.items.embedded)


def _run_rules(value: Any, schema: Schema, old: Any, path: str, *, root: bool) -> Iterator[FieldError]:
    unchanged = old is not MISSING and json_equal(value, old)
    current: Any = MISSING
    former: Any = MISSING
    for rule in schema.rules:
        program = _rule_program(rule, schema)
        if program.uses_old_self:
            if old is MISSING and not rule.optional_old_self:
                continue  # A transition rule needs something to compare with.
        elif unchanged:
            continue  # Ratcheting: what was stored and has not changed is not judged again.
        if current is MISSING:
            current = _convert(value, schema, root=root)
        values = {"self": current, "rawSelf": current}
        if program.uses_old_self:
            if former is MISSING and old is not MISSING:
                former = _convert(old, schema, root=root)
            raw = None if former is MISSING else former
            values |= {"oldSelf": raw, "rawOldSelf": raw, "hasOldSelf": former is not MISSING}
        yield from _run_rule(rule, program, values, value, schema=schema, path=path)


def _run_rule(
    rule: Rule, program: _Program, values: dict[str, Any], value: Any, *, schema: Schema, path: str
) -> Iterator[FieldError]:
    here = path or _NO_PATH
    label = (rule.message or rule.rule).strip()
    try:
        outcome = program.run(values)
    except CelError as error:
        text = str(error)
        if text.startswith("no such overload"):
            detail = (
                f"'{text}': call arguments did not match a supported operator, function or macro signature for rule: "
                f"{label}"
            )
        else:
            detail = f"{text} evaluating rule: {label}"
        yield invalid_value(here, schema.type, detail)
        return
    if outcome is True:
        return
    where = here
    if rule.field_path:
        suffix = rule.field_path.removeprefix(".")
        where = f"{path}.{suffix}" if path else suffix
    detail = _message(rule, values)
    shown = OMITTED if schema.type in {"object", "array"} else value
    match rule.reason:
        case FieldErrorType.FORBIDDEN:
            yield forbidden_field(where, detail)
        case FieldErrorType.REQUIRED:
            yield required(where, detail)
        case FieldErrorType.DUPLICATE:
            yield duplicate(where, shown)
        case _:
            yield invalid_value(where, shown, detail)


def _message(rule: Rule, values: dict[str, Any]) -> str:
    if rule.message_expression:
        try:
            text = _compile(rule.message_expression).run(values)
        except CelError:
            text = None  # The real server falls back to the fixed message as well.
        if isinstance(text, str) and text.strip() and "\n" not in text.strip():
            return text.strip()
    return rule.message.strip() if rule.message else f"failed rule: {rule.rule.strip()}"
