"""Receive an archive, and read it once before anything is stored."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import Request

from exports.archive.reader import read_archive
from shared.http.uploads import FIELD, received_form
from shared.problems import TooLarge
from shared.storage.files import Upload, in_thread


class ArchiveFileTooLarge(TooLarge):
    code = "archive-file-too-large"
    title = "Archive file too large"

    def __init__(self, max_size: int) -> None:
        super().__init__(
            f"The file is larger than {max_size:,} bytes, the limit for archives. Leave out recordings and other "
            "large files; only JSON and images are imported.",
            field=FIELD,
            max_size=max_size,
        )


@asynccontextmanager
async def received(request: Request, *, max_size: int, reading: asyncio.Lock) -> AsyncIterator[Upload]:
    """Receive the field ``file`` of a multipart form and check it by reading it as the import will.

    ``reading`` is held meanwhile, so that one archive at a time uses the memory that reading takes. Raises
    ``ArchiveFileTooLarge`` and what ``received_form`` and ``read_archive`` raise.
    """
    too_large = partial(ArchiveFileTooLarge, max_size)
    async with received_form(request, max_size=max_size, too_large=too_large) as upload:
        path = upload.path
        async with reading:
            await in_thread(partial(read_archive, path))
        yield upload
