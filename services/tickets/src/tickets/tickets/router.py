"""HTTP of tickets, except for the public list."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response

from shared.auth.access import SERVICE_ONLY, Requires
from shared.auth.verify import Principal
from shared.contracts.calls import OrganizerQuery
from shared.contracts.tickets import EventTickets
from shared.http.dependencies import IfMatch, IfNoneMatch, SessionDep
from shared.http.etags import etag_headers
from shared.http.idempotency import IdempotentDep
from shared.http.pagination import Page
from shared.http.responses import conditional_response, created
from tickets.access import EventReference, Organizer, Reader
from tickets.tickets import service
from tickets.tickets.repository import TicketView
from tickets.tickets.rules import ticket_etag
from tickets.tickets.schemas import TicketCreate, TicketPositions, TicketRead, TicketUpdate

router = APIRouter(tags=["tickets"])
internal = APIRouter(
    prefix="/internal", tags=["internal"], include_in_schema=False, dependencies=[Depends(SERVICE_ONLY)]
)


@router.post(
    "/v1/events/{event_ref}/tickets", status_code=201, response_model=TicketRead, summary="Create a ticket"
)
async def create_ticket(
    event_ref: EventReference,
    body: TicketCreate,
    principal: Annotated[Principal, Depends(Requires("tickets:write"))],
    organizer: Organizer,
    session: SessionDep,
    idempotent: IdempotentDep,
) -> Response:
    """Create a ticket. Times without an offset are in the event's zone. Shortly after an event was created, the
    response may be 404 with `Retry-After`."""

    async def work() -> Response:
        view = await service.create_ticket(session, organizer, event_ref, body)
        return created(f"/v1/tickets/{view.ticket.id}", TicketRead.of(view), headers=_headers(view))

    return await idempotent.create(principal, work)


@router.put("/v1/events/{event_ref}/tickets/positions", summary="Arrange an event's tickets")
async def arrange_tickets(
    event_ref: EventReference,
    body: TicketPositions,
    response: Response,
    organizer: Organizer,
    session: SessionDep,
    if_match: IfMatch = None,
) -> Page[TicketRead]:
    """Name each ticket of the event once. `If-Match` accepts the `ETag` of the list; the answer is the new list."""
    etag, views = await service.arrange_tickets(session, organizer, event_ref, body.ticket_ids, if_match=if_match)
    response.headers.update(etag_headers(etag))
    return Page(items=[TicketRead.of(view) for view in views])


@router.get("/v1/tickets/{ticket_id}", response_model=TicketRead, summary="Read a ticket")
async def read_ticket(
    ticket_id: UUID, reader: Reader, session: SessionDep, if_none_match: IfNoneMatch = None
) -> Response:
    view = await service.read_ticket(session, ticket_id, reader)
    return conditional_response(if_none_match, TicketRead.of(view), _headers(view))


@router.patch("/v1/tickets/{ticket_id}", summary="Change or move a ticket")
async def change_ticket(
    ticket_id: UUID,
    body: TicketUpdate,
    response: Response,
    organizer: Organizer,
    session: SessionDep,
    if_match: IfMatch = None,
) -> TicketRead:
    """Only fields that are sent change. A new `position` moves the ticket there, and those between make room."""
    view = await service.change_ticket(session, organizer, ticket_id, body, if_match=if_match)
    response.headers.update(_headers(view))
    return TicketRead.of(view)


@internal.get("/events/{event_id}/tickets", summary="List all tickets of an event")
async def tickets_of_event(
    event_id: UUID, query: Annotated[OrganizerQuery, Query()], session: SessionDep
) -> EventTickets:
    views = await service.read_tickets(session, event_id, query.organizer)
    return EventTickets.model_validate({"tickets": [TicketRead.of(view).model_dump() for view in views]})


def _headers(view: TicketView) -> dict[str, str]:
    return etag_headers(ticket_etag(view.ticket.version, view.sales))
