"""HTTP of an event's sessions."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from events.access import EventDep, IsOwn, tag_for
from events.sessions import repository, service
from events.sessions.schemas import SessionRead
from shared.http.dependencies import IfNoneMatch, SessionDep
from shared.http.etags import etag_headers
from shared.http.pagination import Page, PageDep, set_next_link
from shared.http.responses import conditional_response

router = APIRouter(prefix="/v1/events/{event_ref}/sessions", tags=["programme"])


@router.get("", summary="List sessions")
async def list_sessions(
    event: EventDep, is_own: IsOwn, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[SessionRead]:
    """Only the event's organizer gets sessions that are not accepted or confirmed."""
    views, next_cursor = await repository.list_sessions(session, event.id, page, is_own=is_own)
    set_next_link(request, response, next_cursor)
    items = [SessionRead.of(view, event.timezone, is_own=is_own) for view in views]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/{session_id}", response_model=SessionRead, summary="Read a session")
async def read_session(
    event: EventDep,
    is_own: IsOwn,
    session_id: UUID,
    session: SessionDep,
    if_none_match: IfNoneMatch = None,
) -> Response:
    view = await service.read_session(session, event.id, session_id, is_own=is_own)
    headers = etag_headers(tag_for(view.session.version, is_own=is_own))
    return conditional_response(if_none_match, SessionRead.of(view, event.timezone, is_own=is_own), headers)
