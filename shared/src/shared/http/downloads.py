"""The route that serves the signed links of the local place. With S3, links lead to S3 itself."""

import os
from io import FileIO

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from shared.http.dependencies import StorageDep
from shared.problems import NotFound, Problem
from shared.storage.files import path_of
from shared.storage.links import content_disposition, verify_link
from shared.storage.local import LocalStorage


class RangeNotServed(Problem):
    status = 416
    code = "range-not-served"
    title = "Range not satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(
            f"The file has {size} bytes. Request ranges within it, such as bytes=0-1023, or all of it.",
            headers={"Content-Range": f"bytes */{size}"},
        )


class _OpenFileResponse(FileResponse):
    """Serve one version of a file, refuse bad ranges with a problem, and close the file however it ends."""

    def __init__(self, file: FileIO, headers: dict[str, str]) -> None:
        status = os.fstat(file.fileno())
        etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        super().__init__(path_of(file), headers={"ETag": etag, **headers}, stat_result=status)
        self._file = file
        self._size = status.st_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_unless_refused(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                raise RangeNotServed(self._size)
            await send(message)

        # Unknown range units are ignored (RFC 9110, 14.2); Starlette refuses them.
        headers = [
            header for header in scope["headers"] if header[0] != b"range" or header[1].lower().startswith(b"bytes")
        ]
        with self._file:
            await super().__call__({**scope, "headers": headers}, receive, send_unless_refused)


def download_router(path: str) -> APIRouter:
    """Return a router of one path, ending in ``{key:path}``, whose permission is the link's signature."""
    router = APIRouter()

    @router.head(path, include_in_schema=False)
    @router.get(
        path,
        summary="Download a file by its signed link",
        response_class=FileResponse,
        responses={
            200: {"content": {"application/octet-stream": {}}, "description": "The file"},
            206: {"description": "The ranges that the Range header names"},
            403: {"description": "The link was changed"},
            404: {"description": "The file is deleted"},
            410: {"description": "The link has expired"},
            416: {"description": "The Range header names no bytes of the file"},
        },
    )
    async def download_file(request: Request, key: str, storage: StorageDep) -> FileResponse:
        if not isinstance(storage, LocalStorage):
            raise NotFound("This storage serves its files itself. Request a new download link.")
        filename, content_type = verify_link(storage.keys, key, request.query_params)
        headers = {
            "Content-Type": content_type,
            "Content-Disposition": content_disposition(filename),
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, no-store",
        }
        return _OpenFileResponse(await storage.open_file(key), headers)

    return router
