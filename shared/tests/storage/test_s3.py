"""What only S3 has, on a real SeaweedFS."""

import asyncio
import socket
from datetime import timedelta
from uuid import uuid4

import pytest

from shared.problems import Problem
from shared.storage import StorageUnavailable, open_storage
from testkit.storage import Place, contents, link_to, s3_client, s3_settings


async def test_preparing_creates_the_missing_bucket_once() -> None:
    bucket = f"rostrum-test-{uuid4().hex[:12]}"
    async with open_storage(s3_settings(s3_bucket=bucket)) as storage, s3_client() as client:
        with pytest.raises(StorageUnavailable):
            await storage.check()
        await storage.prepare()
        await storage.prepare()
        await storage.check()
        await client.delete_bucket(Bucket=bucket)


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


async def test_a_truncated_answer_is_unavailable_and_not_a_short_file() -> None:
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


async def test_wrong_credentials_and_a_missing_bucket_are_unavailable_and_not_missing_files() -> None:
    async with open_storage(s3_settings(s3_secret_access_key="wrong")) as storage:
        with pytest.raises(StorageUnavailable):
            await storage.check()
        with pytest.raises(StorageUnavailable):
            await contents(storage, "a.zip")
    async with open_storage(s3_settings(s3_bucket=f"rostrum-{uuid4().hex[:12]}")) as storage:
        with pytest.raises(StorageUnavailable):
            await storage.check()
        with pytest.raises(StorageUnavailable):
            await contents(storage, "a.zip")


async def test_uploads_of_killed_processes_are_aborted(s3_place: Place, bucket: str) -> None:
    async with s3_client() as client:
        for number in range(3):
            await client.create_multipart_upload(Bucket=bucket, Key=s3_place.key(f"{number}.zip"))
    assert len(await s3_place.leftovers()) == 3
    assert await s3_place.storage.remove_unfinished() == 0
    assert await s3_place.storage.remove_unfinished(timedelta(seconds=-60)) == 3
    assert await s3_place.leftovers() == []


async def test_google_is_the_same_code_at_another_address() -> None:
    async with open_storage(s3_settings(storage_place="gs", s3_endpoint=None)) as storage:
        link = await link_to(storage, "a.zip")
    assert link.startswith("https://storage.googleapis.com/rostrum/a.zip?")


async def test_links_lead_to_the_public_address() -> None:
    async with open_storage(s3_settings(s3_public_endpoint="https://files.example")) as storage:
        link = await link_to(storage, "a.zip")
    assert link.startswith("https://files.example/rostrum/a.zip?")
