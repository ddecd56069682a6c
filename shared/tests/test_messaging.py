import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from uuid import UUID

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractQueue, AbstractRobustConnection
from aiormq import spec
from pamqp import frame
from prometheus_client import REGISTRY
from pydantic import SecretStr
from sqlalchemy import func, make_url, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from shared.contracts.envelope import Envelope, Message
from shared.database.engine import Sessions, asyncpg_dsn
from shared.ids import new_id
from shared.messaging import outbox
from shared.messaging.commit_notifier import notifying_sessions
from shared.messaging.connection import connect
from shared.messaging.consumer import ATTEMPTS, Consumer
from shared.messaging.inbox import Subscription, by_message_type, handle_once
from shared.messaging.outbox import MessageTooLarge
from shared.messaging.relay import BUCKETS, Relay, Timings
from shared.messaging.tables import DEAD_LETTERS, INBOX, OUTBOX
from shared.messaging.topology import EXCHANGE, queue_name
from shared.settings import Settings
from testkit.plugin import delete_queues, server


def message_class(service: str, verb: str = "painted", version: int = 1) -> type[Message]:
    class Painted(Message):
        message_type: ClassVar[str] = f"{service}.wall.{verb}.v{version}"
        color: str

    return Painted


def paint(kind: type[Message], color: str) -> Message:
    return kind.model_validate({"organizer": "acme", "color": color})


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[AbstractRobustConnection]:
    connection = await aio_pika.connect_robust(settings.rabbitmq_url.get_secret_value())
    yield connection
    await delete_queues(await connection.channel(), settings.service)
    await connection.close()


@pytest.fixture
async def spy(settings: Settings, broker: AbstractRobustConnection) -> AbstractQueue:
    """A queue that gets every message of the service under test."""
    channel = await broker.channel()
    exchange = await channel.declare_exchange(EXCHANGE, "topic", durable=True)
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(exchange, f"{settings.service}.#")
    return queue


async def take(queue: AbstractQueue, count: int) -> list[dict[str, Any]]:
    taken: list[dict[str, Any]] = []
    async with asyncio.timeout(60), queue.iterator(no_ack=True) as incoming:
        async for message in incoming:
            taken.append(json.loads(message.body))
            if len(taken) == count:
                break
    return taken


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110 - the condition lives in another process
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(*parts: Any) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    tasks = [asyncio.create_task(part.run(stopping)) for part in parts]
    try:
        yield
    finally:
        stopping.set()
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks)


FAST = Timings(poll=0.05)


