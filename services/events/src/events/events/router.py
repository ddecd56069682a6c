"""HTTP of events."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from events.access import EventReference, Organizer, Reader
from events.events import repository, service
from events.events.schemas import EventCreate, EventRead, EventUpdate, State
from shared.auth.access import SERVICE_ONLY, Requires
from shared.auth.verify import OrganizerPrincipal
from shared.contracts.calls import OrganizerQuery
from shared.contracts.events import EventState
from shared.http.dependencies import IfMatch, IfNoneMatch, PublicUrl, SessionDep
from shared.http.etags import etag_headers
from shared.http.idempotency import IdempotentDep
from shared.http.pagination import Page, PageDep, set_next_link
from shared.http.responses import conditional_response, created

router = APIRouter(tags=["events"])
internal = APIRouter(
    prefix="/internal", tags=["internal"], dependencies=[Depends(SERVICE_ONLY)], include_in_schema=False
)


@router.post("/v1/events", status_code=201, response_model=EventRead, summary="Create an event")
async def create_event(
    body: EventCreate,
    principal: Annotated[OrganizerPrincipal, Depends(Requires("events:write"))],
    session: SessionDep,
    idempotent: IdempotentDep,
    public_url: PublicUrl,
) -> Response:
    """Create a draft, which only its organizer can read. Times are in `timezone` unless they have an offset."""

    async def work() -> Response:
        view = await service.create_event(session, principal.organizer, body)
        headers = etag_headers(service.tag_of(view))
        return created(f"/v1/events/{view.event.id}", EventRead.of(view, public_url), headers=headers)

    return await idempotent.create(principal, work)


@router.get("/v1/events", summary="List events")
async def list_events(
    request: Request,
    response: Response,
    reader: Reader,
    session: SessionDep,
    page: PageDep,
    public_url: PublicUrl,
    state: State | None = None,
) -> Page[EventRead]:
    """By start. With a token: your organization's events, including drafts. Without: the published public ones."""
    views, next_cursor = await repository.list_views(session, reader, state, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[EventRead.of(view, public_url) for view in views], next_cursor=next_cursor)


@router.get("/v1/events/{event_ref}", response_model=EventRead, summary="Read an event")
async def read_event(
    event_ref: EventReference,
    reader: Reader,
    session: SessionDep,
    public_url: PublicUrl,
    if_none_match: IfNoneMatch = None,
) -> Response:
    view = await service.read_event(session, event_ref, reader)
    headers = etag_headers(service.tag_of(view))
    return conditional_response(if_none_match, EventRead.of(view, public_url), headers)


@router.patch("/v1/events/{event_ref}", summary="Change an event")
async def change_event(
    event_ref: EventReference,
    body: EventUpdate,
    response: Response,
    organizer: Organizer,
    session: SessionDep,
    public_url: PublicUrl,
    if_match: IfMatch = None,
) -> EventRead:
    """Change only the fields that are sent. A new `timezone` alone keeps the local times of the event and its
    sessions, so their instants move."""
    view = await service.change_event(session, organizer, event_ref, body, if_match=if_match)
    response.headers.update(etag_headers(service.tag_of(view)))
    return EventRead.of(view, public_url)


@router.post("/v1/events/{event_ref}/publish", summary="Publish an event")
async def publish_event(
    event_ref: EventReference,
    response: Response,
    organizer: Organizer,
    session: SessionDep,
    public_url: PublicUrl,
    if_match: IfMatch = None,
) -> EventRead:
    """Make the event readable for everyone. A published event is returned unchanged."""
    view = await service.publish_event(session, organizer, event_ref, if_match=if_match)
    response.headers.update(etag_headers(service.tag_of(view)))
    return EventRead.of(view, public_url)


@router.post("/v1/events/{event_ref}/unpublish", summary="Unpublish an event")
async def unpublish_event(
    event_ref: EventReference,
    response: Response,
    organizer: Organizer,
    session: SessionDep,
    public_url: PublicUrl,
    if_match: IfMatch = None,
) -> EventRead:
    """Make the event a draft, which only its organizer can read. A draft is returned unchanged."""
    view = await service.unpublish_event(session, organizer, event_ref, if_match=if_match)
    response.headers.update(etag_headers(service.tag_of(view)))
    return EventRead.of(view, public_url)


@internal.get("/events/{event_ref}", summary="Read what other services need of an event")
async def read_state(
    event_ref: EventReference, query: Annotated[OrganizerQuery, Query()], session: SessionDep
) -> EventState:
    return await service.read_state(session, event_ref, query.organizer)
