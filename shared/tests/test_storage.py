"""One behaviour for all places: a local folder, and S3 as a real SeaweedFS (``TEST_S3_ENDPOINT``)."""

import asyncio
import errno
import hashlib
import os
import re
import socket
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aioboto3
import httpx
import pytest
from fastapi import FastAPI

from shared.http.downloads import download_router
from shared.http.problems import add_problem_handlers
from shared.problems import Problem, TooLarge
from shared.settings import StorageSettings
from shared.storage import (
    FileNotStored,
    LinkExpired,
    LinkInvalid,
    Storage,
    StorageKeyInvalid,
    StorageUnavailable,
    open_storage,
)
from shared.storage.links import SigningKeys, content_disposition, verify_link
from shared.storage.local import LocalStorage

MEBIBYTE = 1 << 20
BUCKET = f"rostrum-test-{uuid.uuid4().hex[:12]}"
FILES_URL = "http://rostrum.test/v1/exports/files"
OLD_KEY, NEW_KEY = "an-older-key-of-32-characters-00", "a-newer-key-of-32-characters-000"


@dataclass
class Place:
    storage: Storage
    http: httpx.AsyncClient
    prefix: str
    """Of the keys of this test alone."""
    leftovers: Callable[[], Awaitable[list[str]]]
    """Everything there is under the prefix, and every upload that was begun and not ended."""

    def key(self, name: str = "file.bin") -> str:
        return f"{self.prefix}/{name}"

    async def link(self, key: str, *, expires_in: int = 60, filename: str = "file.bin") -> str:
        return await self.storage.download_url(
            key, expires_in=expires_in, filename=filename, content_type="application/zip", files_url=FILES_URL
        )


def s3_settings(**other: object) -> StorageSettings:
    needed = ("TEST_S3_ENDPOINT", "TEST_S3_ACCESS_KEY_ID", "TEST_S3_SECRET_ACCESS_KEY")
    if missing := [name for name in needed if not os.environ.get(name)]:
        pytest.fail(f"{', '.join(missing)} not set: start the test servers (`make test` does) to test S3.")
    return StorageSettings.model_validate(
        {
            "storage_place": "s3",
            "s3_endpoint": os.environ["TEST_S3_ENDPOINT"],
            "s3_access_key_id": os.environ["TEST_S3_ACCESS_KEY_ID"],
            "s3_secret_access_key": os.environ["TEST_S3_SECRET_ACCESS_KEY"],
            **other,
        }
    )


def local_settings(folder: Path, signing_key: str = NEW_KEY) -> StorageSettings:
    return StorageSettings.model_validate({"storage_folder": folder, "storage_signing_key": signing_key})


def app_of(storage: Storage) -> FastAPI:
    app = FastAPI()
    add_problem_handlers(app)
    app.include_router(download_router(storage_of=lambda request: storage))
    return app


def plain_s3() -> Any:
    """Boto's own client, to see what is really there."""
    settings = s3_settings()
    assert settings.s3_secret_access_key is not None
    return aioboto3.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=settings.s3_secret_access_key.get_secret_value(),
    )


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module", params=["local", "s3"])
async def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Storage, httpx.AsyncClient, Callable[[str], Awaitable[list[str]]]]]:
    if request.param == "local":
        folder = tmp_path_factory.mktemp("files")

        async def local_leftovers(prefix: str) -> list[str]:
            return [name for name in files_in(folder) if name.startswith((prefix, ".partial"))]

        async with (
            open_storage(local_settings(folder)) as storage,
            httpx.AsyncClient(transport=httpx.ASGITransport(app=app_of(storage))) as http,
        ):
            yield storage, http, local_leftovers
        return

    async with (
        plain_s3() as client,
        httpx.AsyncClient() as http,
        open_storage(s3_settings(s3_bucket=BUCKET)) as storage,
    ):

        async def s3_leftovers(prefix: str) -> list[str]:
            objects = await client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
            uploads = await client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
            return [found["Key"] for found in objects.get("Contents", [])] + [
                f"upload of {found['Key']}" for found in uploads.get("Uploads", [])
            ]

        await storage.prepare()
        yield storage, http, s3_leftovers
        for found in (await client.list_objects_v2(Bucket=BUCKET)).get("Contents", []):
            await client.delete_object(Bucket=BUCKET, Key=found["Key"])
        await client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def place(opened: tuple[Storage, httpx.AsyncClient, Callable[[str], Awaitable[list[str]]]]) -> Place:
    storage, http, leftovers = opened
    prefix = f"tests/{uuid.uuid4().hex}"
    return Place(storage, http, prefix, lambda: leftovers(prefix))


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def contents(storage: Storage, key: str, *, start: int = 0, length: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in storage.read(key, start=start, length=length)])