async def unpublished(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return (
            await connection.scalar(select(func.count()).select_from(OUTBOX).where(OUTBOX.c.published_at.is_(None)))
        ) or 0


async def test_a_rolled_back_change_sends_nothing_and_a_committed_one_is_sent_as_a_cloud_event(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, spy: AbstractQueue
) -> None:
    painted = message_class(settings.service)
    wall = new_id()
    async with sessions() as session:
        await outbox.add(session, paint(painted, "ghost"), subject=wall, seq=1)
        await session.rollback()
    async with sessions.begin() as session:
        message_id = await outbox.add(session, paint(painted, "red"), subject=wall, seq=1)
    async with running(Relay(settings)):
        (envelope,) = await take(spy, 1)
        await eventually(lambda: _is_zero(engine))
    assert envelope["data"] == {"organizer": "acme", "color": "red"}
    assert envelope["id"] == str(message_id)
    assert envelope["type"] == painted.message_type
    assert (envelope["specversion"], envelope["subject"], envelope["aggregateseq"]) == ("1.0", str(wall), 1)


async def _is_zero(engine: AsyncEngine) -> bool:
    return await unpublished(engine) == 0


async def test_messages_of_one_aggregate_leave_in_the_order_of_their_sequence(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, spy: AbstractQueue
) -> None:
    painted = message_class(settings.service)
    walls = [new_id() for _ in range(10)]
    for seq in range(1, 31):
        async with sessions.begin() as session:
            for wall in walls:
                await outbox.add(session, paint(painted, str(seq)), subject=wall, seq=seq)
    async with running(Relay(settings)):
        envelopes = await take(spy, 300)
    for wall in walls:
        seqs = [item["aggregateseq"] for item in envelopes if item["subject"] == str(wall)]
        assert seqs == list(range(1, 31))


async def test_a_notification_after_the_commit_wakes_the_relay_long_before_its_poll(
    settings: Settings, engine: AsyncEngine, spy: AbstractQueue, monkeypatch: Any
) -> None:
    painted = message_class(settings.service)
    async with (
        notifying_sessions(engine, settings.service) as sessions,
        running(Relay(settings, timings=Timings(poll=60))),
    ):
        for seq in range(1, 4):
            async with sessions.begin() as session:
                await outbox.add(session, paint(painted, "red"), subject=UUID(int=7), seq=seq)
            await take(spy, 1)  # times out unless the notification arrives


async def test_a_message_that_nobody_is_bound_to_does_not_stay_in_the_outbox(
    settings: Settings, engine: AsyncEngine, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        await outbox.add(session, paint(message_class(settings.service), "red"), subject=new_id(), seq=1)
    async with running(Relay(settings)):
        await eventually(lambda: _is_zero(engine))


async def test_what_the_broker_refuses_holds_up_its_own_aggregate_only_and_leaves_in_order_later(
    settings: Settings,
    engine: AsyncEngine,
    sessions: Sessions,
    broker: AbstractRobustConnection,
    spy: AbstractQueue,
) -> None:
    painted, washed = message_class(settings.service), message_class(settings.service, "washed")
    channel = await broker.channel()
    full = await channel.declare_queue(
        exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    await full.bind(EXCHANGE, painted.message_type)
    await channel.default_exchange.publish(aio_pika.Message(b"fills it"), full.name)
    blocked, free = new_id(), new_id()
    async with sessions.begin() as session:
        await outbox.add(session, paint(painted, "refused"), subject=blocked, seq=1)
        await outbox.add(session, paint(washed, "waits"), subject=blocked, seq=2)
        await outbox.add(session, paint(washed, "goes"), subject=free, seq=1)

    async def is_refused() -> bool:
        async with engine.connect() as connection:
            return await connection.scalar(select(OUTBOX.c.id).where(OUTBOX.c.last_error.is_not(None))) is not None

    async with running(Relay(settings)):
        await eventually(is_refused)
        await eventually(lambda: _is_unpublished(engine, 2))
        await full.purge()
        await eventually(lambda: _is_zero(engine))
    # The spy's queue had room, so it got the refused message once more: at least once, in order.
    colors = [item["data"]["color"] for item in await take(spy, 4)]
    assert colors.index("goes") < colors.index("waits")
    assert [color for color in colors if color != "goes"] == ["refused", "refused", "waits"]


async def _is_unpublished(engine: AsyncEngine, count: int) -> bool:
    return await unpublished(engine) == count


async def test_an_oversize_message_is_refused_when_it_is_written(settings: Settings, sessions: Sessions) -> None:
    async with sessions() as session:
        with pytest.raises(MessageTooLarge, match="at most 65536"):
            await outbox.add(session, paint(message_class(settings.service), "x" * 70_000), subject=new_id(), seq=1)


async def test_a_message_delivered_three_times_has_one_effect(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, broker: AbstractRobustConnection
) -> None:
    painted = message_class(settings.service)
    effects: list[str] = []

    async def on_painted(session: AsyncSession, message: Any, envelope: Envelope) -> None:
        effects.append(message.color)

    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted, keep="latest")])):
        channel = await broker.channel()
        await eventually(lambda: _is_declared(broker, settings))
        body = envelope_of(painted, "red")
        for _ in range(3):
            await channel.default_exchange.publish(aio_pika.Message(body), queue_name(settings.service))
        await channel.default_exchange.publish(
            aio_pika.Message(envelope_of(painted, "last")), queue_name(settings.service)
        )
        await eventually(lambda: _contains(effects, "last"))
        await eventually(lambda: _is_drained(broker, settings))
    assert sorted(effects) == ["last", "red"]


async def test_messages_of_one_aggregate_are_handled_in_order_and_one_at_a_time(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, broker: AbstractRobustConnection
) -> None:
    painted = message_class(settings.service)
    subject = new_id()
    at_work: list[str] = []
    done: list[str] = []

    async def on_painted(session: AsyncSession, message: Any, envelope: Envelope) -> None:
        at_work.append(message.color)
        assert len(at_work) == 1
        await session.execute(select(func.pg_sleep(0.01)))
        at_work.remove(message.color)
        done.append(message.color)

    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted, keep="latest")])):
        channel = await broker.channel()
        await eventually(lambda: _is_declared(broker, settings))
        for number in range(40):
            body = envelope_of(painted, str(number), subject)
            await channel.default_exchange.publish(aio_pika.Message(body), queue_name(settings.service))
        await eventually(lambda: _contains(done, "39"))
    assert done == [str(number) for number in range(40)]


