"""HTTP of an event's programme."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import Row

from events.access import EventReference, PublicUrl, Reader, fresh_headers
from events.events.repository import EventHead
from events.events.service import read_head
from events.fields import Line
from events.images.repository import image_addresses
from events.models import ImageCopy, Microlocation, Session, SessionType, SocialLink, Speaker, Sponsor, Track
from events.programme import repository, service
from events.programme.repository import Billing
from events.programme.schemas import (
    MicrolocationRead,
    ProgrammeImport,
    ProgrammeImported,
    Ref,
    ScheduleDay,
    ScheduledSession,
    ScheduleRead,
    SessionRead,
    SessionTypeRead,
    SocialLinkRead,
    SpeakerRead,
    SponsorRead,
    TrackRead,
    TrackRef,
)
from events.times import ends_of, starts_of
from shared.auth.access import service_only
from shared.contracts.programme import Programme
from shared.http.dependencies import IfNoneMatch, SessionDep
from shared.http.etags import etag_of, is_not_modified
from shared.http.idempotency import json_answer
from shared.http.pagination import Page, PageDep, set_next_link
from shared.settings import MEBIBYTE
from shared.walltime import at

MAX_PROGRAMME_SIZE = 64 * MEBIBYTE

router = APIRouter(prefix="/v1/events/{event_ref}", tags=["programme"])
internal = APIRouter(
    prefix="/internal/programmes",
    tags=["internal"],
    dependencies=[Depends(service_only())],
    include_in_schema=False,
)


async def _event(event_ref: EventReference, reader: Reader, session: SessionDep) -> EventHead:
    return await read_head(session, event_ref, reader)


EventDep = Annotated[EventHead, Depends(_event)]


async def _is_own(event: EventDep, reader: Reader) -> bool:
    return event.organizer == reader


IsOwn = Annotated[bool, Depends(_is_own)]
"""The caller is the event's organizer and sees what others don't."""


# Parts


@router.get("/sessions", summary="List sessions")
async def list_sessions(
    event: EventDep, is_own: IsOwn, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[SessionRead]:
    """All but the event's organizer see accepted and confirmed sessions only."""
    rows, billing, next_cursor = await repository.list_sessions(session, event.id, page, is_own=is_own)
    set_next_link(request, response, next_cursor)
    items = [_session_read(row, billing, event, is_own=is_own) for row in rows]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/sessions/{session_id}", response_model=SessionRead, summary="Read a session")
