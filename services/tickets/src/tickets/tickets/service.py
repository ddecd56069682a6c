"""What organizers do with tickets. Every change holds the lock of the event's row, so changes come one by one."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.tickets import TicketChangedV1, TicketCreatedV1
from shared.http.etags import check_if_match, etag_of
from shared.ids import new_id
from shared.messaging import outbox
from shared.problems import Conflict, NotFound
from shared.walltime import WallTime, at, resolve
from tickets.models import EventCopy, Ticket
from tickets.tickets import repository
from tickets.tickets.repository import ShownTicket, ShownTickets
from tickets.tickets.rules import (
    MAX_TICKETS,
    Amount,
    Terms,
    check_complete,
    check_terms,
    moved,
    window_columns,
    window_in_zone,
    window_of,
    without_clock,
)
from tickets.tickets.schemas import Money, TicketCreate, TicketUpdate


class EventNotFound(NotFound):
    """404, and not a 409 that promises more: an id that nobody made and another organizer's draft get the same
    words, so nothing is told of either. ``Retry-After`` is for those whose event's message is still on its way,
    which takes less than 100 ms when all is well."""

    def __init__(self) -> None:
        super().__init__(
            "There is no event with this id or identifier here. If it was created just now, try again in a moment.",
            headers={"Retry-After": "1"},
        )


class TicketNotFound(NotFound):
    def __init__(self) -> None:
        super().__init__("There is no ticket with this id. The list of the event's tickets has their ids.")


class TicketNameTaken(Conflict):
    code = "ticket-name-taken"
    title = "The event has a ticket of this name"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The event has a ticket named {name!r}; upper and lower case make no difference. Choose another name.",
            field="name",
        )


class TooManyTickets(Conflict):
    code = "too-many-tickets"
    title = "The event has as many tickets as it can have"

    def __init__(self) -> None:
        super().__init__(f"An event has at most {MAX_TICKETS} tickets. Change one that is not used any more.")


def event_key(reference: str) -> UUID | str:
    """An event's id, or its identifier of 8 lower-case characters. Raises ``EventNotFound`` for all else."""
    if len(reference) == 8 and reference.isascii() and reference.isalnum():
        return reference
    try:
        if len(reference) == 36:
            return UUID(reference)
    except ValueError:
        pass
    raise EventNotFound


async def read_ticket(session: AsyncSession, ticket_id: UUID, reader: str | None) -> ShownTicket:
    shown = await repository.show_ticket(session, ticket_id, reader)
    if shown is None:
        raise TicketNotFound
    return shown


async def own_tickets(session: AsyncSession, event_id: UUID, organizer: str) -> ShownTickets:
    shown = await repository.list_tickets(session, event_id, organizer)
    if shown is None or not shown.is_own:
        raise EventNotFound
    return shown


async def create_ticket(session: AsyncSession, organizer: str, event_ref: str, wanted: TicketCreate) -> UUID:
    """Returns the new ticket's id. Raises what ``rules.check_terms`` and ``walltime.resolve`` raise,
    ``EventNotFound``, ``TicketNameTaken``, ``TooManyTickets``, ``PositionOutOfRange``."""
    event, now = await _lock_event(session, event_ref, organizer)
    zone = event.timezone
    event_ends = at(event.ends_at, zone)
    starts, ends = wanted.sales_starts_at, wanted.sales_ends_at
    terms = Terms(
        type=wanted.type,
        price=_amount(wanted.price),
        min_price=_amount(wanted.min_price),
        max_price=_amount(wanted.max_price),
        quantity=wanted.quantity,
        min_per_order=wanted.min_per_order,
        max_per_order=wanted.max_per_order,
        sales_starts=at(now.replace(microsecond=0), zone)
        if starts is None
        else resolve(starts, zone, field="sales_starts_at"),
        sales_ends=event_ends if ends is None else resolve(ends, zone, field="sales_ends_at"),
    )
    check_terms(terms, event_ends=event_ends)
    others = await repository.tickets_of(session, event)
    if len(others) >= MAX_TICKETS:
        raise TooManyTickets
    if await repository.is_name_taken(session, event, wanted.name):
        raise TicketNameTaken(wanted.name)

    ticket = Ticket(
        id=new_id(),
        event_id=event.event_id,
        organizer=organizer,
        name=wanted.name,
        description=wanted.description,
        is_hidden=wanted.is_hidden,
        version=1,
    )
    _write(ticket, terms)
    _place([*others, ticket], ticket, wanted.position or len(others) + 1)
    await _record_changes(session, event, others)
    event.list_version += 1
    session.add(ticket)
    await _tell(session, TicketCreatedV1, ticket)
    return ticket.id


async def change_ticket(
    session: AsyncSession, organizer: str, ticket_id: UUID, wanted: TicketUpdate, *, if_match: str | None
) -> None:
    """Changes what was sent, and nothing when all of it is so already.

    Raises ``TicketNotFound``, ``PreconditionFailed`` and what ``create_ticket`` raises.
    """
    event_id = await repository.event_of(session, ticket_id, organizer)
    locked = event_id and await repository.lock_event(session, event_id, organizer)
    if not locked:
        raise TicketNotFound
    event, _ = locked
    tickets = await repository.tickets_of(session, event)
    ticket = next(ticket for ticket in tickets if ticket.id == ticket_id)
    check_if_match(without_clock(if_match), etag_of(ticket.version))

    given = wanted.model_fields_set
    terms = _changed_terms(ticket, event.timezone, wanted)
    moves_window = not given.isdisjoint({"sales_starts_at", "sales_ends_at"})
    check_terms(terms, event_ends=at(event.ends_at, event.timezone) if moves_window else None)
    if wanted.name is not None:
        if await repository.is_name_taken(session, event, wanted.name, but=ticket.id):
            raise TicketNameTaken(wanted.name)
        ticket.name = wanted.name
    if wanted.description is not None:
        ticket.description = wanted.description
    if wanted.is_hidden is not None:
        ticket.is_hidden = wanted.is_hidden
    _write(ticket, terms)
    if wanted.position is not None:
        _place(tickets, ticket, wanted.position)
    await _record_changes(session, event, tickets)


