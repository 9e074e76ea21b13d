"""Errors as WAHA's clients know them.

    ApiError                     any of them: a status and a body
    ├─ BadRequestError     400   what is wrong with the request, one sentence each
    ├─ UnauthorizedError   401   no key, or a wrong one
    ├─ ForbiddenError      403   the key is not for this
    ├─ NotFoundError       404   no such session, message, group, …
    ├─ NoFileError         404   no such file
    ├─ StatusError         422   the session is not in a state for this
    ├─ UnprocessableError  422   understood, but not possible
    ├─ BusyError           503   in a moment: the session moves, or a part is away; 409 and 429 likewise
    └─ UnknownOutcomeError 504   it may have happened or not

Owns the bodies. Must not know where they come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from session_worker.contract import WahaStatus


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(body.get("message") or body.get("error"))
        self.status = status
        self.body = body
        self.headers = headers or {}


class BadRequestError(ApiError):
    """The request is not as the operation wants it."""

    def __init__(self, *problems: str) -> None:
        super().__init__(400, {"message": list(problems), "error": "Bad Request", "statusCode": 400})


class UnauthorizedError(ApiError):
    """The API key is missing or wrong."""

    def __init__(self) -> None:
        super().__init__(401, {"message": "Unauthorized", "statusCode": 401})


class ForbiddenError(ApiError):
    """The API key is not for this session, or not for this kind of operation."""

    def __init__(self) -> None:
        super().__init__(403, {"message": "Forbidden", "statusCode": 403})


class NotFoundError(ApiError):
    """What is asked for does not exist."""

    def __init__(self, message: str = "Session not found") -> None:
        super().__init__(404, {"message": message, "error": "Not Found", "statusCode": 404})


class NoSessionError(NotFoundError):
    """A call on a session that does not run."""

    def __init__(self, session: str) -> None:
        super().__init__(
            f"We didn't find a session with name '{session}'.\n"
            f"Please start it first by using POST /api/sessions/{session}/start request"
        )


class NoFileError(ApiError):
    """A message's file is not there, or not any more."""

    def __init__(self) -> None:
        error = {
            "code": 404,
            "key": "FILE_NOT_FOUND",
            "message": "File not found",
            "details": "File not found or no longer available",
        }
        super().__init__(404, {"error": error})


class UnprocessableError(ApiError):
    """The request is understood, and cannot be done."""

    def __init__(self, message: str) -> None:
        super().__init__(422, {"message": message, "error": "Unprocessable Entity", "statusCode": 422})


class NotImplementedByEngineError(UnprocessableError):
    """Our engine has no way to do this."""

    def __init__(self) -> None:
        super().__init__("The method is not implemented by the engine.")


class StatusError(ApiError):
    """The session's status does not allow this. The body is WAHA's own, which has no statusCode."""

    def __init__(self, session: str, status: WahaStatus, expected: Iterable[WahaStatus]) -> None:
        super().__init__(
            422,
            {
                "error": "Session status is not as expected. Try again later or restart the session",
                "session": session,
                "status": status,
                "expected": list(expected),
            },
        )


class BusyError(ApiError):
    """Not now: try again after `retry_after` seconds."""

    def __init__(self, message: str, *, status: int = 503, retry_after: float = 1.0) -> None:
        error = {409: "Conflict", 429: "Too Many Requests", 503: "Service Unavailable"}[status]
        body = {"message": message, "error": error, "statusCode": status}
        super().__init__(status, body, {"Retry-After": str(max(1, round(retry_after)))})


class UnknownOutcomeError(ApiError):
    """The worker or the page failed in the middle: whether it happened is not known, and is not guessed."""

    def __init__(self, message: str) -> None:
        super().__init__(504, {"message": message, "error": "Gateway Timeout", "statusCode": 504, "outcome": "unknown"})
