import asyncio
import time

from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.headers import AnswerHeaders
from shared.http.limits import RequestLimits
from shared.http.problems import (
    MEDIA_TYPE,
    body_too_large,
    internal_error,
    response_timeout,
    too_busy,
)
from shared.ids import new_id
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import http_seconds
from shared.telemetry.traces import continued_trace

log = get_logger(__name__)

_CONTEXT_HEADERS = {name.encode(): name for name in ("x-request-id", "traceparent", "tracestate")}


class RequestContext:
    """Binds request and trace ids to the logs, completes the answer's headers, measures, logs one line a request.

    It also answers for what did not: work that failed, took too long or was not begun. Starlette would do the first
    outside of all middleware, where the answer would lack the request's id. Plain ASGI: Starlette's
    BaseHTTPMiddleware breaks cancellation and streaming.
    """

    # Who asks these decides whether the process may go on: a busy one must say that it lives.
    _QUIET = ("/healthz/live", "/healthz/ready", "/metrics")

    def __init__(
        self, app: ASGIApp, headers: AnswerHeaders, limits: RequestLimits, stopping: asyncio.Event
    ) -> None:
        self._app = app
        self._headers = headers
        self._limits = limits
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["path"] in self._QUIET:
            await self._app(scope, receive, self._headers.sent_with(send, scope["headers"]))
            return
        # This is on the way of every request, hence the thrift here and below: few headers are looked at, none is
        # parsed twice.
        headers = {
            _CONTEXT_HEADERS[name]: value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _CONTEXT_HEADERS
        }
        scope.setdefault("state", {})
        request_id = _clean(headers.get("x-request-id")) or str(new_id())
        started = time.perf_counter()
        status = 0
        is_full = self._limits.is_full()
        under_way = self._limits.enter(receive, started)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                under_way.begins_its_answer()
                answer = [header for header in message["headers"] if header[0] != b"x-request-id"]
                answer.append((b"x-request-id", request_id.encode()))
                if self._stopping.is_set():  # so that the client's next request finds another process
                    answer.append((b"connection", b"close"))
                message["headers"] = self._headers.completed(answer, scope["headers"])
            await send(message)

        with continued_trace(headers, scope["method"], SpanKind.SERVER, request_id=request_id) as span:
            try:
                if is_full:
                    await too_busy()(scope, receive, send_with_id)
                else:
                    await self._app(scope, under_way.receive, send_with_id)
            except asyncio.CancelledError:
                if status or not under_way.was_stopped():
                    raise
                log.error("request.cut", reason="answer too late")
                await response_timeout(self._limits.answer_timeout)(scope, receive, send_with_id)
            except Exception:
                if not status:
                    await internal_error(is_committed=scope["state"].get("is_committed", False))(
                        scope, receive, send_with_id
                    )
                raise
            finally:
                self._limits.leave(under_way)
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


class SizeRefusals:
    """Puts a problem document in the place of the plain text with which Starlette refuses a body's size."""

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


def _clean(request_id: str | None) -> str | None:
    """A caller's request id, if it is safe to write into logs and headers."""
    if request_id and len(request_id) <= 64 and request_id.replace("-", "").isalnum() and request_id.isascii():
        return request_id
    return None
