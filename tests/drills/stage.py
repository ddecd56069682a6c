"""Where drills are played: servers and an api that stay for the session, and the roles that a drill asks for."""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import alembic.command
import alembic.config
import asyncpg
import orjson
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local.running import ROOT
from events import messenger
from events.settings import EventsSettings
from shared.contracts.envelope import CONTENT_TYPE
from shared.database.provisioning import DATABASE, provision
from shared.messaging.topology import EXCHANGE, dead_letter_queue_name, declare_queue, queue_name
from shared.settings import Settings
from testkit.plugin import AUDIENCE, ISSUER, TokenFactory
from tests.drills import ledger
from tests.drills.audit import Fact, State
from tests.drills.proxy import Proxy
from tests.drills.roles import Part, Role, start_role
from tests.drills.scale import scale_of_this_run
from tests.drills.servers import Broker, Database

API = Part("events.api")
# Their faults are inactive until armed, so nearly all drills share these roles.
_HASTE = scale_of_this_run().haste
MESSENGER = Part("events.messenger").with_constants(**_HASTE).with_faults("die-before-mark")
LEDGER = Part("tests.drills.ledger").with_constants(**_HASTE).with_faults("die-before-ack", "dawdle")

SPY = "spy"
SERVICES = {"events": messenger.SUBSCRIPTIONS, ledger.SERVICE: ledger.SUBSCRIPTIONS}


@dataclass(frozen=True)
class Seen:
    """A message seen on the bus."""

    fact: Fact
    body: bytes
    type: str


@dataclass(frozen=True)
class Use:
    """What the roles hold: database sessions by name, sessions in a transaction, connections and channels at the
    broker, and memory in bytes by process."""

    sessions: Counter[str]
    transactions: int
    broker: tuple[int, int]
    memory: dict[int, int]


