"""Receives an image: counted while it comes in, kept in a file without a name, looked at before it is stored."""

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from media.images.headers import Inspection
from media.images.inspection import FIELD, inspect
from media.images.rules import harmless_name
from media.images.sizes import VARIANTS, ImageKind
from shared.problems import Invalid, Problem, TooLarge
from shared.storage.interface import READ_SIZE, in_parts, in_thread

# Boundaries, part headers and the small fields of a form.
FORM_OVERHEAD = 64 << 10


class ImageFileTooLarge(TooLarge):
    code = "image-file-too-large"
    title = "The image file is too large"

    def __init__(self, max_size: int) -> None:
        super().__init__(
            f"An image may have {max_size:,} bytes. Save it smaller, or as JPEG, and upload that.",
            field=FIELD,
            max_size=max_size,
        )


class FormMissing(Problem):
    status = 415
    code = "form-missing"
    title = "The content type is not taken here"

    def __init__(self) -> None:
        super().__init__(f"Send `multipart/form-data` with the image in the field `{FIELD}`.")


class FormUnreadable(Invalid):
    code = "form-unreadable"
    title = "The form can't be read"


class UploadCutOff(Problem):
    code = "upload-cut-off"
    title = "The upload ended before it was whole"


@dataclass(frozen=True)
class Upload:
    """A whole file that starts like an image. ``size`` in bytes; it lives as long as the block that received it."""

    file: IO[bytes]
    name: str
    size: int
    header: Inspection

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        await in_thread(partial(self.file.seek, 0))
        while chunk := await in_thread(partial(self.file.read, READ_SIZE)):
            yield chunk


@asynccontextmanager
async def from_form(request: Request, *, max_size: int) -> AsyncIterator[tuple[Upload, ImageKind]]:
    """The field ``file`` of a multipart form, and its field ``kind``.

    Raises ``ImageFileTooLarge``, ``FormMissing``, ``FormUnreadable`` and what ``inspect`` raises.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise FormMissing
    stream = _counted(request, max_size + FORM_OVERHEAD, max_size)
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=5, max_part_size=1024)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise FormUnreadable(f"{error.message} Send one image in the field `{FIELD}`.", field=FIELD) from error
    try:
        file, kind = _fields(form)
        size = file.size or 0
        if size > max_size:
            raise ImageFileTooLarge(max_size)
        header = await in_thread(partial(_inspect, file.file))
        yield Upload(file.file, harmless_name(file.filename), size, header), kind
    finally:
        await form.close()


@asynccontextmanager
async def from_body(request: Request, *, name: str, max_size: int) -> AsyncIterator[Upload]:
    """The request's whole body. Raises ``ImageFileTooLarge`` and what ``inspect`` raises."""
    file = await in_thread(tempfile.TemporaryFile, discard=lambda opened: opened.close())
    try:
        size = 0
        async for part in in_parts(_counted(request, max_size, max_size), READ_SIZE):
            size += await in_thread(partial(file.write, part))
        header = await in_thread(partial(_inspect, file))
        yield Upload(file, name, size, header)
    finally:
        await in_thread(file.close)


async def read_to_end(request: Request, *, max_size: int) -> None:
    """Takes a body that is not needed, so that the sender gets to reading the answer."""
    async for _ in _counted(request, max_size, max_size):
        pass


async def _counted(request: Request, at_most: int, max_size: int) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > at_most:
        raise ImageFileTooLarge(max_size)
    received = 0
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > at_most:
                raise ImageFileTooLarge(max_size)
            yield chunk
    except ClientDisconnect as error:
        raise UploadCutOff("The connection was closed within the body. Send it again.") from error


def _fields(form: FormData) -> tuple[UploadFile, ImageKind]:
    for field in form:
        if field not in (FIELD, "kind"):
            raise Invalid(
                f"There is no field {field[:80]!r}. Send `{FIELD}` and, if you like, `kind`.", field=field[:80]
            )
    file, kind = form.get(FIELD), form.get("kind", "event")
    if not isinstance(file, UploadFile):
        raise Invalid(
            f"The form has no file in the field `{FIELD}`, or the body ended before the file did.", field=FIELD
        )
    for known in VARIANTS:
        if kind == known:
            return file, known
    raise Invalid(f"The kind of an image is one of: {', '.join(VARIANTS)}.", field="kind")


def _inspect(file: IO[bytes]) -> Inspection:
    # The file has no name, so that nothing stays behind however this process ends; Linux lends it one.
    descriptor = file.fileno()
    file.flush()
    return inspect(Path(f"/proc/self/fd/{descriptor}"))
