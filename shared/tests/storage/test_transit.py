import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database.engine import Sessions
from shared.storage.transit import (
    FILES_IN_TRANSIT,
    TRANSIT_PATIENCE,
    FilesInTransit,
    discard,
    discard_forgotten,
    remove_unfinished_uploads,
)
from testkit.storage import Place, local_settings

KEY = "originals/acme/one"
LOCK_WAITS = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@pytest.fixture
async def files(engine: AsyncEngine, sessions: Sessions, local_place: Place) -> FilesInTransit:
    async with engine.begin() as connection:
        await connection.run_sync(FILES_IN_TRANSIT.metadata.create_all)
    return FilesInTransit(sessions, local_place.storage)


async def content() -> AsyncIterator[bytes]:
    yield b"content"


async def keys_in_transit(sessions: Sessions) -> list[str]:
    async with sessions() as session:
        return list((await session.scalars(select(FILES_IN_TRANSIT.c.key))).all())


@pytest.mark.parametrize("is_known", [True, False], ids=["reported", "connection lost after the commit"])
async def test_a_file_whose_row_is_committed_is_kept(
    files: FilesInTransit, sessions: Sessions, local_place: Place, is_known: bool
) -> None:
    await files.store(KEY, content(), content_type="image/png")
    async with sessions.begin() as session:
        await files.keep(session, KEY)
    await files.settle(committed=is_known)

    assert await local_place.leftovers() == [KEY]
    assert await keys_in_transit(sessions) == []


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_file_whose_row_is_not_committed_is_deleted(
    files: FilesInTransit, sessions: Sessions, local_place: Place, is_kept: bool
) -> None:
    await files.store(KEY, content(), content_type="image/png")
    async with sessions() as session:
        if is_kept:
            await files.keep(session, KEY)
        await session.rollback()
    await files.settle(committed=not is_kept)

    assert await local_place.leftovers() == []
    assert await keys_in_transit(sessions) == []


async def test_discarding_waits_for_the_transaction_that_keeps_the_file(
    files: FilesInTransit, sessions: Sessions, local_place: Place
) -> None:
    await files.store(KEY, content(), content_type="image/png")
    async with sessions.begin() as session:
        await files.keep(session, KEY)
        discarding = asyncio.create_task(discard(sessions, local_place.storage, KEY))
        async with sessions() as observer, asyncio.timeout(10):
            while not await observer.scalar(LOCK_WAITS):  # noqa: ASYNC110 - it happens in the server
                await asyncio.sleep(0.01)
    await discarding

    assert await local_place.leftovers() == [KEY]


async def test_uploads_of_killed_processes_are_removed_after_a_day(
    sessions: Sessions, local_place: Place, tmp_path: Path
) -> None:
    unfinished = tmp_path / "files/.partial/upload"
    unfinished.write_bytes(b"x")
    os.utime(unfinished, (0, 0))

    await remove_unfinished_uploads(sessions, settings=local_settings(tmp_path / "files"))

    assert await local_place.leftovers() == []


async def test_files_of_killed_processes_are_deleted_after_a_day(
    files: FilesInTransit, sessions: Sessions, local_place: Place, tmp_path: Path
) -> None:
    for name in ("old", "fresh"):
        await files.store(name, content(), content_type="image/png")
    async with sessions.begin() as session:
        long_ago = func.clock_timestamp() - TRANSIT_PATIENCE - timedelta(minutes=1)
        await session.execute(
            update(FILES_IN_TRANSIT).where(FILES_IN_TRANSIT.c.key == "old").values(created_at=long_ago)
        )

    await discard_forgotten(sessions, settings=local_settings(tmp_path / "files"))

    assert await local_place.leftovers() == ["fresh"]
    assert await keys_in_transit(sessions) == ["fresh"]