async def order_tickets(
    session: AsyncSession, organizer: str, event_ref: str, ticket_ids: Sequence[UUID], *, if_match: str | None
) -> UUID:
    """Puts all tickets of the event into this order; returns the event's id.

    Raises ``EventNotFound``, ``PreconditionFailed`` when the list was changed since, ``TicketSetChanged``.
    """
    event, _ = await _lock_event(session, event_ref, organizer)
    check_if_match(without_clock(if_match), etag_of(event.list_version))
    tickets = await repository.tickets_of(session, event)
    check_complete(ticket_ids, [ticket.id for ticket in tickets])
    _put_in_order(tickets, ticket_ids)
    await _record_changes(session, event, tickets)
    return event.event_id


async def move_to_zone(session: AsyncSession, event: EventCopy) -> None:
    """Keeps what the clocks show after the event's zone has changed: the sales windows move to other instants.

    The caller holds the event's lock. Never refuses, see ``rules.window_in_zone``.
    """
    tickets = await repository.tickets_of(session, event)
    for ticket in tickets:
        _write_window(ticket, *window_in_zone(ticket, event.timezone))
    await _record_changes(session, event, tickets)


async def _lock_event(session: AsyncSession, event_ref: str, organizer: str) -> tuple[EventCopy, datetime]:
    locked = await repository.lock_event(session, event_key(event_ref), organizer)
    if locked is None:
        raise EventNotFound
    return locked


def _changed_terms(ticket: Ticket, zone: str, wanted: TicketUpdate) -> Terms:
    """The stored terms with what was sent in their place."""

    def amount(name: str) -> Amount | None:
        if name in wanted.model_fields_set:
            return _amount(getattr(wanted, name))
        minor = getattr(ticket, f"{name}_minor")
        return None if minor is None or ticket.currency is None else Amount(minor, ticket.currency)

    starts, ends = window_of(ticket, zone)
    return Terms(
        type=wanted.type or ticket.type,
        price=amount("price"),
        min_price=amount("min_price"),
        max_price=amount("max_price"),
        quantity=wanted.quantity or ticket.quantity,
        min_per_order=wanted.min_per_order or ticket.min_per_order,
        max_per_order=wanted.max_per_order or ticket.max_per_order,
        sales_starts=resolve(wanted.sales_starts_at, zone, field="sales_starts_at")
        if wanted.sales_starts_at
        else starts,
        sales_ends=resolve(wanted.sales_ends_at, zone, field="sales_ends_at") if wanted.sales_ends_at else ends,
    )


def _amount(money: Money | None) -> Amount | None:
    return None if money is None else Amount(money.amount_minor, money.currency)


def _write(ticket: Ticket, terms: Terms) -> None:
    amounts = (terms.price, terms.min_price, terms.max_price)
    ticket.type = terms.type
    ticket.price_minor, ticket.min_price_minor, ticket.max_price_minor = (
        None if amount is None else amount.minor for amount in amounts
    )
    ticket.currency = next((amount.currency for amount in amounts if amount is not None), None)
    ticket.quantity = terms.quantity
    ticket.min_per_order = terms.min_per_order
    ticket.max_per_order = terms.max_per_order
    _write_window(ticket, terms.sales_starts, terms.sales_ends)


def _write_window(ticket: Ticket, starts: WallTime, ends: WallTime) -> None:
    for name, value in window_columns(starts, ends).items():
        setattr(ticket, name, value)


def _place(tickets: Sequence[Ticket], ticket: Ticket, position: int) -> None:
    _put_in_order(tickets, moved([other.id for other in tickets], ticket.id, position))


def _put_in_order(tickets: Sequence[Ticket], ticket_ids: Sequence[UUID]) -> None:
    by_id = {ticket.id: ticket for ticket in tickets}
    for position, ticket_id in enumerate(ticket_ids, start=1):
        by_id[ticket_id].position = position


async def _record_changes(session: AsyncSession, event: EventCopy, tickets: Sequence[Ticket]) -> None:
    """A new version and a message for each of the tickets that has changed, and a new version of the list."""
    changed = [ticket for ticket in tickets if session.is_modified(ticket)]
    for ticket in changed:
        ticket.version += 1
    for ticket in changed:
        await _tell(session, TicketChangedV1, ticket)
    if changed:
        event.list_version += 1


async def _tell(
    session: AsyncSession, message: type[TicketCreatedV1] | type[TicketChangedV1], ticket: Ticket
) -> None:
    facts = message(
        organizer=ticket.organizer,
        ticket_id=ticket.id,
        event_id=ticket.event_id,
        name=ticket.name,
        sales_starts_at=ticket.sales_starts_at,
        sales_ends_at=ticket.sales_ends_at,
        version=ticket.version,
    )
    await outbox.add(session, facts, subject=ticket.id, seq=ticket.version)
