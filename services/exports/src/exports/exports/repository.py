"""SQL of exports."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from exports.models import Export
from shared.database.keyset import Keyset, PageRequest
from shared.jobs.rows import DONE, FAILED

NEWEST_FIRST = Keyset(Export.id, descending=True)
BATCH = 20


async def get(session: AsyncSession, export_id: UUID) -> Export:
    return await session.get_one(Export, export_id)


async def find(session: AsyncSession, export_id: UUID, organizer: str) -> Export | None:
    return await session.scalar(select(Export).where(Export.id == export_id, Export.organizer == organizer))


async def find_page(
    session: AsyncSession, event_id: UUID, organizer: str, page: PageRequest
) -> tuple[Sequence[Export], str | None]:
    exports = select(Export).where(Export.organizer == organizer, Export.event_id == event_id)
    return NEWEST_FIRST.cut((await session.scalars(NEWEST_FIRST.apply(exports, page))).all(), page)


async def lock_unneeded(session: AsyncSession) -> Sequence[Export]:
    """Lock and return at most ``BATCH`` exports that have expired or failed and may still have a file."""
    unneeded = (
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
    return (await session.scalars(unneeded)).all()


def expiry(lifetime: float) -> ColumnElement[datetime]:
    """Return the instant, by the database's clock, at which a file of that lifetime in seconds expires."""
    return func.clock_timestamp() + timedelta(seconds=lifetime)
