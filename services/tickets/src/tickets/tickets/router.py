"""HTTP of tickets."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, get_args
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.routing import APIRoute

from shared.auth.access import PUBLIC, requires, service_only
from shared.auth.verify import Principal
from shared.http.dependencies import IfMatch, IfNoneMatch, SessionDep
from shared.http.etags import etag_of, is_not_modified
from shared.http.idempotency import IdempotentDep
from shared.http.pagination import Page
from shared.problems import Invalid
from tickets.access import EventReference, Organizer, Reader, reader_of
from tickets.tickets import service
from tickets.tickets.lists import TicketLists
from tickets.tickets.repository import ShownTicket, ShownTickets
from tickets.tickets.schemas import Sales, TicketCreate, TicketOrder, TicketRead, TicketsOfEvent, TicketUpdate

router = APIRouter(tags=["tickets"])
internal = APIRouter(
    prefix="/internal", tags=["internal"], include_in_schema=False, dependencies=[Depends(service_only())]
)


class CalledDirectly(APIRoute):
    """A route whose function gets the request and nothing else.

    FastAPI works out parameters and dependencies anew for each request, which costs more than all the rest of this
    service's part in a list of tickets. What is declared at such a route describes it; the function does it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint


class UnknownSalesState(Invalid):
    def __init__(self) -> None:
        super().__init__(
            f"sales is one of {', '.join(get_args(Sales))}; leave it out for all.", field="query.sales"
        )


async def list_tickets(request: Request) -> Response:
    """In the organizer's order, all in one answer. A published event's are public but for the hidden ones; its
    organizer sees those too, and the tickets of drafts."""
    event = service.event_key(request.path_params["event_ref"])
    sales = request.query_params.get("sales")
    if sales is not None and sales not in get_args(Sales):
        raise UnknownSalesState
    reader = await reader_of(await PUBLIC(request))
    lists: TicketLists = request.app.state.ticket_lists
    shown = await lists.read(event, reader, sales)
    if shown is None:
        raise service.EventNotFound
    headers = _headers(shown)
    if is_not_modified(request.headers.get("If-None-Match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _list_answer(shown, headers)


@router.post(
    "/v1/events/{event_ref}/tickets", status_code=201, response_model=TicketRead, summary="Create a ticket"
)
async def create_ticket(
    event_ref: EventReference,
    body: TicketCreate,
    principal: Annotated[Principal, Depends(requires("tickets:write"))],
    organizer: Organizer,
    session: SessionDep,
    idempotent: IdempotentDep,
) -> Response:
    """Times are read in the event's zone unless they carry an offset. Just after an event was created it may not be
    known here yet: then the answer is 404 with `Retry-After`."""

    async def work() -> Response:
        ticket_id = await service.create_ticket(session, organizer, event_ref, body)
        shown = await service.read_ticket(session, ticket_id, organizer)
        return _ticket_answer(shown, status=201, location=f"/v1/tickets/{ticket_id}")

    return await idempotent.create(principal, work)


@router.put(
    "/v1/events/{event_ref}/tickets/order", response_model=Page[TicketRead], summary="Put the tickets into an order"
)
async def order_tickets(
    event_ref: EventReference,
    body: TicketOrder,
    organizer: Organizer,
    session: SessionDep,
    if_match: IfMatch = None,
) -> Response:
    """Names every ticket of the event once. `If-Match` takes the `ETag` of the list; the answer is the new list."""
    event_id = await service.order_tickets(session, organizer, event_ref, body.ticket_ids, if_match=if_match)
    shown = await service.own_tickets(session, event_id, organizer)
    return _list_answer(shown, _headers(shown))


@router.get("/v1/tickets/{ticket_id}", response_model=TicketRead, summary="Read a ticket")
async def read_ticket(
    ticket_id: UUID, reader: Reader, session: SessionDep, if_none_match: IfNoneMatch = None
) -> Response:
    shown = await service.read_ticket(session, ticket_id, reader)
    headers = _headers(shown)
    if is_not_modified(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _ticket_answer(shown)


@router.patch("/v1/tickets/{ticket_id}", response_model=TicketRead, summary="Change a ticket, or move it")
async def change_ticket(
    ticket_id: UUID, body: TicketUpdate, organizer: Organizer, session: SessionDep, if_match: IfMatch = None
) -> Response:
    """Changes only what is sent. A new `position` moves the ticket there, and those between make room."""
    await service.change_ticket(session, organizer, ticket_id, body, if_match=if_match)
    return _ticket_answer(await service.read_ticket(session, ticket_id, organizer))


@internal.get("/events/{event_id}/tickets", response_model=TicketsOfEvent, summary="All tickets of an event")
async def tickets_of_event(
    event_id: UUID, organizer: Annotated[str, Query(max_length=200)], session: SessionDep
) -> Response:
    shown = await service.own_tickets(session, event_id, organizer)
    return Response(f'{{"tickets":[{shown.json}]}}', media_type="application/json")


def add_list(app: FastAPI) -> None:
    """The list goes to the application itself, and first: FastAPI matches what a router brings twice."""
    app.router.add_api_route(
        "/v1/events/{event_ref}/tickets",
        list_tickets,
        methods=["GET"],
        route_class_override=CalledDirectly,
        dependencies=[Depends(PUBLIC)],
        response_model=Page[TicketRead],
        summary="List an event's tickets",
        tags=["tickets"],
        openapi_extra={
            "parameters": [
                {
                    "in": "path",
                    "name": "event_ref",
                    "required": True,
                    "schema": {"type": "string"},
                    "description": "The event's `id` or its `identifier`.",
                },
                {
                    "in": "query",
                    "name": "sales",
                    "schema": {"type": "string", "enum": [*get_args(Sales)]},
                    "description": "Only tickets in this state at the moment.",
                },
                {
                    "in": "header",
                    "name": "If-None-Match",
                    "schema": {"type": "string"},
                    "description": "The `ETag` that is known; the answer is 304 when it still holds.",
                },
            ]
        },
    )
    app.router.routes.insert(0, app.router.routes.pop())


def _headers(shown: ShownTicket | ShownTickets) -> dict[str, str]:
    """The answer may be kept as long as its tag is asked for each time. Organizers see more than the public."""
    return {"ETag": etag_of(shown.tag), "Cache-Control": "no-cache", "Vary": "Authorization"}


def _ticket_answer(shown: ShownTicket, *, status: int = 200, location: str | None = None) -> Response:
    headers = _headers(shown) if location is None else {"Location": location, **_headers(shown)}
    return Response(shown.json, status, headers, media_type="application/json")


def _list_answer(shown: ShownTickets, headers: dict[str, str]) -> Response:
    return Response(f'{{"items":[{shown.json}],"next_cursor":null}}', 200, headers, media_type="application/json")
