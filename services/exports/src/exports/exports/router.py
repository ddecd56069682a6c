"""The public paths of exports."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.sse import EventSourceResponse

from exports.access import ExportReader, ExportWriter
from exports.dependencies import EventReference, PeersDep, SettingsDep, StreamIsOver
from exports.exports import repository, service
from exports.exports.rules import FILES_PATH
from exports.exports.schemas import ExportRead
from exports.models import Export
from exports.progress.schemas import JobProgress
from exports.progress.service import follow
from shared.auth.access import PUBLIC
from shared.http.dependencies import SessionDep, SessionsDep, StorageDep
from shared.http.downloads import download_router
from shared.http.idempotency import IdempotentDep
from shared.http.pagination import Page, PageDep, set_next_link
from shared.http.responses import created, json_response

router = APIRouter(tags=["exports"])

# The signature of a link is the permission.
files = APIRouter(tags=["exports"], dependencies=[Depends(PUBLIC)])
files.include_router(download_router(FILES_PATH + "/{key:path}"))

# Answers hold links that are permissions.
PRIVATE = {"Cache-Control": "private, no-store"}


async def _export_of_request(export_id: UUID, principal: ExportReader, session: SessionDep) -> Export:
    return await service.get_export(session, export_id, principal.organizer)


ExportDep = Annotated[Export, Depends(_export_of_request)]


@router.post(
    "/v1/events/{event_ref}/exports",
    summary="Export an event as an archive",
    description="Exports the whole event: programme, tickets and the uploaded images. Follow `Location`.",
    status_code=202,
    response_model=ExportRead,
)
async def create_export(
    event_ref: EventReference,
    principal: ExportWriter,
    session: SessionDep,
    peers: PeersDep,
    storage: StorageDep,
    settings: SettingsDep,
    idempotent: IdempotentDep,
) -> Response:
    # Called before the session is used, so that no database connection is held meanwhile.
    event = await service.find_event(peers, event_ref, principal.organizer)

    async def work() -> Response:
        export = await service.add_export(session, event, organizer=principal.organizer, settings=settings)
        body = await service.view(export, storage, settings)
        return created(f"/v1/exports/{export.id}", body, status=202, headers=PRIVATE)

    return await idempotent.create(principal, work)


@router.get(
    "/v1/events/{event_ref}/exports",
    summary="List an event's exports, newest first",
    response_model=Page[ExportRead],
)
async def list_exports(
    request: Request,
    response: Response,
    event_ref: EventReference,
    principal: ExportReader,
    session: SessionDep,
    peers: PeersDep,
    storage: StorageDep,
    settings: SettingsDep,
    page: PageDep,
) -> Page[ExportRead]:
    event = await service.find_event(peers, event_ref, principal.organizer)
    exports, next_cursor = await repository.find_page(session, event.event_id, principal.organizer, page)
    set_next_link(request, response, next_cursor)
    response.headers.update(PRIVATE)
    items = [await service.view(export, storage, settings) for export in exports]
    return Page(items=items, next_cursor=next_cursor)


@router.get("/v1/exports/{export_id}", summary="Read an export and its download link", response_model=ExportRead)
async def read_export(export: ExportDep, storage: StorageDep, settings: SettingsDep) -> Response:
    return json_response(await service.view(export, storage, settings), headers=PRIVATE)


@router.get("/v1/exports/{export_id}/progress", summary="Follow an export", response_class=EventSourceResponse)
async def follow_export(
    export: ExportDep, sessions: SessionsDep, is_over: StreamIsOver
) -> AsyncIterator[JobProgress]:
    """Server-sent events: the current progress, then each change. The stream ends with the export, or after ten
    minutes; then follow it again."""
    async for progress in follow(sessions, Export, export.id, is_over):
        yield progress


@router.get(
    "/v1/exports/{export_id}/download",
    summary="Redirect to a new download link",
    status_code=307,
    response_class=RedirectResponse,
    responses={307: {"description": "To the file"}, 410: {"description": "The file is deleted"}},
)
async def download_export(export: ExportDep, storage: StorageDep, settings: SettingsDep) -> Response:
    link = await service.download_link(export, storage, settings)
    return RedirectResponse(link, status_code=307, headers=PRIVATE)
