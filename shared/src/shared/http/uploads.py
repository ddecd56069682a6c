"""Receive a file into an unnamed temporary file, counting its bytes and refusing it as soon as it is too large."""

import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from shared.problems import Invalid, Problem, TooLarge
from shared.storage.files import READ_SIZE, Upload, in_parts, in_thread

FIELD = "file"

# For routes that use this module: the framework's own refusal names neither the field nor the limit.
UNLIMITED_BODY = 1 << 40

# Boundaries, part headers and the small fields of a form.
FORM_OVERHEAD = 64 << 10
MAX_NAME = 255


class FormMissing(Problem):
    status = 415
    code = "form-missing"
    title = "Unsupported media type"

    def __init__(self) -> None:
        super().__init__(f"Send `multipart/form-data` with the file in the field `{FIELD}`.")


class FormUnreadable(Invalid):
    code = "form-unreadable"
    title = "Unreadable form"


class UploadCutOff(Problem):
    code = "upload-cut-off"
    title = "Incomplete upload"


def form_of(file_description: str, fields: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return the ``openapi_extra`` of a route that reads ``received_form``; ``fields`` are JSON schemas by name."""
    file = {"type": "string", "format": "binary", "description": file_description}
    schema = {
        "type": "object",
        "required": [FIELD],
        "additionalProperties": False,
        "properties": {FIELD: file, **(fields or {})},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@asynccontextmanager
async def received_form(
    request: Request, *, max_size: int, too_large: Callable[[], TooLarge], fields: Collection[str] = ()
) -> AsyncIterator[Upload]:
    """Receive a multipart form: one file in the field ``file``, and text in any of ``fields``.

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
        yield Upload(file.file, size, _printable(file.filename), texts)
    finally:
        await form.close()


@asynccontextmanager
async def received_body(
    request: Request, *, max_size: int, too_large: Callable[[], TooLarge]
) -> AsyncIterator[Upload]:
    """Receive the request's whole body. Raises ``too_large()`` and ``UploadCutOff``."""
    file = await in_thread(tempfile.TemporaryFile, discard=lambda opened: opened.close())
    try:
        size = 0
        async for part in in_parts(_counted(request, max_size, too_large), READ_SIZE):
            size += await in_thread(partial(file.write, part))
        yield Upload(file, size)
    finally:
        await in_thread(file.close)


async def read_to_end(request: Request, *, max_size: int, too_large: Callable[[], TooLarge]) -> None:
    """Read a body that is not needed, because senders read the answer only after sending it."""
    async for _ in _counted(request, max_size, too_large):
        pass


async def _counted(
    request: Request, max_size: int, too_large: Callable[[], TooLarge]
) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_size:
        raise too_large()
    received_size = 0
    try:
        async for chunk in request.stream():
            received_size += len(chunk)
            if received_size > max_size:
                raise too_large()
            yield chunk
    except ClientDisconnect as error:
        raise UploadCutOff("The connection was closed before the body ended. Send it again.") from error


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


def _printable(name: str | None) -> str:
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return "".join(char for char in last if char.isprintable()).strip()[:MAX_NAME]
