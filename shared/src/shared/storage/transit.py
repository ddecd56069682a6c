"""Store what a request uploads so that a file without a row of its own is always found and deleted.

1. The key is committed to ``files_in_transit``, then the file is stored.
2. The transaction that writes the file's row removes the key.
3. Whatever ends otherwise (rollback, replay, killed process) leaves the key to ``discard``, called at the end of
   the request or by the messenger's periodic task.
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
    """Add the table to those that a service migrates."""
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
        """Call in the transaction that writes the file's row."""
        await session.execute(delete(FILES_IN_TRANSIT).where(FILES_IN_TRANSIT.c.key == key))
        self._kept.add(key)

    async def settle(self, *, committed: bool) -> None:
        """Discard what was stored and not kept; a failure leaves it to the periodic task."""
        for key in self._stored:
            if not committed or key not in self._kept:
                try:
                    await discard(self._sessions, self._storage, key)
                except Exception as error:
                    log.warning("upload.not_discarded", key=key, error=str(error))


async def discard(sessions: Sessions, storage: Storage, key: str) -> None:
    """Delete the file unless its row was committed: then its key is no longer in transit.

    Waits for a transaction that is about to commit, as that holds the key's row lock.
    """
    async with sessions.begin() as session:
        removed = delete(FILES_IN_TRANSIT).where(FILES_IN_TRANSIT.c.key == key).returning(FILES_IN_TRANSIT.c.key)
        if await session.scalar(removed) is not None:
            await storage.delete(key)
            log.info("upload.discarded", key=key)


async def remove_unfinished_uploads(_: Sessions, *, settings: StorageSettings) -> None:
    """Periodic task: remove unfinished uploads. Run it rarely, since its requests to S3 cost money."""
    async with open_storage(settings) as storage:
        await storage.remove_unfinished()


async def discard_forgotten(sessions: Sessions, *, settings: StorageSettings) -> None:
    """Delete what processes left that were killed during an upload; a periodic task of the messenger."""
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
