"""Dead letters from the consumer and from the broker, as rows."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity
from prometheus_client import REGISTRY
from pydantic import SecretStr
from sqlalchemy import insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from shared.contracts.envelope import Envelope, Message
from shared.database.engine import Sessions, asyncpg_dsn, new_engine
from shared.database.provisioning import provision
from shared.database.tables import new_metadata
from shared.ids import new_id
from shared.messaging.consumer import Consumer, Retries
from shared.messaging.dead_letters import (
    PARK,
    TAKE,
    Letter,
    changing,
    from_file_line,
    keep,
    measure_dead_letters,
    move_from_broker,
    to_file_line,
)
from shared.messaging.inbox import Subscription
from shared.messaging.tables import DEAD_LETTERS, messaging_tables
from shared.messaging.topology import (
    DELIVERY_LIMIT,
    dead_letter_queue_name,
    declare_queue,
    parked_queue_name,
    queue_name,
)
from shared.settings import Settings
from testkit.messages import running
from testkit.plugin import Databases, server
from testkit.processes import until

SOON = Retries(first_delay=0.001, database_delay=0.01)

# What the first release puts into its queues of dead and parked letters.
FAILURE_HEADERS = {
    "failure-reason": "handler",
    "failure-error": "RuntimeError: the wall\nis wet",
    "failure-attempts": 8,
    "failed-at": "2031-05-01T09:00:00+00:00",
}


class Painted(Message):
    message_type: ClassVar[str] = "events.wall.painted.v1"
    color: str


def envelope(message_id: UUID, *, message_type: str = Painted.message_type, color: str = "žluťoučký") -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": str(message_id),
            "source": "/rostrum/events",
            "type": message_type,
            "subject": str(new_id()),
            "time": "2031-05-01T09:00:00Z",
            "aggregatetype": "events.wall",
            "aggregateseq": 3,
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "data": {"organizer": "acme", "color": color},
        }
    ).encode()


@dataclass(frozen=True)
class Bus:
    """The queues of one service."""

    service: str
    channel: AbstractChannel

    async def send(self, body: bytes, queue: str | None = None, **properties: Any) -> None:
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, **properties)
        await self.channel.default_exchange.publish(message, queue or queue_name(self.service))

    async def count(self, queue: str | None = None) -> int:
        name = queue or queue_name(self.service)
        return (await self.channel.declare_queue(name, passive=True)).declaration_result.message_count or 0

    async def declare_parked(self) -> None:
        """Declare the queue of parked letters as the first release does."""
        await self.channel.declare_queue(
            parked_queue_name(self.service),
            durable=True,
            arguments={"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000},
        )

    async def is_empty(self) -> bool:
        return not await self.count() and not await self.count(dead_letter_queue_name(self.service))


@pytest.fixture
async def bus(settings: Settings, connection: AbstractConnection) -> Bus:
    channel = await connection.channel(on_return_raises=True)
    await declare_queue(channel, settings.service, [])
    return Bus(settings.service, channel)


async def fail(_: AsyncSession, message: Painted, __: Envelope) -> None:
    raise RuntimeError(f"{message.color} cannot be painted")


def failing_consumer(settings: Settings, sessions: Sessions) -> Consumer:
    """Return a consumer whose handler always fails."""
    subscription = Subscription(Painted, fail, keep="every")
    return Consumer(settings, sessions, [subscription], retries=SOON, measure_every=0.05)


async def rows(engine: AsyncEngine) -> list[Letter]:
    async with engine.connect() as connection:
        order = (DEAD_LETTERS.c.failed_at, DEAD_LETTERS.c.message_id)
        return [dict(row) for row in (await connection.execute(select(DEAD_LETTERS).order_by(*order))).mappings()]


def has_rows(engine: AsyncEngine, count: int) -> Callable[[], Any]:
    async def is_so() -> bool:
        return len(await rows(engine)) == count

    return is_so


# -------------------- from the consumer


async def test_a_message_that_always_fails_becomes_one_row_with_all_that_is_known_of_it(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    message_id = new_id()
    body = envelope(message_id)
    properties: dict[str, Any] = {
        "message_id": str(message_id),
        "type": Painted.message_type,
        "content_type": "application/cloudevents+json",
        "headers": {"tracestate": "a=b"},
    }
    async with running(failing_consumer(settings, sessions)):
        for _ in range(2):  # the second as after a crash between commit and ack
            await bus.send(body, **properties)
        await until(has_rows(engine, 1))
        await until(bus.is_empty)
    (letter,) = await rows(engine)
    read = json.loads(body)
    assert datetime.now(UTC) - letter.pop("failed_at") < timedelta(minutes=1)
    assert isinstance(letter.pop("id"), UUID)
    assert letter.pop("headers")["tracestate"] == "a=b"
    assert letter == {
        "message_id": str(message_id),
        "type": Painted.message_type,
        "subject": read["subject"],
        "seq": 3,
        "body": body,
        "properties": {name: value for name, value in properties.items() if name != "headers"},
        "reason": "handler",
        "error": "RuntimeError: žluťoučký cannot be painted",
        "attempts": SOON.attempts,
        "traceparent": read["traceparent"],
        "parked_at": None,
    }


async def test_what_cannot_be_read_is_kept_byte_for_byte(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    bodies = [
        b"\xff\x00 not text",
        b"x" * (8 << 20),
        b'"a string"',
        b'{"type": "\\u0000\\ud800", "id": "\\u0000", "subject": [1], "aggregateseq": 1e400}',
        b'{"aggregateseq": 99999999999999999999999, "type": "%s"}' % (b"t" * 100_000),
        b"[" * 50_000,
        b"",
        envelope(new_id(), message_type="events.wall.painted.v2"),
    ]
    async with running(failing_consumer(settings, sessions)):
        for body in bodies:
            await bus.send(body)
        await until(has_rows(engine, len(bodies)))
        await until(bus.is_empty)
    letters = await rows(engine)
    assert sorted(letter["body"] for letter in letters) == sorted(bodies)
    assert len({letter["message_id"] for letter in letters}) == len(bodies)
    assert {letter["reason"] for letter in letters} == {"unreadable", "version-unknown"}


# The consumer as it is, but for an ack that kills it: the moment between the commit and the ack.
KILLED_AT_ACK = """
import asyncio, os, signal
from typing import Any
from aio_pika import IncomingMessage
from shared.database.engine import new_engine, new_sessions
from shared.messaging.consumer import Consumer
from shared.settings import Settings

