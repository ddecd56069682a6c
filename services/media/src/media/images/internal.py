"""Paths for other services: imports upload images, exports fetch originals."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from media.access import SettingsDep
from media.images import service, uploads
from media.images.schemas import ImageState, ImageStates, ImportedImage, Organizer, StatesQuery
from shared.auth.access import service_only
from shared.contracts.media import ImageKind
from shared.http.dependencies import FilesInTransitDep, SessionDep, SessionsDep, StorageDep
from shared.http.uploads import UNLIMITED_BODY
from shared.jobs.rows import job_queue
from shared.texts import Storable

router = APIRouter(
    prefix="/internal/images", tags=["internal"], dependencies=[Depends(service_only())], include_in_schema=False
)

Name = Annotated[str, Query(min_length=1, max_length=400), Storable]


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
    organizer: Annotated[Organizer, Query()],
    name: Name,
    settings: SettingsDep,
    sessions: SessionsDep,
    kind: ImageKind = "event",
    import_id: UUID | None = None,
) -> ImportedImage:
    async with sessions() as before:  # holds no connection while the body arrives
        known = await service.find_imported(before, organizer, import_id, name)
    if known is not None:
        await uploads.read_to_end(request, max_size=settings.max_image_size)
        response.status_code = 200
        return ImportedImage.of(known)
    async with uploads.from_body(request, name=name, max_size=settings.max_image_size) as upload:
        image = await service.store_original(files, upload, organizer=organizer, kind=kind, import_id=import_id)
    added = await service.add_imported_image(session, files, image, queue=job_queue(settings))
    if added is not image:
        response.status_code = 200
    return ImportedImage.of(added)


@router.post("/states", summary="Read the states of images")
async def read_states(query: StatesQuery, session: SessionDep) -> ImageStates:
    images = await service.images_in_order(session, query.organizer, query.image_ids)
    return ImageStates(images=[ImageState.of(image) for image in images])


@router.get("/{image_id}/original", summary="Fetch the uploaded file", response_class=Response)
async def fetch_original(
    image_id: UUID, organizer: Annotated[Organizer, Query()], session: SessionDep, storage: StorageDep
) -> Response:
    image = await service.get_image(session, image_id, organizer)
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
