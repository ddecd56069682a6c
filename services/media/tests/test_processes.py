"""The real processes on real servers: a picture goes through all three, and a killed worker loses nothing."""

import asyncio
import io
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import alembic.command
import alembic.config
import asyncpg
import httpx
import psutil
import pytest
from PIL import Image as Picture
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from media.settings import MediaSettings
from shared.provisioning import provision
from shared.testing import AUDIENCE, ISSUER, SIGNING_KEY, Databases, ServiceUnderTest, TokenFactory, server

GATEWAY = "http://gateway.test"


@dataclass(frozen=True)
class Running:
    url: str
    process: asyncio.subprocess.Process
    log: Path

    async def stop(self) -> int:
        """Its exit code; fails when a child is left."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            code = await self.process.wait()
            await until(lambda: not any(is_alive(child) for child in family))
        return code


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def running(role: str, environment: dict[str, str], folder: Path) -> AsyncIterator[Running]:
    """The role as a process that says it is ready; killed at the end if it still runs."""
    port = free_port()
    log = folder / f"{role}-{port}.log"
    ports = {"API_PORT": str(port), "HEALTH_PORT": str(port)}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"media.{role}",
            env={**os.environ, **environment, **ports},
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient() as client, asyncio.timeout(60):

            async def is_ready() -> bool:
                assert process.returncode is None, log.read_text()
                try:
                    return (await client.get(f"{url}/healthz/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await until_true(is_ready)
        yield Running(url, process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until_true(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again: the condition is in another process. The caller sets the timeout."""
    while not await is_so():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def until(is_so: Callable[[], bool]) -> None:
    async def asked() -> bool:
        return is_so()

    await until_true(asked)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """For the processes' temporary files. Not below ``tmp_path``: a socket's address has 108 characters at most."""
    with tempfile.TemporaryDirectory(prefix="media-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
async def environment(
    service: ServiceUnderTest, databases: Databases, tokens: TokenFactory, tmp_path: Path, short_folder: Path
) -> AsyncIterator[dict[str, str]]:
    """Settings of a service under a name of its own, so that its role, schema and queues are nobody else's."""
    name = f"media_{uuid4().hex[:8]}"
    admin_url = server("TEST_DATABASE_URL")
    empty = make_url(await databases.empty("processes"))
    assert empty.database is not None
    await provision(admin_url, {name: "secret"}, database=empty.database)
    url = empty.set(username=name, password="secret").render_as_string(hide_password=False)
    config = alembic.config.Config(service.root / "alembic.ini")
    config.attributes["settings"] = MediaSettings(service=name, database_url=SecretStr(url))
    await asyncio.to_thread(alembic.command.upgrade, config, "head")
    yield {
        "SERVICE": name,
        "DATABASE_URL": url,
        "RABBITMQ_URL": server("TEST_RABBITMQ_URL"),
        "JWKS_URL": tokens.jwks_url,
        "TOKEN_ISSUER": ISSUER,
        "TOKEN_AUDIENCE": AUDIENCE,
        "PUBLIC_URL": GATEWAY,
        "STORAGE_FOLDER": str(tmp_path / "storage"),
        "STORAGE_SIGNING_KEY": SIGNING_KEY,
        "TMPDIR": str(short_folder),
    }
    async with await aio_pika.connect(server("TEST_RABBITMQ_URL")) as broker:
        channel = await broker.channel()
        for suffix in ("", ".DQ", ".XQ"):  # dramatiq's own for delays and dead letters
            await channel.queue_delete(f"{name}.jobs{suffix}")
    database = await asyncpg.connect(admin_url.replace("+asyncpg", "", 1), database=empty.database)
    await database.execute(f'DROP OWNED BY "{name}"')
    await database.execute(f'DROP ROLE "{name}"')
    await database.close()


async def upload(client: httpx.AsyncClient, content: bytes) -> str:
    answer = await client.post("/v1/images", files={"file": ("banner.png", content)})
    assert answer.status_code == 202, answer.text
    return str(answer.headers["Location"])


async def becomes(client: httpx.AsyncClient, path: str, *states: str) -> dict[str, Any]:
    image: dict[str, Any] = {}

    async def is_so() -> bool:
        nonlocal image
        image = (await client.get(path)).json()
        return image["state"] in states

    await until_true(is_so)
    return image


async def test_a_picture_goes_through_api_messenger_and_worker_which_stop_cleanly(
    environment: dict[str, str],
    tokens: TokenFactory,
    tmp_path: Path,
    short_folder: Path,
    png: Callable[..., bytes],
) -> None:
    async with (
        running("api", environment, tmp_path) as api,
        running("messenger", environment, tmp_path) as messenger,
        running("worker", environment, tmp_path) as worker,
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(90),
    ):
        content = png()
        image = await becomes(client, await upload(client, content), "ready", "rejected")
        assert image["state"] == "ready", image
        assert image["saved_bytes"] == len(content) - image["variants"][0]["size"]

        async with httpx.AsyncClient(base_url=api.url) as anybody:
            fetched = await anybody.get(image["variants"][0]["url"].removeprefix(GATEWAY))
            assert Picture.open(io.BytesIO(fetched.content)).size == (889, 500)
            head = await anybody.head(image["variants"][0]["url"].removeprefix(GATEWAY))
            assert (head.headers["Content-Length"], head.content) == (str(len(fetched.content)), b"")
            too_large = await client.post("/v1/images", files={"file": ("a.png", bytes(20 << 20))})
            assert too_large.json()["code"] == "image-file-too-large"

        for role in (worker, messenger, api):
            assert await role.stop() == 0, role.log.read_text()
    assert os.listdir(short_folder) == []


async def test_a_picture_whose_worker_was_killed_is_finished_by_the_next_one(
    environment: dict[str, str], tokens: TokenFactory, tmp_path: Path, noise: Callable[[int], bytes]
) -> None:
    async with (
        running("api", environment, tmp_path) as api,
        running("messenger", environment, tmp_path),
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(90),
    ):
        async with running("worker", environment, tmp_path) as worker:
            path = await upload(client, noise(1700))
            await becomes(client, path, "processing")
            [child] = psutil.Process(worker.process.pid).children()
            family = child.children(recursive=True)
            child.kill()
            assert await worker.process.wait() != 0, "the supervisor must see that the worker did not end well"
            await until(lambda: not any(is_alive(process) for process in family))
        assert (await client.get(path)).json()["state"] == "processing"

        database = await asyncpg.connect(environment["DATABASE_URL"].replace("+asyncpg", "", 1))
        await database.execute("UPDATE images SET lease_until = now(), hinted_at = now() - interval '1 hour'")
        await database.close()
        async with running("worker", environment, tmp_path) as worker:
            image = await becomes(client, path, "ready", "rejected")
            assert image["state"] == "ready", image
            assert await worker.stop() == 0


async def test_a_killed_master_takes_its_worker_along(environment: dict[str, str], tmp_path: Path) -> None:
    async with running("worker", environment, tmp_path) as worker, asyncio.timeout(30):
        family = psutil.Process(worker.process.pid).children(recursive=True)
        worker.process.kill()
        await until(lambda: not any(is_alive(process) for process in family))


async def test_a_worker_whose_port_is_taken_ends_with_an_error(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, (tmp_path / "log").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "media.worker",
            env={**os.environ, **environment, "HEALTH_PORT": str(taken.getsockname()[1])},
            stdout=output,
            stderr=output,
        )
        try:
            async with asyncio.timeout(30):
                assert await process.wait() != 0
        finally:
            if process.returncode is None:
                process.kill()
