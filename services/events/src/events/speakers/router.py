"""HTTP of an event's speakers."""

from uuid import UUID

from fastapi import APIRouter, Request, Response

from events.access import EventDep, IsOwn, PublicUrl, fresh_headers, tag_for
from events.speakers import repository, service
from events.speakers.schemas import SpeakerRead
from shared.http.dependencies import IfNoneMatch, SessionDep
from shared.http.etags import is_not_modified
from shared.http.pagination import Page, PageDep, set_next_link

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
    response: Response,
    session: SessionDep,
    public_url: PublicUrl,
    if_none_match: IfNoneMatch = None,
) -> SpeakerRead | Response:
    view = await service.read_speaker(session, event.id, speaker_id, is_own=is_own)
    headers = fresh_headers(tag_for(view.speaker.version, view.photo.seq if view.photo else None, is_own=is_own))
    if is_not_modified(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return SpeakerRead.of(view, public_url, is_own=is_own)
