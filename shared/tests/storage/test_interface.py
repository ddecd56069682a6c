"""The behaviour that a local folder and S3, as a real SeaweedFS, share."""

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from shared.storage import FileNotStored, StorageKeyInvalid
from testkit.storage import Place, contents, link_to

MEBIBYTE = 1 << 20


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def until(happened: Callable[[], Awaitable[bool]], *, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not await happened():  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.1)


async def test_a_large_file_is_stored_and_read_with_bounded_memory(place: Place) -> None:
    chunk, count = os.urandom(MEBIBYTE), 64
    digest = hashlib.sha256()

    async def upload() -> AsyncIterator[bytes]:
        for number in range(count):
            numbered = number.to_bytes(4, "big") + chunk[4:]
            digest.update(numbered)
            yield numbered

    tracemalloc.start()
    try:
        stored = await place.storage.put(place.key(), upload(), content_type="application/zip")
        back, size, largest = hashlib.sha256(), 0, 0
        async for read in place.storage.read(place.key()):
            back.update(read)
            size += len(read)
            largest = max(largest, len(read))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (stored.size, stored.sha256) == (count * MEBIBYTE, digest.hexdigest())
    assert stored.content_type == "application/zip"
    assert (size, back.hexdigest()) == (stored.size, stored.sha256)
    assert await place.storage.size(place.key()) == stored.size
    assert largest <= 256 << 10
    assert peak < 40 * MEBIBYTE


