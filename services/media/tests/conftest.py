import io
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import aioboto3
import httpx
import pytest
from PIL import Image as Picture
from sqlalchemy import func, select

from media.api import create_app
from media.images.sandbox import Sandbox
from media.images.tasks import Resources
from media.models import Image
from media.settings import MediaSettings
from shared.ids import new_id
from shared.messaging.tables import OUTBOX
from shared.storage.transit import FILES_IN_TRANSIT
from testkit.plugin import Live, ServiceUnderTest, TokenFactory

MEDIA = ServiceUnderTest(MediaSettings, create_app, Path(__file__).parents[1])


@pytest.fixture
def service() -> ServiceUnderTest:
    return MEDIA


@pytest.fixture(scope="session")
async def s3_settings() -> AsyncIterator[dict[str, Any]]:
    """A bucket for this run on the test server. One for all tests: each takes volumes of the server's disk."""
    needed = ("TEST_S3_ENDPOINT", "TEST_S3_ACCESS_KEY_ID", "TEST_S3_SECRET_ACCESS_KEY")
    if missing := [name for name in needed if not os.environ.get(name)]:
        pytest.fail(f"{', '.join(missing)} not set: start the test servers (`make test` does) to test S3.")
    endpoint, key_id, secret = (os.environ[name] for name in needed)
    bucket = f"rostrum-media-test-{new_id().hex[-12:]}"
    session = aioboto3.Session(aws_access_key_id=key_id, aws_secret_access_key=secret, region_name="us-east-1")
    async with session.client("s3", endpoint_url=endpoint) as client:
        await client.create_bucket(Bucket=bucket)
        yield {
            "storage_place": "s3",
            "s3_endpoint": endpoint,
            "s3_access_key_id": key_id,
            "s3_secret_access_key": secret,
            "s3_bucket": bucket,
        }
        while found := (await client.list_objects_v2(Bucket=bucket)).get("Contents"):
            for file in found:
                await client.delete_object(Bucket=bucket, Key=file["Key"])
        await client.delete_bucket(Bucket=bucket)


@pytest.fixture(scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(workers=1)
    yield sandbox
    await sandbox.close()


@pytest.fixture
def resources(live: Live, sandbox: Sandbox) -> Resources:
    """Those of a worker, beside the api of ``live``."""
    return Resources(live.engine, live.sessions, live.app.state.storage, sandbox)


@pytest.fixture(scope="session", autouse=True)
def sockets_of_multiprocessing() -> None:
    """Settles their folder before a test moves where temporary files go: a socket's path may not be long."""
    get_temp_dir()


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """Lists the temporary files that there are, to see that they go away again."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return lambda: list(folder.iterdir())


@dataclass(frozen=True)
class Upload:
    """Uploads as an organizer does."""

    client: httpx.AsyncClient
    tokens: TokenFactory

    async def __call__(
        self, content: bytes, name: str = "banner.png", org: str = "acme", key: str | None = None, **fields: str
    ) -> httpx.Response:
        headers = self.tokens.organizer(org) | ({"Idempotency-Key": key} if key else {})
        return await self.client.post("/v1/images", files={"file": (name, content)}, data=fields, headers=headers)


@pytest.fixture
def upload(live: Live, tokens: TokenFactory) -> Upload:
    return Upload(live.client, tokens)


@pytest.fixture
def nothing_is_left(live: Live, temporary_files: Callable[[], list[Path]]) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        kept = [path for path in live.settings.storage_folder.rglob("*") if path.is_file()]
        assert kept == []
        assert temporary_files() == []
        async with live.sessions() as session:
            for table in (Image, FILES_IN_TRANSIT, OUTBOX):
                assert await session.scalar(select(func.count()).select_from(table)) == 0

    return check


def png(width: int = 1600, height: int = 900, *, mode: str = "RGBA") -> bytes:
    """Transparent on the left, blue on the right."""
    picture = Picture.new(mode, (width, height), (200, 0, 0, 0) if mode == "RGBA" else (255, 255, 255))
    blue = (0, 0, 200, 255) if mode == "RGBA" else (0, 0, 200)
    picture.paste(blue, (width // 2, 0, width, height))
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def noise(size: int) -> bytes:
    """A PNG of noise: some ``size * size * 3`` bytes."""
    content = io.BytesIO()
    Picture.frombytes("RGB", (size, size), os.urandom(size * size * 3)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(name="png")
def _png() -> Callable[..., bytes]:
    return png


@pytest.fixture(name="noise")
def _noise() -> Callable[[int], bytes]:
    return noise
