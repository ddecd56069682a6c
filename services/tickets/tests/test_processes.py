"""The real processes on real servers: they start, serve, carry messages both ways and stop cleanly."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import aio_pika
import alembic.command
import alembic.config
import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from shared.messaging.topology import EXCHANGE, dead_letter_queue_name, queue_name
from shared.provisioning import provision
from shared.testing import AUDIENCE, ISSUER, Databases, ServiceUnderTest, TokenFactory, server
from tickets.settings import TicketsSettings


@dataclass(frozen=True)
class Running:
    url: str
    process: asyncio.subprocess.Process
    log: Path

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            return await self.process.wait()


@asynccontextmanager
async def running(module: str, port: int, environment: dict[str, str], folder: Path) -> AsyncIterator[Running]:
    """The module as a process that says it is ready; killed at the end if it still runs."""
    log = folder / f"{module}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient() as client, asyncio.timeout(60):

            async def is_ready() -> bool:
                assert process.returncode is None, log.read_text()
                return await _is_ready(client, url)

            await until(is_ready)
        yield Running(url, process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again: the condition is in another process. The caller sets the timeout."""
    while not await is_so():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/healthz/ready")).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
async def environment(
    service: ServiceUnderTest, databases: Databases, tokens: TokenFactory
) -> AsyncIterator[dict[str, str]]:
    """Settings of a service under a name of its own, so that its role, schema and queues are nobody else's."""
    name = f"tickets_{uuid4().hex[:8]}"
    admin_url = server("TEST_DATABASE_URL")
    empty = make_url(await databases.empty("processes"))
    assert empty.database is not None
    await provision(admin_url, {name: "secret"}, database=empty.database)
    url = empty.set(username=name, password="secret").render_as_string(hide_password=False)
    config = alembic.config.Config(service.root / "alembic.ini")
    config.attributes["settings"] = TicketsSettings(service=name, database_url=SecretStr(url))
    await asyncio.to_thread(alembic.command.upgrade, config, "head")
    yield {
        "SERVICE": name,
        "DATABASE_URL": url,
        "RABBITMQ_URL": server("TEST_RABBITMQ_URL"),
        "JWKS_URL": tokens.jwks_url,
        "TOKEN_ISSUER": ISSUER,
        "TOKEN_AUDIENCE": AUDIENCE,
        "PUBLIC_URL": "http://gateway.test",
        "API_PORT": str(free_port()),
        "HEALTH_PORT": str(free_port()),
    }
    async with await aio_pika.connect(server("TEST_RABBITMQ_URL")) as broker:
        channel = await broker.channel()
        for queue in (queue_name(name), dead_letter_queue_name(name)):
            await channel.queue_delete(queue)
    database = await asyncpg.connect(admin_url.replace("+asyncpg", "", 1), database=empty.database)
    await database.execute(f'DROP OWNED BY "{name}"')
    await database.execute(f'DROP ROLE "{name}"')
    await database.close()


async def test_api_and_messenger_serve_carry_messages_both_ways_and_stop_cleanly(
    environment: dict[str, str], tokens: TokenFactory, tmp_path: Path
) -> None:
    ports = int(environment["API_PORT"]), int(environment["HEALTH_PORT"])
    event_id = str(uuid4())
    path = f"/v1/events/{event_id}/tickets"
    async with (
        await aio_pika.connect(environment["RABBITMQ_URL"]) as broker,
        running("tickets.api", ports[0], environment, tmp_path) as api,
        running("tickets.messenger", ports[1], environment, tmp_path) as messenger,
        httpx.AsyncClient(base_url=api.url, headers=tokens.organizer()) as client,
        asyncio.timeout(60),
    ):
        channel = await broker.channel()
        listening = await channel.declare_queue(exclusive=True)
        await listening.bind(EXCHANGE, "tickets.ticket.created.v1")
        published = {
            "specversion": "1.0",
            "id": str(uuid4()),
            "source": "/rostrum/events",
            "type": "events.event.published.v1",
            "subject": event_id,
            "time": "2026-11-22T12:00:00Z",
            "aggregatetype": "events.event",
            "aggregateseq": 2,
            "data": {
                "organizer": "acme",
                "event_id": event_id,
                "identifier": "k3x9q0ab",
                "name": "Autumn days",
                "timezone": "Europe/Berlin",
                "starts_at": "2097-10-26T07:00:00Z",
                "ends_at": "2097-10-28T17:00:00Z",
                "state": "published",
                "version": 2,
                "news": "a field that this release does not know",
            },
        }
        queue = queue_name(environment["SERVICE"])
        await until(lambda: _queue_is_there(broker, queue))
        for _ in range(2):
            await channel.default_exchange.publish(
                aio_pika.Message(json.dumps(published).encode()), routing_key=queue
            )

        async def is_known() -> bool:
            return (await client.get(path)).status_code == 200

        await until(is_known)
        created = await client.post(path, json={"name": "Regular", "type": "free"})
        assert created.status_code == 201, created.text
        async with listening.iterator() as messages:
            async for message in messages:
                await message.ack()
                sent = json.loads(message.body)
                if sent["subject"] == created.json()["id"]:
                    break
        assert (sent["type"], sent["aggregateseq"]) == ("tickets.ticket.created.v1", 1)
        assert sent["data"]["sales_ends_at"] == "2097-10-28T17:00:00Z"
        listed = await client.get(path, params={"sales": "open"}, headers={"X-Request-ID": "list-1"})
        assert listed.json()["items"] == [created.json()]

        assert await messenger.stop() == 0, messenger.log.read_text()
        assert await api.stop() == 0, api.log.read_text()
    lines = [json.loads(line) for line in api.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "list-1"]
    assert (line["event"], line["route"], line["status"]) == (
        "request.answered",
        "/v1/events/{event_ref}/tickets",
        200,
    )
    assert line["trace_id"]


async def _queue_is_there(broker: aio_pika.abc.AbstractConnection, name: str) -> bool:
    channel = await broker.channel()  # asking for a queue that is missing closes the channel
    try:
        await channel.get_queue(name)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return False
    await channel.close()
    return True
