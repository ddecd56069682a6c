"""What every place for files promises, and the refusals they share."""

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from shared.problems import Problem, TooLarge, Unavailable

Result = TypeVar("Result")

READ_SIZE = 256 << 10
LONGEST_LINK = 7 * 24 * 3600  # S3 refuses links that live longer

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9][A-Za-z0-9._-]{0,199})*")
_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?charset=[\w-]+)?", re.ASCII)


class StorageKeyInvalid(Problem):
    status = 400
    code = "storage-key-invalid"
    title = "This can't be the name of a stored file"


class FileNotStored(Problem):
    status = 404
    code = "file-not-stored"
    title = "The file is not in the storage"


class StorageUnavailable(Unavailable):
    """The place did not do its work: out of reach, full, or refusing our credentials. The log says which."""

    code = "storage-unavailable"
    title = "The file storage can't be used now"


@dataclass(frozen=True, slots=True)
class StoredFile:
    key: str
    size: int
    sha256: str
    content_type: str


class Storage(ABC):
    """Files by key. Keys are made by the server (``exports/2026/11/<uuid>.zip``), never taken from a user.

    Every method raises ``StorageKeyInvalid`` for a key outside of letters, digits, ``._-`` and ``/``, and
    ``StorageUnavailable`` (in bounded time) when the place fails.
    """

    @abstractmethod
    async def put(
        self, key: str, chunks: AsyncIterable[bytes] | bytes, *, content_type: str, max_size: int | None = None
    ) -> StoredFile:
        """Stores the bytes, streamed with bounded memory; a file of that key is replaced in one moment.

        Nothing is visible until the file is whole. When the source raises, the task is cancelled or ``max_size``
        bytes are passed (``TooLarge``), nothing stays behind. A cancellation or lost connection during the very
        last step leaves either the whole new file or the state from before.
        """

    @abstractmethod
    def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of one version of the file, in chunks of at most 256 KiB; none from beyond its end.

        ``FileNotStored`` comes with the first chunk: ask ``size`` before a response is started. Wrap in
        ``contextlib.aclosing`` when it may not be read to the end.
        """

    @abstractmethod
    async def size(self, key: str) -> int:
        """In bytes; ``FileNotStored`` when there is none."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Also succeeds when there is no such file."""

    @abstractmethod
    async def download_url(
        self, key: str, *, expires_in: int, filename: str, content_type: str, files_url: str
    ) -> str:
        """A link that needs no token and works for ``expires_in`` seconds (at most 7 days), any number of times.

        ``files_url`` is where users reach the service's download route (``https://…/v1/exports/files``); only
        the local place needs it. Does not look whether the file exists. A link that was signed with temporary
        credentials of a cloud role dies with them, so keep links to some minutes.
        """

    @abstractmethod
    async def check(self) -> None:
        """For readiness: raises ``StorageUnavailable`` when files can't be kept now."""

    @abstractmethod
    async def prepare(self) -> None:
        """Makes the folder or bucket when it is missing. For a set-up step; services need not have the right."""

    @abstractmethod
    async def sweep_partial(self, older_than: timedelta = timedelta(days=1)) -> int:
        """Removes what uploads left that were killed, and says how many. Uploads that still run must be younger."""

    async def copy_to_file(self, key: str, path: Path) -> int:
        """Copies to a file of this machine, for readers that need random access; says how many bytes.

        The caller owns ``path`` and removes it, also after a failure.
        """
        copied = 0
        file = await in_thread(lambda: path.open("wb"), discard=lambda opened: opened.close())
        try:
            async with aclosing(self.read(key)) as chunks:
                async for chunk in chunks:
                    copied += await in_thread(partial(file.write, chunk))
        finally:
            await in_thread(file.close)
        return copied


def check_key(key: str) -> None:
    if len(key) > 512 or _KEY.fullmatch(key) is None:
        raise StorageKeyInvalid(
            f"{key[:80]!r} is no storage key. Use parts of letters, digits, '.', '_' and '-', each beginning with "
            "a letter or digit, joined by '/', at most 512 characters."
        )


def check_content_type(content_type: str) -> None:
    """It becomes a response header, so what is not one is a fault of the caller."""
    if _CONTENT_TYPE.fullmatch(content_type) is None:
        raise ValueError(f"{content_type!r} is not a content type.")


def check_expiry(expires_in: int) -> None:
    if not 0 < expires_in <= LONGEST_LINK:
        raise ValueError(f"A link lives 1 to {LONGEST_LINK} seconds, not {expires_in}.")


async def in_parts(
    chunks: AsyncIterable[bytes] | bytes, size: int, *, max_size: int | None = None
) -> AsyncGenerator[bytes, None]:
    """The same bytes in parts of exactly ``size``, the last one shorter, none empty."""
    gathered, total = bytearray(), 0
    async for chunk in _slices(chunks, size) if isinstance(chunks, bytes) else chunks:
        total += len(chunk)
        if max_size is not None and total > max_size:
            raise TooLarge(
                f"The file is larger than the {max_size} bytes that are allowed. Send a smaller one.",
                max_size=max_size,
            )
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


async def in_thread(
    work: Callable[[], Result],
    *,
    discard: Callable[[Result], object] | None = None,
    pool: Executor | None = None,
) -> Result:
    """Like ``asyncio.to_thread``, but when it ends the work has ended too, also when the task is cancelled.

    So nobody closes or removes what a thread still writes to. ``discard`` gets a result that nobody waits for
    any more, such as an opened file. ``pool`` replaces the loop's own threads.
    """
    running = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError:
                continue  # some frameworks cancel again and again; the one that came first is raised below
        if running.exception() is None and discard is not None:
            discard(running.result())
        raise
