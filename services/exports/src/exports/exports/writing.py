"""Writes an archive while it is stored: pictures come in, parts of the zip go out, and little is held between.

The writer of archives blocks and wants its pictures as plain files, so it runs in a thread of its own and asks the
event loop for them, a few ahead of the one that it packs.
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
    """What the storage gives back is not what was written."""


async def archive_chunks(
    programme: Programme,
    wanted: Mapping[str, UUID],
    fetch: Fetch,
    *,
    tickets: Sequence[Mapping[str, JsonValue]] | None,
    root_url: str,
    created_at: str,
    packed: Callable[[int], None],
) -> AsyncGenerator[bytes, None]:
    """The zip in parts. ``wanted`` are pictures by path, ``fetch`` puts one into a file, ``packed`` hears how many
    are done. Raises what ``fetch`` raises."""
    loop = asyncio.get_running_loop()

    def written() -> Generator[bytes, None, None]:
        yield from archive_parts(
            programme,
            _pictures(loop, wanted, fetch, packed),
            root_url=root_url,
            created_at=created_at,
            tickets=tickets,
        )

    parts = written()
    # Not a thread of the loop's own pool: this one waits for the loop, which may itself need one of those.
    with_own_thread = ThreadPoolExecutor(1, "archive")
    try:
        while (part := await in_thread(partial(next, parts, None), pool=with_own_thread)) is not None:
            yield part
    finally:
        with_own_thread.submit(parts.close)
        with_own_thread.shutdown(wait=False)


def _pictures(
    loop: asyncio.AbstractEventLoop, wanted: Mapping[str, UUID], fetch: Fetch, packed: Callable[[int], None]
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Runs in the writer's thread."""

    async def fetched(image_id: UUID) -> IO[bytes]:
        file = await in_thread(tempfile.TemporaryFile, discard=lambda opened: opened.close())
        try:
            await fetch(image_id, file)
        except BaseException:
            file.close()
            raise
        return file

    waiting = iter(wanted.items())
    coming: deque[tuple[str, Future[IO[bytes]]]] = deque()

    def ask_for_next() -> None:
        for path, image_id in waiting:
            coming.append((path, asyncio.run_coroutine_threadsafe(fetched(image_id), loop)))
            return

    try:
        for _ in range(AHEAD):
            ask_for_next()
        done = 0
        while coming:
            path, future = coming.popleft()
            with future.result() as file:
                ask_for_next()
                file.seek(0)
                yield path, iter(partial(file.read, READ_SIZE), b"")
            done += 1
            packed(done)
    finally:
        for _, future in coming:
            future.add_done_callback(_close_result)
            future.cancel()


def _close_result(future: Future[IO[bytes]]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()


async def check_stored(storage: Storage, stored: StoredFile) -> None:
    """Reads the file back. Raises ``StoredArchiveDiffers``."""
    digest, size = hashlib.sha256(), 0
    async with aclosing(storage.read(stored.key)) as chunks:
        async for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
    if (size, digest.hexdigest()) != (stored.size, stored.sha256):
        raise StoredArchiveDiffers(f"{stored.key}: {size} bytes, written were {stored.size}")
