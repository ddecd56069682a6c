from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_connection
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database.engine import new_engine
from shared.settings import Settings


async def process_id(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)


async def test_a_connection_that_the_server_has_closed_is_replaced_before_it_is_used(engine: AsyncEngine) -> None:
    async with engine.connect() as other:
        closed = await process_id(engine)
        await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": closed})
        assert await process_id(engine) != closed


async def test_a_ping_goes_only_to_a_connection_that_was_idle_for_long(
    settings: Settings, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round trip before each transaction would slow every request down."""
    pings = 0
    ping = AsyncAdapt_asyncpg_connection.ping

    def counted(self: Any) -> None:
        nonlocal pings
        pings += 1
        ping(self)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(AsyncAdapt_asyncpg_connection, "ping", counted)
    for _ in range(3):
        await process_id(engine)
    assert pings == 0

    distrusting = new_engine(settings, "test", trusted_seconds=0.0)
    for _ in range(2):
        await process_id(distrusting)
    await distrusting.dispose()
    assert pings == 1  # not the first time, which has just connected
