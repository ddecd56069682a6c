"""The connection pool: measured, and without dead connections."""

import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from shared.telemetry.metrics import (
    DATABASE_CONNECTIONS,
    DATABASE_POOL_SIZE,
    DATABASE_POOL_WAIT_SECONDS,
    DATABASE_POOL_WAITING,
)

# SQLAlchemy names a pool's logger after its class, and only its own package is quiet by default.
logging.getLogger(__name__).setLevel(logging.WARNING)


class MeasuredPool(AsyncAdaptedQueuePool):
    """Counts and times the tasks that wait for a connection."""

    def connect(self) -> PoolProxiedConnection:
        if self.checkedout() < self.size():
            return super().connect()
        began = time.perf_counter()
        with DATABASE_POOL_WAITING.track_inprogress():
            try:
                return super().connect()
            finally:
                DATABASE_POOL_WAIT_SECONDS.observe(time.perf_counter() - began)


def measure_pool(engine: AsyncEngine) -> None:
    """Set the gauges of the pool at each scrape. They describe the newest engine of the process."""
    reference = weakref.ref(engine)

    def gauge(of: Callable[[QueuePool], int]) -> Callable[[], float]:
        def value() -> float:
            # Looked up each time, because SQLAlchemy replaces a pool whose connections were lost.
            pool = engine.sync_engine.pool if (engine := reference()) else None
            return of(pool) if isinstance(pool, QueuePool) else 0

        return value

    DATABASE_CONNECTIONS.labels("in_use").set_function(gauge(QueuePool.checkedout))
    DATABASE_CONNECTIONS.labels("idle").set_function(gauge(QueuePool.checkedin))
    DATABASE_POOL_SIZE.set_function(gauge(QueuePool.size))


def replace_dead_connections(engine: AsyncEngine, *, trusted_seconds: float) -> None:
    """Check a connection at checkout, and ping it only when it was idle for longer than ``trusted_seconds``.

    ``pool_pre_ping`` would ping at every checkout, which costs three round trips. asyncpg knows when the server has
    closed a connection; only one that was lost silently needs a ping.
    """

    def note_use(_connection: object, entry: ConnectionPoolEntry) -> None:
        entry.info["used_at"] = time.monotonic()

    def refuse_dead(connection: Any, entry: ConnectionPoolEntry, _fairy: object) -> None:
        if connection.driver_connection.is_closed():
            raise DisconnectionError
        if time.monotonic() - entry.info.get("used_at", time.monotonic()) > trusted_seconds:
            try:
                connection.ping()
            except Exception as error:
                raise DisconnectionError from error

    event.listen(engine.sync_engine, "checkin", note_use)
    event.listen(engine.sync_engine, "checkout", refuse_dead)
