"""The SQL of exports."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from exports.models import Export
from shared.database.keyset import Keyset, PageRequest
from shared.jobs.rows import DONE, FAILED

NEWEST_FIRST = Keyset(Export.id, descending=True)
BATCH = 20


async def find(session: AsyncSession, export_id: UUID, organizer: str) -> Export | None:
    return await session.scalar(select(Export).where(Export.id == export_id, Export.organizer == organizer))


async def find_page(
    session: AsyncSession, event_id: UUID, organizer: str, page: PageRequest
) -> tuple[Sequence[Export], str | None]:
    exports = select(Export).where(Export.organizer == organizer, Export.event_id == event_id)
    return NEWEST_FIRST.cut((await session.scalars(NEWEST_FIRST.apply(exports, page))).all(), page)


async def take_over(session: AsyncSession) -> Sequence[Export]:
    """Some exports whose time is over, or that failed, and that may still have a file; locked."""
    over = (
        select(Export)
        .where(
            Export.file_key.is_not(None),
            or_(
                Export.state == FAILED,
                and_(Export.state == DONE, Export.expires_at <= func.clock_timestamp()),
            ),
        )
        .order_by(Export.expires_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    return (await session.scalars(over)).all()
