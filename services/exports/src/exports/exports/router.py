"""The public paths of exports."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.sse import EventSourceResponse

from exports.access import ExportReader, ExportWriter
from exports.clients.calls import Neighbours
from exports.exports import service
from exports.exports.rules import FILES_PATH
from exports.exports.schemas import ExportRead
from exports.models import Export
from exports.progress import JobProgress, follow
from exports.settings import ExportsSettings
from shared.auth.access import PUBLIC
from shared.http.dependencies import SessionDep
from shared.http.downloads import download_router
from shared.http.idempotency import IdempotentDep
from shared.http.pagination import Page, PageDep, set_next_link
from shared.http.responses import created, json_response
from shared.storage import Storage

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
    "/v1/events/{event_id}/exports",
    summary="Export an event as an archive",
    description="Everything of it: programme, tickets, pictures as they were uploaded. Follow `Location`.",
    status_code=202,
    response_model=ExportRead,
)
async def create_export(
    request: Request, event_id: UUID, principal: ExportWriter, session: SessionDep, idempotent: IdempotentDep
) -> Response:
    organizer = principal.organizer
    # Before anything of the database is used, so that no connection is held during the call.
    event = await service.own_event(_neighbours(request), event_id, organizer)

    async def work() -> Response:
        export = await service.add_export(session, event, organizer)
        return created(f"/v1/exports/{export.id}", await _shown(request, export), status=202, headers=PRIVATE)

    return await idempotent.create(principal, work)


@router.get(
    "/v1/events/{event_id}/exports",
    summary="List an event's exports, newest first",
    response_model=Page[ExportRead],
)
async def list_exports(
    request: Request,
    response: Response,
    event_id: UUID,
    principal: ExportReader,
    session: SessionDep,
    page: PageDep,
) -> Page[ExportRead]:
    exports, next_cursor = await service.list_exports(
        session, _neighbours(request), event_id, principal.organizer, page
    )
    set_next_link(request, response, next_cursor)
    response.headers.update(PRIVATE)
    return Page(items=[await _shown(request, export) for export in exports], next_cursor=next_cursor)


@router.get("/v1/exports/{export_id}", summary="Read how far an export is, and its link", response_model=ExportRead)
async def read_export(request: Request, export: ExportDep) -> Response:
    return json_response(await _shown(request, export), headers=PRIVATE)


@router.get("/v1/exports/{export_id}/progress", summary="Follow an export", response_class=EventSourceResponse)
async def follow_export(request: Request, export: ExportDep) -> AsyncIterator[JobProgress]:
    """Server-sent events: where it is now, then each change. Ends when the export has ended, or after ten minutes;
    ask again then."""
    async for progress in follow(request, request.app.state.sessions, Export, export.id):
        yield progress


@router.get(
    "/v1/exports/{export_id}/download",
    summary="Go to a fresh download link",
    status_code=307,
    response_class=RedirectResponse,
    responses={307: {"description": "To the file"}, 410: {"description": "The file is deleted"}},
)
async def download_export(request: Request, export: ExportDep) -> Response:
    link = await service.download_link(export, _storage(request), request.app.state.settings)
    return RedirectResponse(link, status_code=307, headers=PRIVATE)


async def _shown(request: Request, export: Export) -> ExportRead:
    settings: ExportsSettings = request.app.state.settings
    return await service.shown(export, _storage(request), settings)


def _storage(request: Request) -> Storage:
    storage: Storage = request.app.state.storage
    return storage


def _neighbours(request: Request) -> Neighbours:
    neighbours: Neighbours = request.app.state.neighbours
    return neighbours
