"""The public paths of imports."""

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.sse import EventSourceResponse

from exports.access import ImportWriter
from exports.imports import repository, service, uploads
from exports.imports.schemas import ImportRead, ImportSummary
from exports.models import Import
from exports.progress import JobProgress, follow
from exports.settings import ExportsSettings
from shared.http.dependencies import FilesInTransitDep, IfNoneMatch, SessionDep
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
    description="Takes an Open Event archive of any dialect. It is read at once, so one that can't be imported is "
    "refused here and nothing stays behind; the work itself is done in the background. Follow `Location`.",
    status_code=202,
    response_model=ImportRead,
    openapi_extra=form_of("A zip of Open Event JSON and pictures."),
    max_body_size=UNLIMITED_BODY,
)
async def create_import(
    request: Request,
    files: FilesInTransitDep,
    principal: ImportWriter,
    session: SessionDep,
    idempotent: IdempotentDep,
) -> Response:
    settings: ExportsSettings = request.app.state.settings
    async with uploads.received(
        request, max_size=settings.max_archive_size, reading=request.app.state.reading
    ) as upload:
        job, sha256 = await service.store_archive(files, upload, organizer=principal.organizer)

    async def work() -> Response:
        await service.add_import(session, files, job)
        return created(f"/v1/imports/{job.id}", ImportRead.model_validate(job), status=202, headers=_headers(job))

    return await idempotent.create(principal, work, fingerprint=f"{sha256} {job.file_name}".encode())


@router.get("", summary="List imports, newest first", response_model=Page[ImportSummary])
async def list_imports(
    request: Request, response: Response, principal: ImportWriter, session: SessionDep, page: PageDep
) -> Page[ImportSummary]:
    """Without the lines of their reports."""
    imports, next_cursor = await repository.find_page(session, principal.organizer, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[ImportSummary.model_validate(job) for job in imports], next_cursor=next_cursor)


@router.get("/{import_id}", summary="Read how far an import is, and its report", response_model=ImportRead)
async def read_import(job: ImportDep, if_none_match: IfNoneMatch = None) -> Response:
    return conditional_response(if_none_match, ImportRead.model_validate(job), _headers(job))


@router.get("/{import_id}/progress", summary="Follow an import", response_class=EventSourceResponse)
async def follow_import(request: Request, job: ImportDep) -> AsyncIterator[JobProgress]:
    """Server-sent events: where it is now, then each change. Ends when the import has ended, or after ten minutes;
    ask again then."""
    async for progress in follow(request, request.app.state.sessions, Import, job.id):
        yield progress


def _headers(job: Import) -> dict[str, str]:
    """A job has no version: what can change of it is in its tag."""
    step = job.step.replace(" ", "-")
    tag = f"{job.state}.{job.attempts}.{step}.{job.done}.{job.total}.{'event' if job.event_id else ''}"
    return etag_headers(etag_of(tag), is_private=True)
