"""The errors of the Kubernetes API: HTTP code, machine-readable reason and the `Status` body.

Owns the texts that clients match on; they follow k8s.io/apimachinery `api/errors` and `util/validation/field`.
Must not know of HTTP libraries or of the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sandbox.kube.goformat import go_json, go_quote, go_value

JsonObject = dict[str, Any]


class Omitted:
    """The type of `OMITTED`."""


OMITTED: Final = Omitted()
"""Stands for a bad value that is not shown in the message."""


class FieldErrorType(StrEnum):
    """Why a field is wrong; the value is the `reason` of a `StatusCause`."""

    NOT_FOUND = "FieldValueNotFound"
    REQUIRED = "FieldValueRequired"
    DUPLICATE = "FieldValueDuplicate"
    INVALID = "FieldValueInvalid"
    TYPE_INVALID = "FieldValueTypeInvalid"
    NOT_SUPPORTED = "FieldValueNotSupported"
    FORBIDDEN = "FieldValueForbidden"
    TOO_LONG = "FieldValueTooLong"
    TOO_MANY = "FieldValueTooMany"


_TEXT: Final[Mapping[FieldErrorType, str]] = {
    FieldErrorType.NOT_FOUND: "Not found",
    FieldErrorType.REQUIRED: "Required value",
    FieldErrorType.DUPLICATE: "Duplicate value",
    FieldErrorType.INVALID: "Invalid value",
    FieldErrorType.TYPE_INVALID: "Invalid value",
    FieldErrorType.NOT_SUPPORTED: "Unsupported value",
    FieldErrorType.FORBIDDEN: "Forbidden",
    FieldErrorType.TOO_LONG: "Too long",
    FieldErrorType.TOO_MANY: "Too many",
}

_WITHOUT_VALUE: Final = {FieldErrorType.REQUIRED, FieldErrorType.FORBIDDEN, FieldErrorType.TOO_LONG}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field, as in `Status.details.causes`."""

    type: FieldErrorType
    path: str
    value: Any = OMITTED
    detail: str = ""

    def body(self) -> str:
        """The message without the path."""
        text = _TEXT[self.type]
        if self.type not in _WITHOUT_VALUE and self.value is not OMITTED:
            shown = go_quote(self.value) if isinstance(self.value, str) else go_value(self.value)
            text = f"{text}: {shown}"
        return f"{text}: {self.detail}" if self.detail else text

    def __str__(self) -> str:
        return f"{self.path}: {self.body()}"

    def cause(self) -> JsonObject:
        """The `StatusCause`."""
        return {"reason": str(self.type), "message": self.body(), "field": self.path}


def required(path: str, detail: str = "") -> FieldError:
    """A field that must be there."""
    return FieldError(FieldErrorType.REQUIRED, path, "", detail)


def invalid_value(path: str, value: Any, detail: str) -> FieldError:
    """A field with a malformed value."""
    return FieldError(FieldErrorType.INVALID, path, value, detail)


def forbidden_field(path: str, detail: str) -> FieldError:
    """A field that may not be set here."""
    return FieldError(FieldErrorType.FORBIDDEN, path, "", detail)


def duplicate(path: str, value: Any) -> FieldError:
    """A value that must be unique and is not."""
    return FieldError(FieldErrorType.DUPLICATE, path, value)


def not_supported(path: str, value: Any, allowed: Iterable[Any]) -> FieldError:
    """A value outside an enumeration."""
    names = ", ".join(go_quote(item if isinstance(item, str) else go_json(item)) for item in allowed)
    return FieldError(FieldErrorType.NOT_SUPPORTED, path, value, f"supported values: {names}" if names else "")


def too_long(path: str, limit: int) -> FieldError:
    """A string longer than `limit` bytes."""
    return FieldError(
        FieldErrorType.TOO_LONG, path, OMITTED, f"may not be more than {limit} {'byte' if limit == 1 else 'bytes'}"
    )


def too_many(path: str, actual: int, limit: int) -> FieldError:
    """A list or map with more than `limit` entries."""
    return FieldError(
        FieldErrorType.TOO_MANY, path, actual, f"must have at most {limit} {'item' if limit == 1 else 'items'}"
    )


