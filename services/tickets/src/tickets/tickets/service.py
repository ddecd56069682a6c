"""What organizers do with tickets. Each change holds the lock of the event's row, so changes run one by one."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.tickets import (
    TicketChangedV1,
    TicketCreatedV1,
    TicketListArrangedV1,
    TicketListRescheduledV1,
)
from shared.http.etags import check_if_match, etag_of
from shared.ids import new_id
from shared.messaging import outbox
from shared.problems import Conflict, NotFound
from shared.walltime import at, resolve
from tickets.event_copies.repository import lock_event, lock_event_of
from tickets.models import EventCopy, Ticket
from tickets.tickets import repository
from tickets.tickets.repository import TicketView
from tickets.tickets.rules import (
    MAX_TICKETS,
    Amount,
    Terms,
    check_complete,
    check_terms,
    list_etag,
    moved,
    window_columns,
    window_in_zone,
    window_of,
    without_clock,
)
from tickets.tickets.schemas import Money, TicketCreate, TicketUpdate


class EventNotFound(NotFound):
    """Say the same of an unknown id and of another organizer's draft.

    ``Retry-After`` is for callers whose event is new, since its message may still be on its way.
    """

    def __init__(self) -> None:
        super().__init__(
            "There is no event with this id or identifier here. If it was just created, try again in a moment.",
            headers={"Retry-After": "1"},
        )


class TicketNotFound(NotFound):
    def __init__(self) -> None:
        super().__init__("There is no ticket with this id. The list of the event's tickets has their ids.")


class TicketNameTaken(Conflict):
    code = "ticket-name-taken"
    title = "Duplicate ticket name"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The event has a ticket named {name!r}. Names must be unique without regard to case; "
            "choose another name.",
            field="name",
        )


class TooManyTickets(Conflict):
    code = "too-many-tickets"
    title = "Ticket limit reached"

    def __init__(self) -> None:
        super().__init__(
            f"The event has {MAX_TICKETS} tickets, and an event cannot have more. Change one that is not used."
        )


def event_key(reference: str) -> UUID | str:
    """Return an event's id, or its identifier of 8 lower-case characters. Raises ``EventNotFound`` for all else."""
    if len(reference) == 8 and reference.isascii() and reference.isalnum():
        return reference
    try:
        if len(reference) == 36:
            return UUID(reference)
    except ValueError:
        pass
    raise EventNotFound


async def read_ticket(session: AsyncSession, ticket_id: UUID, reader: str | None) -> TicketView:
    view = await repository.view_ticket(session, ticket_id, reader)
    if view is None:
        raise TicketNotFound
    return view


async def read_tickets(session: AsyncSession, event_id: UUID, organizer: str) -> list[TicketView]:
    """Return all tickets of the organizer's own event by position."""
    if not await repository.has_event(session, event_id, organizer):
        raise EventNotFound
    return await repository.view_tickets(session, event_id, organizer)


async def create_ticket(session: AsyncSession, organizer: str, event_ref: str, wanted: TicketCreate) -> TicketView:
    """Create the ticket at its position, or as the last one.

    Raises what ``rules.check_terms`` and ``walltime.resolve`` raise, ``EventNotFound``, ``TicketNameTaken``,
    ``TooManyTickets``, ``PositionOutOfRange``.
    """
    event = await _lock_event(session, event_ref, organizer)
    zone = event.timezone
    event_ends = at(event.ends_at, zone)
    terms = Terms(
        type=wanted.type,
        price=_amount(wanted.price),
        min_price=_amount(wanted.min_price),
        max_price=_amount(wanted.max_price),
        quantity=wanted.quantity,
        min_per_order=wanted.min_per_order,
        max_per_order=wanted.max_per_order,
        sales_starts=resolve(wanted.sales_starts_at, zone, field="sales_starts_at")
        if wanted.sales_starts_at
        else at((await repository.read_clock(session)).replace(microsecond=0), zone),
        sales_ends=resolve(wanted.sales_ends_at, zone, field="sales_ends_at")
        if wanted.sales_ends_at
        else event_ends,
    )
    check_terms(terms, event_ends=event_ends)
    others = await repository.list_ids(session, event)
    if len(others) >= MAX_TICKETS:
        raise TooManyTickets
    if await repository.is_name_used(session, event, wanted.name):
        raise TicketNameTaken(wanted.name)

    ticket = Ticket(
        id=new_id(),
        event_id=event.event_id,
        organizer=organizer,
        name=wanted.name,
        description=wanted.description,
        is_hidden=wanted.is_hidden,
        position=wanted.position or len(others) + 1,
        version=1,
    )
    arranged = moved([*others, ticket.id], ticket.id, ticket.position)
    _write(ticket, terms)
    session.add(ticket)
    event.list_version += 1
    await _publish_ticket(session, TicketCreatedV1, ticket)
    if arranged[-1] != ticket.id:
        await _arrange(session, event, arranged)
    return await read_ticket(session, ticket.id, organizer)


