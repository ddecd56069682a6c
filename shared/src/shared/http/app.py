"""The FastAPI application of a service's api process, with everything that is the same in all services."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from fastapi import APIRouter, FastAPI

from shared.auth.keys import JwksClient
from shared.auth.verify import TokenVerifier
from shared.contracts.problem import ProblemDocument
from shared.database.engine import database_check, new_engine
from shared.http.headers import Cors, ResponseHeaders
from shared.http.limits import RequestLimits
from shared.http.middleware import RequestContext, TooLargeAsProblem
from shared.http.problems import add_problem_handlers, gateway_errors
from shared.messaging.commit_notifier import notifying_sessions
from shared.settings import Settings
from shared.telemetry.health import health_routes, not_stopping
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import measured_loop
from shared.walltime import use_pinned_tzdata

log = get_logger(__name__)

Resources = Callable[[FastAPI], AbstractAsyncContextManager[None]]

# Any operation may answer with a problem document; declared once, the OpenAPI document has it at each of them.
PROBLEM_RESPONSES: dict[int | str, dict[str, object]] = {
    status: {"model": ProblemDocument, "content": {"application/problem+json": {}}}
    for status in (401, 403, 404, 409, 412, 413, 422)
}


def new_app(
    settings: Settings,
    routers: Sequence[APIRouter],
    *,
    title: str,
    description: str,
    resources: Resources | None = None,
) -> FastAPI:
    """Build the application. Nothing is connected before its lifespan starts.

    ``resources`` is a context manager that puts what the service needs beside the database on ``app.state`` (a
    storage, a client) and closes it at the end. Routes read ``app.state`` by ``shared.http.dependencies``.
    """

    use_pinned_tzdata()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(measured_loop())
            engine = new_engine(settings, "api")
            stack.push_async_callback(engine.dispose)
            verifier = TokenVerifier(settings.token_issuer, settings.token_audience, JwksClient(settings.jwks_url))
            stack.push_async_callback(verifier.aclose)
            app.state.engine = engine
            app.state.sessions = await stack.enter_async_context(notifying_sessions(engine, settings.service))
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
        # Not on the app, whose refusal would bypass our middleware.
        app.include_router(router, max_body_size=settings.max_body_size)
    app.include_router(gateway_errors())
    app.router.routes.extend(health_routes(app.state.checks))
    headers = ResponseHeaders(settings.public_url)
    # The last one added is the first to see a request.
    app.add_middleware(TooLargeAsProblem)
    app.add_middleware(RequestLimits, settings)
    app.add_middleware(RequestContext, headers, app.state.stopping)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins, headers=headers)
    return app
