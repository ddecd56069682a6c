"""Receives a file: counted while it comes in, kept in a file without a name, refused as soon as it is too large."""

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from shared.problems import Invalid, Problem, TooLarge
from shared.storage.interface import READ_SIZE, in_parts, in_thread

FIELD = "file"

# Boundaries, part headers and the small fields of a form.
FORM_OVERHEAD = 64 << 10
MAX_NAME = 255


class FormMissing(Problem):
    status = 415
    code = "form-missing"
    title = "The content type is not taken here"

    def __init__(self) -> None:
        super().__init__(f"Send `multipart/form-data` with the file in the field `{FIELD}`.")


class FormUnreadable(Invalid):
    code = "form-unreadable"
    title = "The form can't be read"


class UploadCutOff(Problem):
    code = "upload-cut-off"
    title = "The upload ended before it was whole"


@dataclass(frozen=True)
class Upload:
    """A whole file of ``size`` bytes; it lives as long as the block that received it.

    ``name`` is what the sender called it, without folders and what can't be printed; empty when it said nothing.
    """

    file: IO[bytes]
    size: int
    name: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """For what wants a path. The file has no name, so that nothing stays behind however the process ends."""
        return path_of(self.file)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        await in_thread(partial(self.file.seek, 0))
        while chunk := await in_thread(partial(self.file.read, READ_SIZE)):
            yield chunk


def path_of(file: IO[bytes]) -> Path:
    """A path to a temporary file without a name, which Linux lends it while it is open."""
    file.flush()
    return Path(f"/proc/self/fd/{file.fileno()}")


@asynccontextmanager
async def received_form(
    request: Request, *, max_size: int, too_large: Callable[[], TooLarge], fields: Collection[str] = ()
) -> AsyncIterator[Upload]:
    """A multipart form with one file in the field ``file``, and at most the other ``fields``, which are texts.

    Raises ``too_large()``, ``FormMissing``, ``FormUnreadable``, ``UploadCutOff`` and ``Invalid``.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise FormMissing
    stream = _counted(request, max_size + FORM_OVERHEAD, too_large)
    parser = MultiPartParser(request.headers, stream, max_files=1, max_fields=5, max_part_size=1024)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise FormUnreadable(f"{error.message} Send one file in the field `{FIELD}`.", field=FIELD) from error
    try:
        file = _file(form, fields)
        size = file.size or 0
        if size > max_size:
            raise too_large()
        texts = {name: value for name, value in form.items() if isinstance(value, str)}
        yield Upload(file.file, size, _harmless(file.filename), texts)
    finally:
        await form.close()


@asynccontextmanager
async def received_body(
    request: Request, *, max_size: int, too_large: Callable[[], TooLarge]
) -> AsyncIterator[Upload]:
    """The request's whole body. Raises ``too_large()`` and ``UploadCutOff``."""
    file = await in_thread(tempfile.TemporaryFile, discard=lambda opened: opened.close())
    try:
        size = 0
        async for part in in_parts(_counted(request, max_size, too_large), READ_SIZE):
            size += await in_thread(partial(file.write, part))
        yield Upload(file, size)
    finally:
        await in_thread(file.close)


async def read_to_end(request: Request, *, max_size: int, too_large: Callable[[], TooLarge]) -> None:
    """Takes a body that is not needed, so that the sender gets to reading the answer."""
    async for _ in _counted(request, max_size, too_large):
        pass


async def _counted(
    request: Request, at_most: int, too_large: Callable[[], TooLarge]
) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > at_most:
        raise too_large()
    received_size = 0
    try:
        async for chunk in request.stream():
            received_size += len(chunk)
            if received_size > at_most:
                raise too_large()
            yield chunk
    except ClientDisconnect as error:
        raise UploadCutOff("The connection was closed within the body. Send it again.") from error


def _file(form: FormData, fields: Collection[str]) -> UploadFile:
    known = (FIELD, *fields)
    for name in form:
        if name not in known:
            raise Invalid(f"There is no field {name[:80]!r}. The fields are: {', '.join(known)}.", field=name[:80])
    file = form.get(FIELD)
    if not isinstance(file, UploadFile):
        raise Invalid(
            f"The form has no file in the field `{FIELD}`, or the body ended before the file did.", field=FIELD
        )
    return file


def _harmless(name: str | None) -> str:
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return "".join(char for char in last if char.isprintable()).strip()[:MAX_NAME]