class ApiError(Exception):
    """An answer other than success.

    Attributes:
        code: HTTP status.
        reason: `metav1.StatusReason`, which clients branch on.
        details: `metav1.StatusDetails` or nothing.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: JsonObject | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers: Mapping[str, str] = headers or {}

    def status(self) -> JsonObject:
        """The `Status` object that goes over the wire."""
        body: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        body["code"] = self.code
        return body


def success_status(details: JsonObject | None = None) -> JsonObject:
    """The `Status` that answers a finished deletion."""
    body: JsonObject = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    if details:
        body["details"] = details
    return body


def qualified(group: str, resource: str) -> str:
    """`pods` or `whatsappsessions.whatsapp.28web.io`: how messages name a resource."""
    return f"{resource}.{group}" if group else resource


def _details(group: str, kind: str, name: str, **more: Any) -> JsonObject:
    details: JsonObject = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    details["kind"] = kind
    details.update(more)
    return details


def not_found(group: str, resource: str, name: str) -> ApiError:
    """404: no object of this name."""
    return ApiError(
        404, "NotFound", f"{qualified(group, resource)} {go_quote(name)} not found", _details(group, resource, name)
    )


def no_such_path() -> ApiError:
    """404: no such resource type."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(group: str, resource: str, name: str) -> ApiError:
    """409: an object of this name is there."""
    return ApiError(
        409,
        "AlreadyExists",
        f"{qualified(group, resource)} {go_quote(name)} already exists",
        _details(group, resource, name),
    )


def conflict(group: str, resource: str, name: str, why: str) -> ApiError:
    """409: the object is no longer what the client believes."""
    return ApiError(
        409,
        "Conflict",
        f"Operation cannot be fulfilled on {qualified(group, resource)} {go_quote(name)}: {why}",
        _details(group, resource, name),
    )


STALE: Final = "the object has been modified; please apply your changes to the latest version and try again"


def invalid(group: str, kind: str, name: str, errors: Sequence[FieldError]) -> ApiError:
    """422: the object does not fit its schema or its kind's rules."""
    texts = list(dict.fromkeys(str(error) for error in errors))
    summary = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    where = f"{kind}.{group}" if group else kind
    return ApiError(
        422,
        "Invalid",
        f"{where} {go_quote(name)} is invalid: {summary}",
        _details(group, kind, name, causes=[error.cause() for error in errors]),
    )


def bad_request(message: str) -> ApiError:
    """400: the request itself is malformed."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """401: no or unknown credentials."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def forbidden(group: str, resource: str, name: str, why: str, **details: Any) -> ApiError:
    """403: a rule of the server or of RBAC says no."""
    subject = f"{qualified(group, resource)} {go_quote(name)}" if name else qualified(group, resource)
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", _details(group, resource, name, **details))


def expired(message: str) -> ApiError:
    """410: the resourceVersion or continue token is older than what the server remembers."""
    return ApiError(410, "Expired", message)


def method_not_allowed() -> ApiError:
    """405: the resource has no such verb."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def not_acceptable(offered: Sequence[str]) -> ApiError:
    """406: none of the media types that the client takes is served."""
    return ApiError(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(offered)}")


def unsupported_media_type(given: str, accepted: Sequence[str]) -> ApiError:
    """415: the body is of a type that this verb does not take."""
    return ApiError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}"
        + (f" (got {given})" if given and not accepted else ""),
    )


def too_many_requests(message: str, *, retry_after: int, causes: Sequence[JsonObject] = ()) -> ApiError:
    """429: try again after `retry_after` seconds; evictions use it for disruption budgets."""
    details: JsonObject = {"causes": list(causes)} if causes else {}
    if retry_after:
        details["retryAfterSeconds"] = retry_after
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    return ApiError(429, "TooManyRequests", message, details, headers=headers)


def internal_error(message: str) -> ApiError:
    """500: something outside the client's reach."""
    return ApiError(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})


def timeout(message: str, *, retry_after: int = 1, causes: Sequence[JsonObject] = ()) -> ApiError:
    """504: the server could not do it in time."""
    return ApiError(504, "Timeout", f"Timeout: {message}", {"causes": list(causes), "retryAfterSeconds": retry_after})
