"""Files in a folder of this machine, or of a volume that all replicas mount."""

import errno
import hashlib
import os
import stat
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from shared.storage.interface import (
    READ_SIZE,
    FileNotStored,
    Storage,
    StorageKeyInvalid,
    StorageUnavailable,
    StoredFile,
    check_content_type,
    check_expiry,
    check_key,
    in_parts,
    in_thread,
)
from shared.storage.links import SigningKeys, sign_link
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

PART_SIZE = 1 << 20
_IN_THE_WAY = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP}


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One version of a stored file, held open; a replacement does not change it. Whoever opened it closes it."""

    descriptor: int
    size: int
    etag: str

    async def chunks(self, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        end = self.size if length is None else min(self.size, start + length)
        while start < end:
            with _faults("read"):
                chunk = await in_thread(partial(os.pread, self.descriptor, min(READ_SIZE, end - start), start))
            if not chunk:
                raise StorageUnavailable(
                    "The stored file is shorter than it was. Report it: it was changed by hand."
                )
            start += len(chunk)
            yield chunk

    def close(self) -> None:
        os.close(self.descriptor)


class LocalStorage(Storage):
    """A folder of mode 0700 with files of mode 0600. Symbolic links inside it are never followed."""

    def __init__(self, folder: Path, keys: SigningKeys) -> None:
        self._folder = folder
        self._partial = folder / ".partial"  # no key begins with a dot, and it is in the same file system
        self.keys = keys

    async def put(
        self, key: str, chunks: AsyncIterable[bytes] | bytes, *, content_type: str, max_size: int | None = None
    ) -> StoredFile:
        check_key(key)
        check_content_type(content_type)
        digest, size = hashlib.sha256(), 0
        name = uuid.uuid4().hex
        with _faults("put"):
            descriptor = await in_thread(
                partial(self._start_partial, name), discard=lambda opened: self._drop_partial(opened, name)
            )
        try:
            async with aclosing(in_parts(chunks, PART_SIZE, max_size=max_size)) as parts:
                async for part in parts:
                    with _faults("put"):
                        await in_thread(partial(_write, descriptor, part, digest))
                    size += len(part)
            with _faults("put"):
                await in_thread(partial(self._show, descriptor, name, key))
        finally:
            await in_thread(partial(self._drop_partial, descriptor, name))
        return StoredFile(key=key, size=size, sha256=digest.hexdigest(), content_type=content_type)

    async def read(self, key: str, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        file = await self.open_file(key)
        try:
            async with aclosing(file.chunks(start, length)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            file.close()

    async def open_file(self, key: str) -> OpenFile:
        check_key(key)
        with _faults("open"):
            return await in_thread(partial(self._open, key), discard=OpenFile.close)

    async def size(self, key: str) -> int:
        file = await self.open_file(key)
        file.close()
        return file.size

    async def delete(self, key: str) -> None:
        check_key(key)
        with _faults("delete"):
            await in_thread(partial(self._delete, key))

    async def download_url(
        self, key: str, *, expires_in: int, filename: str, content_type: str, files_url: str
    ) -> str:
        check_key(key)
        check_content_type(content_type)
        check_expiry(expires_in)
        expires_at = int(time.time()) + expires_in
        query = sign_link(self.keys, key, expires_at=expires_at, filename=filename, content_type=content_type)
        return f"{files_url.rstrip('/')}/{key}?{query}"

    async def check(self) -> None:
        name = uuid.uuid4().hex
        with _faults("check"):
            await in_thread(lambda: self._drop_partial(self._start_partial(name), name))

    async def prepare(self) -> None:
        def make() -> None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._partial.mkdir(mode=0o700, exist_ok=True)

        with _faults("prepare"):
            await in_thread(make)

    async def sweep_partial(self, older_than: timedelta = timedelta(days=1)) -> int:
        def sweep() -> int:
            swept, before = 0, time.time() - older_than.total_seconds()
            for path in self._partial.iterdir():
                with suppress(FileNotFoundError):
                    if path.lstat().st_mtime < before:
                        path.unlink()
                        swept += 1
            return swept

        with _faults("sweep"):
            return await in_thread(sweep)

    # What follows blocks, so it runs in threads.

    def _start_partial(self, name: str) -> int:
        return os.open(self._partial / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    def _drop_partial(self, descriptor: int, name: str) -> None:
        """Closes it, and removes it unless it became visible under its key."""
        os.close(descriptor)
        (self._partial / name).unlink(missing_ok=True)

    def _show(self, descriptor: int, name: str, key: str) -> None:
        os.fsync(descriptor)
        try:
            with self._folder_of(key, make=True) as (folder, last):
                os.replace(self._partial / name, last, dst_dir_fd=folder)
                os.fsync(folder)
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise StorageKeyInvalid(f"Another file or folder is in the way of {key!r}.") from error
            raise

    def _open(self, key: str) -> OpenFile:
        try:
            with self._folder_of(key) as (folder, last):
                descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        except OSError as error:
            if error.errno in {errno.ENOENT, *_IN_THE_WAY}:
                raise _not_stored(key) from error
            raise
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise _not_stored(key)
        etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        return OpenFile(descriptor, status.st_size, etag)

    def _delete(self, key: str) -> None:
        try:
            with self._folder_of(key) as (folder, last):
                os.unlink(last, dir_fd=folder)
                os.fsync(folder)
        except OSError as error:
            if error.errno not in {errno.ENOENT, *_IN_THE_WAY}:
                raise

    @contextmanager
    def _folder_of(self, key: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The opened folder that holds the key's file, and the file's name in it.

        Goes down by descriptors, so that a symbolic link in any step is an error and can't be raced.
        """
        *folders, last = key.split("/")
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for folder in folders:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(folder, 0o700, dir_fd=descriptor)
                        os.fsync(descriptor)
                below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor, last
        finally:
            os.close(descriptor)


def _write(descriptor: int, part: bytes, digest: "hashlib._Hash") -> None:
    digest.update(part)
    rest = memoryview(part)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _not_stored(key: str) -> FileNotStored:
    return FileNotStored(f"There is no stored file {key!r}. It may have been deleted after its time was over.")


@contextmanager
def _faults(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.error("storage.failed", place="local", action=action, error=str(error))
        raise StorageUnavailable(
            "The folder for files could not be used; nothing was stored. Try again later.",
            headers={"Retry-After": "10"},
        ) from error
