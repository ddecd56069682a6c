"""Probes and metrics. The api serves them beside its routes; messenger and worker on a port of their own.

Live means that the event loop runs. Ready means that the service can do its work: it is not ready while the
database is unreachable or while the process drains.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shared.settings import Settings
from shared.telemetry.metrics import measured_loop

PROBE_TIMEOUT = 2.0

Check = Callable[[], Awaitable[None]]


def not_stopping(stopping: asyncio.Event) -> Check:
    async def check() -> None:
        if stopping.is_set():
            raise RuntimeError("draining")

    return check


def health_routes(checks: dict[str, Check]) -> list[Route]:
    """Return the routes ``/healthz/live``, ``/healthz/ready``, which names the failed checks, and ``/metrics``."""

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_: Request) -> Response:
        failed = {name: reason for name, check in checks.items() if (reason := await _failure(check))}
        if failed:
            return JSONResponse({"status": "not ready", "failed": failed}, status_code=503)
        return JSONResponse({"status": "ready"})

    return [
        Route("/healthz/live", live),
        Route("/healthz/ready", ready),
        Route("/metrics", serve_metrics),
    ]


async def _failure(check: Check) -> str | None:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            await check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return None


class _GuestServer(uvicorn.Server):
    """A server that leaves the signals to the process that it is part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serve_health(settings: Settings, checks: dict[str, Check]) -> AsyncIterator[None]:
    """Serve the probes on ``settings.health_port`` from the running loop until the block ends.

    Raise ``OSError`` if the port is in use.
    """
    # Bound here, because uvicorn raises SystemExit for a port in use, which would end the loop without clean-up.
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    listening = socket.create_server((settings.api_host, settings.health_port), family=family)
    server = _GuestServer(
        uvicorn.Config(
            Starlette(routes=health_routes(checks)),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        async with measured_loop():
            yield
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await task


async def serve_metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
