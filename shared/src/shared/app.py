"""The api process of a service: a FastAPI application with everything that is the same in all four."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

import uvicorn
from fastapi import APIRouter, FastAPI
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.database import new_engine, new_sessions
from shared.docs import docs_router
from shared.headers import with_headers
from shared.health import database_check, health_routes
from shared.ids import new_id
from shared.limits import RequestLimits, limited_server
from shared.logs import configure_logs, get_logger
from shared.messaging.outbox import Bell
from shared.metrics import http_seconds, measured_loop
from shared.problems import (
    MEDIA_TYPE,
    ProblemDocument,
    add_problem_handlers,
    body_too_large,
    gateway_refusals,
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
    storage, a client) and closes it at the end. Routes find ``app.state.settings``, ``.sessions``, ``.engine``
    and ``.token_verifier``. ``max_body_size`` (bytes) is the hard limit of any body, default from the settings.
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
    add_problem_handlers(app)
    for router in routers:
        # On the routers and not on the app: there the refusal would go out round our middleware.
        app.include_router(router, max_body_size=max_body_size or settings.max_body_size)
    app.include_router(docs_router())
    app.include_router(gateway_refusals())
    app.router.routes.extend(health_routes(app.state.checks))
    app.add_middleware(SizeRefusals)
    app.add_middleware(RequestLimits, settings)
    app.add_middleware(FaultAnswers)
    app.add_middleware(with_headers, settings)
    app.add_middleware(RequestContext)
    return app


def run_api(app: FastAPI, settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the requests at hand within ``shutdown_grace`` seconds."""
    configure_logs(
        service=settings.service, role="api", level=settings.log_level, as_json=settings.log_format == "json"
    )
    # uvicorn raises the signal again when it has finished; without this the clean end would be a death by signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with exported_traces(settings, "api"):
        uvicorn.run(
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


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


_CONTEXT_HEADERS = {name.encode(): name for name in ("x-request-id", "traceparent", "tracestate")}
_OUR_HEADERS = {b"x-request-id", b"x-content-type-options"}
_NOSNIFF = (b"x-content-type-options", b"nosniff")


class RequestContext:
    """Binds request and trace ids to the logs, answers with ``X-Request-ID``, measures, logs one line a request.

    Plain ASGI: Starlette's BaseHTTPMiddleware breaks cancellation and streaming.
    """

    _QUIET = ("/healthz/live", "/healthz/ready", "/metrics")

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._QUIET:
            await self._app(scope, receive, send)
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
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = [header for header in message["headers"] if header[0] not in _OUR_HEADERS]
                message["headers"] = [*answer, (b"x-request-id", request_id.encode()), _NOSNIFF]
            await send(message)

        with continued_trace(headers, scope["method"], SpanKind.SERVER, request_id=request_id) as span:
            try:
                await self._app(scope, receive, send_with_id)
            finally:
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


class FaultAnswers:
    """Answers for code that failed, before the failure goes on to the log.

    Starlette would do it outside of our middleware, and that answer would lack the request's id and all else.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_begun = False

        async def send_begun(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_begun)
        except Exception:
            if not is_begun and scope["type"] == "http":
                await unexpected_fault()(scope, receive, send)
            raise


def _clean(request_id: str | None) -> str | None:
    """A caller's request id, if it is safe to write into logs and headers."""
    if request_id and len(request_id) <= 64 and request_id.replace("-", "").isalnum() and request_id.isascii():
        return request_id
    return None
