"""Stores what a request uploads so that a file without a row of its own is always found again and removed.

Before a file is stored, its key is committed to ``files_in_transit``; the transaction that writes the file's row
takes the key out. What ends in any other way, a rollback, a replayed request, a killed process, leaves the key
there for ``discard``, which runs at the end of the request or, for the rest, in the messenger's chore.
"""

from collections.abc import AsyncIterable
from datetime import timedelta

from sqlalchemy import Column, DateTime, Index, MetaData, Table, Text, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.database.engine import Sessions
from shared.settings import StorageSettings
from shared.storage import Storage, StoredFile, open_storage
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

TRANSIT_PATIENCE = timedelta(days=1)
BATCH = 100

FILES_IN_TRANSIT = Table(
    "files_in_transit",
    MetaData(),
    Column("key", Text, primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Index("ix_files_in_transit_created_at", "created_at"),
)


def transit_table(metadata: MetaData) -> Table:
    """Puts the table among those that a service migrates."""
    return FILES_IN_TRANSIT.to_metadata(metadata)


class FilesInTransit:
    """The files that one request stores."""

    def __init__(self, sessions: Sessions, storage: Storage) -> None:
        self._sessions = sessions
        self._storage = storage
        self._stored: list[str] = []
        self._kept: set[str] = set()

    async def store(self, key: str, chunks: AsyncIterable[bytes], *, content_type: str) -> StoredFile:
        async with self._sessions.begin() as session:
            await session.execute(insert(FILES_IN_TRANSIT).values(key=key))
        self._stored.append(key)
        return await self._storage.put(key, chunks, content_type=content_type)

    async def keep(self, session: AsyncSession, key: str) -> None:
        """In the transaction that writes the file's row."""
        await session.execute(delete(FILES_IN_TRANSIT).where(FILES_IN_TRANSIT.c.key == key))
        self._kept.add(key)

    async def settle(self, *, committed: bool) -> None:
        """Discards what was stored and not kept; leaves it to the chore when that fails."""
        for key in self._stored:
            if not committed or key not in self._kept:
                try:
                    await discard(self._sessions, self._storage, key)
                except Exception as error:
                    log.warning("upload.not_discarded", key=key, error=str(error))


async def discard(sessions: Sessions, storage: Storage, key: str) -> None:
    """Deletes the file, if its row was not committed: only then the key is still in transit.

    A transaction that is about to commit holds the key's row, so this waits for its end.
    """
    async with sessions.begin() as session:
        taken = delete(FILES_IN_TRANSIT).where(FILES_IN_TRANSIT.c.key == key).returning(FILES_IN_TRANSIT.c.key)
        if await session.scalar(taken) is not None:
            await storage.delete(key)
            log.info("upload.discarded", key=key)


async def discard_forgotten(sessions: Sessions, *, settings: StorageSettings) -> None:
    """The messenger's chore: what processes left behind that were killed within an upload."""
    forgotten = (
        select(FILES_IN_TRANSIT.c.key)
        .where(FILES_IN_TRANSIT.c.created_at < func.clock_timestamp() - TRANSIT_PATIENCE)
        .order_by(FILES_IN_TRANSIT.c.created_at)
        .limit(BATCH)
    )
    async with sessions() as session:
        keys = (await session.scalars(forgotten)).all()
    if keys:
        async with open_storage(settings) as storage:
            for key in keys:
                await discard(sessions, storage, key)
