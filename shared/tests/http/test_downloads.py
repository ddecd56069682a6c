"""Signed links: served by the route for a local folder, by S3 itself (a real SeaweedFS) otherwise."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from shared.http.downloads import download_router
from shared.http.problems import add_problem_handlers
from shared.storage import Storage, open_storage
from testkit.storage import link_to, local_settings, s3_bucket, s3_settings

MEBIBYTE = 1 << 20


def client_of(storage: Storage) -> httpx.AsyncClient:
    app = FastAPI()
    app.state.storage = storage
    add_problem_handlers(app)
    app.include_router(download_router("/v1/exports/files/{key:path}"))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app))


@pytest.fixture(scope="module")
async def s3() -> AsyncIterator[Storage]:
    async with s3_bucket() as bucket, open_storage(s3_settings(s3_bucket=bucket)) as storage:
        yield storage


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage(local_settings(tmp_path)) as storage:
        yield storage


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest) -> Storage:
    storage: Storage = request.getfixturevalue(request.param)
    return storage


@pytest.fixture
async def client(storage: Storage, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    is_local = request.node.callspec.params["storage"] == "local"
    async with client_of(storage) if is_local else httpx.AsyncClient() as client:
        yield client


@pytest.fixture
async def local_client(local: Storage) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(local) as client:
        yield client


@pytest.mark.parametrize("size", [MEBIBYTE, 9 * MEBIBYTE])
async def test_a_link_downloads_the_file_under_its_name_without_a_token(
    storage: Storage, client: httpx.AsyncClient, size: int
) -> None:
    data, key = os.urandom(size), f"{uuid4()}/a.zip"
    await storage.put(key, data, content_type="application/zip")
    link = await link_to(storage, key, filename='Grüße "aus" Köln/日本.zip')

    answer = await client.get(link)
    assert answer.status_code == 200
    assert answer.content == data
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["cache-control"] == "private, no-store"
    named = answer.headers["content-disposition"]
    assert named.isascii()
    assert unquote(named.split("filename*=UTF-8''")[1]) == "Grüße _aus_ Köln_日本.zip"

    part = await client.get(link, headers={"Range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == data[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(data)}"
    beyond = await client.get(link, headers={"Range": f"bytes={len(data)}-"})
    assert beyond.status_code == 416


async def test_a_link_to_a_deleted_file_is_not_found(storage: Storage, client: httpx.AsyncClient) -> None:
    key = f"{uuid4()}/a.zip"
    await storage.put(key, b"x", content_type="application/zip")
    await storage.delete(key)
    assert (await client.get(await link_to(storage, key))).status_code == 404


async def test_a_changed_link_is_refused(storage: Storage, client: httpx.AsyncClient) -> None:
    folder = uuid4()
    for name in ("a.zip", "b.zip"):
        await storage.put(f"{folder}/{name}", b"secret", content_type="application/zip")
    link = await link_to(storage, f"{folder}/a.zip", filename="a.zip")
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
        assert (await client.get(other)).status_code == 403, other
    assert (await client.get(link)).status_code == 200


async def test_a_link_expires(storage: Storage, client: httpx.AsyncClient) -> None:
    key = f"{uuid4()}/a.zip"
    await storage.put(key, b"x", content_type="application/zip")
    link = await link_to(storage, key, expires_in=2)
    assert (await client.get(link)).status_code == 200
    async with asyncio.timeout(15):
        while (await client.get(link)).status_code not in (403, 410):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_route_without_a_local_storage_serves_nothing(s3: Storage, local: Storage) -> None:
    async with client_of(s3) as client:
        answer = await client.get(await link_to(local, "a.zip"))
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


@pytest.mark.parametrize(
    ("wanted", "status", "expected"),
    [
        ("bytes=2-", 206, b"23456789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-99", 206, b"0123456789"),
        ("bytes=4-99", 206, b"456789"),
        ("bytes=0-1,1-4", 206, b"01234"),
        ("lines=1-2", 200, b"0123456789"),
        ("bytes=10-", 416, None),
        ("bytes=5-4", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=-", 416, None),
        ("bytes=a-b", 416, None),
    ],
)
async def test_ranges_within_the_file_are_served_and_others_are_refused(
    local: Storage, local_client: httpx.AsyncClient, wanted: str, status: int, expected: bytes | None
) -> None:
    await local.put("a.txt", b"0123456789", content_type="text/plain")
    link = await link_to(local, "a.txt", content_type="text/plain")

    answer = await local_client.get(link, headers={"Range": wanted})

    assert answer.status_code == status
    if expected is None:
        assert answer.headers["content-range"] == "bytes */10"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "range-not-served"
    else:
        assert answer.content == expected
        assert answer.headers["content-length"] == str(len(expected))
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_several_ranges_are_served_as_parts(local: Storage, local_client: httpx.AsyncClient) -> None:
    await local.put("a.txt", b"0123456789", content_type="text/plain")
    answer = await local_client.get(
        await link_to(local, "a.txt", content_type="text/plain"), headers={"Range": "bytes=0-1,8-"}
    )
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert re.findall(rb"Content-Range: bytes (\S+)\r\n\r\n(\d+)\r\n", answer.content) == [
        (b"0-1/10", b"01"),
        (b"8-9/10", b"89"),
    ]


async def test_a_range_of_another_version_gets_the_whole_file(
    local: Storage, local_client: httpx.AsyncClient
) -> None:
    link = await link_to(local, "a.zip")
    await local.put("a.zip", b"0123456789", content_type="application/zip")
    etag = (await local_client.get(link)).headers["ETag"]
    ranged = {"Range": "bytes=2-", "If-Range": etag}
    assert (await local_client.get(link, headers=ranged)).status_code == 206
    await local.put("a.zip", b"9876543210", content_type="application/zip")

    answer = await local_client.get(link, headers=ranged)

    assert (answer.status_code, answer.content) == (200, b"9876543210")
    assert answer.headers["ETag"] != etag


async def test_head_answers_like_get_without_the_content(local: Storage, local_client: httpx.AsyncClient) -> None:
    await local.put("a.zip", b"0123456789", content_type="application/zip")
    link = await link_to(local, "a.zip")
    head, get = await local_client.head(link), await local_client.get(link)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == get.headers
    assert (await local_client.head(link.split("?")[0])).status_code == 403


async def test_files_are_closed_after_every_answer(local: Storage, local_client: httpx.AsyncClient) -> None:
    await local.put("a.zip", os.urandom(2 * MEBIBYTE), content_type="application/zip")
    link = await link_to(local, "a.zip")
    before = len(os.listdir("/proc/self/fd"))
    for wanted in ("bytes=0-9", "bytes=9999999-", "bytes=0-1,5-6", "bytes=x", "lines=1"):
        for method in ("GET", "HEAD"):
            await local_client.request(method, link, headers={"Range": wanted})
    for moment in range(40):
        downloading = asyncio.create_task(local_client.get(link))
        for _ in range(moment):
            await asyncio.sleep(0)
        downloading.cancel()
        await asyncio.wait({downloading})
    assert len(os.listdir("/proc/self/fd")) <= before + 1
