"""Paths for other services: imports upload images, exports fetch originals."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from media.access import SettingsDep
from media.images import service, uploads
from media.images.schemas import ImageSummaryRead, ImportedImageRead
from shared.auth.access import SERVICE_ONLY
from shared.contracts.calls import OrganizerQuery
from shared.contracts.media import ImageImport, ImageStates, ImageStatesQuery, ImportedImage
from shared.http.dependencies import FilesInTransitDep, SessionDep, SessionsDep, StorageDep
from shared.http.uploads import UNLIMITED_BODY
from shared.jobs.rows import job_queue

router = APIRouter(
    prefix="/internal/images", tags=["internal"], dependencies=[Depends(SERVICE_ONLY)], include_in_schema=False
)


@router.post(
    "",
    summary="Upload an image of an import",
    description="The body is the file. Equal organizer, import and name again return the existing image with 200.",
    status_code=201,
    response_model=ImportedImage,
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
    max_body_size=UNLIMITED_BODY,
)
async def import_image(
    request: Request,
    response: Response,
    files: FilesInTransitDep,
    session: SessionDep,
    query: Annotated[ImageImport, Query()],
    settings: SettingsDep,
    sessions: SessionsDep,
) -> ImportedImage:
    async with sessions() as before:  # holds no connection while the body arrives
        known = await service.find_imported(before, query.organizer, query.import_id, query.name)
    if known is not None:
        await uploads.read_to_end(request, max_size=settings.max_image_size)
        response.status_code = 200
        return ImportedImageRead.of(known)
    async with uploads.from_body(request, name=query.name, max_size=settings.max_image_size) as upload:
        image = await service.store_original(
            files, upload, organizer=query.organizer, kind=query.kind, import_id=query.import_id
        )
    added = await service.add_imported_image(session, files, image, queue=job_queue(settings))
    if added is not image:
        response.status_code = 200
    return ImportedImageRead.of(added)


@router.post("/states", summary="Read the states of images")
async def read_states(query: ImageStatesQuery, session: SessionDep) -> ImageStates:
    images = await service.images_in_order(session, query.organizer, query.image_ids)
    return ImageStates(images=[ImageSummaryRead.of(image) for image in images])


@router.get("/{image_id}/original", summary="Fetch the uploaded file", response_class=Response)
async def fetch_original(
    image_id: UUID, query: Annotated[OrganizerQuery, Query()], session: SessionDep, storage: StorageDep
) -> Response:
    image = await service.get_image(session, image_id, query.organizer)
    size = await storage.size(image.original_key)

    async def stream() -> AsyncGenerator[bytes, None]:
        async with aclosing(storage.read(image.original_key)) as chunks:
            async for chunk in chunks:
                yield chunk

    return StreamingResponse(
        stream(),
        media_type=f"image/{image.format.lower()}",
        headers={"Content-Length": str(size), "Cache-Control": "private, no-store"},
    )