async def until(happened: Callable[[], Awaitable[bool]], *, seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not await happened():  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.1)


async def test_a_large_file_comes_back_as_it_was_and_never_sits_in_memory(place: Place) -> None:
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
async def test_small_and_empty_files_are_files_too(place: Place, data: bytes) -> None:
    stored = await place.storage.put(place.key(), data, content_type="text/plain; charset=utf-8")
    assert (stored.size, stored.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert await place.storage.size(place.key()) == len(data)
    assert await contents(place.storage, place.key()) == data
    assert await place.leftovers() == [place.key()]


@pytest.mark.parametrize("size", [8 * MEBIBYTE, 16 * MEBIBYTE, 8 * MEBIBYTE + 1, 8 * MEBIBYTE - 1])
async def test_sizes_at_the_edge_of_a_part_are_stored_whole(place: Place, size: int) -> None:
    data = os.urandom(size)
    await place.storage.put(place.key(), data, content_type="application/zip")
    assert await contents(place.storage, place.key()) == data


async def test_many_tiny_chunks_make_one_file(place: Place) -> None:
    data = os.urandom(30_000)
    await place.storage.put(
        place.key(), chunks_of(*(data[at : at + 7] for at in range(0, len(data), 7))), content_type="image/png"
    )
    assert await contents(place.storage, place.key()) == data


@pytest.mark.parametrize("limit", [10, 17 * MEBIBYTE])
async def test_a_file_over_the_limit_is_refused_with_the_limit_and_leaves_nothing(place: Place, limit: int) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(MEBIBYTE)

    with pytest.raises(TooLarge, match=str(limit)):
        await place.storage.put(place.key(), endless(), content_type="image/png", max_size=limit)
    assert await place.leftovers() == []


async def test_a_file_of_exactly_the_limit_is_taken(place: Place) -> None:
    stored = await place.storage.put(place.key(), b"12345", content_type="image/png", max_size=5)
    assert stored.size == 5


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


async def test_an_upload_cancelled_again_and_again_at_any_moment_leaves_all_or_nothing(place: Place) -> None:
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


async def test_an_upload_whose_source_breaks_off_leaves_the_older_file(place: Place) -> None:
    class ClientGone(Exception):
        pass

    async def breaks_off() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield os.urandom(MEBIBYTE)
        raise ClientGone

    await place.storage.put(place.key(), b"older", content_type="image/png")
    with pytest.raises(ClientGone):
        await place.storage.put(place.key(), breaks_off(), content_type="image/png")
    assert await contents(place.storage, place.key()) == b"older"
    assert await place.leftovers() == [place.key()]


async def test_who_reads_while_a_file_is_replaced_sees_one_version(place: Place) -> None:
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
async def test_a_key_that_could_lead_astray_is_refused_everywhere(place: Place, key: str) -> None:
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
        await place.link(key)


async def test_parts_of_a_file_can_be_read(place: Place) -> None:
    data = os.urandom(700_000)
    await place.storage.put(place.key(), data, content_type="application/zip")
    for start, length in [(0, 1), (10, 20), (300_000, 400_000), (300_000, None), (0, 0), (699_990, 100)]:
        end = None if length is None else start + length
        assert await contents(place.storage, place.key(), start=start, length=length) == data[start:end]
    assert await contents(place.storage, place.key(), start=700_000) == b""
    assert await contents(place.storage, place.key(), start=900_000, length=5) == b""


async def test_reading_may_stop_early(place: Place) -> None:
    await place.storage.put(place.key(), os.urandom(3 * MEBIBYTE), content_type="application/zip")
    async with aclosing(place.storage.read(place.key())) as chunks:
        assert len(await anext(chunks)) > 0
    assert await place.storage.size(place.key()) == 3 * MEBIBYTE


async def test_a_file_can_be_copied_to_this_machine(place: Place, tmp_path: Path) -> None:
    data = os.urandom(2 * MEBIBYTE + 3)
    await place.storage.put(place.key(), data, content_type="application/zip")
    assert await place.storage.copy_to_file(place.key(), tmp_path / "copy.zip") == len(data)
    assert (tmp_path / "copy.zip").read_bytes() == data


async def test_deleting_twice_is_the_same_as_once_and_what_is_not_there_is_said(place: Place) -> None:
    await place.storage.put(place.key(), b"x", content_type="image/png")
    await place.storage.delete(place.key())
    await place.storage.delete(place.key())
    await place.storage.delete(place.key("folder/never-was"))
    with pytest.raises(FileNotStored):
        await place.storage.size(place.key())
    for length in (None, 0, 5):
        with pytest.raises(FileNotStored):
            await contents(place.storage, place.key(), length=length)
    assert (await place.http.get(await place.link(place.key()))).status_code == 404
    assert await place.leftovers() == []


@pytest.mark.parametrize("size", [MEBIBYTE, 9 * MEBIBYTE])
async def test_a_link_downloads_the_file_under_its_name_without_any_token(place: Place, size: int) -> None:
    data = os.urandom(size)
    await place.storage.put(place.key("a.zip"), data, content_type="application/zip")
    link = await place.link(place.key("a.zip"), filename='Grüße "aus" Köln/日本.zip')

    answer = await place.http.get(link)
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["cache-control"] == "private, no-store"
    named = answer.headers["content-disposition"]
    assert named.isascii()
    assert unquote(named.split("filename*=UTF-8''")[1]) == "Grüße _aus_ Köln_日本.zip"

    part = await place.http.get(link, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == data[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(data)}"
    beyond = await place.http.get(link, headers={"Range": f"bytes={len(data)}-"})
    assert beyond.status_code == 416


async def test_a_changed_link_is_refused(place: Place) -> None:
    for name in ("a.zip", "b.zip"):
        await place.storage.put(place.key(name), b"secret", content_type="application/zip")
    link = await place.link(place.key("a.zip"), filename="a.zip")
    changed = [
        link.replace("/a.zip?", "/b.zip?"),
        link.replace("filename=a.zip", "filename=b.exe").replace("a.zip%22", "b.exe%22"),
        re.sub(r"(type=application%2F)zip", r"\1html", link),
        re.sub(r"(expires|Expires)=(\d+)", r"\1=9\2", link, flags=re.I),
        re.sub(r"(signature)=(.)", lambda match: f"{match[1]}={'0' if match[2] != '0' else '1'}", link, flags=re.I),
        link.split("?")[0],
    ]
    for other in changed:
        assert other != link
        assert (await place.http.get(other)).status_code == 403, other
    assert (await place.http.get(link)).status_code == 200


async def test_a_link_ends_with_its_time(place: Place) -> None:
    await place.storage.put(place.key(), b"x", content_type="application/zip")
    link = await place.link(place.key(), expires_in=2)
    assert (await place.http.get(link)).status_code == 200

    async def is_over() -> bool:
        return (await place.http.get(link)).status_code in (403, 410)

    await until(is_over)


@pytest.mark.parametrize("expires_in", [0, -1, 7 * 24 * 3600 + 1])
async def test_links_live_seven_days_at_most(place: Place, expires_in: int) -> None:
    with pytest.raises(ValueError, match="604800"):
        await place.link(place.key(), expires_in=expires_in)


async def test_a_content_type_that_would_break_out_of_its_header_is_refused(place: Place) -> None:
    with pytest.raises(ValueError, match="content type"):
        await place.storage.put(place.key(), b"x", content_type="text/html\r\nSet-Cookie: a=b")


async def test_a_place_that_works_passes_its_check(place: Place) -> None:
    await place.storage.check()
    await place.storage.prepare()
    assert await place.leftovers() == []


# Local only


async def test_a_local_place_without_a_signing_key_does_not_start(tmp_path: Path) -> None:
    for keys in ("", " , ", "short", f"{NEW_KEY},short"):
        with pytest.raises(ValueError, match="STORAGE_SIGNING_KEY"):
            async with open_storage(local_settings(tmp_path, keys)):
                pass


async def test_the_folder_and_its_files_are_for_the_owner_only(tmp_path: Path) -> None:
    async with open_storage(local_settings(tmp_path / "files")) as storage:
        await storage.put("exports/a.zip", b"x", content_type="application/zip")
    assert (tmp_path / "files").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "files/exports").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "files/exports/a.zip").stat().st_mode & 0o777 == 0o600