@pytest.mark.parametrize("data", [b"", b"a few bytes"])
async def test_small_and_empty_files_are_stored(place: Place, data: bytes) -> None:
    stored = await place.storage.put(place.key(), data, content_type="text/plain; charset=utf-8")
    assert (stored.size, stored.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert await place.storage.size(place.key()) == len(data)
    assert await contents(place.storage, place.key()) == data
    assert await place.leftovers() == [place.key()]


@pytest.mark.parametrize("size", [8 * MEBIBYTE, 16 * MEBIBYTE, 8 * MEBIBYTE + 1, 8 * MEBIBYTE - 1])
async def test_sizes_around_a_part_are_stored_whole(place: Place, size: int) -> None:
    data = os.urandom(size)
    await place.storage.put(place.key(), data, content_type="application/zip")
    assert await contents(place.storage, place.key()) == data


async def test_many_tiny_chunks_make_one_file(place: Place) -> None:
    data = os.urandom(30_000)
    await place.storage.put(
        place.key(), chunks_of(*(data[at : at + 7] for at in range(0, len(data), 7))), content_type="image/png"
    )
    assert await contents(place.storage, place.key()) == data


@pytest.mark.parametrize("sent", [1, 20])
async def test_a_cancelled_upload_leaves_nothing(place: Place, sent: int) -> None:
    waits = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        for _ in range(sent):
            yield os.urandom(MEBIBYTE)
        waits.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(place.storage.put(place.key(), stalls(), content_type="image/png"))
    await waits.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await place.leftovers() == []


async def test_an_upload_cancelled_repeatedly_at_any_moment_leaves_all_or_nothing(place: Place) -> None:
    data = os.urandom(17 * MEBIBYTE)
    for delay in (0.0, 0.001, 0.005, 0.02, 0.05, 0.1):
        upload = asyncio.create_task(place.storage.put(place.key(), data, content_type="image/png"))
        await asyncio.wait({upload}, timeout=delay)
        while not upload.done():  # as a cancel scope of anyio does
            upload.cancel()
            await asyncio.sleep(0)
        if not upload.cancelled():
            upload.result()

    async def all_or_nothing() -> bool:  # an abort may outlive the task that was cancelled twice
        return await place.leftovers() in ([], [place.key()])

    await until(all_or_nothing)
    if await place.leftovers():
        assert await contents(place.storage, place.key()) == data


async def test_an_upload_whose_source_fails_leaves_the_earlier_file(place: Place) -> None:
    class ClientGone(Exception):
        pass

    async def fails() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield os.urandom(MEBIBYTE)
        raise ClientGone

    await place.storage.put(place.key(), b"earlier", content_type="image/png")
    with pytest.raises(ClientGone):
        await place.storage.put(place.key(), fails(), content_type="image/png")
    assert await contents(place.storage, place.key()) == b"earlier"
    assert await place.leftovers() == [place.key()]


async def test_a_reader_sees_one_version_while_the_file_is_replaced(place: Place) -> None:
    versions = [bytes([letter]) * (9 * MEBIBYTE + letter) for letter in b"ab"]
    await place.storage.put(place.key(), versions[0], content_type="image/png")
    replaced = asyncio.Event()
    read = 0

    async def keep_reading() -> None:
        nonlocal read
        while not replaced.is_set():
            assert await contents(place.storage, place.key()) in versions
            read += 1

    reader = asyncio.create_task(keep_reading())
    for turn in range(1, 5):
        await place.storage.put(place.key(), versions[turn % 2], content_type="image/png")
    replaced.set()
    await reader
    assert read > 0
    assert await place.leftovers() == [place.key()]


@pytest.mark.parametrize(
    "key",
    [
        "../outside",
        "exports/../../outside",
        "/etc/passwd",
        "exports//file",
        "exports/",
        "",
        ".partial/file",
        "exports/.hidden",
        "exports\\file",
        "exports/fi le",
        "exports/file\x00",
        "exports/file\n",
        "exports/ü",
        "x" * 201,
        "/".join(["x" * 100] * 6),
    ],
)
async def test_every_method_refuses_a_key_that_leads_elsewhere(place: Place, key: str) -> None:
    storage = place.storage
    with pytest.raises(StorageKeyInvalid):
        await storage.put(key, b"x", content_type="image/png")
    with pytest.raises(StorageKeyInvalid):
        await contents(storage, key)
    with pytest.raises(StorageKeyInvalid):
        await storage.size(key)
    with pytest.raises(StorageKeyInvalid):
        await storage.delete(key)
    with pytest.raises(StorageKeyInvalid):
        await link_to(storage, key)


async def test_reading_may_stop_early(place: Place) -> None:
    await place.storage.put(place.key(), os.urandom(3 * MEBIBYTE), content_type="application/zip")
    async with aclosing(place.storage.read(place.key())) as chunks:
        assert len(await anext(chunks)) > 0
    assert await place.storage.size(place.key()) == 3 * MEBIBYTE


async def test_a_file_is_copied_to_this_machine(place: Place, tmp_path: Path) -> None:
    data = os.urandom(2 * MEBIBYTE + 3)
    await place.storage.put(place.key(), data, content_type="application/zip")
    assert await place.storage.copy_to_file(place.key(), tmp_path / "copy.zip") == len(data)
    assert (tmp_path / "copy.zip").read_bytes() == data


async def test_deleting_is_idempotent_and_a_deleted_file_is_not_found(place: Place) -> None:
    await place.storage.put(place.key(), b"x", content_type="image/png")
    await place.storage.delete(place.key())
    await place.storage.delete(place.key())
    await place.storage.delete(place.key("folder/never-was"))
    with pytest.raises(FileNotStored):
        await place.storage.size(place.key())
    with pytest.raises(FileNotStored):
        await contents(place.storage, place.key())
    assert await place.leftovers() == []


@pytest.mark.parametrize("expires_in", [0, -1, 7 * 24 * 3600 + 1])
async def test_links_live_seven_days_at_most(place: Place, expires_in: int) -> None:
    with pytest.raises(ValueError, match="604800"):
        await link_to(place.storage, place.key(), expires_in=expires_in)


async def test_a_content_type_that_would_break_out_of_its_header_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="content type"):
        await place.storage.put(place.key(), b"x", content_type="text/html\r\nSet-Cookie: a=b")
    with pytest.raises(ValueError, match="content type"):
        await link_to(place.storage, place.key(), content_type="text/html\r\nSet-Cookie: a=b")


async def test_a_working_place_passes_its_check_and_may_be_prepared_again(place: Place) -> None:
    await place.storage.check()
    await place.storage.prepare()
    assert await place.leftovers() == []
