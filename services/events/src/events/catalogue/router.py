"""HTTP of an event's plain lists."""

from fastapi import APIRouter, Request, Response

from events.access import EventDep
from events.catalogue import repository
from events.catalogue.schemas import MicrolocationRead, SessionTypeRead, SocialLinkRead, SponsorRead, TrackRead
from events.models import Microlocation, SessionType, SocialLink, Track
from shared.http.dependencies import PublicUrl, SessionDep
from shared.http.pagination import Page, PageDep, set_next_link

router = APIRouter(prefix="/v1/events/{event_ref}", tags=["programme"])


@router.get("/tracks", summary="List tracks")
async def list_tracks(
    event: EventDep, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[TrackRead]:
    rows, next_cursor = await repository.list_plain(session, Track, event.id, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[TrackRead.of(row) for row in rows], next_cursor=next_cursor)


@router.get("/microlocations", summary="List rooms, stages and areas")
async def list_microlocations(
    event: EventDep, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[MicrolocationRead]:
    rows, next_cursor = await repository.list_plain(session, Microlocation, event.id, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[MicrolocationRead.of(row) for row in rows], next_cursor=next_cursor)


@router.get("/session-types", summary="List types of sessions")
async def list_session_types(
    event: EventDep, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[SessionTypeRead]:
    rows, next_cursor = await repository.list_plain(session, SessionType, event.id, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[SessionTypeRead.of(row) for row in rows], next_cursor=next_cursor)


@router.get("/social-links", summary="List social links")
async def list_social_links(
    event: EventDep, request: Request, response: Response, session: SessionDep, page: PageDep
) -> Page[SocialLinkRead]:
    rows, next_cursor = await repository.list_plain(session, SocialLink, event.id, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[SocialLinkRead.of(row) for row in rows], next_cursor=next_cursor)


@router.get("/sponsors", summary="List sponsors")
async def list_sponsors(
    event: EventDep,
    request: Request,
    response: Response,
    session: SessionDep,
    page: PageDep,
    public_url: PublicUrl,
) -> Page[SponsorRead]:
    views, next_cursor = await repository.list_sponsors(session, event.id, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[SponsorRead.of(view, public_url) for view in views], next_cursor=next_cursor)