class Stage:
    """The servers, tables, queues and roles of all drills. Roles reach the broker through the proxy ``wire``."""

    def __init__(self, folder: Path, tokens: TokenFactory) -> None:
        self._folder = folder
        self._tokens = tokens
        self.database = Database(folder)
        self.broker = Broker(folder)
        self.wire = Proxy(self.broker.port)
        self.roles: dict[Part, Role] = {}
        self._connection: asyncpg.Connection | None = None
        self._redelivered = 0
        self._redelivered_before: dict[Role, int] = {}
        self._log_ends: dict[Path, int] = {}
        self._ledgers: list[Role] = []
        # Settings of the roles that are started from now on.
        self.settings: dict[str, str] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        try:
            async with self.wire:
                await asyncio.gather(self.database.start(), self.broker.start())
                await asyncio.gather(self._make_tables(), self._declare_queues())
                await self.cast(API)
                yield
        finally:
            for role in self.roles.values():
                await role.kill()
            if self._connection is not None:
                self._connection.terminate()
            for server in (self.database, self.broker):
                if server.is_running:
                    await server.kill()
            shutil.rmtree(self._folder)

    async def _make_tables(self) -> None:
        await provision(self.database.url(), dict.fromkeys(SERVICES, "secret"))
        await self.migrate(EventsSettings())
        engine = create_async_engine(self._database_url(ledger.SERVICE))
        async with engine.begin() as connection:
            await connection.run_sync(ledger.METADATA.create_all)
        await engine.dispose()

    async def migrate(self, settings: Settings) -> None:
        """Create the tables of the service of these settings."""
        url = SecretStr(self._database_url(settings.service))
        config = alembic.config.Config(ROOT / "services" / settings.service / "alembic.ini")
        config.attributes["settings"] = settings.model_copy(update={"database_url": url})
        await asyncio.to_thread(alembic.command.upgrade, config, "head")

    async def _declare_queues(self) -> None:
        async with await self.broker.connect() as connection:
            channel = await connection.channel()
            for service, subscriptions in SERVICES.items():
                await declare_queue(channel, service, [item.message.message_type for item in subscriptions])
            spy = await channel.declare_queue(SPY, durable=True, arguments={"x-queue-type": "quorum"})
            await spy.bind(EXCHANGE, "events.#")
        await self.broker.until_stored([SPY, *_queues()])

    def _database_url(self, service: str) -> str:
        return f"postgresql+asyncpg://{service}:secret@127.0.0.1:{self.database.port}/{DATABASE}"

    def _environment(self, part: Part) -> dict[str, str]:
        service = ledger.SERVICE if part.module == LEDGER.module else part.module.partition(".")[0]
        return {
            "DATABASE_URL": self._database_url(service),
            "RABBITMQ_URL": self.broker.url(self.wire.port),
            "JWKS_URL": self._tokens.jwks_url,
            "TOKEN_ISSUER": ISSUER,
            "TOKEN_AUDIENCE": AUDIENCE,
            **self.settings,
        }

    @property
    def api_url(self) -> str:
        return self.roles[API].url

    def credentials(self) -> dict[str, str]:
        return self._tokens.organizer()

    async def cast(self, *parts: Part) -> None:
        """Run exactly these roles. Those that run already keep running, because a start takes seconds."""
        leaving = [part for part, role in self.roles.items() if part not in parts or not role.is_alive]
        await asyncio.gather(*(self.dismiss(part) for part in leaving))
        missing = dict.fromkeys(part for part in parts if part not in self.roles)
        await asyncio.gather(*(self.start(part) for part in missing))

    async def start(self, part: Part, *, port: int | None = None) -> Role:
        """Start the part in place of an earlier one that has ended."""
        role = await start_role(part, self._environment(part), self._folder, port)
        self.roles[part] = role
        if part.module == LEDGER.module:
            self._ledgers.append(role)
        return role

    async def stop(self, part: Part) -> int:
        """Send SIGTERM and return the exit code."""
        await self._remember_redelivered(self.roles[part])
        return await self.roles[part].stop()

    async def kill(self, part: Part) -> None:
        """Send SIGKILL."""
        await self._remember_redelivered(self.roles[part])
        await self.roles[part].kill()

    async def _remember_redelivered(self, role: Role) -> None:
        if role in self._ledgers:
            self._redelivered += await role.redelivered() - self._redelivered_before.get(role, 0)

    async def dismiss(self, part: Part) -> None:
        role = self.roles.pop(part)
        if role.is_alive:
            try:
                await role.stop()
            finally:
                await role.kill()

    async def begin_count(self) -> None:
        """Disregard what ledgers have counted and logged so far."""
        self._ledgers = [role for role in self._ledgers if role.is_alive]
        self._log_ends = {role.log: role.log.stat().st_size for role in self._ledgers}
        self._redelivered = 0
        self._redelivered_before = {role: await role.redelivered() for role in self._ledgers}

    async def count_redelivered(self) -> int:
        """Return how many messages the broker redelivered to the ledger, except those of ledgers that were killed.

        Call it once, at the end of the count.
        """
        for role in self._ledgers:
            if role.is_alive:
                await self._remember_redelivered(role)
        return self._redelivered

    def outcomes(self) -> Counter[str]:
        """Return the outcomes of the ledger's messages: handled, duplicate or stale."""
        return Counter(
            line["outcome"]
            for role in self._ledgers
            for line in role.lines("message.handled", since=self._log_ends.get(role.log, 0))
        )

    async def repair(self) -> None:
        """Repair what a failed drill has left broken."""
        self.wire.resume()
        for server in (self.database, self.broker):
            if not server.is_running:
                await server.start()

    async def clear(self) -> None:
        """Delete all rows and messages."""
        connection = await self.database.connect(DATABASE)
        try:
            tables = await connection.fetch(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'ledger' OR schemaname = 'events'"
                " AND tablename IN"
                " ('events', 'outbox', 'inbox', 'inbox_positions', 'dead_letters', 'idempotency_keys')"
            )
            # As a replica does: without a look at the programmes, images and so on that these events don't have.
            await connection.execute("SET session_replication_role = replica")
            for table in tables:
                await connection.execute('DELETE FROM "{}"."{}"'.format(*table))
        finally:
            await connection.close()
        async with await self.broker.connect() as broker:
            channel = await broker.channel()
            for name in (SPY, *_queues()):
                await (await channel.get_queue(name)).purge()

    async def is_quiet(self) -> bool:
        """Return whether the outbox and the ledger's queue are empty."""
        return not await self.count_unpublished() and not await self.count_waiting()

    async def clock(self) -> datetime:
        """Return the time of the database's clock."""
        (row,) = await self._fetch("SELECT clock_timestamp()")
        return cast(datetime, row[0])

    async def has_arrived(self, before: datetime) -> bool:
        """Return whether the ledger has received all rows written before this instant of the database's clock."""
        missing = await self._fetch(
            "SELECT FROM events.outbox WHERE created_at < $1"
            " AND NOT EXISTS (SELECT FROM ledger.inbox WHERE message_id = outbox.id) LIMIT 1",
            before,
        )
        return not missing

    async def count_unpublished(self, service: str = "events") -> int:
        rows = await self._fetch(f'SELECT count(*) FROM "{service}".outbox WHERE published_at IS NULL')
        return int(rows[0][0])

    async def count_dead(self, service: str) -> int:
        """Return the number of its dead letters, messages and job triggers together."""
        queues = [dead_letter_queue_name(service), f"{service}.jobs.XQ"]
        count = int((await self._fetch(f'SELECT count(*) FROM "{service}".dead_letters'))[0][0])
        async with await self.broker.connect() as connection:
            for queue in queues:
                channel = await connection.channel()  # asking for a missing queue closes it
                with suppress(ChannelNotFoundEntity):
                    count += (await channel.get_queue(queue)).declaration_result.message_count or 0
        return count

    async def count_waiting(self) -> int:
        return await self.broker.count_messages(queue_name(ledger.SERVICE))

    async def states(self) -> list[State]:
        return [State(*row) for row in await self._fetch("SELECT id, version, name FROM events.events")]

    async def outbox(self) -> list[Fact]:
        rows = await self._fetch(
            "SELECT id, aggregate_id, aggregate_seq, payload->>'name' FROM events.outbox WHERE kind = 'message'"
        )
        return [Fact(*row) for row in rows]

    async def effects(self) -> list[Fact]:
        rows = await self._fetch("SELECT message_id, subject, seq, name FROM ledger.effects ORDER BY serial")
        return [Fact(*row) for row in rows]

    async def _fetch(self, statement: str, *values: Any) -> list[Any]:
        if self._connection is None or self._connection.is_closed():  # after a restart
            self._connection = await self.database.connect(DATABASE)
        return list(await self._connection.fetch(statement, *values))

    async def take_from_bus(self) -> list[Seen]:
        """Return the messages that the spy has received since the last call."""
        return [_seen(message) for message in await self._take(SPY)]

    async def take_dead_letters(self) -> list[str]:
        """Remove the dead letters and return the names of their writes."""
        bodies = []
        for service in SERVICES:
            # The broker may have one that no messenger has moved yet.
            bodies += [message.body for message in await self._take(dead_letter_queue_name(service))]
            rows = await self._fetch(f'DELETE FROM "{service}".dead_letters RETURNING body')
            bodies += [row["body"] for row in rows]
        return [str(orjson.loads(body)["data"]["name"]) for body in bodies]

    async def _take(self, queue_name: str) -> list[AbstractIncomingMessage]:
        taken: list[AbstractIncomingMessage] = []
        async with await self.broker.connect() as connection:
            channel = await connection.channel()
            queue = await channel.get_queue(queue_name)
            while (message := await queue.get(no_ack=True, fail=False)) is not None:
                taken.append(message)
        return taken

    async def deliver(self, messages: Iterable[Seen]) -> None:
        """Put copies into the ledger's queue in this sequence."""
        async with await self.broker.connect() as connection:
            channel = await connection.channel(publisher_confirms=True)
            for seen in messages:
                copy = Message(
                    seen.body,
                    content_type=CONTENT_TYPE,
                    delivery_mode=DeliveryMode.PERSISTENT,
                    message_id=str(seen.fact.id),
                    type=seen.type,
                )
                await channel.default_exchange.publish(copy, queue_name(ledger.SERVICE))

    async def purge_queue(self) -> None:
        """Purge the ledger's queue."""
        async with await self.broker.connect() as connection:
            queue = await (await connection.channel()).get_queue(queue_name(ledger.SERVICE))
            await queue.purge()

    async def use(self) -> Use:
        rows = await self._fetch(
            "SELECT application_name, coalesce(state, '') FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND usename IN ('events', 'ledger')"
        )
        return Use(
            sessions=Counter(name for name, _ in rows),
            transactions=sum(state.startswith("idle in transaction") for _, state in rows),
            broker=await self.broker.count_connections(),
            memory={role.pid: role.memory for role in self.roles.values()},
        )


def _queues() -> list[str]:
    return [name(service) for service in SERVICES for name in (queue_name, dead_letter_queue_name)]


def _seen(message: AbstractIncomingMessage) -> Seen:
    envelope = orjson.loads(message.body)
    fact = Fact(UUID(envelope["id"]), UUID(envelope["subject"]), envelope["aggregateseq"], envelope["data"]["name"])
    return Seen(fact, message.body, envelope["type"])
