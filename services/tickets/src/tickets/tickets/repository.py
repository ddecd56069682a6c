"""All SQL about tickets, except that of the public list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Integer, Select, Uuid, case, cast, column, exists, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.tickets import ListedTicket
from tickets.models import EventCopy, Ticket


@dataclass(frozen=True, slots=True)
class TicketView:
    """A ticket and what the database's clock says of it.

    ``sales`` is ``upcoming``, ``open`` or ``past``. ``edges`` counts the start and the end of its window that have
    passed. A window is ``[start, end)``, and the end of the event ends it too.
    """

    ticket: Ticket
    sales: str
    edges: int


async def view_ticket(
    session: AsyncSession, ticket_id: UUID, reader: str | None, *, now: datetime | None = None
) -> TicketView | None:
    """Return ``None`` when there is no such ticket for ``reader``. ``now`` stands in for the clock, in tests."""
    is_visible = or_(Ticket.organizer == reader, (EventCopy.state == "published") & ~Ticket.is_hidden)
    found = await session.execute(_views(now).where(Ticket.id == ticket_id, is_visible))
    row = found.one_or_none()
    return None if row is None else TicketView(*row)


async def view_tickets(
    session: AsyncSession, event_id: UUID, organizer: str, *, now: datetime | None = None
) -> list[TicketView]:
    """Return all tickets of the organizer's event by position, hidden ones too. ``now`` as in ``view_ticket``."""
    found = await session.execute(
        _views(now).where(Ticket.event_id == event_id, Ticket.organizer == organizer).order_by(Ticket.position)
    )
    return [TicketView(*row) for row in found]


def _views(now: datetime | None) -> Select[Any]:
    clock = func.statement_timestamp() if now is None else literal(now)
    has_started = Ticket.sales_starts_at <= clock
    has_ended = func.least(Ticket.sales_ends_at, EventCopy.ends_at) <= clock
    sales = case((~has_started, "upcoming"), (has_ended, "past"), else_="open")
    return (
        select(Ticket, sales, cast(has_started, Integer) + cast(has_ended, Integer))
        .join(EventCopy, EventCopy.event_id == Ticket.event_id)
        .execution_options(populate_existing=True)
    )


async def has_event(session: AsyncSession, event_id: UUID, organizer: str) -> bool:
    own = select(EventCopy.event_id).where(EventCopy.event_id == event_id, EventCopy.organizer == organizer)
    return bool(await session.scalar(select(exists(own))))


async def read_clock(session: AsyncSession) -> datetime:
    now: datetime = (await session.scalars(select(func.clock_timestamp()))).one()
    return now


# Changes. The caller holds the event's lock.


async def load_ticket(session: AsyncSession, ticket_id: UUID) -> Ticket:
    found = await session.scalars(
        select(Ticket).where(Ticket.id == ticket_id).execution_options(populate_existing=True)
    )
    return found.one()


async def load_tickets(session: AsyncSession, event: EventCopy) -> Sequence[Ticket]:
    """Return the event's tickets by position; at most ``rules.MAX_TICKETS``."""
    found = await session.scalars(
        select(Ticket)
        .where(Ticket.event_id == event.event_id)
        .order_by(Ticket.position)
        .execution_options(populate_existing=True)
    )
    return found.all()


async def list_ids(session: AsyncSession, event: EventCopy) -> Sequence[UUID]:
    """Return the ids of the event's tickets by position."""
    found = await session.scalars(
        select(Ticket.id).where(Ticket.event_id == event.event_id).order_by(Ticket.position)
    )
    return found.all()


async def is_name_used(
    session: AsyncSession, event: EventCopy, name: str, *, except_for: UUID | None = None
) -> bool:
    """Compare names without regard to case."""
    same = select(Ticket.id).where(Ticket.event_id == event.event_id, func.lower(Ticket.name) == func.lower(name))
    if except_for is not None:
        same = same.where(Ticket.id != except_for)
    return bool(await session.scalar(select(exists(same))))


async def listed_tickets(session: AsyncSession, event: EventCopy) -> list[ListedTicket]:
    """Return the event's tickets for a message of the list, by position."""
    found = await session.execute(
        select(
            Ticket.id.label("ticket_id"),
            Ticket.position,
            Ticket.sales_starts_at,
            Ticket.sales_ends_at,
            Ticket.version,
        )
        .where(Ticket.event_id == event.event_id)
        .order_by(Ticket.position)
    )
    return [ListedTicket(**row) for row in found.mappings()]


async def write_positions(session: AsyncSession, event: EventCopy, ticket_ids: Sequence[UUID]) -> None:
    """Number the event's tickets in this sequence, from 1, and raise the version of those that move.

    One statement for all. Tickets that the session holds stay as they were loaded.
    """
    wanted = func.unnest(cast(ticket_ids, ARRAY(Uuid))).table_valued(
        column("id", Uuid), with_ordinality="position", name="wanted"
    )
    wanted = wanted.render_derived()
    await session.execute(
        update(Ticket)
        .where(
            Ticket.id == wanted.c.id,
            Ticket.event_id == event.event_id,
            Ticket.position != wanted.c.position,
        )
        .values(position=wanted.c.position, version=Ticket.version + 1)
        .execution_options(synchronize_session=False)
    )


async def write_windows(session: AsyncSession, changes: Sequence[Mapping[str, Any]]) -> None:
    """Update tickets by ``id``, all in one round trip. Tickets that the session holds stay as they were loaded."""
    await session.execute(update(Ticket).execution_options(synchronize_session=False), list(changes))
