"""The engine and the sessions of a process.

Each service owns one schema, which is the whole search path of its role, so SQL names tables without a schema.
"""

from collections.abc import Awaitable, Callable

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from shared.database.pool import MeasuredPool, measure_pool, replace_dead_connections
from shared.settings import Settings

Sessions = async_sessionmaker[AsyncSession]


def asyncpg_dsn(url: str) -> str:
    """Return the URL as asyncpg takes it, without ``+asyncpg``, SQLAlchemy's name of the driver."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


def connection_settings(settings: Settings, role: str) -> dict[str, str]:
    """Return the PostgreSQL settings of each connection: times in UTC, and a timeout for every wait."""
    return {
        "application_name": f"{settings.service}.{role}",
        "search_path": settings.service,
        "timezone": "UTC",
        "jit": "off",
        "lock_timeout": f"{settings.database_lock_timeout * 1000:.0f}",
        "statement_timeout": f"{settings.database_statement_timeout * 1000:.0f}",
        "idle_in_transaction_session_timeout": "60000",
    }


def new_engine(settings: Settings, role: str, *, trusted_seconds: float = 10.0) -> AsyncEngine:
    """Make the one engine of a process, inside its event loop. The caller disposes it.

    A connection that was idle for longer than ``trusted_seconds`` is pinged before it is used.
    """
    engine = create_async_engine(
        settings.database_url.get_secret_value(),
        poolclass=MeasuredPool,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=5,
        connect_args={"server_settings": connection_settings(settings, role), "timeout": 5},
    )
    replace_dead_connections(engine, trusted_seconds=trusted_seconds)
    measure_pool(engine)
    return engine


def new_sessions(engine: AsyncEngine) -> Sessions:
    """``async with sessions.begin() as session`` is a transaction for everything that is not a request."""
    return async_sessionmaker(engine, expire_on_commit=False)


def database_check(engine: AsyncEngine) -> Callable[[], Awaitable[None]]:
    """Return a readiness check that raises when the database does not answer."""

    async def check() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    return check


# SQLSTATEs of a server that is shutting down or starting, or has no free connection.
_UNAVAILABLE = {"57P01", "57P02", "57P03", "53300"}


def is_unavailable(error: BaseException) -> bool:
    """Return whether the error says that the database is unreachable, and so nothing about the work itself."""
    if isinstance(error, PoolTimeout | OperationalError | OSError | asyncpg.InterfaceError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    sqlstate = getattr(getattr(error, "orig", error), "sqlstate", None) or ""
    return sqlstate in _UNAVAILABLE or sqlstate.startswith("08")
