"""Local files: blocking calls in threads, streams in parts, and uploads that end with their request."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

Result = TypeVar("Result")

READ_SIZE = 256 << 10


@dataclass(frozen=True)
class Upload:
    """A received file of ``size`` bytes, deleted when the block that received it ends.

    ``name`` is the sender's file name without folders and unprintable characters; empty when none was sent.
    """

    file: IO[bytes]
    size: int
    name: str = ""
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return path_of(self.file)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        await in_thread(partial(self.file.seek, 0))
        while chunk := await in_thread(partial(self.file.read, READ_SIZE)):
            yield chunk


def path_of(file: IO[bytes]) -> Path:
    """Return a path to an unnamed temporary file, valid while it is open.

    Unnamed files leave nothing behind, however the process ends. Linux only.
    """
    file.flush()
    return Path(f"/proc/self/fd/{file.fileno()}")


async def in_parts(chunks: AsyncIterable[bytes] | bytes, size: int) -> AsyncGenerator[bytes, None]:
    """Yield the same bytes in parts of exactly ``size``; the last one may be shorter, none is empty."""
    gathered = bytearray()
    async for chunk in _slices(chunks, size) if isinstance(chunks, bytes) else chunks:
        gathered += chunk
        while len(gathered) >= size:
            with memoryview(gathered) as view:
                part = bytes(view[:size])
            del gathered[:size]
            yield part
    if gathered:
        yield bytes(gathered)


async def _slices(data: bytes, size: int) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Digest:
    """Size in bytes and SHA-256, in hexadecimal, of what passed through ``parts``."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    async def parts(self, chunks: AsyncIterable[bytes] | bytes, size: int) -> AsyncGenerator[bytes, None]:
        async with aclosing(in_parts(chunks, size)) as parts:
            async for part in parts:
                await in_thread(partial(self._sha256.update, part))
                self.size += len(part)
                yield part


async def in_thread(
    work: Callable[[], Result],
    *,
    discard: Callable[[Result], object] | None = None,
    pool: Executor | None = None,
) -> Result:
    """Run ``work`` in a thread and, unlike ``asyncio.to_thread``, wait for its end even when cancelled.

    So callers may close or remove what the thread used. ``discard`` gets the result of a cancelled call, such as an
    opened file. ``pool`` replaces the loop's own threads.
    """
    running = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                continue  # anyio cancels repeatedly; the first cancellation is raised below
        if running.exception() is None and discard is not None:
            discard(running.result())
        raise
