"""Error responses: every refusal and failure as a problem document (RFC 9457)."""

from collections.abc import Sequence
from typing import Any

import asyncpg
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from structlog.contextvars import get_contextvars

from shared.database.engine import is_unavailable
from shared.problems import FieldError, Invalid, NotFound, Problem, TooLarge, Unavailable, problem_document
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

MEDIA_TYPE = "application/problem+json"

OUTCOME_UNKNOWN = (
    "The change may or may not have been saved: read the resource, or repeat the request with the same "
    "Idempotency-Key."
)


def _response(
    status: int,
    code: str,
    title: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: dict[str, str] | None = None,
    **extensions: Any,
) -> JSONResponse:
    document = problem_document(status, code, title, detail, errors, **extensions)
    if request_id := get_contextvars().get("request_id"):
        document["request_id"] = request_id
    return JSONResponse(
        document,
        status_code=status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def body_too_large() -> JSONResponse:
    detail = "The body is larger than this path accepts. Send less in one request."
    return _response(TooLarge.status, TooLarge.code, TooLarge.title, detail)


def origin_not_allowed(reason: str) -> JSONResponse:
    detail = f"{reason}. The operator of this service allows origins by CORS_ORIGINS."
    return _response(400, "origin-refused", "Origin not allowed", detail)


def response_timeout(seconds: float) -> JSONResponse:
    detail = f"The request took longer than {seconds:g} seconds and was stopped. {OUTCOME_UNKNOWN}"
    return _response(503, "answer-too-late", "Response timeout", detail, headers={"Retry-After": "5"})


def too_busy() -> JSONResponse:
    detail = "This process already serves as many requests as it may; nothing was changed. Try again."
    return _response(503, "too-busy", "Too many concurrent requests", detail, headers={"Retry-After": "1"})


def internal_error(*, is_committed: bool = False) -> JSONResponse:
    """``is_committed``: the request's transaction was committed before the error."""
    outcome = OUTCOME_UNKNOWN if is_committed else "Nothing was changed."
    detail = f"This is an error of the service, not of the request. {outcome} Report it with the request id."
    return _response(500, "internal", "Internal server error", detail)


_HTTP_PROBLEMS = {
    400: (Problem.code, Problem.title),
    401: ("unauthenticated", "Authentication required"),
    403: ("forbidden", "Access denied"),
    404: (NotFound.code, NotFound.title),
    405: ("method-not-allowed", "Method not allowed"),
    408: ("too-slow", "Request timeout"),
    413: (TooLarge.code, TooLarge.title),
    415: ("unsupported-media-type", "Unsupported media type"),
}


async def _on_problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 - registered for this type only
    return _response(
        error.status, error.code, error.title, error.detail, error.errors, error.headers, **error.extensions
    )


async def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type only
    code, title = _HTTP_PROBLEMS.get(error.status_code, ("http-error", "HTTP error"))
    return _response(error.status_code, code, title, str(error.detail), headers=dict(error.headers or {}))


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type only
    errors = [
        FieldError(field=".".join(str(part) for part in item["loc"]), message=item["msg"])
        for item in error.errors()
    ]
    detail = "; ".join(f"{item.field}: {item.message}" for item in errors[:3])
    return _response(422, Invalid.code, Invalid.title, detail or "The input is invalid.", errors)


# SQLSTATEs that a repetition may avoid: lock and statement timeouts, serialization failures, deadlocks.
_TRANSIENT = {"55P03", "57014", "40001", "40P01"}


async def _on_database_error(_: Request, error: Exception) -> JSONResponse:
    """Either raised before COMMIT, or the server's refusal of it: nothing was changed."""
    sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
    log.error("database.failed", sqlstate=sqlstate, error_type=type(error).__name__, exc_info=error)
    if is_unavailable(error) or sqlstate in _TRANSIENT:
        detail = "The database did not respond in time; nothing was changed. Try again."
        headers = {"Retry-After": "2"}
        return _response(Unavailable.status, Unavailable.code, Unavailable.title, detail, headers=headers)
    return internal_error()


def gateway_errors() -> APIRouter:
    """Return the route of the bodies with which the gateway refuses requests; it asks for them by status."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs/refusals/{status}")
    async def describe(status: int) -> JSONResponse:
        match status:
            case 413:
                return body_too_large()
            case 429:
                detail = "This client sends more requests than the gateway allows. Wait a second and slow down."
                headers = {"Retry-After": "1"}
                return _response(429, "too-many-requests", "Rate limit exceeded", detail, headers=headers)
            case _:
                raise NotFound(f"The gateway refuses no request with status {status}.")

    return router


def add_problem_handlers(app: FastAPI) -> None:
    """Any other exception reaches ``RequestContext``, which answers it."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    # While it connects, asyncpg raises errors that SQLAlchemy does not wrap.
    for kind in (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError):
        app.add_exception_handler(kind, _on_database_error)
