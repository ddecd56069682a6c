"""All SQL about tickets.

What is shown of tickets is put together by PostgreSQL as JSON text: the list of what is on sale is asked for by
everybody at the moment sales begin, and rows that become objects, then models, then text cost several times as much
as the query. ``schemas.TicketRead`` describes that text; a test holds both together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tickets.models import EventCopy, Ticket

# The sales window is [start, end), and nothing is sold after the event, even when its end was moved to before the
# end of sales. `c.now` is the database's clock, the same instant for all rows of a statement.
_SALES = (
    "CASE WHEN c.now < t.sales_starts_at THEN 'upcoming'"
    " WHEN c.now < least(t.sales_ends_at, e.ends_at) THEN 'open' ELSE 'past' END"
)
_CLOCK = "(SELECT coalesce($3::timestamptz, statement_timestamp()) AS now) c"


def _money(column: str) -> str:
    return (
        f"""CASE WHEN t.{column} IS NULL THEN 'null'"""
        f""" ELSE '{{"amount_minor":' || t.{column} || ',"currency":"' || t.currency || '"}}' END"""
    )


# Name, form and value of each member. `format` costs half of what `json_build_object` does; what users write goes
# through `to_json`, which escapes it, and all else can't hold a character that needs it. No value may be NULL.
_MEMBERS = (
    ("id", '"%s"', "t.id"),
    ("event_id", '"%s"', "t.event_id"),
    ("name", "%s", "to_json(t.name)"),
    ("description", "%s", "to_json(t.description)"),
    ("type", '"%s"', "t.type"),
    ("price", "%s", _money("price_minor")),
    ("min_price", "%s", _money("min_price_minor")),
    ("max_price", "%s", _money("max_price_minor")),
    ("quantity", "%s", "t.quantity"),
    ("min_per_order", "%s", "t.min_per_order"),
    ("max_per_order", "%s", "t.max_per_order"),
    ("is_hidden", "%s", "t.is_hidden::text"),
    ("position", "%s", "t.position"),
    ("sales_starts_at", '"%s"', "t.sales_starts_text"),
    ("sales_ends_at", '"%s"', "t.sales_ends_text"),
    ("sales", '"%s"', _SALES),
    ("version", "%s", "t.version"),
)
_TICKET = (
    "format('{"
    + ",".join(f'"{name}":{form}' for name, form, _ in _MEMBERS)
    + "}', "
    + ", ".join(value for *_, value in _MEMBERS)
    + ")"
)

# $1 the event, $2 the reader's organizer or NULL, $3 an instant in place of now, $4 a state of sales or NULL.
# The tag counts the edges of windows that time has passed: with the version they determine the text.
_LIST = f"""
SELECT e.list_version || '-' || coalesce(sum((t.sales_starts_at <= c.now)::int
           + (least(t.sales_ends_at, e.ends_at) <= c.now)::int), 0)
           || CASE WHEN e.organizer = $2 THEN 'o' ELSE 'p' END AS tag,
       coalesce(e.organizer = $2, false) AS is_own,
       coalesce(string_agg({_TICKET}, ',' ORDER BY t.position)
           FILTER (WHERE t.id IS NOT NULL AND ($4::text IS NULL OR $4 = {_SALES})), '') AS tickets
