"""All SQL about the copies of events."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.events import EventState
from tickets.models import EventCopy

_TAKEN_OVER = ("organizer", "identifier", "name", "timezone", "starts_at", "ends_at", "state")


async def insert_copy(session: AsyncSession, facts: EventState, *, seq: int) -> bool:
    """True when the event was not known before."""
    values = {name: getattr(facts, name) for name in _TAKEN_OVER}
    inserted = await session.execute(
        insert(EventCopy)
        .values(event_id=facts.event_id, seq=seq, **values)
        .on_conflict_do_nothing()
        .returning(EventCopy.event_id)
    )
    return inserted.first() is not None


async def lock_copy(session: AsyncSession, event_id: UUID) -> EventCopy:
    """The copy as it is, locked until the transaction ends. An upsert could not tell which zone it replaced."""
    found = await session.scalars(
        select(EventCopy)
        .where(EventCopy.event_id == event_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return found.one()


def take_over(copy: EventCopy, facts: EventState, *, seq: int) -> None:
    for name in _TAKEN_OVER:
        setattr(copy, name, getattr(facts, name))
    copy.seq = seq
    copy.list_version += 1  # the event's end and state decide what the list shows
