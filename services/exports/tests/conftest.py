import tempfile
from collections.abc import AsyncIterator
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from exports.api import create_app
from exports.clients.calls import open_peers
from exports.resources import Resources
from exports.settings import ExportsSettings
from services.exports.tests.factories import LeftBehind, Members, TemporaryFiles, Upload, archive_members
from services.exports.tests.peers import Network, Peers, running_peers
from testkit.plugin import Databases, Live, ServiceUnderTest, TokenFactory
from testkit.storage import s3_bucket, s3_settings


@pytest.fixture
def place() -> str:
    """``local`` or ``s3``: tests of both parametrize it."""
    return "local"


@pytest.fixture
def service(place: str, tokens: TokenFactory, tmp_path: Path, request: pytest.FixtureRequest) -> ServiceUnderTest:
    token_file = tmp_path / "service-token"
    token_file.write_text(tokens.service("exports")["Authorization"].removeprefix("Bearer "))
    extra: dict[str, Any] = {
        "service_token_file": token_file,
        "events_url": "http://events.test",
        "tickets_url": "http://tickets.test",
        "media_url": "http://media.test",
        **({} if place == "local" else request.getfixturevalue("s3_values")),
    }
    return ServiceUnderTest(ExportsSettings, create_app, Path(__file__).parents[1], extra)


@pytest.fixture(scope="session")
async def s3_values() -> AsyncIterator[dict[str, Any]]:
    """Settings that place files in S3."""
    async with s3_bucket() as bucket:
        yield s3_settings(s3_bucket=bucket).model_dump(exclude={"storage_folder", "storage_signing_key"})


@pytest.fixture(scope="session")
async def running(
    databases: Databases, tokens: TokenFactory, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Peers]:
    get_temp_dir()  # created before a test moves temporary files: the path of a socket of media's must be short
    async with running_peers(databases, tokens, tmp_path_factory.mktemp("peers")) as peers:
        yield peers


@pytest.fixture
def peers(running: Peers) -> Peers:
    running.converts = True
    return running


@pytest.fixture
async def network(live: Live, peers: Peers) -> AsyncIterator[Network]:
    """Connect the service of ``live`` with its peers."""
    network = peers.network()
    async with open_peers(live.settings, transport=network, pauses=(0.0, 0.0, 0.0)) as services:
        live.app.state.peers = services
        yield network


@pytest.fixture
def resources(live: Live, network: Network) -> Resources:
    """Those of a worker, beside the api of ``live``."""
    return Resources(live.settings, live.sessions, live.app.state.storage, live.app.state.peers)


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TemporaryFiles:
    """List the existing temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return lambda: list(folder.iterdir())


@pytest.fixture
def left_behind(live: Live, temporary_files: TemporaryFiles) -> LeftBehind:
    """Count what is in the storage's folder, the temporary folder and the tables; leave out what is empty."""

    async def look() -> dict[str, int]:
        found = {
            "stored files": sum(1 for path in live.settings.storage_folder.rglob("*") if path.is_file()),
            "temporary files": len(temporary_files()),
        }
        async with live.sessions() as session:
            for table in ("imports", "exports", "files_in_transit", "idempotency_keys", "outbox"):
                found[table] = await session.scalar(text(f"SELECT count(*) FROM {table}")) or 0
        return {name: count for name, count in found.items() if count}

    return look


@pytest.fixture
def members() -> Members:
    return archive_members()


@pytest.fixture
def upload(live: Live, tokens: TokenFactory) -> Upload:
    return Upload(live.client, tokens)
