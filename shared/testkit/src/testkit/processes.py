"""pytest plugin: run the roles of a service as real processes on real servers, under a unique service name."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import aio_pika
import alembic.command
import alembic.config
import asyncpg
import httpx
import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from shared.database.engine import asyncpg_dsn
from shared.database.provisioning import provision
from testkit.plugin import (
    AUDIENCE,
    ISSUER,
    SIGNING_KEY,
    Databases,
    ServiceUnderTest,
    TokenFactory,
    delete_queues,
    server,
)

GATEWAY = "http://gateway.test"


@dataclass(frozen=True)
class Running:
    url: str
    process: asyncio.subprocess.Process
    log: Path

    async def stop(self) -> int:
        """Send SIGTERM and return the exit code; fail when a child process is left."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            code = await self.process.wait()
            await until_gone(family)
        return code


@asynccontextmanager
async def running(module: str, environment: dict[str, str], folder: Path) -> AsyncIterator[Running]:
    """Run the role as a process and yield it once ready; kill it at the end if it still runs."""
    port = _free_port()
    log = folder / f"{module}-{port}.log"
    ports = {"API_PORT": str(port), "HEALTH_PORT": str(port)}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
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

            await until(is_ready)
        yield Running(url, process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Poll until the condition holds, as it depends on another process. The caller sets the timeout."""
    while not await is_so():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def until_gone(processes: Sequence[psutil.Process]) -> None:
    async def are_gone() -> bool:
        return not any(_is_alive(process) for process in processes)

    await until(are_gone)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
async def environment(
    service: ServiceUnderTest, databases: Databases, tokens: TokenFactory, tmp_path: Path
) -> AsyncIterator[dict[str, str]]:
    """Yield settings of the service under a unique name, so that its role, schema and queues are its own."""
    name = f"{service.name}_{uuid4().hex[:8]}"
    admin_url = server("TEST_DATABASE_URL")
    empty = make_url(await databases.empty("processes"))
    assert empty.database is not None
    await provision(admin_url, {name: "secret"}, database=empty.database)
    url = empty.set(username=name, password="secret").render_as_string(hide_password=False)
    config = alembic.config.Config(service.root / "alembic.ini")
    config.attributes["settings"] = service.settings(service=name, database_url=SecretStr(url))
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
        # The system's tz database: a process must choose the pinned one, or its time computations fail.
        "PYTHONTZPATH": "/usr/share/zoneinfo",
    }
    async with await aio_pika.connect(server("TEST_RABBITMQ_URL")) as broker:
        channel = await broker.channel()
        jobs = f"{name}.jobs"  # dramatiq adds queues for delays and dead letters
        await delete_queues(channel, name)
        for queue in (jobs, f"{jobs}.DQ", f"{jobs}.XQ"):
            await channel.queue_delete(queue)
    database = await asyncpg.connect(asyncpg_dsn(admin_url), database=empty.database)
    await database.execute(f'DROP OWNED BY "{name}"')
    await database.execute(f'DROP ROLE "{name}"')
    await database.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
