"""The public paths of images."""

from contextlib import aclosing
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from media.access import ImageReader, ImageWriter, SettingsDep
from media.images import repository, service, uploads
from media.images.rules import name_and_digest, variant_key
from media.images.schemas import ImageRead, etag
from media.images.sizes import VARIANTS
from shared.auth.access import PUBLIC
from shared.http.dependencies import FilesInTransitDep, IfNoneMatch, SessionDep, StorageDep
from shared.http.etags import etag_headers, etag_of, is_not_modified
from shared.http.idempotency import IdempotentDep
from shared.http.pagination import Page, PageDep, set_next_link
from shared.http.responses import conditional_response, created
from shared.http.uploads import UNLIMITED_BODY, form_of
from shared.jobs.rows import job_queue
from shared.problems import NotFound
from shared.storage import FileNotStored

router = APIRouter(prefix="/v1/images", tags=["images"])

_KIND = {
    "type": "string",
    "enum": list(VARIANTS),
    "default": "event",
    "description": "What the image shows, which decides the sizes of its variants.",
}


@router.post(
    "",
    summary="Upload an image",
    description="The header is checked at once, and a job makes the variants. Poll `Location` until the state is "
    "`ready` or `rejected`.",
    status_code=202,
    response_model=ImageRead,
    openapi_extra=form_of("PNG, JPEG, WebP or GIF.", {"kind": _KIND}),
    max_body_size=UNLIMITED_BODY,
)
async def upload_image(
    request: Request,
    files: FilesInTransitDep,
    principal: ImageWriter,
    session: SessionDep,
    idempotent: IdempotentDep,
    settings: SettingsDep,
) -> Response:
    async with uploads.from_form(request, max_size=settings.max_image_size) as (upload, kind):
        image = await service.store_original(files, upload, organizer=principal.organizer, kind=kind)

    async def work() -> Response:
        await service.add_image(session, files, image, queue=job_queue(settings))
        return created(
            f"/v1/images/{image.id}",
            ImageRead.of(image, settings.public_url),
            status=202,
            headers={"ETag": etag(image)},
        )

    return await idempotent.create(principal, work, fingerprint=f"{image.sha256} {kind} {image.name}".encode())


@router.get("", summary="List images, newest first", response_model=Page[ImageRead])
async def list_images(
    request: Request,
    response: Response,
    principal: ImageReader,
    session: SessionDep,
    page: PageDep,
    settings: SettingsDep,
) -> Page[ImageRead]:
    images, next_cursor = await repository.find_page(session, principal.organizer, page)
    set_next_link(request, response, next_cursor)
    return Page(items=[ImageRead.of(image, settings.public_url) for image in images], next_cursor=next_cursor)


@router.get("/{image_id}", summary="Read an image's state and variants", response_model=ImageRead)
async def read_image(
    image_id: UUID,
    principal: ImageReader,
    session: SessionDep,
    settings: SettingsDep,
    if_none_match: IfNoneMatch = None,
) -> Response:
    image = await service.get_image(session, image_id, principal.organizer)
    headers = etag_headers(etag(image), is_private=True)
    return conditional_response(if_none_match, ImageRead.of(image, settings.public_url), headers)


@router.head("/{image_id}/{file_name}", include_in_schema=False, dependencies=[Depends(PUBLIC)])
@router.get(
    "/{image_id}/{file_name}",
    summary="Fetch a variant",
    description="The path contains a digest of the content, so it cannot be guessed and its content never changes.",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "The JPEG"},
        304: {"description": "Not modified"},
    },
    dependencies=[Depends(PUBLIC)],
)
async def fetch_variant(
    request: Request, image_id: UUID, file_name: str, storage: StorageDep, if_none_match: IfNoneMatch = None
) -> Response:
    named = name_and_digest(file_name)
    if named is None:
        raise _no_variant()
    key = variant_key(image_id, *named)
    tag = etag_of(named[1])
    headers = {
        "ETag": tag,
        "Cache-Control": "public, max-age=31536000, immutable",
        "Content-Disposition": "inline",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        # Organizers embed images in pages of their own.
        "Cross-Origin-Resource-Policy": "cross-origin",
        "X-Content-Type-Options": "nosniff",
    }
    try:
        if is_not_modified(if_none_match, tag):
            await storage.size(key)
            return Response(status_code=304, headers=headers)
        if request.method == "HEAD":
            headers["Content-Length"] = str(await storage.size(key))
            return Response(headers=headers, media_type="image/jpeg")
        # Variants are small, and reading one whole takes a single call to the storage.
        async with aclosing(storage.read(key)) as chunks:
            content = b"".join([chunk async for chunk in chunks])
    except FileNotStored as error:
        raise _no_variant() from error
    return Response(content, headers=headers, media_type="image/jpeg")


def _no_variant() -> NotFound:
    return NotFound("There is no variant at this path. Read the image for the URLs of its variants.")
