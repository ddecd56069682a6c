"""The public paths of images."""

from contextlib import aclosing
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response

from media.images import repository, service, uploads
from media.images.rules import name_and_digest, variant_key
from media.images.schemas import ImageRead, etag
from media.images.sizes import VARIANTS
from media.settings import MediaSettings
from shared.auth.access import PUBLIC, requires
from shared.auth.verify import OrganizerPrincipal
from shared.http.dependencies import FilesInTransitDep, IfNoneMatch, SessionDep, StorageDep, state
from shared.http.etags import etag_headers, etag_of, is_not_modified
from shared.http.idempotency import IdempotentDep
from shared.http.pagination import Page, PageDep, set_next_link
from shared.http.responses import conditional_response, created
from shared.problems import NotFound
from shared.storage import FileNotStored

router = APIRouter(prefix="/v1/images", tags=["images"])

Reader = Annotated[OrganizerPrincipal, Depends(requires("media:read"))]
SettingsDep = Annotated[MediaSettings, Depends(state("settings"))]
Writer = Annotated[OrganizerPrincipal, Depends(requires("media:write"))]

# Uploads are counted where they are read: the framework's own refusal names neither the field nor the limit.
COUNTED_BY_US = 1 << 40

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "PNG, JPEG, WebP or GIF."},
                        "kind": {
                            "type": "string",
                            "enum": list(VARIANTS),
                            "default": "event",
                            "description": "What it shows; it decides the sizes of the variants.",
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    summary="Upload an image",
    description="Its header is checked at once; the variants are made in the background. Follow `Location` until "
    "the state is `ready` or `rejected`.",
    status_code=202,
    response_model=ImageRead,
    openapi_extra=_FORM,
    max_body_size=COUNTED_BY_US,
)
async def upload_image(
    request: Request,
    files: FilesInTransitDep,
    principal: Writer,
    session: SessionDep,
    idempotent: IdempotentDep,
    settings: SettingsDep,
) -> Response:
    async with uploads.from_form(request, max_size=settings.max_image_size) as (upload, kind):
        image = await service.store_original(files, upload, organizer=principal.organizer, kind=kind)

    async def work() -> Response:
        await service.add_image(session, files, image, queue=service.job_queue(settings))
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
    principal: Reader,
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
    principal: Reader,
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
    description="The address holds a digest of the content: it is a secret until somebody shows it, and what it "
    "leads to never changes.",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "The JPEG"}, 304: {"description": "Known"}},
    dependencies=[Depends(PUBLIC)],
)
async def fetch_variant(
    request: Request, image_id: UUID, file_name: str, storage: StorageDep, if_none_match: IfNoneMatch = None
) -> Response:
    named = name_and_digest(file_name)
    if named is None:
        raise _no_such_variant()
    key = variant_key(image_id, *named)
    tag = etag_of(named[1])
    headers = {
        "ETag": tag,
        "Cache-Control": "public, max-age=31536000, immutable",
        "Content-Disposition": "inline",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        # Organizers show pictures on pages of their own.
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
        # Whole, because the sizes of variants bound it to some hundred KB, and that is one call to the storage
        # where asking for the length first would be two.
        async with aclosing(storage.read(key)) as chunks:
            content = b"".join([chunk async for chunk in chunks])
    except FileNotStored as error:
        raise _no_such_variant() from error
    return Response(content, headers=headers, media_type="image/jpeg")


def _no_such_variant() -> NotFound:
    return NotFound("There is no image at this address. Read the image for the addresses of its variants.")
