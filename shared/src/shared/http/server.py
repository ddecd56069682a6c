import asyncio
import math
import signal
import sys
import time
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE

from shared.settings import Settings
from shared.telemetry.logs import configure_logs, get_logger
from shared.telemetry.traces import exported_traces

log = get_logger(__name__)


def run_api(app: FastAPI, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, drain for ``drain_delay`` seconds, then finish what is in flight within
    ``shutdown_grace`` seconds."""
    configure_logs(settings, "api")
    # uvicorn raises the signal again when it has finished; the default handler would end the process by the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with exported_traces(settings, "api"):
        server = DrainingServer(server_config(app, settings), app.state.stopping, settings.drain_delay)
        with suppress(KeyboardInterrupt):  # uvicorn raises SIGINT again too
            server.run()
        if not server.started:
            sys.exit(STARTUP_FAILURE)


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace),
        proxy_headers=False,
        backlog=2048,
        ws="none",
        timeout_keep_alive=settings.idle_timeout,
    )


class DrainingServer(uvicorn.Server):
    """Serve for ``delay`` seconds after a signal, so that load balancers notice; stop at once after another."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event, delay: float) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._delay = delay
        self._drained_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stopping.is_set() or not self._delay:
            super().handle_exit(sig, frame)
        self._stopping.set()

    async def on_tick(self, counter: int) -> bool:
        if self._stopping.is_set() and self._drained_at == math.inf:
            log.info("api.draining", seconds=self._delay)
            self._drained_at = time.monotonic() + self._delay
        return await super().on_tick(counter) or time.monotonic() >= self._drained_at
