"""Receives an archive: counted while it comes in, kept in a file without a name, read once before it is stored."""

import asyncio
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

from exports.archive.reader import read_archive
from exports.imports.rules import harmless_name
from shared.problems import Invalid, Problem, TooLarge
from shared.storage.interface import READ_SIZE, in_thread

FIELD = "file"

# Boundaries, part headers and the small fields of a form.
FORM_OVERHEAD = 64 << 10


class ArchiveFileTooLarge(TooLarge):
    code = "archive-file-too-large"
    title = "The archive is too large"

    def __init__(self, max_size: int) -> None:
        super().__init__(
            f"An archive may have {max_size:,} bytes. Leave out recordings and other large files; only JSON and "
            "pictures are imported.",
            field=FIELD,
            max_size=max_size,
        )


class FormMissing(Problem):
    status = 415
    code = "form-missing"
    title = "The content type is not taken here"

    def __init__(self) -> None:
        super().__init__(f"Send `multipart/form-data` with the archive, a zip, in the field `{FIELD}`.")


class FormUnreadable(Invalid):
    code = "form-unreadable"
    title = "The form can't be read"


class UploadCutOff(Problem):
    code = "upload-cut-off"
    title = "The upload ended before it was whole"


@dataclass(frozen=True)
class Upload:
    """A whole archive that can be imported. ``size`` in bytes; it lives as long as the block that received it."""

    file: IO[bytes]
    name: str
    size: int

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        await in_thread(partial(self.file.seek, 0))
        while chunk := await in_thread(partial(self.file.read, READ_SIZE)):
            yield chunk


@asynccontextmanager
async def received(request: Request, *, max_size: int, reading: asyncio.Lock) -> AsyncIterator[Upload]:
    """The field ``file`` of a multipart form, checked by reading it as the import will.

    ``reading`` lets one archive at a time take the memory that reading takes. Raises ``ArchiveFileTooLarge``,
    ``FormMissing``, ``FormUnreadable``, ``UploadCutOff`` and what ``read_archive`` raises.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise FormMissing
    stream = _counted(request, max_size)
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=5, max_part_size=1024)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise FormUnreadable(f"{error.message} Send one archive in the field `{FIELD}`.", field=FIELD) from error
    try:
        file = _file(form)
        size = file.size or 0
        if size > max_size:
            raise ArchiveFileTooLarge(max_size)
        path = path_of(file.file)
        async with reading:
            await in_thread(partial(read_archive, path))
        yield Upload(file.file, harmless_name(file.filename), size)
    finally:
        await form.close()


def path_of(file: IO[bytes]) -> Path:
    """A path to a temporary file, for what wants one.

    The file itself has no name, so that nothing stays behind however this process ends; Linux lends it one.
    """
    file.flush()
    return Path(f"/proc/self/fd/{file.fileno()}")


async def _counted(request: Request, max_size: int) -> AsyncGenerator[bytes, None]:
    at_most = max_size + FORM_OVERHEAD
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > at_most:
        raise ArchiveFileTooLarge(max_size)
    received_size = 0
    try:
        async for chunk in request.stream():
            received_size += len(chunk)
            if received_size > at_most:
                raise ArchiveFileTooLarge(max_size)
            yield chunk
    except ClientDisconnect as error:
        raise UploadCutOff("The connection was closed within the body. Send it again.") from error


def _file(form: FormData) -> UploadFile:
    for field in form:
        if field != FIELD:
            raise Invalid(f"There is no field {field[:80]!r}. Send `{FIELD}` only.", field=field[:80])
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        raise Invalid(
            f"The form has no file in the field `{FIELD}`, or the body ended before the file did.", field=FIELD
        )
    return file