async def test_symbolic_links_lead_nowhere(tmp_path: Path) -> None:
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
        with pytest.raises(StorageKeyInvalid):
            await storage.put("folder/secret", b"changed", content_type="text/plain")
        await storage.delete("folder/secret")
        await storage.put("file", b"replaces the link itself", content_type="text/plain")
    assert (outside / "secret").read_text() == "secret"
    assert not (tmp_path / "files/file").is_symlink()


async def test_what_killed_uploads_left_is_swept_after_a_day(tmp_path: Path) -> None:
    async with open_storage(local_settings(tmp_path)) as storage:
        old, young = tmp_path / ".partial/old", tmp_path / ".partial/young"
        for path in (old, young):
            path.write_bytes(b"x")
        two_days_ago = old.stat().st_mtime - 2 * 24 * 3600
        os.utime(old, (two_days_ago, two_days_ago))
        assert await storage.sweep_partial() == 1
        assert (old.exists(), young.exists()) == (False, True)


async def test_a_full_disk_is_unavailable_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with open_storage(local_settings(tmp_path)) as storage:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StorageUnavailable):
            await storage.put("exports/a.zip", b"x", content_type="application/zip")
        monkeypatch.undo()
    assert files_in(tmp_path) == []


async def test_open_files_are_closed_whatever_happens(tmp_path: Path) -> None:
    async with open_storage(local_settings(tmp_path)) as storage:
        assert isinstance(storage, LocalStorage)
        await storage.put("a.zip", os.urandom(2 * MEBIBYTE), content_type="application/zip")
        link = await storage.download_url(
            "a.zip", expires_in=60, filename="a.zip", content_type="application/zip", files_url=FILES_URL
        )
        before = len(os.listdir("/proc/self/fd"))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app_of(storage))) as http:
            for wanted in ("bytes=0-9", "bytes=9999999-", "bytes=0-1,5-6"):
                await http.get(link, headers={"Range": wanted})
        for moment in range(40):
            reading = asyncio.create_task(contents(storage, "a.zip"))
            for _ in range(moment):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait({reading})
        assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_links_of_the_older_key_work_until_it_is_removed(tmp_path: Path) -> None:
    async def link_of(keys: str) -> tuple[str, int]:
        async with open_storage(local_settings(tmp_path, keys)) as storage:
            await storage.put("a.zip", b"x", content_type="application/zip")
            made = await storage.download_url(
                "a.zip", expires_in=60, filename="a.zip", content_type="application/zip", files_url=FILES_URL
            )
        return made, len(made)

    async def status_of(link: str, keys: str) -> int:
        async with open_storage(local_settings(tmp_path, keys)) as storage:
            transport = httpx.ASGITransport(app=app_of(storage))
            async with httpx.AsyncClient(transport=transport) as http:
                return (await http.get(link)).status_code

    old_link, _ = await link_of(OLD_KEY)
    new_link, _ = await link_of(f"{NEW_KEY},{OLD_KEY}")
    assert await status_of(old_link, f"{NEW_KEY},{OLD_KEY}") == 200
    assert await status_of(new_link, NEW_KEY) == 200
    assert await status_of(old_link, NEW_KEY) == 403