async def die(*_: Any) -> None: os.kill(os.getpid(), signal.SIGKILL)

async def main() -> None:
    settings = Settings()
    await Consumer(settings, new_sessions(new_engine(settings, "test")), []).run(asyncio.Event())

IncomingMessage.ack = die
asyncio.run(main())
"""


async def test_a_kill_between_commit_and_ack_leaves_one_row(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    await bus.send(b"not an envelope", message_id="one")
    environment = {
        "SERVICE": settings.service,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "RABBITMQ_URL": settings.rabbitmq_url.get_secret_value(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED_AT_ACK, env={**os.environ, **environment}
    )
    async with asyncio.timeout(30):
        assert await process.wait() == -signal.SIGKILL
        (before,) = await rows(engine)

        async def is_given_back() -> bool:
            return await bus.count() == 1

        await until(is_given_back)
    async with running(failing_consumer(settings, sessions)):
        await until(bus.is_empty)
    (after,) = await rows(engine)
    assert (after["id"], after["body"]) == (before["id"], b"not an envelope")


async def test_while_the_database_is_unavailable_messages_stay_in_their_queues(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    def given_up() -> float:
        labels = {"type": "unreadable", "result": "dead"}
        return REGISTRY.get_sample_value("rostrum_messages_handled_total", labels) or 0

    before = given_up()

    async def is_given_up() -> bool:
        return given_up() > before

    async def are_both_back() -> bool:
        return await bus.count() == await bus.count(dead_letter_queue_name(settings.service)) == 1

    await bus.send(b"not an envelope")
    await bus.send(b"{}", dead_letter_queue_name(settings.service))
    async with closed_database(settings):
        async with running(failing_consumer(settings, sessions)):
            await until(is_given_up)
        async with asyncio.timeout(10):
            await until(are_both_back)
    async with running(failing_consumer(settings, sessions)):
        await until(has_rows(engine, 2))
        await until(bus.is_empty)


@asynccontextmanager
async def closed_database(settings: Settings) -> AsyncIterator[None]:
    """Refuse connections to the test's database, as its server does while it starts."""
    name = make_url(settings.database_url.get_secret_value()).database
    admin = await asyncpg.connect(asyncpg_dsn(server("TEST_DATABASE_URL")))
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await admin.close()


# -------------------- from the broker


