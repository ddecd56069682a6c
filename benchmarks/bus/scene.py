"""The scene of the bus benchmarks: a database with the schemas of events and tickets, queues, and log files."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import alembic.command
import alembic.config
import asyncpg
from aio_pika.abc import AbstractChannel, AbstractQueue
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from benchmarks.bus.messages import MeasuredV1, amqp_message
from events.settings import EventsSettings
from shared.contracts.envelope import MessageEnvelope
from shared.database.engine import asyncpg_dsn
from shared.database.provisioning import provision
from shared.messaging.topology import dead_letter_queue_name, declare_exchange, queue_name
from shared.settings import Settings
from testkit.plugin import AUDIENCE, ISSUER, TokenFactory
from tickets.settings import TicketsSettings

ROOT = Path(__file__).resolve().parents[2]

Environment = dict[str, str]


@dataclass(frozen=True)
class Scene:
    """``events`` and ``tickets`` are the environments of the two services' processes."""

    folder: Path
    tokens: TokenFactory
    channel: AbstractChannel
    events: Environment
    tickets: Environment


@asynccontextmanager
async def set_scene() -> AsyncIterator[Scene]:
    admin_url, broker_url = os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_RABBITMQ_URL")
    if not admin_url or not broker_url:
        raise SystemExit("TEST_DATABASE_URL and TEST_RABBITMQ_URL are not set: use `make bench ARGS=bus`.")
    label = f"bench_{os.getpid()}"
    names = {name: f"{name}_{label}" for name in ("events", "tickets")}
    with tempfile.TemporaryDirectory(prefix="rostrum-bench-") as made:
        folder = Path(made)
        tokens = TokenFactory(folder)
        try:
            await provision(admin_url, dict.fromkeys(names.values(), "secret"), database=label)
            environments: dict[str, Environment] = {}
            kinds: dict[str, type[Settings]] = {"events": EventsSettings, "tickets": TicketsSettings}
            for name, settings in kinds.items():
                own = make_url(admin_url).set(database=label, username=names[name], password="secret")
                url = own.render_as_string(hide_password=False)
                config = alembic.config.Config(ROOT / "services" / name / "alembic.ini")
                config.attributes["settings"] = settings(service=names[name], database_url=SecretStr(url))
                await asyncio.to_thread(alembic.command.upgrade, config, "head")
                environments[name] = {
                    "SERVICE": names[name],
                    "DATABASE_URL": url,
                    "RABBITMQ_URL": broker_url,
                    "JWKS_URL": tokens.jwks_url,
                    "TOKEN_ISSUER": ISSUER,
                    "TOKEN_AUDIENCE": AUDIENCE,
                }
            async with await aio_pika.connect(broker_url) as broker:
                channel = await broker.channel()
                try:
                    yield Scene(folder, tokens, channel, environments["events"], environments["tickets"])
                finally:
                    for service in names.values():
                        for queue in (queue_name(service), dead_letter_queue_name(service), _sink_name(service)):
                            await channel.queue_delete(queue)
        finally:
            server = await asyncpg.connect(asyncpg_dsn(admin_url))
            await server.execute(f'DROP DATABASE IF EXISTS "{label}" WITH (FORCE)')
            for role in names.values():
                await server.execute(f'DROP ROLE IF EXISTS "{role}"')
            await server.close()


@asynccontextmanager
async def database_of(environment: Environment) -> AsyncIterator[asyncpg.Connection]:
    """Yield a connection with the service's own role."""
    connection = await asyncpg.connect(asyncpg_dsn(environment["DATABASE_URL"]))
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def sink_of(scene: Scene, environment: Environment) -> AsyncIterator[AbstractQueue]:
    """Yield a quorum queue that receives what the relay publishes and has no consumer."""
    exchange = await declare_exchange(scene.channel)
    queue = await scene.channel.declare_queue(
        _sink_name(environment["SERVICE"]), durable=True, arguments={"x-queue-type": "quorum"}
    )
    await queue.bind(exchange, MeasuredV1.message_type)
    yield queue
    await queue.delete(if_unused=False, if_empty=False)


async def put_into(scene: Scene, name: str, envelopes: Sequence[MessageEnvelope[MeasuredV1]]) -> None:
    publish = scene.channel.default_exchange.publish
    for first in range(0, len(envelopes), 200):
        await asyncio.gather(*(publish(amqp_message(one), name) for one in envelopes[first : first + 200]))


async def wait_for_messages(scene: Scene, name: str, count: int) -> None:
    """Wait until the queue holds exactly ``count`` messages; RabbitMQ counts with a delay."""
    found = -1
    for _ in range(100):
        found = (await scene.channel.declare_queue(name, passive=True)).declaration_result.message_count or 0
        if found == count:
            return
        await asyncio.sleep(0.05)
    raise SystemExit(f"{name} holds {found} messages instead of {count}: the contenders did different work")


@asynccontextmanager
async def started(
    environment: Environment, log: Path, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ``python -m benchmarks.bus.roles`` with ``arguments``, logging to ``log``; terminate it at the end."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.bus.roles",
            *arguments,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
    try:
        yield process
    except TimeoutError as error:
        raise SystemExit(f"{' '.join(arguments)} did not end in time:\n{_tail(log)}") from error
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(30):
            await process.wait()


async def finish(environment: Environment, log: Path, *arguments: str) -> None:
    """Run it until it ends by itself."""
    async with started(environment, log, *arguments) as process, asyncio.timeout(120):
        if await process.wait() != 0:
            raise SystemExit(f"{' '.join(arguments)} failed:\n{_tail(log)}")


def logged(log: Path, fact: str) -> dict[str, Any]:
    """Return the only log line with this fact."""
    (line,) = (line for line in lines_of(log) if line["event"] == fact)
    return line


def lines_of(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text().splitlines():
        if line.startswith("{") and line.endswith("}"):
            yield json.loads(line)


def _tail(log: Path) -> str:
    return log.read_text()[-3000:]


def _sink_name(service: str) -> str:
    return f"{service}.sink"