async def read_session(
    event: EventDep,
    is_own: IsOwn,
    session_id: UUID,
    response: Response,
    session: SessionDep,
    if_none_match: IfNoneMatch = None,
) -> SessionRead | Response:
    row, billing = await service.read_session(session, event, session_id, is_own=is_own)
    headers = fresh_headers(_tag(row[0].version, is_own=is_own))
    if is_not_modified(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return _session_read(row, billing, event, is_own=is_own)


@router.get("/speakers", summary="List speakers")
async def list_speakers(
    event: EventDep,
    is_own: IsOwn,
    request: Request,
    response: Response,
    session: SessionDep,
    page: PageDep,
    public_url: PublicUrl,
) -> Page[SpeakerRead]:
    """All but the event's organizer see no e-mail addresses and numbers, and nobody whose sessions are all
    unaccepted."""
    rows, next_cursor = await repository.list_speakers(session, event.id, page, is_own=is_own)
    set_next_link(request, response, next_cursor)
    items = [_speaker_read(speaker, copy, public_url, is_own=is_own) for speaker, copy in rows]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/speakers/{speaker_id}", response_model=SpeakerRead, summary="Read a speaker")
async def read_speaker(
    event: EventDep,
    is_own: IsOwn,
    speaker_id: UUID,
    response: Response,
    session: SessionDep,
    public_url: PublicUrl,
    if_none_match: IfNoneMatch = None,
) -> SpeakerRead | Response:
    speaker, copy = await service.read_speaker(session, event, speaker_id, is_own=is_own)
    headers = fresh_headers(_tag(speaker.version, copy.seq if copy else None, is_own=is_own))
    if is_not_modified(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return _speaker_read(speaker, copy, public_url, is_own=is_own)


@router.get("/tracks", summary="List tracks")
async def list_tracks(
    event: EventDep, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[TrackRead]:
    rows, next_cursor = await repository.list_plain(session, Track, event.id, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[TrackRead.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/microlocations", summary="List rooms, stages and areas")
async def list_microlocations(
    event: EventDep, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[MicrolocationRead]:
    rows, next_cursor = await repository.list_plain(session, Microlocation, event.id, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[MicrolocationRead.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/session-types", summary="List types of sessions")
async def list_session_types(
    event: EventDep, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[SessionTypeRead]:
    rows, next_cursor = await repository.list_plain(session, SessionType, event.id, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[SessionTypeRead.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/social-links", summary="List social links")
async def list_social_links(
    event: EventDep, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[SocialLinkRead]:
    rows, next_cursor = await repository.list_plain(session, SocialLink, event.id, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[SocialLinkRead.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.get("/sponsors", summary="List sponsors")
async def list_sponsors(
    event: EventDep,
    request: Request,
    response: Response,
    session: SessionDep,
    page: PageDep,
    public_url: PublicUrl,
) -> Page[SponsorRead]:
    rows, next_cursor = await repository.list_sponsors(session, event.id, page)
    set_next_link(request, response, next_cursor)
    items = [_sponsor_read(sponsor, copy, public_url) for sponsor, copy in rows]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/schedule", summary="Read the schedule")
async def read_schedule(
    event: EventDep,
    is_own: IsOwn,
    session: SessionDep,
    day: Annotated[
        str | None,
        Query(
            max_length=10,
            description="`first` for the first day that has a session; all days when left out.",
            examples=["2027-10-30", "first"],
        ),
    ] = None,
    timezone: Annotated[
        Line | None,
        Query(description="IANA zone to show days and times in; the event's own when left out."),
    ] = None,
) -> ScheduleRead:
    """Sessions that have times, in the order in which they happen. A session stands under the day on which it
    starts, as the clocks of the shown zone count days."""
    zone = event.timezone if timezone is None else timezone
    days, billing = await service.read_schedule(session, event, is_own=is_own, zone=zone, day=day)
    return ScheduleRead(
        event_id=event.id,
        timezone=zone,
        days=[
            ScheduleDay(date=date, sessions=[_scheduled_session(row, billing, zone) for row in rows])
            for date, rows in days
        ],
    )


# Whole, for other services


@internal.post(
    "",
    status_code=201,
    response_model=ProgrammeImported,
    responses={200: {"model": ProgrammeImported, "description": "This import was here before."}},
    max_body_size=MAX_PROGRAMME_SIZE,
    summary="Create an event with its whole programme",
)
async def import_programme(body: ProgrammeImport, session: SessionDep) -> Response:
    imported, is_new = await service.import_programme(session, body)
    return json_answer(imported, status=201 if is_new else 200)


@internal.get("/{event_id}", response_model=Programme, summary="Read an event with its whole programme")
async def export_programme(event_id: UUID, organizer: Annotated[Line, Query()], session: SessionDep) -> Response:
    return json_answer(await service.export_programme(session, event_id, organizer))


# From rows to answers


def _tag(*parts: int | None, is_own: bool) -> str:
    """Organizers are shown more under the same address, so their answers have tags of their own."""
    return etag_of(".".join([*(str(part) for part in parts if part is not None), *(["own"] if is_own else [])]))


def _session_read(row: Row[*tuple[Any, ...]], billing: Billing, event: EventHead, *, is_own: bool) -> SessionRead:
    item: Session
    item, track, microlocation, session_type = row
    is_scheduled = item.starts_at is not None
    return SessionRead.model_validate(
        {
            **{name: getattr(item, name) for name in _SESSION_COLUMNS},
            "comments": item.comments if is_own else None,
            "starts_at": starts_of(item, event.timezone).isoformat() if is_scheduled else None,
            "ends_at": ends_of(item, event.timezone).isoformat() if is_scheduled else None,
            "track": TrackRef(id=track.id, name=track.name, color=track.color) if track else None,
            "microlocation": _ref(microlocation),
            "session_type": _ref(session_type),
            "speakers": [Ref(id=speaker.id, name=speaker.name) for speaker in billing.get(item.id, [])],
        }
    )


_SESSION_COLUMNS = (SessionRead.model_fields.keys() & Session.__mapper__.columns.keys()) - {
    "comments",
    "starts_at",
    "ends_at",
}


def _ref(row: Microlocation | SessionType | None) -> Ref | None:
    return None if row is None else Ref(id=row.id, name=row.name)


def _scheduled_session(row: Row[*tuple[Any, ...]], billing: Billing, zone: str) -> ScheduledSession:
    return ScheduledSession.model_validate(
        {
            "id": row.id,
            "title": row.title,
            "starts_at": at(row.starts_at, zone).isoformat(),
            "ends_at": at(row.ends_at, zone).isoformat(),
            "track": {"id": row.track_id, "name": row.track_name, "color": row.track_color}
            if row.track_id
            else None,
            "microlocation": {"id": row.microlocation_id, "name": row.microlocation_name}
            if row.microlocation_id
            else None,
            "session_type": {"id": row.session_type_id, "name": row.session_type_name}
            if row.session_type_id
            else None,
            "speakers": [Ref(id=speaker.id, name=speaker.name) for speaker in billing.get(row.id, [])],
        }
    )


def _speaker_read(speaker: Speaker, copy: ImageCopy | None, public_url: str, *, is_own: bool) -> SpeakerRead:
    return SpeakerRead.model_validate(
        {
            **{name: getattr(speaker, name) for name in _SPEAKER_COLUMNS},
            "email": speaker.email if is_own else None,
            "mobile": speaker.mobile if is_own else None,
            "image_id": speaker.photo_image_id,
            "images": image_addresses(copy, public_url),
            "original_image_url": speaker.photo_url,
        }
    )


_SPEAKER_COLUMNS = (SpeakerRead.model_fields.keys() & Speaker.__mapper__.columns.keys()) - {"email", "mobile"}


def _sponsor_read(sponsor: Sponsor, copy: ImageCopy | None, public_url: str) -> SponsorRead:
    return SponsorRead.model_validate(
        {
            **{name: getattr(sponsor, name) for name in _SPONSOR_COLUMNS},
            "image_id": sponsor.logo_image_id,
            "images": image_addresses(copy, public_url),
            "original_image_url": sponsor.logo_url,
        }
    )


_SPONSOR_COLUMNS = SponsorRead.model_fields.keys() & Sponsor.__mapper__.columns.keys()
