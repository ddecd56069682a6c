"""Stores originals so that a file without an image's row is always found again and removed.

Before a file is stored, its key is committed to ``originals_in_transit``; the transaction that writes the image
takes the key out. What ends in any other way, a rollback, a replayed request, a killed process, leaves the key
there for ``discard``, which runs at the end of the request or, for the rest, in the messenger's chore.
"""

from collections.abc import AsyncIterable, AsyncIterator
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from media.models import OriginalInTransit
from media.settings import MediaSettings
from shared.database import Sessions
from shared.logs import get_logger
from shared.storage import Storage, StoredFile, open_storage

log = get_logger(__name__)

TRANSIT_PATIENCE = timedelta(days=1)
BATCH = 100


class Originals:
    """The originals that one request stores."""

    def __init__(self, sessions: Sessions, storage: Storage) -> None:
        self._sessions = sessions
        self._storage = storage
        self._stored: list[str] = []
        self._kept: set[str] = set()

    async def store(self, key: str, chunks: AsyncIterable[bytes], *, content_type: str) -> StoredFile:
        async with self._sessions.begin() as session:
            session.add(OriginalInTransit(key=key))
        self._stored.append(key)
        return await self._storage.put(key, chunks, content_type=content_type)

    async def keep(self, session: AsyncSession, key: str) -> None:
        """In the transaction that writes the image."""
        await session.execute(delete(OriginalInTransit).where(OriginalInTransit.key == key))
        self._kept.add(key)

    async def settle(self, *, committed: bool) -> None:
        """Discards what was stored and not kept; leaves it to the chore when that fails."""
        for key in self._stored:
            if not committed or key not in self._kept:
                try:
                    await discard(self._sessions, self._storage, key)
                except Exception as error:
                    log.warning("originals.not_discarded", key=key, error=str(error))


async def discard(sessions: Sessions, storage: Storage, key: str) -> None:
    """Deletes the file, if its image was not committed: only then the key is still in transit.

    A transaction that is about to commit holds the key's row, so this waits for its end.
    """
    async with sessions.begin() as session:
        unknown = await session.scalar(
            delete(OriginalInTransit).where(OriginalInTransit.key == key).returning(OriginalInTransit.key)
        )
        if unknown is not None:
            await storage.delete(key)
            log.info("originals.discarded", key=key)


async def discard_forgotten(sessions: Sessions, *, settings: MediaSettings) -> None:
    """The messenger's chore: what processes left behind that were killed within an upload."""
    forgotten = (
        select(OriginalInTransit.key)
        .where(OriginalInTransit.created_at < func.clock_timestamp() - TRANSIT_PATIENCE)
        .order_by(OriginalInTransit.created_at)
        .limit(BATCH)
    )
    async with sessions() as session:
        keys = (await session.scalars(forgotten)).all()
    if not keys:
        return
    async with open_storage(settings) as storage:
        for key in keys:
            await discard(sessions, storage, key)


async def _originals_of_request(request: Request) -> AsyncIterator[Originals]:
    originals = Originals(request.app.state.sessions, request.app.state.storage)
    try:
        yield originals
    except BaseException:
        await originals.settle(committed=False)
        raise
    await originals.settle(committed=True)


# To stand before ``SessionDep`` among a route's parameters: it then ends after the commit and sees it fail.
OriginalsDep = Annotated[Originals, Depends(_originals_of_request, scope="function")]
