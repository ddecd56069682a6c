import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from media.api import create_app
from media.images.sandbox import Sandbox
from media.images.tasks import Resources
from media.models import Image
from media.settings import MediaSettings
from services.media.tests.factories import NothingIsLeft, TemporaryFiles, Upload
from shared.messaging.tables import OUTBOX
from shared.storage.transit import FILES_IN_TRANSIT
from testkit.plugin import Live, ServiceUnderTest, TokenFactory
from testkit.storage import s3_bucket, s3_settings

MEDIA = ServiceUnderTest(MediaSettings, create_app, Path(__file__).parents[1])


@pytest.fixture
def place() -> str:
    """``local`` or ``s3``: tests of both parametrize it."""
    return "local"


@pytest.fixture
def service(place: str, request: pytest.FixtureRequest) -> ServiceUnderTest:
    return MEDIA if place == "local" else replace(MEDIA, extra=request.getfixturevalue("s3_values"))


@pytest.fixture(scope="session")
async def s3_values() -> AsyncIterator[dict[str, Any]]:
    """Settings that place files in S3."""
    async with s3_bucket() as bucket:
        yield s3_settings(s3_bucket=bucket).model_dump(exclude={"storage_folder", "storage_signing_key"})


@pytest.fixture(scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(workers=1)
    yield sandbox
    await sandbox.close()


@pytest.fixture
def resources(live: Live, sandbox: Sandbox) -> Resources:
    """Those of a worker, beside the api of ``live``."""
    return Resources(live.sessions, live.app.state.storage, sandbox)


@pytest.fixture(scope="session", autouse=True)
def _sockets_of_multiprocessing() -> None:
    """Create their folder before a test moves temporary files: the path of a socket must be short."""
    get_temp_dir()


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TemporaryFiles:
    """List the existing temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return lambda: list(folder.iterdir())


@pytest.fixture
def upload(live: Live, tokens: TokenFactory) -> Upload:
    return Upload(live.client, tokens)


@pytest.fixture
def nothing_is_left(live: Live, temporary_files: TemporaryFiles) -> NothingIsLeft:
    async def check() -> None:
        kept = [path for path in live.settings.storage_folder.rglob("*") if path.is_file()]
        assert kept == []
        assert temporary_files() == []
        async with live.sessions() as session:
            for table in (Image, FILES_IN_TRANSIT, OUTBOX):
                assert await session.scalar(select(func.count()).select_from(table)) == 0

    return check
