"""The api process of a service: a FastAPI application with everything that is the same in all four."""

import asyncio
import math
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from types import FrameType

import uvicorn
from fastapi import APIRouter, FastAPI
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE

from shared.database import new_engine, new_sessions
from shared.docs import docs_router
from shared.headers import AnswerHeaders, Cors
from shared.health import database_check, health_routes, not_stopping
from shared.ids import new_id
from shared.limits import RequestLimits, limited_server
from shared.logs import configure_logs, get_logger
from shared.messaging.outbox import Bell
from shared.metrics import http_seconds, measured_loop
from shared.problems import (
    MEDIA_TYPE,
    ProblemDocument,
    add_problem_handlers,
    answer_too_late,
    body_too_large,
    gateway_refusals,
    too_busy,
    unexpected_fault,
)
from shared.settings import Settings
from shared.tokens import JwksSource, TokenVerifier
from shared.tracing import continued_trace, exported_traces

log = get_logger(__name__)

Resources = Callable[[FastAPI], AbstractAsyncContextManager[None]]

# Every operation may answer with a problem document; said once, it shows at each operation of the docs.
PROBLEM_RESPONSES: dict[int | str, dict[str, object]] = {
    status: {"model": ProblemDocument, "content": {"application/problem+json": {}}}
    for status in (401, 403, 404, 409, 412, 413, 422)
}


def create_app(
    settings: Settings,
    routers: Sequence[APIRouter],
    *,
    title: str,
    description: str,
    resources: Resources | None = None,
    max_body_size: int | None = None,
) -> FastAPI:
    """Builds the application; nothing is connected before its lifespan starts.

    ``resources`` is a context manager that puts what the service needs beside the database on ``app.state`` (a
    storage, a client) and closes it at the end. Routes find ``app.state.settings``, ``.sessions``, ``.engine``,
    ``.token_verifier`` and ``.stopping``, an event that ends streams. ``max_body_size`` (bytes) is the hard limit
    of any body, default from the settings.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(measured_loop())
            engine = new_engine(settings, "api")
            stack.push_async_callback(engine.dispose)
            bell = Bell(engine, settings.service)
            ringing = asyncio.create_task(bell.run())
            stack.push_async_callback(_cancelled, ringing)
            verifier = TokenVerifier(settings.token_issuer, settings.token_audience, JwksSource(settings.jwks_url))
            stack.push_async_callback(verifier.aclose)
            app.state.engine = engine
            app.state.sessions = new_sessions(engine, bell)
            app.state.token_verifier = verifier
            if resources is not None:
                await stack.enter_async_context(resources(app))
            app.state.checks["database"] = database_check(engine)
            app.state.checks["process"] = not_stopping(app.state.stopping)
            log.info("api.started")
            yield
            log.info("api.stopping")

    app = FastAPI(
        title=title,
        description=description,
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEM_RESPONSES,
    )
    app.state.settings = settings
    app.state.checks = {}
    app.state.stopping = asyncio.Event()
    add_problem_handlers(app)
    for router in routers:
        # On the routers and not on the app: there the refusal would go out round our middleware.
        app.include_router(router, max_body_size=max_body_size or settings.max_body_size)
    app.include_router(docs_router())
    app.include_router(gateway_refusals())
    app.router.routes.extend(health_routes(app.state.checks))
    app.add_middleware(SizeRefusals)
    headers = AnswerHeaders(settings.public_url)
    app.add_middleware(RequestContext, headers, RequestLimits(settings), app.state.stopping)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins, headers=headers)
    return app


def run_api(app: FastAPI, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT and, not ready any more and keeping no connection, ``drain_delay`` seconds on;
    then finishes the requests at hand within ``shutdown_grace`` seconds."""
    configure_logs(
        service=settings.service, role="api", level=settings.log_level, as_json=settings.log_format == "json"
    )
    # uvicorn raises the signal again when it has finished; without this the clean end would be a death by signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace),
        proxy_headers=False,
        backlog=2048,
        http=limited_server(settings),
        ws="none",
        timeout_keep_alive=settings.idle_timeout,
    )
    with exported_traces(settings, "api"):
        server = _DrainingServer(config, app.state.stopping, settings.drain_delay)
        with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended by it
            server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)


class _DrainingServer(uvicorn.Server):
    """Serves on for ``delay`` seconds after it was told to stop. Told again, it stops at once.

    Whoever balances the load needs that time to learn that it goes. A request sent to a closed door would fail.
    """

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, delay: float) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._delay = delay
        self._ends_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stopping.is_set() or not self._delay:
            super().handle_exit(sig, frame)
        self._stopping.set()

    async def on_tick(self, counter: int) -> bool:
        if self._stopping.is_set() and self._ends_at == math.inf:
            log.info("api.draining", seconds=self._delay)
            self._ends_at = time.monotonic() + self._delay
        return await super().on_tick(counter) or time.monotonic() >= self._ends_at


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


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
                await answer_too_late(self._limits.answer_timeout)(scope, receive, send_with_id)
            except Exception:
                if not status:
                    await unexpected_fault()(scope, receive, send_with_id)
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
