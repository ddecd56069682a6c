"""The SQL of imports."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from exports.models import ArchiveInTransit, Import
from shared.jobs import DONE, FAILED
from shared.pagination import Keyset, PageRequest

NEWEST_FIRST = Keyset(Import.id, descending=True)
BATCH = 20


async def find(session: AsyncSession, import_id: UUID, organizer: str) -> Import | None:
    return await session.scalar(select(Import).where(Import.id == import_id, Import.organizer == organizer))


async def find_page(
    session: AsyncSession, organizer: str, page: PageRequest
) -> tuple[Sequence[Import], str | None]:
    """Without the repairs, which may be thousands of lines each."""
    imports = select(Import).where(Import.organizer == organizer).options(defer(Import.repairs, raiseload=True))
    return NEWEST_FIRST.cut((await session.scalars(NEWEST_FIRST.apply(imports, page))).all(), page)


async def take_ended_with_archive(session: AsyncSession) -> Sequence[Import]:
    """Some imports that have ended and still have their archive, locked."""
    ended = (
        select(Import)
        .where(Import.archive_key.is_not(None), Import.state.in_((DONE, FAILED)))
        .order_by(Import.finished_at)
        .limit(BATCH)
        .options(defer(Import.repairs, raiseload=True))
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(ended)).all()


async def add_in_transit(session: AsyncSession, key: str) -> None:
    session.add(ArchiveInTransit(key=key))


async def take_from_transit(session: AsyncSession, key: str) -> bool:
    """False when it was not there."""
    taken = delete(ArchiveInTransit).where(ArchiveInTransit.key == key).returning(ArchiveInTransit.key)
    return await session.scalar(taken) is not None


async def find_forgotten_in_transit(session: AsyncSession, patience: timedelta) -> Sequence[str]:
    forgotten = (
        select(ArchiveInTransit.key)
        .where(ArchiveInTransit.created_at < func.clock_timestamp() - patience)
        .order_by(ArchiveInTransit.created_at)
        .limit(BATCH)
    )
    return (await session.scalars(forgotten)).all()
