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

from shared.http.limits import limited_server
from shared.settings import Settings
from shared.telemetry.logs import configure_logs, get_logger
from shared.telemetry.traces import exported_traces

log = get_logger(__name__)


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
