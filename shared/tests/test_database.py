from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database import engine as engine_module


async def process_id(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)


async def test_a_connection_that_the_server_has_closed_is_replaced_before_it_is_used(engine: AsyncEngine) -> None:
    async with engine.connect() as other:
        closed = await process_id(engine)
        await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": closed})
        assert await process_id(engine) != closed


async def test_only_a_connection_that_was_idle_for_long_is_asked_whether_it_lives(
    engine: AsyncEngine, monkeypatch: Any
) -> None:
    """For a round trip before each transaction would cost every request."""
    asked = 0
    ping = AsyncAdapt_asyncpg_connection.ping

    def counted(self: Any) -> None:
        nonlocal asked
        asked += 1
        ping(self)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(AsyncAdapt_asyncpg_connection, "ping", counted)
    for _ in range(3):
        await process_id(engine)
    assert asked == 0
    monkeypatch.setattr(engine_module, "TRUSTED_SECONDS", -1.0)
    await process_id(engine)
    assert asked == 1