async def test_without_the_inbox_row_the_same_message_would_have_its_effect_again(
    settings: Settings, sessions: Sessions
) -> None:
    """The twin of the test above: it is the inbox row that absorbs the copy."""
    painted = message_class(settings.service)
    effects: list[str] = []

    async def on_painted(session: AsyncSession, message: Any, envelope: Envelope) -> None:
        effects.append(message.color)

    body = envelope_of(painted, "red")
    envelope = Envelope.model_validate_json(body)
    subscription = Subscription(painted, on_painted, keep="latest")
    assert await handle_once(sessions, body, envelope, subscription) == "handled"
    assert await handle_once(sessions, body, envelope, subscription) == "duplicate"
    async with sessions.begin() as session:
        await session.execute(INBOX.delete())
    assert await handle_once(sessions, body, envelope, subscription) == "handled"
    assert effects == ["red", "red"]


async def test_a_type_that_nobody_here_knows_is_counted_and_goes(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, broker: AbstractRobustConnection
) -> None:
    painted, strange = message_class(settings.service), message_class(settings.service, "sandblasted")

    async def on_painted(session: AsyncSession, message: Any, envelope: Envelope) -> None: ...

    async def is_counted() -> bool:
        labels = {"type": strange.message_type, "result": "unknown"}
        return REGISTRY.get_sample_value("rostrum_messages_handled_total", labels) == 1

    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted, keep="latest")])):
        channel = await broker.channel()
        await eventually(lambda: _is_declared(broker, settings))
        body = envelope_of(strange, "red")
        await channel.default_exchange.publish(aio_pika.Message(body), queue_name(settings.service))
        await eventually(is_counted)
        await eventually(lambda: _is_drained(broker, settings))
    async with engine.connect() as connection:
        assert not (await connection.execute(select(DEAD_LETTERS.c.id))).all()


async def on_anything(session: AsyncSession, message: Message, envelope: Envelope) -> None: ...


async def test_of_state_messages_one_older_than_the_newest_handled_is_dropped(
    settings: Settings, sessions: Sessions
) -> None:
    painted, washed = message_class(settings.service), message_class(settings.service, "washed")

    async def receive(kind: type[Message], seq: int) -> str:
        body = envelope_of(kind, "red", UUID(int=7), seq)
        return await handle_once(
            sessions, body, Envelope.model_validate_json(body), Subscription(kind, on_anything, keep="latest")
        )

    assert await receive(painted, 2) == "handled"
    assert await receive(painted, 1) == "stale"
    assert await receive(washed, 1) == "stale"
    assert await receive(washed, 2) == "handled"
    assert await receive(painted, 3) == "handled"


async def test_every_fact_is_handled_whatever_its_aggregate_has_seen_and_leaves_no_state_stale(
    settings: Settings, sessions: Sessions
) -> None:
    painted, washed = message_class(settings.service), message_class(settings.service, "washed")

    async def receive(seq: int, subscription: Subscription[Any]) -> str:
        body = envelope_of(subscription.message, "red", UUID(int=7), seq)
        return await handle_once(sessions, body, Envelope.model_validate_json(body), subscription)

    state = Subscription(painted, on_anything, keep="latest")
    fact = Subscription(washed, on_anything, keep="every")
    assert await receive(3, state) == "handled"
    assert await receive(2, fact) == "handled"
    assert await receive(1, fact) == "handled"
    assert await receive(9, fact) == "handled"
    assert await receive(4, state) == "handled"


async def test_a_fact_that_comes_again_has_one_effect(settings: Settings, sessions: Sessions) -> None:
    painted = message_class(settings.service)
    body = envelope_of(painted, "red")
    envelope, subscription = Envelope.model_validate_json(body), Subscription(painted, on_anything, keep="every")
    assert await handle_once(sessions, body, envelope, subscription) == "handled"
    assert await handle_once(sessions, body, envelope, subscription) == "duplicate"


