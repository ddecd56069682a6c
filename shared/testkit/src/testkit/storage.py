"""Places for files under test: local folders, and buckets of a real SeaweedFS (``TEST_S3_ENDPOINT``)."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aioboto3
import pytest

from shared.settings import StorageSettings
from shared.storage import Storage

SIGNING_KEY = "a-signing-key-of-32-characters-0"
FILES_URL = "http://rostrum.test/v1/exports/files"


@dataclass(frozen=True)
class Place:
    """A storage with keys that only this test uses.

    ``leftovers`` lists the keys stored under the prefix, and all unfinished uploads.
    """

    storage: Storage
    prefix: str
    leftovers: Callable[[], Awaitable[list[str]]]

    def key(self, name: str = "file.bin") -> str:
        return f"{self.prefix}/{name}"


def local_settings(folder: Path, signing_key: str = SIGNING_KEY) -> StorageSettings:
    return StorageSettings.model_validate({"storage_folder": folder, "storage_signing_key": signing_key})


def s3_settings(**other: object) -> StorageSettings:
    needed = ("TEST_S3_ENDPOINT", "TEST_S3_ACCESS_KEY_ID", "TEST_S3_SECRET_ACCESS_KEY")
    if missing := [name for name in needed if not os.environ.get(name)]:
        pytest.fail(f"{', '.join(missing)} not set: start the test servers (`make test` does) to test S3.")
    endpoint, key_id, secret = (os.environ[name] for name in needed)
    return StorageSettings.model_validate(
        {
            "storage_place": "s3",
            "s3_endpoint": endpoint,
            "s3_access_key_id": key_id,
            "s3_secret_access_key": secret,
            **other,
        }
    )


def s3_client() -> Any:
    """Return boto's own client, as an async context manager, to read what is stored without our code."""
    settings = s3_settings()
    assert settings.s3_secret_access_key is not None
    return aioboto3.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=settings.s3_secret_access_key.get_secret_value(),
    )


@asynccontextmanager
async def s3_bucket() -> AsyncIterator[str]:
    """Yield the name of a new bucket, removed at the end. Share it: each allocates volumes on the server's disk."""
    bucket = f"rostrum-test-{uuid4().hex[:12]}"
    async with s3_client() as client:
        await client.create_bucket(Bucket=bucket)
        yield bucket
        while found := (await client.list_objects_v2(Bucket=bucket)).get("Contents"):
            for file in found:
                await client.delete_object(Bucket=bucket, Key=file["Key"])
        await client.delete_bucket(Bucket=bucket)


async def contents(storage: Storage, key: str) -> bytes:
    return b"".join([chunk async for chunk in storage.read(key)])


async def link_to(
    storage: Storage,
    key: str,
    *,
    expires_in: int = 60,
    filename: str = "file.bin",
    content_type: str = "application/zip",
) -> str:
    return await storage.download_url(
        key, expires_in=expires_in, filename=filename, content_type=content_type, files_url=FILES_URL
    )
