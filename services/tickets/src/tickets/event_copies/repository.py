"""All SQL about the copies of events."""

from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.events import EventState
from tickets.models import EventCopy, Ticket

_COPIED = ("organizer", "identifier", "name", "timezone", "starts_at", "ends_at", "state")


async def insert_copy(session: AsyncSession, state: EventState, *, seq: int) -> bool:
    """Return False when the event has a copy already."""
    values = {name: getattr(state, name) for name in _COPIED}
    inserted = await session.execute(
        insert(EventCopy)
        .values(event_id=state.event_id, seq=seq, **values)
        .on_conflict_do_nothing()
        .returning(EventCopy.event_id)
    )
    return inserted.first() is not None


def update_copy(copy: EventCopy, state: EventState, *, seq: int) -> None:
    """Write the state to a copy that the caller has locked."""
    for name in _COPIED:
        setattr(copy, name, getattr(state, name))
    copy.seq = seq
    copy.list_version += 1  # the event's end and state decide what is in the list


async def lock_copy(session: AsyncSession, event_id: UUID) -> EventCopy:
    """Return the copy, locked until the transaction ends. An upsert could not return the replaced zone."""
    copy = await _lock(session, EventCopy.event_id == event_id)
    assert copy is not None  # noqa: S101 - copies are never deleted
    return copy


async def lock_event(session: AsyncSession, event: UUID | str, organizer: str) -> EventCopy | None:
    """Return the organizer's own event by its id or identifier, locked until the transaction ends."""
    is_it = EventCopy.event_id == event if isinstance(event, UUID) else EventCopy.identifier == event
    return await _lock(session, is_it, EventCopy.organizer == organizer)


async def lock_event_of(session: AsyncSession, ticket_id: UUID, organizer: str) -> EventCopy | None:
    """Return the event of the organizer's own ticket, locked until the transaction ends."""
    event_id = select(Ticket.event_id).where(Ticket.id == ticket_id, Ticket.organizer == organizer)
    return await _lock(session, EventCopy.event_id == event_id.scalar_subquery())


async def _lock(session: AsyncSession, *conditions: ColumnElement[bool]) -> EventCopy | None:
    found = await session.scalars(
        select(EventCopy)
        .where(*conditions)
        .with_for_update()
        # A row that was loaded before the wait for the lock may be outdated.
        .execution_options(populate_existing=True)
    )
    return found.one_or_none()
