"""Database: engine, sessions, and the one place where a request's work is committed.

Each service owns one schema, which is its role's whole search path, so tables are named without it.
"""

import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, QueuePool

from shared.settings import Settings
from shared.telemetry.metrics import (
    DATABASE_CONNECTIONS,
    DATABASE_POOL_SIZE,
    DATABASE_POOL_WAIT_SECONDS,
    DATABASE_POOL_WAITING,
)


def database_check(engine: AsyncEngine) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    return check


Sessions = async_sessionmaker[AsyncSession]

# An idle connection older than this is asked whether it still lives before it is used.
TRUSTED_SECONDS = 10.0


def asyncpg_dsn(url: str) -> str:
    """The URL as asyncpg takes it: ``postgresql+asyncpg`` is SQLAlchemy's name of the driver."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


def connection_settings(settings: Settings, role: str) -> dict[str, str]:
    """PostgreSQL settings of each connection: times are shown in UTC, and nothing waits for ever."""
    return {
        "application_name": f"{settings.service}.{role}",
        "search_path": settings.service,
        "timezone": "UTC",
        "jit": "off",
        "lock_timeout": f"{settings.database_lock_timeout * 1000:.0f}",
        "statement_timeout": f"{settings.database_statement_timeout * 1000:.0f}",
        "idle_in_transaction_session_timeout": "60000",
    }


def new_engine(settings: Settings, role: str) -> AsyncEngine:
    """One engine per process, made inside its event loop; dispose it at the end."""
    engine = create_async_engine(
        settings.database_url.get_secret_value(),
        poolclass=_MeasuredPool,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=5,
        connect_args={"server_settings": connection_settings(settings, role), "timeout": 5},
    )
    event.listen(engine.sync_engine, "checkin", _note_use)
    event.listen(engine.sync_engine, "checkout", _refuse_dead)
    _measure_pool(engine)
    return engine


class _MeasuredPool(AsyncAdaptedQueuePool):
    """Counts and times those who wait. Who finds a connection pays one comparison."""

    __module__ = (
        AsyncAdaptedQueuePool.__module__
    )  # SQLAlchemy names the logger by it, and its level goes by the name

    def _do_get(self) -> ConnectionPoolEntry:
        if self.checkedout() < self.size():
            return super()._do_get()
        began = time.perf_counter()
        with DATABASE_POOL_WAITING.track_inprogress():
            try:
                return super()._do_get()
            finally:
                DATABASE_POOL_WAIT_SECONDS.observe(time.perf_counter() - began)


def _measure_pool(engine: AsyncEngine) -> None:
    """The gauges ask at each scrape, so they cost nothing between. They tell of the process's newest engine."""
    reference = weakref.ref(engine)

    def count(of: Callable[[QueuePool], int]) -> Callable[[], float]:
        def ask() -> float:
            # Asked for anew: a pool is replaced when its connections were lost.
            pool = engine.sync_engine.pool if (engine := reference()) else None
            return of(pool) if isinstance(pool, QueuePool) else 0

        return ask

    DATABASE_CONNECTIONS.labels("in_use").set_function(count(QueuePool.checkedout))
    DATABASE_CONNECTIONS.labels("idle").set_function(count(QueuePool.checkedin))
    DATABASE_POOL_SIZE.set_function(count(QueuePool.size))


def _note_use(_connection: object, entry: ConnectionPoolEntry) -> None:
    entry.info["used_at"] = time.monotonic()


def _refuse_dead(connection: Any, entry: ConnectionPoolEntry, _fairy: object) -> None:
    """In place of ``pool_pre_ping``, which asks at every checkout, in three round trips.

    asyncpg knows of a connection that its server has closed; only one that may have died in silence is asked.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError
    if time.monotonic() - entry.info.get("used_at", time.monotonic()) > TRUSTED_SECONDS:
        try:
            connection.ping()
        except Exception as error:
            raise DisconnectionError from error


def new_sessions(engine: AsyncEngine) -> Sessions:
    """``async with sessions.begin() as session`` is a transaction for everything that is not a request."""
    return async_sessionmaker(engine, expire_on_commit=False)


# SQLSTATEs of a server that shuts down, starts, or has no connection to spare.
_AWAY = {"57P01", "57P02", "57P03", "53300"}


def is_away(error: BaseException) -> bool:
    """Whether the error says that the database can't be reached just now, and so nothing about the work itself."""
    if isinstance(error, PoolTimeout | OperationalError | OSError | asyncpg.InterfaceError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None) or ""
    return sqlstate in _AWAY or sqlstate.startswith("08")
