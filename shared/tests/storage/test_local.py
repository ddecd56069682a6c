import asyncio
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.storage import FileNotStored, StorageKeyInvalid, StorageUnavailable, open_storage
from testkit.storage import SIGNING_KEY, Place, contents, local_settings

MEBIBYTE = 1 << 20


async def test_a_local_place_without_a_signing_key_does_not_start(tmp_path: Path) -> None:
    for keys in ("", " , ", "short", f"{SIGNING_KEY},short"):
        with pytest.raises(ValueError, match="STORAGE_SIGNING_KEY"):
            async with open_storage(local_settings(tmp_path, keys)):
                pass


async def test_only_the_owner_may_use_the_folder_and_its_files(tmp_path: Path) -> None:
    async with open_storage(local_settings(tmp_path / "files")) as storage:
        await storage.put("exports/a.zip", b"x", content_type="application/zip")
    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "files/exports").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "files/exports/a.zip").stat().st_mode & 0o777 == 0o600


async def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    async with open_storage(local_settings(tmp_path / "files")) as storage:
        (tmp_path / "files/folder").symlink_to(outside)
        (tmp_path / "files/file").symlink_to(outside / "secret")
        for key in ("folder/secret", "file"):
            with pytest.raises(FileNotStored):
                await contents(storage, key)
            with pytest.raises(FileNotStored):
                await storage.size(key)
        for key in ("folder/secret", "folder/new/file"):
            with pytest.raises(StorageKeyInvalid):
                await storage.put(key, b"changed", content_type="text/plain")
        await storage.delete("folder/secret")
        await storage.put("file", b"replaces the link itself", content_type="text/plain")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_text() == "secret"
    assert not (tmp_path / "files/file").is_symlink()


async def test_folders_and_pipes_are_not_files(tmp_path: Path) -> None:
    async with open_storage(local_settings(tmp_path)) as storage:
        await storage.put("folder/file", b"x", content_type="text/plain")
        os.mkfifo(tmp_path / "pipe")
        for key in ("folder", "pipe", "folder/file/below"):
            with pytest.raises(FileNotStored):
                await storage.size(key)
        for key in ("folder", "folder/file/below"):
            with pytest.raises(StorageKeyInvalid):
                await storage.put(key, b"x", content_type="text/plain")


async def test_what_killed_uploads_left_is_removed_after_a_day(tmp_path: Path) -> None:
    async with open_storage(local_settings(tmp_path)) as storage:
        old, young = tmp_path / ".partial/old", tmp_path / ".partial/young"
        for path in (old, young):
            path.write_bytes(b"x")
        two_days_ago = old.stat().st_mtime - 2 * 24 * 3600
        os.utime(old, (two_days_ago, two_days_ago))
        assert await storage.remove_unfinished() == 1
        assert (old.exists(), young.exists()) == (False, True)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_write_that_fails_is_unavailable_and_leaves_nothing(local_place: Place) -> None:
    data = os.urandom(12 * MEBIBYTE)
    with largest_file(10 * MEBIBYTE), pytest.raises(StorageUnavailable):
        await local_place.storage.put("exports/a.zip", data, content_type="application/zip")
    assert await local_place.leftovers() == []


async def test_files_are_closed_whenever_reading_is_cancelled(local_place: Place) -> None:
    await local_place.storage.put("a.zip", os.urandom(2 * MEBIBYTE), content_type="application/zip")
    before = len(os.listdir("/proc/self/fd"))
    for moment in range(40):
        reading = asyncio.create_task(contents(local_place.storage, "a.zip"))
        for _ in range(moment):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
    assert len(os.listdir("/proc/self/fd")) <= before + 1