def test_subscriptions_that_would_lose_messages_to_one_another_are_refused() -> None:
    async def on_washed(session: AsyncSession, message: Message, envelope: Envelope) -> None: ...

    painted, washed = message_class("walls"), message_class("walls", "washed")
    latest, every = Subscription(painted, on_anything, keep="latest"), Subscription(washed, on_washed, keep="every")
    assert set(by_message_type([latest, every])) == {painted.message_type, washed.message_type}
    with pytest.raises(ValueError, match=r'painted\.v1 and walls\.wall\.washed\.v1 keep "latest"'):
        by_message_type([latest, Subscription(washed, on_washed, keep="latest")])
    with pytest.raises(ValueError, match=r"walls\.wall\.washed\.v1 has two subscriptions"):
        by_message_type([every, every])


async def test_what_follows_a_message_in_its_aggregate_waits_while_that_is_tried_again(
    settings: Settings, sessions: Sessions, broker: AbstractRobustConnection, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared.messaging.consumer.FIRST_RETRY_DELAY", 0.001)
    painted = message_class(settings.service)
    failures = iter([True, True, True])
    done: list[str] = []

    async def on_painted(session: AsyncSession, message: Any, envelope: Envelope) -> None:
        if message.color == "1" and next(failures, False):
            raise RuntimeError("not yet")
        done.append(message.color)

    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted, keep="latest")])):
        channel = await broker.channel()
        await eventually(lambda: _is_declared(broker, settings))
        for seq in range(1, 6):
            body = envelope_of(painted, str(seq), UUID(int=7), seq)
            await channel.default_exchange.publish(aio_pika.Message(body), queue_name(settings.service))
        await eventually(lambda: _contains(done, "5"))
    assert done == ["1", "2", "3", "4", "5"]


async def test_while_the_database_is_away_no_message_becomes_a_dead_letter(
    settings: Settings, sessions: Sessions, broker: AbstractRobustConnection, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared.messaging.consumer.FIRST_RETRY_DELAY", 0.001)
    monkeypatch.setattr("shared.messaging.consumer.DATABASE_RETRY_SECONDS", 0.01)
    painted = message_class(settings.service)
    done: list[str] = []

    async def on_painted(session: AsyncSession, message: Any, envelope: Envelope) -> None:
        done.append(message.color)

    async def has_failed_often() -> bool:
        labels = {"type": painted.message_type, "result": "failed"}
        return (REGISTRY.get_sample_value("rostrum_messages_handled_total", labels) or 0) > 2 * ATTEMPTS

    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted, keep="latest")])):
        channel = await broker.channel()
        await eventually(lambda: _is_declared(broker, settings))
        async with closed_database(settings):
            body = envelope_of(painted, "red")
            await channel.default_exchange.publish(aio_pika.Message(body), queue_name(settings.service))
            await eventually(has_failed_often)
        await eventually(lambda: _contains(done, "red"))


@asynccontextmanager
async def closed_database(settings: Settings) -> AsyncIterator[None]:
    """Nobody can be connected to the test's database, as while its server starts."""
    name = make_url(settings.database_url.get_secret_value()).database
    admin = await asyncpg.connect(asyncpg_dsn(server("TEST_DATABASE_URL")))
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await admin.close()


async def test_several_relays_share_the_buckets_and_take_over_those_of_one_that_ends(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, spy: AbstractQueue, monkeypatch: Any
) -> None:
    painted = message_class(settings.service)
    relays = [Relay(settings, timings=FAST) for _ in range(3)]

    async def shares(*expected: int) -> None:
        async def are_so() -> bool:
            held = [relay.buckets for relay in relays]
            return sorted(map(len, held)) == sorted(expected) and set().union(*held) == set(range(BUCKETS))

        await eventually(are_so)

    async with running(relays[0]):
        await shares(16, 0, 0)
        async with running(relays[1], relays[2]):
            await shares(6, 6, 4)
            for seq in range(1, 6):
                async with sessions.begin() as session:
                    for wall in range(20):
                        await outbox.add(session, paint(painted, "red"), subject=UUID(int=wall), seq=seq)
            envelopes = await take(spy, 100)
        await shares(16, 0, 0)
    for wall in range(20):
        seqs = [item["aggregateseq"] for item in envelopes if item["subject"] == str(UUID(int=wall))]
        assert seqs == [1, 2, 3, 4, 5]