def test_a_bad_signature_is_told_before_the_time_is() -> None:
    keys = SigningKeys.parse(NEW_KEY)
    with pytest.raises(LinkInvalid):
        verify_link(keys, "a", expires="1", filename="a", content_type="b/c", key_id="nope", signature="")
    assert (LinkInvalid.status, LinkExpired.status) == (403, 410)


@pytest.mark.parametrize(
    ("wanted", "status", "expected"),
    [
        ("bytes=2-", 206, b"23456789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-99", 206, b"0123456789"),
        ("bytes=4-99", 206, b"456789"),
        ("lines=1-2", 200, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=5-4", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=-", 416, None),
        ("bytes=0-1,3-4", 416, None),
        ("bytes=a-b", 416, None),
    ],
)
async def test_one_range_is_served_and_others_are_refused(
    tmp_path: Path, wanted: str, status: int, expected: bytes | None
) -> None:
    async with open_storage(local_settings(tmp_path)) as storage:
        await storage.put("a.txt", b"0123456789", content_type="text/plain")
        link = await storage.download_url(
            "a.txt", expires_in=60, filename="a.txt", content_type="text/plain", files_url=FILES_URL
        )
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app_of(storage))) as http:
            answer = await http.get(link, headers={"Range": wanted})
            assert answer.status_code == status
            if expected is None:
                assert answer.headers["content-range"] == "bytes */10"
                assert answer.json()["code"] == "range-not-served"
            else:
                assert answer.content == expected
                assert answer.headers["x-content-type-options"] == "nosniff"
                changed = await http.get(link, headers={"Range": wanted, "If-Range": '"another"'})
                assert (changed.status_code, changed.content) == (200, b"0123456789")


