"""Operations of the public API: how a typed function becomes a route.

Owns parsing of paths, queries and bodies, the conversion of answers, who may call what, and WAHA's form of validation
errors. Must not know any operation. There are three kinds:

- `route`: a coroutine `(services, call) -> answer`.
- `page`: a call to the page of the request's session, with the parameters of path, query and body under their names.
- `absent`: what WAHA has and our engine cannot do.

What an operation declares is also what the OpenAPI is made of.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin
from urllib.parse import unquote

from aiohttp import web
from pydantic import BaseModel, ValidationError

from gateway import calls
from gateway.errors import ApiError, BadRequestError, NotImplementedByEngineError
from gateway.keys import EVERYTHING, Access, Scope
from session_worker.contract import SENDS, Method

if TYPE_CHECKING:
    from gateway.services import Services

ModelT = TypeVar("ModelT", bound=BaseModel)
ACCESS = web.RequestKey("access", Access)
"""What the key of a request allows."""
SMALL_BODY = 2**20
"""Bytes of a body without a file."""
PNG = "image/png"
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
class Call:
    """One request, parsed."""

    request: web.Request
    path: dict[str, str]
    """Parameters in the path, decoded."""
    body: Any = None
    """An instance of the operation's `body` model."""
    query: Any = None
    """An instance of the operation's `query` model."""
    where: Any = None
    """An instance of the operation's `where` model: the parameters in the path but the session."""
    raw: dict[str, Any] = field(default_factory=dict)
    """The body as it was sent."""
    message_id: str | None = None
    """Id for the message that the request sends, where the request has a name."""

    @property
    def session(self) -> str:
        """The session that the request is about."""
        return self.named_session or "default"

    @property
    def named_session(self) -> str | None:
        """The session in the path, the body or the query, if the operation has one there."""
        if "session" in self.path:
            return self.path["session"]
        for model in (self.body, self.query):
            name = getattr(model, "session", None)
            if name is not None:
                return str(name)
        return None

    @property
    def access(self) -> Access:
        """What the key of the request allows."""
        access: Access = self.request.get(ACCESS, EVERYTHING)
        return access

    def params(self) -> dict[str, Any]:
        """Everything that was given, by the names of the models' fields in path and by WAHA's in query and body."""
        found: dict[str, Any] = {}
        for model in (self.query, self.body):
            if model is not None:
                found |= model.model_dump(mode="json", by_alias=True, exclude_none=True)
        if self.where is not None:
            found |= self.where.model_dump(mode="json")
        return found


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
    scope: Scope
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    where: type[BaseModel] | None = None
    result: Any = None
    """Type of the answer's JSON; None for an empty body."""
    media_types: tuple[str, ...] = ()
    """Types of content other than JSON that it can answer with."""
    deprecated: bool = False
    calls: Method | None = None
    """The page's method behind it."""
    why_absent: str = ""
    """Why the engine cannot do it."""

    @property
    def takes_file(self) -> bool:
        """Whether the body may hold a file."""
        return self.body is not None and ("file" in self.body.model_fields or "picture" in self.body.model_fields)

    @property
    def sends(self) -> bool:
        """Whether it sends a message, so that a request can have a name."""
        return self.calls in SENDS

    @property
    def repeatable(self) -> bool:
        """Whether a request can be repeated when nobody knows what became of it: its message's id is ours."""
        by_whatsapp = self.calls is Method.FORWARD or (self.calls is Method.SEND_STATUS and self.takes_file)
        return self.sends and not by_whatsapp


@dataclass(slots=True)
class Operations:
    """A set of operations."""

    tag: str
    items: list[Operation] = field(default_factory=list)

    def route(
        self, method: str, path: str, operation_id: str, *, status: int | None = None, **more: Any
    ) -> Callable[[Handler], Handler]:
        """Declare an operation. Without `status` it is WAHA's: 201 for POST, 200 for the rest."""

        def declare(handler: Handler) -> Handler:
            summary = (handler.__doc__ or "").strip().partition("\n")[0].rstrip(".")
            self._add(method, path, operation_id, summary, handler, status=status, more=more)
            return handler

        return declare

    def page(
        self,
        method: str,
        path: str,
        operation_id: str,
        summary: str,
        calls_: Method,
        *,
        status: int | None = None,
        fixed: Mapping[str, Any] = NOTHING,
        answer: Callable[[Any], Any] | None = None,
        **more: Any,
    ) -> None:
        """Declare a call to the page. `fixed` are parameters that the operation itself decides, `answer` its form."""

        async def handle(services: Services, call: Call) -> Any:
            found = await calls.ask(services, call, calls_, {**call.params(), **fixed})
            return answer(found) if answer else found

        if "scope" not in more and calls_ in SENDS:
            more["scope"] = Scope.SEND
        self._add(method, path, operation_id, summary, handle, status=status, more={**more, "calls": calls_})

    def absent(self, method: str, path: str, operation_id: str, summary: str, why: str, **more: Any) -> None:
        """Declare an operation that the engine cannot do, and why."""

        async def refuse(_services: Services, _call: Call) -> Any:
            raise NotImplementedByEngineError

        self._add(method, path, operation_id, summary, refuse, status=None, more={**more, "why_absent": why})

    def _add(
        self,
        method: str,
        path: str,
        operation_id: str,
        summary: str,
        handler: Handler,
        *,
        status: int | None,
        more: dict[str, Any],
    ) -> None:
        scope = more.pop("scope", Scope.READ if method == "GET" else Scope.SETTING)
        self.items.append(
            Operation(
                method=method,
                path=path,
                handler=handler,
                tag=self.tag,
                operation_id=operation_id,
                summary=summary,
                status=status or (201 if method == "POST" else 200),
                scope=scope,
                **more,
            )
        )


def bind(operation: Operation, services: Services) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of an operation."""

    async def handle(request: web.Request) -> web.StreamResponse:
        path = {name: unquote(value) for name, value in request.match_info.items()}
        call = Call(request, path)
        if operation.why_absent:
            call.access.check(operation.scope, path.get("session"))
            return to_response(await operation.handler(services, call), operation.status)
        if operation.where is not None:
            call.where = _validated(operation.where, path)
        call.query = _query(request, operation.query)
        if operation.body is not None:
            call.raw = await _json(request, operation)
            call.body = _validated(operation.body, call.raw)
        call.access.check(operation.scope, call.named_session)
        name = calls.name_of(request) if operation.sends else None
        if name is None:
            return to_response(await operation.handler(services, call), operation.status)
        if operation.repeatable:
            call.message_id = calls.message_id(call.session, name)

        async def run() -> Any:
            return to_json(await operation.handler(services, call))

        return await calls.once(services, call, name, run, operation.status, repeatable=operation.repeatable)

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


async def _json(request: web.Request, operation: Operation) -> dict[str, Any]:
    if not operation.takes_file and (request.content_length or 0) > SMALL_BODY:
        message = f"the body may have {SMALL_BODY} bytes"
        raise ApiError(413, {"message": message, "error": "Payload Too Large", "statusCode": 413})
    text = await request.read()
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise BadRequestError("the body is nested too deep") from None
    if not isinstance(value, dict):
        raise BadRequestError("the body must be a JSON object")
    # Clients write null for what they leave out, also where there is a default.
    return {name: item for name, item in value.items() if item is not None}


def _query(request: web.Request, model: type[ModelT] | None) -> ModelT | None:
    if model is None:
        return None
    value: dict[str, Any] = {}
    for name, model_field in model.model_fields.items():
        key = model_field.alias or name
        given = [text for text in request.query.getall(key, []) if text not in {"", "null", "undefined"}]
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