async def test_a_relay_that_says_nothing_for_too_long_loses_its_buckets_to_another(
    settings: Settings, engine: AsyncEngine, monkeypatch: Any
) -> None:
    frozen, other = Relay(settings, timings=Timings(lock_patience=0.3)), Relay(settings, timings=FAST)
    locks = await frozen.open_lock_session()  # and then not a word
    await locks.execute("SELECT pg_advisory_lock(hashtext('rostrum.relay.' || $1), 3)", settings.service)
    async with running(other):
        await eventually(lambda: _holds(other, set(range(BUCKETS))))
    assert locks.is_closed()


async def _holds(relay: Relay, buckets: set[int]) -> bool:
    return relay.buckets == buckets


async def test_a_poison_message_ends_among_the_dead_letters_and_its_neighbours_are_handled(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, broker: AbstractRobustConnection, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared.messaging.consumer.FIRST_RETRY_DELAY", 0.001)
    painted = message_class(settings.service)
    handled: list[str] = []

    async def on_painted(session: AsyncSession, message: Any, envelope: Envelope) -> None:
        if message.color == "poison":
            raise RuntimeError("this one never works")
        handled.append(message.color)

    async def are_three_dead() -> bool:
        async with engine.connect() as connection:
            rows = await connection.execute(select(DEAD_LETTERS.c.body, DEAD_LETTERS.c.reason))
            reasons.update({row.body: row.reason for row in rows})
        return len(reasons) == 3

    reasons: dict[bytes, str] = {}
    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted, keep="latest")])):
        channel = await broker.channel()
        await eventually(lambda: _is_declared(broker, settings))
        bodies = [envelope_of(painted, color) for color in ("red", "poison", "blue")]
        unreadable, newer = b"not json", envelope_of(message_class(settings.service, version=2), "new")
        for body in (*bodies, unreadable, newer):
            await channel.default_exchange.publish(aio_pika.Message(body), queue_name(settings.service))
        await eventually(lambda: _contains(handled, "blue"))
        await eventually(are_three_dead)
    assert sorted(handled) == ["blue", "red"]
    assert reasons == {bodies[1]: "handler", unreadable: "unreadable", newer: "version-unknown"}


async def test_messages_wait_out_a_broker_that_can_not_be_reached(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, spy: AbstractQueue
) -> None:
    async with sessions.begin() as session:
        await outbox.add(session, paint(message_class(settings.service), "red"), subject=new_id(), seq=1)
    nowhere = settings.model_copy(update={"rabbitmq_url": SecretStr("amqp://guest:guest@127.0.0.1:1/")})
    relay = Relay(nowhere)
    stopping = asyncio.Event()
    task = asyncio.create_task(relay.run(stopping))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), 0.5)
    assert await unpublished(engine) == 1
    stopping.set()
    await task
    async with running(Relay(settings)):
        assert (await take(spy, 1))[0]["data"]["color"] == "red"


async def test_a_broker_that_goes_away_within_the_handshake_is_one_that_can_not_be_reached(
    settings: Settings,
) -> None:
    async def begin_a_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(b"AMQP0091"))
        writer.write(frame.marshal(spec.Connection.Start(), 0))
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(begin_a_handshake, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    leaving = settings.model_copy(update={"rabbitmq_url": SecretStr(f"amqp://guest:guest@127.0.0.1:{port}/")})
    async with listening:
        with pytest.raises(ConnectionError, match="No connection to RabbitMQ"):
            await connect(leaving, "test")


def envelope_of(kind: type[Message], color: str, subject: UUID | None = None, seq: int = 1) -> bytes:
    envelope = Envelope.model_validate(
        {
            "id": new_id(),
            "source": "/rostrum/probe",
            "type": kind.message_type,
            "subject": subject or new_id(),
            "time": "2026-01-01T00:00:00Z",
            "aggregatetype": "probe.wall",
            "aggregateseq": seq,
        }
    )
    return json.dumps(
        {**envelope.model_dump(mode="json"), "data": {"organizer": "acme", "color": color, "new_field": 1}}
    ).encode()


async def _contains(items: list[str], item: str) -> bool:
    return item in items


async def _is_declared(broker: AbstractRobustConnection, settings: Settings) -> bool:
    return await _message_count(broker, settings) is not None


async def _is_drained(broker: AbstractRobustConnection, settings: Settings) -> bool:
    return await _message_count(broker, settings) == 0


async def _message_count(broker: AbstractRobustConnection, settings: Settings) -> int | None:
    channel = await broker.channel()
    try:
        queue = await channel.declare_queue(queue_name(settings.service), passive=True)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return None
    count = queue.declaration_result.message_count
    await channel.close()
    return count