async def test_a_message_over_the_delivery_limit_is_moved_into_the_table(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    message_id = new_id()
    body = envelope(message_id)
    await bus.send(body, message_id=str(message_id))
    own = await bus.channel.get_queue(queue_name(settings.service), ensure=False)
    for _ in range(DELIVERY_LIMIT + 1):  # as by a handler that kills its process
        message = await own.get(timeout=10)
        assert message is not None
        await message.reject(requeue=True)
    async with running(failing_consumer(settings, sessions)):
        await until(has_rows(engine, 1))
        await until(bus.is_empty)
    (letter,) = await rows(engine)
    assert (letter["message_id"], letter["reason"]) == (str(message_id), "delivery_limit")
    assert letter["body"] == body
    assert datetime.now(UTC) - letter["failed_at"] < timedelta(minutes=1)


async def test_the_queues_of_the_first_release_are_emptied_into_the_table_and_parked_letters_stay_parked(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    dead, parked = dead_letter_queue_name(settings.service), parked_queue_name(settings.service)
    await bus.declare_parked()
    ids = [new_id() for _ in range(250)]
    for number, message_id in enumerate(ids):
        queue, headers = (parked, {"parked-at": "2031-05-02T09:00:00+00:00"}) if number % 10 == 0 else (dead, {})
        await bus.send(
            envelope(message_id), queue, message_id=str(message_id), headers={**FAILURE_HEADERS, **headers}
        )
    await bus.send(b"\xff", dead)
    await bus.send(b"y" * (8 << 20), parked)
    async with running(failing_consumer(settings, sessions)):
        await until(has_rows(engine, 252))
        await until(bus.is_empty)
    letters = {letter["message_id"]: letter for letter in await rows(engine)}
    for number, message_id in enumerate(ids):
        letter = letters[str(message_id)]
        is_parked = number % 10 == 0
        assert letter["parked_at"] == (datetime(2031, 5, 2, 9, tzinfo=UTC) if is_parked else None)
        assert (letter["reason"], letter["error"], letter["attempts"]) == tuple(FAILURE_HEADERS.values())[:3]
        assert letter["failed_at"] == datetime(2031, 5, 1, 9, tzinfo=UTC)
        assert letter["headers"].keys() <= {"x-delivery-count"}
    foreign = {
        letter["body"][:1]: letter["parked_at"] is None
        for letter in await rows(engine)
        if letter["reason"] == "unknown"
    }
    assert foreign == {b"\xff": True, b"y": False}
    assert await bus.count(parked) == 0


async def test_a_message_moved_twice_is_one_row(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus, connection: AbstractConnection
) -> None:
    async def keep_and_crash(letters: Sequence[Letter]) -> bool:
        await keep(sessions, letters)
        raise RuntimeError("crashed between commit and ack")

    dead = dead_letter_queue_name(settings.service)
    for number in range(3):
        await bus.send(b"%d" % number, dead, headers=FAILURE_HEADERS)
    channel = await connection.channel()
    with pytest.raises(RuntimeError):
        await move_from_broker(channel, dead, keep_and_crash, parked=False)
    await channel.close()
    async with running(failing_consumer(settings, sessions)):
        await until(bus.is_empty)
    assert len(await rows(engine)) == 3


async def test_what_a_pod_of_the_release_before_gives_up_during_a_roll_out_is_moved_too(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    dead, parked = dead_letter_queue_name(settings.service), parked_queue_name(settings.service)
    async with running(failing_consumer(settings, sessions)):
        await bus.send(b"unreadable here")
        await until(has_rows(engine, 1))
        for count in (2, 3):
            await bus.send(b"given up there as number %d" % count, dead, headers=FAILURE_HEADERS)
            await until(has_rows(engine, count))
        # The old pod declares its parked queue, and an operator parks a letter there.
        await bus.declare_parked()
        await bus.send(b"parked there", parked, headers=FAILURE_HEADERS)
    async with running(failing_consumer(settings, sessions)):
        await until(has_rows(engine, 4))
    assert [letter["body"] for letter in await rows(engine) if letter["parked_at"]] == [b"parked there"]


async def test_the_parked_queue_is_not_declared_any_more(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus, connection: AbstractConnection
) -> None:
    async with running(failing_consumer(settings, sessions)):
        await bus.send(b"unreadable")
        await until(has_rows(engine, 1))
    with pytest.raises(ChannelNotFoundEntity):
        await (await connection.channel()).declare_queue(parked_queue_name(settings.service), passive=True)


# -------------------- the table


async def test_a_row_keeps_the_later_failure_and_stays_parked(engine: AsyncEngine, sessions: Sessions) -> None:
    def failed(error: str, day: int) -> Letter:
        headers = {**FAILURE_HEADERS, "failure-error": error, "failed-at": f"2031-05-{day:02}T09:00:00+00:00"}
        line = {"headers": headers, "properties": {"message_id": "one"}, "body": "{}"}
        return from_file_line(json.dumps(line), parked=False)

    await keep(sessions, [failed("first", 1)])
    (letter,) = await rows(engine)
    async with changing(sessions, PARK, [letter["id"]], parked=False):
        pass
    await keep(sessions, [failed("third", 3), failed("second", 2)])
    (letter,) = await rows(engine)
    assert (letter["error"], letter["failed_at"].day) == ("third", 3)
    assert letter["parked_at"] is not None


async def test_a_message_that_fails_again_before_its_replay_has_committed_is_not_lost(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    line = json.dumps({"headers": FAILURE_HEADERS, "properties": {"message_id": "one"}, "body": "{}"})
    again = from_file_line(line.replace("is wet", "is wet again"), parked=False)
    await keep(sessions, [from_file_line(line, parked=False)])
    (letter,) = await rows(engine)
    async with asyncio.timeout(10):
        async with changing(sessions, TAKE, [letter["id"]], parked=False):
            # The consumer has the replayed message already, and gives up on it.
            failing_again = asyncio.create_task(keep(sessions, [again]))
            await until(lambda: _waits_for_a_lock(engine))
        await failing_again
    (row,) = await rows(engine)
    assert row["error"].endswith("wet again")


async def _waits_for_a_lock(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        waiting = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid())")
        return bool(await connection.scalar(waiting))


async def test_headers_that_json_cannot_hold_are_kept_as_text(engine: AsyncEngine, sessions: Sessions) -> None:
    line = r'{"headers": {"a": [NaN, "\u0000", "\ud800"]}, "properties": {"type": "\u0000"}, "body": ""}'
    await keep(sessions, [from_file_line(line, parked=False)])
    (letter,) = await rows(engine)
    assert letter["headers"] == {"a": ["nan", "\N{REPLACEMENT CHARACTER}", "?"]}


def test_a_message_without_an_id_is_named_by_its_body() -> None:
    line = '{"headers": {}, "properties": {}, "body": "%d"}'
    one, same, other = (from_file_line(line % number, parked=False) for number in (1, 1, 2))
    assert one["message_id"].startswith("sha256:6b86b273ff34fce1")
    assert one["id"] == same["id"] != other["id"]


def test_a_line_holds_all_of_a_letter_that_its_row_does() -> None:
    for body in ({"body": "žluťoučký"}, {"body_base64": "/wA="}):
        line = {
            "id": "one",
            "headers": {"tracestate": "a=b", "nested": [{"n": 1}], **FAILURE_HEADERS},
            "properties": {"message_id": "one", "timestamp": "2031-05-01T09:00:00+00:00"},
            **body,
        }
        assert to_file_line(from_file_line(json.dumps(line), parked=False)) == line


async def test_dead_and_parked_letters_are_counted(engine: AsyncEngine, sessions: Sessions) -> None:
    line = '{"headers": {}, "properties": {}, "body": "%d"}'
    await keep(sessions, [from_file_line(line % number, parked=number < 2) for number in range(5)])
    await measure_dead_letters(sessions)
    names = ("rostrum_dead_letters", "rostrum_parked_letters")
    assert [REGISTRY.get_sample_value(name) for name in names] == [3, 2]


async def test_the_role_of_another_service_cannot_see_the_letters(databases: Databases) -> None:
    url = make_url(await databases.empty("letters"))
    assert url.database is not None
    one, other = f"{url.database}_one", f"{url.database}_two"
    await provision(server("TEST_DATABASE_URL"), {one: "secret", other: "secret"}, database=url.database)
    metadata = new_metadata()
    messaging_tables(metadata)

    def engine_of(service: str) -> AsyncEngine:
        own = url.set(username=service, password="secret").render_as_string(hide_password=False)
        return new_engine(Settings(service=service, database_url=SecretStr(own)), "test")

    owner, stranger = engine_of(one), engine_of(other)
    try:
        async with owner.begin() as connection:
            await connection.run_sync(metadata.create_all)
            line = '{"headers": {}, "properties": {}, "body": "secret"}'
            await connection.execute(insert(DEAD_LETTERS).values(from_file_line(line, parked=False)))
        for statement in ("SELECT FROM", "DELETE FROM"):
            async with stranger.connect() as connection:
                with pytest.raises(DBAPIError, match="permission denied"):
                    await connection.execute(text(f'{statement} "{one}".dead_letters'))
        async with owner.connect() as connection:
            assert await connection.scalar(select(DEAD_LETTERS.c.body)) == b"secret"
    finally:
        await owner.dispose()
        await stranger.dispose()
        admin = await asyncpg.connect(asyncpg_dsn(url.render_as_string(hide_password=False)))
        for role in (one, other):
            await admin.execute(f'DROP OWNED BY "{role}" CASCADE')
            await admin.execute(f'DROP ROLE "{role}"')
        await admin.close()
