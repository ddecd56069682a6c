"""HTTP of an event's speakers."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from events.access import EventDep, IsOwn, tag_for
from events.speakers import repository, service
from events.speakers.schemas import SpeakerRead
from shared.http.dependencies import IfNoneMatch, PublicUrl, SessionDep
from shared.http.etags import etag_headers
from shared.http.pagination import Page, PageDep, set_next_link
from shared.http.responses import conditional_response

router = APIRouter(prefix="/v1/events/{event_ref}/speakers", tags=["programme"])


@router.get("", summary="List speakers")
async def list_speakers(
    event: EventDep,
    is_own: IsOwn,
    request: Request,
    response: Response,
    session: SessionDep,
    page: PageDep,
    public_url: PublicUrl,
) -> Page[SpeakerRead]:
    """Only the event's organizer gets e-mail addresses and phone numbers, and speakers none of whose sessions is
    accepted."""
    views, next_cursor = await repository.list_speakers(session, event.id, page, is_own=is_own)
    set_next_link(request, response, next_cursor)
    items = [SpeakerRead.of(view, public_url, is_own=is_own) for view in views]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/{speaker_id}", response_model=SpeakerRead, summary="Read a speaker")
async def read_speaker(
    event: EventDep,
    is_own: IsOwn,
    speaker_id: UUID,
    session: SessionDep,
    public_url: PublicUrl,
    if_none_match: IfNoneMatch = None,
) -> Response:
    view = await service.read_speaker(session, event.id, speaker_id, is_own=is_own)
    headers = etag_headers(tag_for(view.speaker.version, view.photo.seq if view.photo else None, is_own=is_own))
    return conditional_response(if_none_match, SpeakerRead.of(view, public_url, is_own=is_own), headers)
