"""Write an archive while it is stored: images come in, parts of the zip go out, and memory use stays small.

The archive writer blocks and needs its images as plain files, so it runs in a thread of its own and has the event
loop fetch them, a few ahead of the one that it packs.
"""

import asyncio
import hashlib
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import IO
from uuid import UUID

from pydantic import JsonValue

from exports.archive.writer import archive_parts
from shared.contracts.programme import Programme
from shared.storage import Storage, StoredFile
from shared.storage.files import READ_SIZE, in_thread

AHEAD = 3

Fetch = Callable[[UUID, IO[bytes]], Coroutine[None, None, None]]


class StoredArchiveDiffers(Exception):
    """The storage returns other bytes than were written."""


async def archive_chunks(
    programme: Programme,
    wanted: Mapping[str, UUID],
    fetch: Fetch,
    *,
    tickets: Sequence[Mapping[str, JsonValue]],
    root_url: str,
    created_at: str,
    packed: Callable[[int], None],
) -> AsyncGenerator[bytes, None]:
    """Yield the zip in parts.

    ``wanted`` are image ids by path, ``fetch`` writes one image to a file, ``packed`` is called with the number of
    images done so far. Raises what ``fetch`` raises.
    """
    loop = asyncio.get_running_loop()

    def written() -> Generator[bytes, None, None]:
        yield from archive_parts(
            programme,
            _images(loop, wanted, fetch, packed),
            root_url=root_url,
            created_at=created_at,
            tickets=tickets,
        )

    parts = written()
    # A thread of its own: it waits for the loop, whose fetches need threads of the loop's pool.
    own_thread = ThreadPoolExecutor(1, "archive")
    try:
        while (part := await in_thread(partial(next, parts, None), pool=own_thread)) is not None:
            yield part
    finally:
        own_thread.submit(parts.close)
        own_thread.shutdown(wait=False)


def _images(
    loop: asyncio.AbstractEventLoop, wanted: Mapping[str, UUID], fetch: Fetch, packed: Callable[[int], None]
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield each image with its bytes. Runs in the writer's thread."""

    async def fetched(image_id: UUID) -> IO[bytes]:
        file = await in_thread(tempfile.TemporaryFile, discard=lambda opened: opened.close())
        try:
            await fetch(image_id, file)
        except BaseException:
            file.close()
            raise
        return file

    waiting = iter(wanted.items())
    requested: deque[tuple[str, Future[IO[bytes]]]] = deque()

    def request_next() -> None:
        for path, image_id in waiting:
            requested.append((path, asyncio.run_coroutine_threadsafe(fetched(image_id), loop)))
            return

    try:
        for _ in range(AHEAD):
            request_next()
        done = 0
        while requested:
            path, future = requested.popleft()
            with future.result() as file:
                request_next()
                file.seek(0)
                yield path, iter(partial(file.read, READ_SIZE), b"")
            done += 1
            packed(done)
    finally:
        for _, future in requested:
            future.add_done_callback(_close_result)
            future.cancel()


def _close_result(future: Future[IO[bytes]]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()


async def check_stored(storage: Storage, stored: StoredFile) -> None:
    """Read the file back. Raises ``StoredArchiveDiffers``."""
    digest, size = hashlib.sha256(), 0
    async with aclosing(storage.read(stored.key)) as chunks:
        async for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
    if (size, digest.hexdigest()) != (stored.size, stored.sha256):
        raise StoredArchiveDiffers(f"{stored.key}: read {size} bytes, wrote {stored.size}")
