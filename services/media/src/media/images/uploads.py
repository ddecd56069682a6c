"""Receives an image, and looks at its header before anything is stored."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from fastapi import Request

from media.images.headers import Inspection
from media.images.inspection import FIELD, inspect
from media.images.sizes import VARIANTS, ImageKind
from shared.http.uploads import read_to_end as read_upload_to_end
from shared.http.uploads import received_body, received_form
from shared.problems import Invalid, TooLarge
from shared.storage.files import Upload, in_thread


class ImageFileTooLarge(TooLarge):
    code = "image-file-too-large"
    title = "The image file is too large"

    def __init__(self, max_size: int) -> None:
        super().__init__(
            f"An image may have {max_size:,} bytes. Save it smaller, or as JPEG, and upload that.",
            field=FIELD,
            max_size=max_size,
        )


@dataclass(frozen=True)
class ImageUpload:
    """A whole file that starts like an image."""

    upload: Upload
    name: str
    header: Inspection


@asynccontextmanager
async def from_form(request: Request, *, max_size: int) -> AsyncIterator[tuple[ImageUpload, ImageKind]]:
    """The field ``file`` of a multipart form, and its field ``kind``.

    Raises ``ImageFileTooLarge`` and what ``received_form`` and ``inspect`` raise.
    """
    too_large = partial(ImageFileTooLarge, max_size)
    async with received_form(request, max_size=max_size, too_large=too_large, fields=("kind",)) as upload:
        kind = _kind(upload.fields.get("kind", "event"))
        yield ImageUpload(upload, upload.name or "image", await _header(upload)), kind


@asynccontextmanager
async def from_body(request: Request, *, name: str, max_size: int) -> AsyncIterator[ImageUpload]:
    """The request's whole body. Raises ``ImageFileTooLarge`` and what ``inspect`` raises."""
    too_large = partial(ImageFileTooLarge, max_size)
    async with received_body(request, max_size=max_size, too_large=too_large) as upload:
        yield ImageUpload(upload, name, await _header(upload))


async def read_to_end(request: Request, *, max_size: int) -> None:
    """Takes a body that is not needed, so that the sender gets to reading the answer."""
    await read_upload_to_end(request, max_size=max_size, too_large=partial(ImageFileTooLarge, max_size))


async def _header(upload: Upload) -> Inspection:
    return await in_thread(lambda: inspect(upload.path))


def _kind(kind: str) -> ImageKind:
    for known in VARIANTS:
        if kind == known:
            return known
    raise Invalid(f"The kind of an image is one of: {', '.join(VARIANTS)}.", field="kind")