FROM event_copies e
CROSS JOIN {_CLOCK}
LEFT JOIN tickets t ON t.event_id = e.event_id AND (NOT t.is_hidden OR e.organizer = $2)
WHERE e.%s = $1 AND (e.state = 'published' OR e.organizer = $2)
GROUP BY e.event_id, c.now
"""  # noqa: S608 - put together from constants
_LIST_BY_ID = _LIST.replace("e.%s", "e.event_id")
_LIST_BY_IDENTIFIER = _LIST.replace("e.%s", "e.identifier")

# $1 the ticket, $2 the reader's organizer or NULL, $3 an instant in place of now.
_ONE = f"""
SELECT t.version || '-' || {_SALES} AS tag, {_TICKET} AS ticket
FROM tickets t
JOIN event_copies e USING (event_id)
CROSS JOIN {_CLOCK}
WHERE t.id = $1 AND (t.organizer = $2 OR (e.state = 'published' AND NOT t.is_hidden))
"""  # noqa: S608 - put together from constants


class Connection(Protocol):
    """An asyncpg connection or pool."""

    async def fetchrow(self, query: str, *args: object) -> Any: ...


@dataclass(frozen=True, slots=True)
class ShownTicket:
    tag: str
    json: str


@dataclass(frozen=True, slots=True)
class ShownTickets:
    """``json`` holds the tickets separated by commas, without the brackets."""

    tag: str
    json: str
    is_own: bool


async def list_on(
    connection: Connection, event: UUID | str, reader: str | None, sales: str | None, *, now: datetime | None = None
) -> ShownTickets | None:
    """The tickets that ``reader`` may see, in one statement and round trip; ``None`` when not even the event."""
    row = await connection.fetchrow(_by(event), event, reader, now, sales)
    return None if row is None else ShownTickets(row["tag"], row["tickets"], row["is_own"])


async def list_tickets(
    session: AsyncSession, event: UUID | str, reader: str | None, *, now: datetime | None = None
) -> ShownTickets | None:
    """The same within a transaction, with what it has changed."""
    row = await _fetch(session, _by(event), event, reader, now, None)
    return None if row is None else ShownTickets(row.tag, row.tickets, row.is_own)


async def show_ticket(
    session: AsyncSession, ticket_id: UUID, reader: str | None, *, now: datetime | None = None
) -> ShownTicket | None:
    """``None`` when there is no such ticket for ``reader``."""
    row = await _fetch(session, _ONE, ticket_id, reader, now)
    return None if row is None else ShownTicket(row.tag, row.ticket)


def _by(event: UUID | str) -> str:
    return _LIST_BY_ID if isinstance(event, UUID) else _LIST_BY_IDENTIFIER


async def _fetch(session: AsyncSession, query: str, *args: object) -> Any:
    await session.flush()  # the statement is the driver's, which knows of no pending changes
    connection = await session.connection()
    return (await connection.exec_driver_sql(query, args)).one_or_none()


# Changing


async def lock_event(session: AsyncSession, event: UUID | str, organizer: str) -> tuple[EventCopy, datetime] | None:
    """The organizer's own event, locked until the transaction ends, and the database's time. Waits for the lock."""
    found = await session.execute(
        select(EventCopy, func.clock_timestamp())
        .where(_is(event), EventCopy.organizer == organizer)
        .with_for_update()
        # What was loaded before the lock was had may be old.
        .execution_options(populate_existing=True)
    )
    row = found.one_or_none()
    return None if row is None else (row[0], row[1])


def _is(event: UUID | str) -> ColumnElement[bool]:
    return EventCopy.event_id == event if isinstance(event, UUID) else EventCopy.identifier == event


async def event_of(session: AsyncSession, ticket_id: UUID, organizer: str) -> UUID | None:
    return await session.scalar(
        select(Ticket.event_id).where(Ticket.id == ticket_id, Ticket.organizer == organizer)
    )


async def tickets_of(session: AsyncSession, event: EventCopy) -> Sequence[Ticket]:
    """In their order; at most ``rules.MAX_TICKETS``. The caller holds the event's lock."""
    found = await session.scalars(
        select(Ticket)
        .where(Ticket.event_id == event.event_id, Ticket.organizer == event.organizer)
        .order_by(Ticket.position)
    )
    return found.all()


async def is_name_taken(session: AsyncSession, event: EventCopy, name: str, *, but: UUID | None = None) -> bool:
    """Upper and lower case do not make two names."""
    same = select(Ticket.id).where(Ticket.event_id == event.event_id, func.lower(Ticket.name) == func.lower(name))
    if but is not None:
        same = same.where(Ticket.id != but)
    return bool(await session.scalar(select(exists(same))))
