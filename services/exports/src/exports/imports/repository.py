"""SQL of imports."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from exports.models import Import
from shared.database.keyset import Keyset, PageRequest
from shared.jobs.rows import DONE, FAILED

NEWEST_FIRST = Keyset(Import.id, descending=True)
BATCH = 20


async def get(session: AsyncSession, import_id: UUID) -> Import:
    return await session.get_one(Import, import_id)


async def find(session: AsyncSession, import_id: UUID, organizer: str) -> Import | None:
    return await session.scalar(select(Import).where(Import.id == import_id, Import.organizer == organizer))


async def find_page(
    session: AsyncSession, organizer: str, page: PageRequest
) -> tuple[Sequence[Import], str | None]:
    """Return imports without their ``repairs``, which may be thousands of lines each."""
    imports = select(Import).where(Import.organizer == organizer).options(defer(Import.repairs, raiseload=True))
    return NEWEST_FIRST.cut((await session.scalars(NEWEST_FIRST.apply(imports, page))).all(), page)


async def lock_unneeded(session: AsyncSession) -> Sequence[Import]:
    """Lock and return at most ``BATCH`` imports that have ended and still have their archive."""
    ended = (
        select(Import)
        .where(Import.archive_key.is_not(None), Import.state.in_((DONE, FAILED)))
        .order_by(Import.finished_at)
        .limit(BATCH)
        .options(defer(Import.repairs, raiseload=True))
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(ended)).all()
