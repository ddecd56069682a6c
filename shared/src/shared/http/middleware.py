import asyncio
import time

from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.headers import ResponseHeaders
from shared.http.limits import PROBES
from shared.http.problems import MEDIA_TYPE, body_too_large, internal_error
from shared.ids import new_id
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import http_seconds
from shared.telemetry.traces import continued_trace

log = get_logger(__name__)

_CONTEXT_HEADERS = {name.encode(): name for name in ("x-request-id", "traceparent", "tracestate")}


class RequestContext:
    """Bind request and trace ids to the logs, complete the response headers, measure, and log each request.

    It also answers unexpected exceptions: Starlette would do so outside of all middleware, where the response would
    lack the request id. It is plain ASGI, since Starlette's BaseHTTPMiddleware breaks cancellation and streaming.
    """

    def __init__(self, app: ASGIApp, headers: ResponseHeaders, stopping: asyncio.Event) -> None:
        self._app = app
        self._headers = headers
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in PROBES:
            await self._app(scope, receive, self._headers.sent_with(send, scope["headers"]))
            return
        # Every request pays for this: headers are read once, and only those that are needed.
        headers = {
            _CONTEXT_HEADERS[name]: value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _CONTEXT_HEADERS
        }
        request_id = _safe(headers.get("x-request-id")) or str(new_id())
        state = scope.setdefault("state", {})
        started = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [header for header in message["headers"] if header[0] != b"x-request-id"]
                own.append((b"x-request-id", request_id.encode()))
                if self._stopping.is_set():  # the client's next request must find another process
                    own.append((b"connection", b"close"))
                message["headers"] = self._headers.completed(own, scope["headers"])
            await send(message)

        with continued_trace(headers, scope["method"], SpanKind.SERVER, request_id=request_id) as span:
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                if not status:
                    response = internal_error(is_committed="is_committed" in state)
                    await response(scope, receive, send_with_id)
                raise
            finally:
                status = status or 500
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path", "unmatched")
                http_seconds(scope["method"], route, status).observe(seconds)
                if span.is_recording():
                    _describe(span, scope, route, status)
                log.info(
                    "request.answered",
                    method=scope["method"],
                    path=scope["path"],
                    route=route,
                    status=status,
                    ms=round(seconds * 1000, 1),
                )


def _describe(span: Span, scope: Scope, route: str, status: int) -> None:
    span.update_name(f"{scope['method']} {route}")
    span.set_attributes(
        {
            "http.request.method": scope["method"],
            "http.route": route,
            "url.path": scope["path"],
            "http.response.status_code": status,
        }
    )
    if status >= 500:
        span.set_status(StatusCode.ERROR)


class TooLargeAsProblem:
    """Replace the plain text with which Starlette refuses a large body by a problem document."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_replaced = False

        async def send_problem(message: Message) -> None:
            nonlocal is_replaced
            if is_replaced:
                return
            is_413 = message["type"] == "http.response.start" and message["status"] == 413
            if is_413 and Headers(raw=message["headers"]).get("content-type") != MEDIA_TYPE:
                is_replaced = True
                await body_too_large()(scope, receive, send)
            else:
                await send(message)

        await self._app(scope, receive, send_problem)


def _safe(request_id: str | None) -> str | None:
    """Return the caller's request id if it is safe in logs and headers, else ``None``."""
    if request_id and len(request_id) <= 64 and request_id.replace("-", "").isalnum() and request_id.isascii():
        return request_id
    return None