async def change_ticket(
    session: AsyncSession, organizer: str, ticket_id: UUID, wanted: TicketUpdate, *, if_match: str | None
) -> TicketView:
    """Change what was sent, and nothing when all of it is so already. A new position is a move.

    Raises ``TicketNotFound``, ``PreconditionFailed`` and what ``create_ticket`` raises.
    """
    event = await lock_event_of(session, ticket_id, organizer)
    if event is None:
        raise TicketNotFound
    ticket = await repository.load_ticket(session, ticket_id)
    check_if_match(without_clock(if_match), etag_of(ticket.version))

    terms = _changed_terms(ticket, event.timezone, wanted)
    moves_window = not wanted.model_fields_set.isdisjoint({"sales_starts_at", "sales_ends_at"})
    check_terms(terms, event_ends=at(event.ends_at, event.timezone) if moves_window else None)
    if wanted.name is not None and await repository.is_name_used(session, event, wanted.name, except_for=ticket.id):
        raise TicketNameTaken(wanted.name)
    arranged = None
    if wanted.position not in (None, ticket.position):
        arranged = moved(await repository.list_ids(session, event), ticket.id, wanted.position)

    if wanted.name is not None:
        ticket.name = wanted.name
    if wanted.description is not None:
        ticket.description = wanted.description
    if wanted.is_hidden is not None:
        ticket.is_hidden = wanted.is_hidden
    _write(ticket, terms)
    has_changed = session.is_modified(ticket)
    if wanted.position is not None:
        ticket.position = wanted.position
    if has_changed or arranged:
        ticket.version += 1
    if has_changed:
        event.list_version += 1
        await _publish_ticket(session, TicketChangedV1, ticket)
    if arranged:
        await _arrange(session, event, arranged)
    return await read_ticket(session, ticket.id, organizer)


async def arrange_tickets(
    session: AsyncSession, organizer: str, event_ref: str, ticket_ids: Sequence[UUID], *, if_match: str | None
) -> tuple[str, list[TicketView]]:
    """Give all tickets of the event the positions of this sequence; return the list's ETag and the tickets.

    Raises ``EventNotFound``, ``PreconditionFailed`` when the list was changed since, ``TicketSetChanged``.
    """
    event = await _lock_event(session, event_ref, organizer)
    check_if_match(without_clock(if_match), etag_of(event.list_version))
    current = await repository.list_ids(session, event)
    check_complete(ticket_ids, current)
    if list(ticket_ids) != list(current):
        await _arrange(session, event, ticket_ids)
    views = await repository.view_tickets(session, event.event_id, organizer)
    return list_etag(event.list_version, sum(view.edges for view in views), is_own=True), views


async def reschedule_tickets(session: AsyncSession, event: EventCopy) -> None:
    """Keep the wall times of all sales windows after the event's zone has changed: they move to other instants.

    The caller holds the event's lock. Never refuses, see ``rules.window_in_zone``.
    """
    changes = []
    for ticket in await repository.load_tickets(session, event):
        window = window_columns(*window_in_zone(ticket, event.timezone))
        if any(getattr(ticket, name) != value for name, value in window.items()):
            changes.append({"id": ticket.id, "version": ticket.version + 1, **window})
    if changes:
        await repository.write_windows(session, changes)
        await _publish_list(session, TicketListRescheduledV1, event)


async def _lock_event(session: AsyncSession, event_ref: str, organizer: str) -> EventCopy:
    event = await lock_event(session, event_key(event_ref), organizer)
    if event is None:
        raise EventNotFound
    return event


def _changed_terms(ticket: Ticket, zone: str, wanted: TicketUpdate) -> Terms:
    """Return the stored terms with what was sent in their place."""

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
    for name, value in window_columns(terms.sales_starts, terms.sales_ends).items():
        setattr(ticket, name, value)


async def _arrange(session: AsyncSession, event: EventCopy, ticket_ids: Sequence[UUID]) -> None:
    await repository.write_positions(session, event, ticket_ids)
    await _publish_list(session, TicketListArrangedV1, event)


async def _publish_ticket(
    session: AsyncSession, message: type[TicketCreatedV1] | type[TicketChangedV1], ticket: Ticket
) -> None:
    same = {name: getattr(ticket, name) for name in message.model_fields.keys() - {"ticket_id"}}
    await outbox.add(session, message(ticket_id=ticket.id, **same), subject=ticket.id, seq=ticket.version)


async def _publish_list(
    session: AsyncSession, message: type[TicketListArrangedV1] | type[TicketListRescheduledV1], event: EventCopy
) -> None:
    """Publish the list as it is in the database, in one message with a new version of the list."""
    event.list_version += 1
    facts = message(
        organizer=event.organizer,
        event_id=event.event_id,
        tickets=await repository.listed_tickets(session, event),
        version=event.list_version,
    )
    await outbox.add(session, facts, subject=event.event_id, seq=event.list_version)
