"""The route that serves the signed links of the local place. With S3 the links lead to S3 itself."""

import re
from collections.abc import Callable
from typing import Annotated, ClassVar

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from shared.problems import NotFound, Problem
from shared.storage.interface import Storage
from shared.storage.links import content_disposition, verify_link
from shared.storage.local import LocalStorage, OpenFile

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE | re.ASCII)


class RangeNotServed(Problem):
    status: ClassVar[int] = 416
    code = "range-not-served"
    title = "This part of the file can't be served"


class _OpenFileResponse(StreamingResponse):
    """Closes the file whatever ends the response: its end, a client that leaves, a shutdown."""

    def __init__(self, file: OpenFile, start: int, length: int, status: int, headers: dict[str, str]) -> None:
        super().__init__(file.chunks(start, length), status_code=status, headers=headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


def download_router(
    path: str = "/v1/exports/files/{key:path}", *, storage_of: Callable[[Request], Storage]
) -> APIRouter:
    """One GET route without a token: the link's signature is the permission. ``path`` ends in ``{key:path}``."""
    router = APIRouter()

    @router.get(
        path,
        summary="Download a file by its signed link",
        response_class=Response,
        responses={
            200: {"content": {"application/octet-stream": {}}, "description": "The file"},
            206: {"description": "The part that the Range header names"},
            403: {"description": "The link was changed"},
            404: {"description": "The file is not kept any more"},
            410: {"description": "The link has expired"},
            416: {"description": "The Range header is not one part within the file"},
        },
    )
    async def download_file(
        request: Request,
        key: str,
        expires: str = "",
        filename: str = "",
        content_type: Annotated[str, Query(alias="type")] = "",
        key_id: Annotated[str, Query(alias="key")] = "",
        signature: str = "",
        wanted: Annotated[str | None, Header(alias="Range")] = None,
        if_range: Annotated[str | None, Header()] = None,
    ) -> Response:
        storage = storage_of(request)
        if not isinstance(storage, LocalStorage):
            raise NotFound("Files are not served here. Ask for a new download link; it leads to the file storage.")
        verify_link(
            storage.keys,
            key,
            expires=expires,
            filename=filename,
            content_type=content_type,
            key_id=key_id,
            signature=signature,
        )
        file = await storage.open_file(key)
        try:
            part = _wanted_part(wanted, file.size) if if_range in (None, file.etag) else None
            start, length = part or (0, file.size)
            headers = {
                "Content-Type": content_type,
                "Content-Length": str(length),
                "Content-Disposition": content_disposition(filename),
                "Accept-Ranges": "bytes",
                "ETag": file.etag,
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "private, no-store",
            }
            if part:
                headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{file.size}"
            return _OpenFileResponse(file, start, length, 206 if part else 200, headers)
        except BaseException:
            file.close()
            raise

    return router


def _wanted_part(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and number of bytes; ``None`` for the whole file. More than one part at a time is not served."""
    if header is None or not header.lower().startswith("bytes="):
        return None
    match = _RANGE.fullmatch(header.strip())
    first, last = match.groups() if match else ("", "")
    if first:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    else:
        start, end = max(size - int(last or 0), 0), size - 1
    if start > end or (not first and not last):
        raise RangeNotServed(
            f"Ask for one range of bytes within the file's {size} bytes, such as bytes=0-1023, or for all of it.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end - start + 1
