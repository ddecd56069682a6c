from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from shared.storage import Storage, open_storage
from testkit.storage import Place, local_settings, s3_bucket, s3_client, s3_settings


@pytest.fixture(scope="session")
async def bucket() -> AsyncIterator[str]:
    async with s3_bucket() as name:
        yield name


@pytest.fixture(scope="session")
async def s3(bucket: str) -> AsyncIterator[Storage]:
    async with open_storage(s3_settings(s3_bucket=bucket)) as storage:
        yield storage


@pytest.fixture
def s3_place(s3: Storage, bucket: str) -> Place:
    prefix = f"tests/{uuid4().hex}"

    async def leftovers() -> list[str]:
        async with s3_client() as client:
            objects = await client.list_objects_v2(Bucket=bucket, Prefix=prefix)
            uploads = await client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        return [found["Key"] for found in objects.get("Contents", [])] + [
            f"upload of {found['Key']}" for found in uploads.get("Uploads", [])
        ]

    return Place(s3, prefix, leftovers)


@pytest.fixture
async def local_place(tmp_path: Path) -> AsyncIterator[Place]:
    folder = tmp_path / "files"

    async def leftovers() -> list[str]:
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    async with open_storage(local_settings(folder)) as storage:
        yield Place(storage, "tests", leftovers)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    place: Place = request.getfixturevalue(f"{request.param}_place")
    return place
