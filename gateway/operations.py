"""Operations of the public API: how a typed function becomes a route.

Owns parsing of paths, queries and bodies, the conversion of answers, and WAHA's form of validation errors. Must not
know any operation. An operation is a coroutine `(services, call) -> answer`; what it declares is also what the
OpenAPI is made of.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin
from urllib.parse import unquote

from aiohttp import web
from pydantic import BaseModel, ValidationError

from gateway.errors import BadRequestError

if TYPE_CHECKING:
    from gateway.services import Services

ModelT = TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, parsed."""

    request: web.Request
    path: dict[str, str]
    """Parameters in the path, decoded."""
    body: Any = None
    """An instance of the operation's `body` model."""
    query: Any = None
    """An instance of the operation's `query` model."""

    @property
    def session(self) -> str:
        """The session in the path."""
        return self.path["session"]


Handler = Callable[["Services", Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A route with what it takes and gives."""

    method: str
    path: str
    handler: Handler
    tag: str
    operation_id: str
    summary: str
    status: int
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None


@dataclass(slots=True)
class Operations:
    """A set of operations, filled by decorators."""

    tag: str
    items: list[Operation] = field(default_factory=list)

    def route(
        self,
        method: str,
        path: str,
        operation_id: str,
        *,
        status: int | None = None,
        body: type[BaseModel] | None = None,
        query: type[BaseModel] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Declare an operation. Without `status` it is WAHA's: 201 for POST, 200 for the rest."""

        def declare(handler: Handler) -> Handler:
            self.items.append(
                Operation(
                    method=method,
                    path=path,
                    handler=handler,
                    tag=self.tag,
                    operation_id=operation_id,
                    summary=(handler.__doc__ or "").strip().partition("\n")[0].rstrip("."),
                    status=status or (201 if method == "POST" else 200),
                    body=body,
                    query=query,
                )
            )
            return handler

        return declare


def bind(operation: Operation, services: Services) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of an operation."""

    async def handle(request: web.Request) -> web.StreamResponse:
        call = Call(
            request,
            {name: unquote(value) for name, value in request.match_info.items()},
            await _body(request, operation.body),
            _query(request, operation.query),
        )
        return to_response(await operation.handler(services, call), operation.status)

    return handle


def to_response(answer: Any, status: int) -> web.StreamResponse:
    """An operation's answer as a response: models and lists of them become JSON, None an empty body."""
    if isinstance(answer, web.StreamResponse):
        return answer
    if answer is None:
        return web.Response(status=status)
    return web.json_response(to_json(answer), status=status)


def to_json(answer: Any) -> Any:
    """Models as JSON values, by WAHA's names, absent rather than null."""
    if isinstance(answer, BaseModel):
        return answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    if isinstance(answer, list):
        return [to_json(item) for item in answer]
    return answer


async def _body(request: web.Request, model: type[ModelT] | None) -> ModelT | None:
    if model is None:
        return None
    text = await request.read()
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadRequestError("the body must be a JSON object")
    return _validated(model, value)


def _query(request: web.Request, model: type[ModelT] | None) -> ModelT | None:
    if model is None:
        return None
    value: dict[str, Any] = {}
    for name, model_field in model.model_fields.items():
        key = model_field.alias or name
        given = request.query.getall(key, [])
        if given:
            value[key] = given if _is_list(model_field.annotation) else given[-1]
    return _validated(model, value)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(get_origin(option) is list for option in get_args(annotation))


def _validated(model: type[ModelT], value: dict[str, Any]) -> ModelT:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = [_problem(item["loc"], item["msg"]) for item in error.errors()]
        raise BadRequestError(*problems) from None


def _problem(location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in location)
    return f"{where}: {message.removeprefix('Value error, ')}" if where else message
