"""What every place for files promises, and the problems they share."""

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from shared.problems import Problem, Unavailable
from shared.storage.files import in_thread
from shared.storage.keys import check_key

LONGEST_LINK = 7 * 24 * 3600  # S3 signs no longer links

_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?charset=[\w-]+)?", re.ASCII)


class FileNotStored(Problem):
    status = 404
    code = "file-not-stored"
    title = "File not found"


class StorageUnavailable(Unavailable):
    """The storage cannot be reached, is full or refuses our credentials; the log says which."""

    code = "storage-unavailable"
    title = "File storage unavailable"

    def __init__(self, detail: str = "The file storage failed. Try again later.") -> None:
        super().__init__(detail, headers={"Retry-After": "10"})


@dataclass(frozen=True, slots=True)
class StoredFile:
    """``size`` in bytes, ``sha256`` in hexadecimal."""

    key: str
    size: int
    sha256: str
    content_type: str


class Storage(ABC):
    """Files by key. The server makes the keys (``exports/<folder>/<uuid>.zip``), users never do.

    Every method raises ``StorageKeyInvalid`` for a key that ``check_key`` refuses, and ``StorageUnavailable``, in
    bounded time, when the place fails.
    """

    @abstractmethod
    async def put(self, key: str, chunks: AsyncIterable[bytes] | bytes, *, content_type: str) -> StoredFile:
        """Store the bytes with bounded memory, replacing a file of that key atomically.

        Nothing is visible until the file is whole. When the source raises or the task is cancelled, nothing stays
        behind; during the very last step, either the whole new file or the earlier state remains.
        """

    @abstractmethod
    def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of one version of the file, in chunks of at most 256 KiB.

        ``FileNotStored`` comes with the first chunk: call ``size`` before a response starts. Wrap in
        ``contextlib.aclosing`` when it may not be read to the end.
        """

    @abstractmethod
    async def size(self, key: str) -> int:
        """Return the file's size in bytes. Raises ``FileNotStored``."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Delete the file; succeed when there is none."""

    @abstractmethod
    async def download_url(
        self, key: str, *, expires_in: int, filename: str, content_type: str, files_url: str
    ) -> str:
        """Return a link that needs no token and works for ``expires_in`` seconds, at most 7 days.

        ``files_url`` is the public address of the service's download route (``https://…/v1/exports/files``); only
        the local place uses it. The file need not exist. A link signed with temporary credentials of a cloud role
        expires with them, so keep links to some minutes.
        """

    @abstractmethod
    async def check(self) -> None:
        """Raise ``StorageUnavailable`` when files cannot be stored, for readiness."""

    @abstractmethod
    async def prepare(self) -> None:
        """Make the missing folder or bucket. For a set-up step: services need not have the right."""

    @abstractmethod
    async def remove_unfinished(self, older_than: timedelta = timedelta(days=1)) -> int:
        """Remove what killed uploads left and return its count. Running uploads must be younger."""

    async def copy_to_file(self, key: str, path: Path) -> int:
        """Copy to a local file, for readers that need random access, and return its size in bytes.

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


def not_stored(key: str) -> FileNotStored:
    return FileNotStored(f"There is no stored file {key!r}. It may have been deleted after its retention period.")


def check_content_type(content_type: str) -> None:
    """Raise ``ValueError`` for what would break out of the response header that it becomes."""
    if _CONTENT_TYPE.fullmatch(content_type) is None:
        raise ValueError(f"{content_type!r} is not a content type.")


def check_link(key: str, *, expires_in: int, content_type: str) -> None:
    """Raise ``StorageKeyInvalid`` or ``ValueError`` for a link that must not be signed."""
    check_key(key)
    check_content_type(content_type)
    if not 0 < expires_in <= LONGEST_LINK:
        raise ValueError(f"expires_in is {expires_in}, but links live 1 to {LONGEST_LINK} seconds.")
