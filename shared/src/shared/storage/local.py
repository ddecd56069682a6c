"""Files in a folder of this machine, or of a volume that all replicas mount."""

import errno
import os
import stat
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from io import BufferedWriter, FileIO
from pathlib import Path

from shared.storage.files import READ_SIZE, Digest, Result, in_thread
from shared.storage.interface import (
    FileNotStored,
    Storage,
    StorageUnavailable,
    StoredFile,
    check_content_type,
    check_link,
    not_stored,
)
from shared.storage.keys import StorageKeyInvalid, check_key
from shared.storage.links import SigningKeys, sign_link
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

PART_SIZE = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_BLOCKED = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


class LocalStorage(Storage):
    """A folder of mode 0700 with files of mode 0600. Symbolic links inside it are never followed."""

    def __init__(self, folder: Path, keys: SigningKeys) -> None:
        self.folder = folder
        self.keys = keys
        self._unfinished = folder / ".partial"  # no key starts with a dot, and it is on the same file system

    async def put(self, key: str, chunks: AsyncIterable[bytes] | bytes, *, content_type: str) -> StoredFile:
        check_key(key)
        check_content_type(content_type)
        digest = Digest()
        path = self._unfinished / uuid.uuid4().hex
        file = await _in_thread("put", partial(_create, path), discard=partial(_discard, path))
        try:
            async with aclosing(digest.parts(chunks, PART_SIZE)) as parts:
                async for part in parts:
                    await _in_thread("put", partial(file.write, part))
            await _in_thread("put", partial(self._publish, file, path, key))
        finally:
            await in_thread(partial(_discard, path, file))
        return StoredFile(key, digest.size, digest.sha256, content_type)

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        with await self.open_file(key) as file:
            while chunk := await _in_thread("read", partial(file.read, READ_SIZE)):
                yield chunk

    async def open_file(self, key: str) -> FileIO:
        """Open one version of the file, which a replacement does not change; the caller closes it.

        Raises ``FileNotStored``.
        """
        check_key(key)
        return await _in_thread("open", partial(self._open, key), discard=FileIO.close)

    async def size(self, key: str) -> int:
        with await self.open_file(key) as file:
            return os.fstat(file.fileno()).st_size

    async def delete(self, key: str) -> None:
        check_key(key)
        await _in_thread("delete", partial(self._delete, key))

    async def download_url(
        self, key: str, *, expires_in: int, filename: str, content_type: str, files_url: str
    ) -> str:
        check_link(key, expires_in=expires_in, content_type=content_type)
        expires_at = int(time.time()) + expires_in
        query = sign_link(self.keys, key, expires_at=expires_at, filename=filename, content_type=content_type)
        return f"{files_url.rstrip('/')}/{key}?{query}"

    async def check(self) -> None:
        path = self._unfinished / uuid.uuid4().hex
        await _in_thread("check", lambda: _discard(path, _create(path)))

    async def prepare(self) -> None:
        def make() -> None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._unfinished.mkdir(mode=0o700, exist_ok=True)

        await _in_thread("prepare", make)

    async def remove_unfinished(self, older_than: timedelta = timedelta(days=1)) -> int:
        def remove() -> int:
            removed, before = 0, time.time() - older_than.total_seconds()
            for path in self._unfinished.iterdir():
                with suppress(FileNotFoundError):
                    if path.lstat().st_mtime < before:
                        path.unlink()
                        removed += 1
            return removed

        return await _in_thread("remove unfinished", remove)

    # The rest blocks, so it runs in threads.

    def _publish(self, file: BufferedWriter, path: Path, key: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        with self._folder_of(key, make=True) as (folder, name):
            os.replace(path, name, dst_dir_fd=folder)
            os.fsync(folder)

    def _open(self, key: str) -> FileIO:
        with self._folder_of(key) as (folder, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise not_stored(key)
        return FileIO(descriptor)

    def _delete(self, key: str) -> None:
        with suppress(FileNotStored), self._folder_of(key) as (folder, name):
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    @contextmanager
    def _folder_of(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder that holds the key's file; yield its descriptor and the file's name.

        Descends by descriptors, so that a symbolic link in any step is an error, without a race. Turns what the
        path and the block meet into ``StorageKeyInvalid`` when it should ``make`` folders, else ``FileNotStored``.
        """
        *folders, name = key.split("/")
        descriptor = os.open(self.folder, _FOLDER)
        try:
            for folder in folders:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(folder, 0o700, dir_fd=descriptor)
                        os.fsync(descriptor)
                below = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor, name
        except OSError as error:
            if make and error.errno in _BLOCKED:
                raise StorageKeyInvalid(f"{key!r} is blocked by another file or folder on its path.") from error
            if not make and error.errno in {errno.ENOENT, *_BLOCKED}:
                raise not_stored(key) from error
            raise
        finally:
            os.close(descriptor)


def _create(path: Path) -> BufferedWriter:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _discard(path: Path, file: BufferedWriter) -> None:
    """Close the file, and remove it unless it was published under its key."""
    with suppress(OSError):  # a full disk fails again while closing
        file.close()
    path.unlink(missing_ok=True)


async def _in_thread(
    action: str, work: Callable[[], Result], *, discard: Callable[[Result], object] | None = None
) -> Result:
    try:
        return await in_thread(work, discard=discard)
    except OSError as error:
        log.error("storage.failed", place="local", action=action, error=str(error))
        raise StorageUnavailable from error
