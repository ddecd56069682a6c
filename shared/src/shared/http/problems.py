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
    return _response(
        TooLarge.status,
        TooLarge.code,
        TooLarge.title,
        "The body is larger than this path takes. Send less at once.",
    )


def origin_refused(reason: str) -> JSONResponse:
    return _response(
        400,
        "origin-refused",
        "A script of this site may not ask that",
        f"{reason}. Whoever runs this service allows sites by CORS_ORIGINS.",
    )


def answer_too_late(seconds: float) -> JSONResponse:
    return _response(
        503,
        "answer-too-late",
        "The answer took too long",
        f"There was no answer within {seconds:g} seconds, so the work was stopped. See whether a change took place "
        "before you send it again, or send it with the same Idempotency-Key.",
        headers={"Retry-After": "5"},
    )


def too_busy() -> JSONResponse:
    return _response(
        503,
        "too-busy",
        "Too many requests at once",
        "This process serves as many requests as it can; nothing was done. Try again.",
        headers={"Retry-After": "1"},
    )


def unexpected_fault() -> JSONResponse:
    return _response(
        500,
        "internal",
        "Rostrum failed",
        "This is a fault of the service, not of the request; nothing was changed. Quote the request id.",
    )


_HTTP_CODES = {
    400: ("bad-request", "The request can't be read"),
    401: ("unauthenticated", "A valid token is needed"),
    403: ("forbidden", "The token does not allow it"),
    404: ("not-found", "There is no such thing"),
    405: ("method-not-allowed", "This path does not know the method"),
    408: ("too-slow", "The request came in too slowly"),
    413: ("too-large", "The body is too large"),
    415: ("unsupported-media-type", "The content type is not taken here"),
}


async def _on_problem(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 - registered for this type only
    return _response(
        error.status, error.code, error.title, error.detail, error.errors, error.headers, **error.extensions
    )


async def _on_http_exception(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type only
    code, title = _HTTP_CODES.get(error.status_code, ("http-error", "The request can't be served"))
    return _response(error.status_code, code, title, str(error.detail), headers=dict(error.headers or {}))


async def _on_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type only
    errors = [
        FieldError(field=".".join(str(part) for part in item["loc"]), message=item["msg"])
        for item in error.errors()
    ]
    detail = "; ".join(f"{item.field}: {item.message}" for item in errors[:3])
    return _response(422, Invalid.code, Invalid.title, detail or "The input is not valid.", errors)


# SQLSTATEs that say "not now" and not "wrong": lock and statement timeouts, and transactions in each other's way.
_PASSING_SQLSTATES = {"55P03", "57014", "40001", "40P01"}


async def _on_database_error(_: Request, error: Exception) -> JSONResponse:
    sqlstate = getattr(getattr(error, "orig", None), "sqlstate", None)
    log.error("database.failed", sqlstate=sqlstate, error_type=type(error).__name__, exc_info=error)
    if is_unavailable(error) or sqlstate in _PASSING_SQLSTATES:
        return _response(
            503,
            Unavailable.code,
            Unavailable.title,
            "The database did not answer in time; nothing was changed. Try again.",
            headers={"Retry-After": "2"},
        )
    return await _on_unexpected(_, error)


async def _on_unexpected(_: Request, error: Exception) -> JSONResponse:
    return unexpected_fault()


def gateway_refusals() -> APIRouter:
    """The bodies with which the gateway refuses what never reaches a service; it asks for them by status."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs/refusals/{status}")
    async def describe(status: int) -> JSONResponse:
        match status:
            case 413:
                return body_too_large()
            case 429:
                detail = "This client asks faster than the gateway allows. Wait a second and go on more slowly."
                title = "Too many requests at once"
                return _response(429, "too-many-requests", title, detail, headers={"Retry-After": "1"})
            case _:
                raise NotFound("The gateway does not refuse with this status.")

    return router


def add_problem_handlers(app: FastAPI) -> None:
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(SQLAlchemyError, _on_database_error)
    # What asyncpg raises while it connects reaches us as it is.
    app.add_exception_handler(asyncpg.PostgresError, _on_database_error)
    app.add_exception_handler(asyncpg.InterfaceError, _on_database_error)
    app.add_exception_handler(ConnectionError, _on_database_error)
    app.add_exception_handler(Exception, _on_unexpected)
