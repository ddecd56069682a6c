"""The public paths of imports."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import EventSourceResponse

from exports.access import ImportWriter
from exports.dependencies import ReadingDep, SettingsDep, StreamIsOver
from exports.imports import repository, service, uploads
from exports.imports.schemas import ImportRead, ImportSummary
from exports.models import Import
from exports.progress.schemas import JobProgress
from exports.progress.service import follow
from shared.http.dependencies import FilesInTransitDep, IfNoneMatch, SessionDep, SessionsDep
from shared.http.etags import etag_headers, etag_of
from shared.http.idempotency import IdempotentDep
from shared.http.pagination import Page, PageDep, set_next_link
from shared.http.responses import conditional_response, created
from shared.http.uploads import UNLIMITED_BODY, form_of

router = APIRouter(prefix="/v1/imports", tags=["imports"])


async def _import_of_request(import_id: UUID, principal: ImportWriter, session: SessionDep) -> Import:
    return await service.get_import(session, import_id, principal.organizer)


ImportDep = Annotated[Import, Depends(_import_of_request)]


@router.post(
    "",
    summary="Import an event from an archive",
    description="Accepts an Open Event archive of any dialect. An archive that cannot be imported is refused "
    "at once and nothing is kept; the import itself runs in the background. Follow `Location`.",
    status_code=202,
    response_model=ImportRead,
    openapi_extra=form_of("A zip of Open Event JSON and images."),
    max_body_size=UNLIMITED_BODY,
)
async def create_import(
    request: Request,
    files: FilesInTransitDep,
    principal: ImportWriter,
    session: SessionDep,
    settings: SettingsDep,
    reading: ReadingDep,
    idempotent: IdempotentDep,
) -> Response:
    async with uploads.received(request, max_size=settings.max_archive_size, reading=reading) as upload:
        job, sha256 = await service.store_archive(files, upload, organizer=principal.organizer)

    async def work() -> Response:
        await service.add_import(session, files, job, settings=settings)
        return created(f"/v1/imports/{job.id}", ImportRead.of(job), status=202, headers=_headers(job))

    return await idempotent.create(principal, work, fingerprint=f"{sha256} {job.file_name}".encode())


@router.get("", summary="List imports, newest first", response_model=Page[ImportSummary])
async def list_imports(
    request: Request, response: Response, principal: ImportWriter, session: SessionDep, page: PageDep
) -> Page[ImportSummary]:
    """List imports without the lines of their reports; read one import for its report."""
    imports, next_cursor = await repository.find_page(session, principal.organizer, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[ImportSummary.of(job) for job in imports], next_cursor=next_cursor)


@router.get("/{import_id}", summary="Read an import and its report", response_model=ImportRead)
async def read_import(job: ImportDep, if_none_match: IfNoneMatch = None) -> Response:
    return conditional_response(if_none_match, ImportRead.of(job), _headers(job))


@router.get("/{import_id}/progress", summary="Follow an import", response_class=EventSourceResponse)
async def follow_import(job: ImportDep, sessions: SessionsDep, is_over: StreamIsOver) -> AsyncIterator[JobProgress]:
    """Server-sent events: the current progress, then each change. The stream ends with the import, or after ten
    minutes; then follow it again."""
    async for progress in follow(sessions, Import, job.id, is_over):
        yield progress


def _headers(job: Import) -> dict[str, str]:
    """Return headers with an ``ETag`` of all fields that can change, since a job has no version."""
    step = job.step.replace(" ", "-")
    tag = f"{job.state}.{job.attempts}.{step}.{job.done}.{job.total}.{'event' if job.event_id else ''}"
    return etag_headers(etag_of(tag), is_private=True)