@pytest.mark.parametrize(
    ("filename", "plain", "full"),
    [
        ("plan.zip", "plan.zip", "plan.zip"),
        ("日本.zip", "download.zip", "日本.zip"),
        ('a"; filename="evil.exe', "a_; filename=_evil.exe", "a_; filename=_evil.exe"),
        ("../../etc/passwd", "_._etc_passwd", "_.._etc_passwd"),
        ("a\r\nSet-Cookie: b", "a__Set-Cookie: b", "a__Set-Cookie: b"),
        ("gpj.\u202eexe", "gpj._exe", "gpj._exe"),
        ("", "download", "download"),
        ("...", "download", "download"),
        ("x" * 300 + ".zip", "x" * 150 + ".zip", "x" * 150 + ".zip"),
        ("\ud800.zip", "_.zip", "_.zip"),
        ("a\uff0fb\uff02.zip", "a_b_.zip", "a\uff0fb\uff02.zip"),
    ],
)
def test_file_names_are_safe_in_a_header(filename: str, plain: str, full: str) -> None:
    header = content_disposition(filename)
    assert header.isascii()
    assert header.isprintable()
    named = re.fullmatch(r"attachment; filename=\"([^\"]*)\"; filename\*=UTF-8''([\w.%~-]*)", header)
    assert named is not None
    assert (named[1], unquote(named[2])) == (plain, full)


# S3 only


async def test_an_s3_that_does_not_answer_is_unavailable_in_bounded_time() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        settings = s3_settings(s3_endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}")
        async with asyncio.timeout(30), open_storage(settings) as storage:
            with pytest.raises(StorageUnavailable) as refused:
                await storage.put("a.zip", b"x", content_type="application/zip")
            assert isinstance(refused.value, Problem)
            assert refused.value.status == 503
            with pytest.raises(StorageUnavailable):
                await storage.check()
            with pytest.raises(StorageUnavailable):
                await contents(storage, "a.zip")


async def test_an_answer_that_breaks_off_is_unavailable_not_a_short_file() -> None:
    async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(half_an_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, open_storage(s3_settings(s3_endpoint=f"http://127.0.0.1:{port}")) as storage:
        with pytest.raises(StorageUnavailable):
            await contents(storage, "a.zip")


async def test_wrong_credentials_and_a_missing_bucket_are_unavailable_not_missing_files() -> None:
    async with open_storage(s3_settings(s3_secret_access_key="wrong")) as storage:
        with pytest.raises(StorageUnavailable):
            await storage.check()
        with pytest.raises(StorageUnavailable):
            await contents(storage, "a.zip")
    async with open_storage(s3_settings(s3_bucket=f"rostrum-{uuid.uuid4().hex[:12]}")) as storage:
        with pytest.raises(StorageUnavailable):
            await storage.check()
        with pytest.raises(StorageUnavailable):
            await contents(storage, "a.zip")


@pytest.mark.parametrize("opened", ["s3"], indirect=True)
async def test_uploads_that_were_killed_are_aborted_by_the_sweep(place: Place) -> None:
    async with plain_s3() as client:
        for number in range(3):
            await client.create_multipart_upload(Bucket=BUCKET, Key=place.key(f"{number}.zip"))
    assert len(await place.leftovers()) == 3
    assert await place.storage.sweep_partial() == 0
    assert await place.storage.sweep_partial(timedelta(seconds=-60)) == 3
    assert await place.leftovers() == []


async def test_google_is_the_same_code_at_another_address() -> None:
    settings = s3_settings(storage_place="gs", s3_endpoint=None)
    async with open_storage(settings) as storage:
        link = await storage.download_url(
            "a.zip", expires_in=60, filename="a.zip", content_type="application/zip", files_url=FILES_URL
        )
    assert link.startswith("https://storage.googleapis.com/rostrum/a.zip?")


async def test_links_lead_to_the_address_that_users_reach() -> None:
    async with open_storage(s3_settings(s3_public_endpoint="https://files.example")) as storage:
        link = await storage.download_url(
            "a.zip", expires_in=60, filename="a.zip", content_type="application/zip", files_url=FILES_URL
        )
    assert link.startswith("https://files.example/rostrum/a.zip?")
