"""Stores uploaded archives so that a file without an import's row is always found again and removed.

Before an archive is stored, its key is committed to ``archives_in_transit``; the transaction that writes the import
takes the key out. What ends in any other way, a rollback, a replayed request, a killed process, leaves the key
there for ``discard``, which runs at the end of the request or, for the rest, in the messenger's chore.
"""

from collections.abc import AsyncIterable, AsyncIterator
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from exports.imports import repository
from exports.settings import ExportsSettings
from shared.database import Sessions
from shared.logs import get_logger
from shared.storage import Storage, StoredFile, open_storage

log = get_logger(__name__)

TRANSIT_PATIENCE = timedelta(days=1)
ZIP = "application/zip"


class ArrivingArchives:
    """The archives that one request stores."""

    def __init__(self, sessions: Sessions, storage: Storage) -> None:
        self._sessions = sessions
        self._storage = storage
        self._stored: list[str] = []
        self._kept: set[str] = set()

    async def store(self, key: str, chunks: AsyncIterable[bytes]) -> StoredFile:
        async with self._sessions.begin() as session:
            await repository.add_in_transit(session, key)
        self._stored.append(key)
        return await self._storage.put(key, chunks, content_type=ZIP)

    async def keep(self, session: AsyncSession, key: str) -> None:
        """In the transaction that writes the import."""
        await repository.take_from_transit(session, key)
        self._kept.add(key)

    async def settle(self, *, committed: bool) -> None:
        """Discards what was stored and not kept; leaves it to the chore when that fails."""
        for key in self._stored:
            if not committed or key not in self._kept:
                try:
                    await discard(self._sessions, self._storage, key)
                except Exception as error:
                    log.warning("imports.archive_not_discarded", key=key, error=str(error))


async def discard(sessions: Sessions, storage: Storage, key: str) -> None:
    """Deletes the file, if its import was not committed: only then the key is still in transit.

    A transaction that is about to commit holds the key's row, so this waits for its end.
    """
    async with sessions.begin() as session:
        if await repository.take_from_transit(session, key):
            await storage.delete(key)
            log.info("imports.archive_discarded", key=key)


async def discard_forgotten(sessions: Sessions, *, settings: ExportsSettings) -> None:
    """The messenger's chore: what processes left behind that were killed within an upload."""
    async with sessions() as session:
        keys = await repository.find_forgotten_in_transit(session, TRANSIT_PATIENCE)
    if not keys:
        return
    async with open_storage(settings) as storage:
        for key in keys:
            await discard(sessions, storage, key)


async def _arriving_in_request(request: Request) -> AsyncIterator[ArrivingArchives]:
    archives = ArrivingArchives(request.app.state.sessions, request.app.state.storage)
    try:
        yield archives
    except BaseException:
        await archives.settle(committed=False)
        raise
    await archives.settle(committed=True)


# To stand before ``SessionDep`` among a route's parameters: it then ends after the commit and sees it fail.
ArrivingDep = Annotated[ArrivingArchives, Depends(_arriving_in_request, scope="function")]
