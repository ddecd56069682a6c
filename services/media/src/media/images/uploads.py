"""Receive an image and read its header before anything is stored."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import Request

from media.images.headers import read_header
from media.images.service import ImageUpload
from media.images.sizes import VARIANTS
from shared.contracts.media import ImageKind
from shared.http import uploads
from shared.http.uploads import FIELD, received_body, received_form
from shared.problems import Invalid, TooLarge
from shared.settings import MEBIBYTE
from shared.storage.files import Upload, in_thread


class ImageFileTooLarge(TooLarge):
    code = "image-file-too-large"
    title = "Image file too large"

    def __init__(self, max_size: int) -> None:
        super().__init__(
            f"Images are limited to {max_size / MEBIBYTE:g} MiB. Save it smaller, or as JPEG, and upload that.",
            field=FIELD,
            max_size=max_size,
        )


@asynccontextmanager
async def from_form(request: Request, *, max_size: int) -> AsyncIterator[tuple[ImageUpload, ImageKind]]:
    """Receive the fields ``file`` and ``kind`` of a multipart form.

    Raises ``ImageFileTooLarge`` and what ``received_form`` and ``read_header`` raise.
    """
    too_large = partial(ImageFileTooLarge, max_size)
    async with received_form(request, max_size=max_size, too_large=too_large, fields=("kind",)) as upload:
        kind = _kind(upload.fields.get("kind", "event"))
        yield await _image_upload(upload, upload.name or "image"), kind


@asynccontextmanager
async def from_body(request: Request, *, name: str, max_size: int) -> AsyncIterator[ImageUpload]:
    """Receive the request's whole body.

    Raises ``ImageFileTooLarge`` and what ``received_body`` and ``read_header`` raise.
    """
    too_large = partial(ImageFileTooLarge, max_size)
    async with received_body(request, max_size=max_size, too_large=too_large) as upload:
        yield await _image_upload(upload, name)


async def read_to_end(request: Request, *, max_size: int) -> None:
    """Read a body that is not needed. Raises ``ImageFileTooLarge``."""
    await uploads.read_to_end(request, max_size=max_size, too_large=partial(ImageFileTooLarge, max_size))


async def _image_upload(upload: Upload, name: str) -> ImageUpload:
    return ImageUpload(upload, name, await in_thread(partial(read_header, upload.path)))


def _kind(kind: str) -> ImageKind:
    for known in VARIANTS:
        if kind == known:
            return known
    raise Invalid(f"{kind[:80]!r} is not a kind of image. Use one of: {', '.join(VARIANTS)}.", field="kind")
