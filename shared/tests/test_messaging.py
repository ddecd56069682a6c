import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from uuid import UUID

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue, AbstractRobustConnection
from pydantic import SecretStr
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from shared.contracts.envelope import Heading, Message
from shared.database import Sessions
from shared.ids import new_id
from shared.messaging import outbox
from shared.messaging.consumer import Consumer, Subscription, handle_once
from shared.messaging.outbox import INBOX, OUTBOX, Bell, MessageTooLarge
from shared.messaging.relay import Relay
from shared.messaging.topology import EXCHANGE, dead_letter_queue_name, queue_name
from shared.settings import Settings


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
    channel = await connection.channel()
    for name in (queue_name(settings.service), dead_letter_queue_name(settings.service)):
        await channel.queue_delete(name)
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
    async with asyncio.timeout(15), queue.iterator(no_ack=True) as incoming:
        async for message in incoming:
            taken.append(json.loads(message.body))
            if len(taken) == count:
                break
    return taken


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
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


def relay_of(settings: Settings, engine: AsyncEngine) -> Relay:
    return Relay(settings, engine, declare_job_queue=lambda _: None)


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
    async with running(relay_of(settings, engine)):
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
    async with running(relay_of(settings, engine)):
        envelopes = await take(spy, 300)
    for wall in walls:
        seqs = [item["aggregateseq"] for item in envelopes if item["subject"] == str(wall)]
        assert seqs == list(range(1, 31))


async def test_a_ring_after_the_commit_wakes_the_relay_long_before_its_poll(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bell: Bell, spy: AbstractQueue, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared.messaging.relay.POLL_SECONDS", 60.0)
    painted = message_class(settings.service)
    ringing = asyncio.create_task(bell.run())
    async with running(relay_of(settings, engine)):
        for seq in range(1, 4):
            async with sessions.begin() as session:
                await outbox.add(session, paint(painted, "red"), subject=UUID(int=7), seq=seq)
            await take(spy, 1)  # times out unless the ring arrives
    ringing.cancel()


async def test_a_message_that_nobody_is_bound_to_does_not_stay_in_the_outbox(
    settings: Settings, engine: AsyncEngine, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        await outbox.add(session, paint(message_class(settings.service), "red"), subject=new_id(), seq=1)
    async with running(relay_of(settings, engine)):
        await eventually(lambda: _is_zero(engine))


async def test_an_oversize_message_is_refused_when_it_is_written(settings: Settings, sessions: Sessions) -> None:
    async with sessions() as session:
        with pytest.raises(MessageTooLarge, match="at most 65536"):
            await outbox.add(session, paint(message_class(settings.service), "x" * 70_000), subject=new_id(), seq=1)


async def test_a_message_delivered_three_times_has_one_effect(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, broker: AbstractRobustConnection
) -> None:
    painted = message_class(settings.service)
    effects: list[str] = []

    async def on_painted(session: AsyncSession, message: Any, heading: Heading) -> None:
        effects.append(message.color)

    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted)])):
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

    async def on_painted(session: AsyncSession, message: Any, heading: Heading) -> None:
        at_work.append(message.color)
        assert len(at_work) == 1
        await session.execute(select(func.pg_sleep(0.01)))
        at_work.remove(message.color)
        done.append(message.color)

    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted)])):
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

    async def on_painted(session: AsyncSession, message: Any, heading: Heading) -> None:
        effects.append(message.color)

    body = envelope_of(painted, "red")
    heading = Heading.model_validate_json(body)
    subscription = Subscription(painted, on_painted)
    assert await handle_once(sessions, body, heading, subscription)
    assert not await handle_once(sessions, body, heading, subscription)
    async with sessions.begin() as session:
        await session.execute(INBOX.delete())
    assert await handle_once(sessions, body, heading, subscription)
    assert effects == ["red", "red"]


async def test_a_poison_message_ends_among_the_dead_letters_and_its_neighbours_are_handled(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, broker: AbstractRobustConnection, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared.messaging.consumer.MAX_RETRY_DELAY", 0.01)
    painted = message_class(settings.service)
    handled: list[str] = []

    async def on_painted(session: AsyncSession, message: Any, heading: Heading) -> None:
        if message.color == "poison":
            raise RuntimeError("this one never works")
        handled.append(message.color)

    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted)])):
        channel = await broker.channel()
        await eventually(lambda: _is_declared(broker, settings))
        bodies = [envelope_of(painted, color) for color in ("red", "poison", "blue")]
        unreadable, newer = b"not json", envelope_of(message_class(settings.service, version=2), "new")
        for body in (*bodies, unreadable, newer):
            await channel.default_exchange.publish(aio_pika.Message(body), queue_name(settings.service))
        dead = await channel.declare_queue(dead_letter_queue_name(settings.service), passive=True)
        bodies_of_dead: list[bytes] = []
        async with asyncio.timeout(20), dead.iterator(no_ack=True) as incoming:
            async for message in incoming:
                bodies_of_dead.append(message.body)
                if len(bodies_of_dead) == 3:
                    break
        await eventually(lambda: _contains(handled, "blue"))
    assert sorted(handled) == ["blue", "red"]
    assert sorted(bodies_of_dead) == sorted([bodies[1], unreadable, newer])


async def test_messages_wait_out_a_broker_that_can_not_be_reached(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, spy: AbstractQueue
) -> None:
    async with sessions.begin() as session:
        await outbox.add(session, paint(message_class(settings.service), "red"), subject=new_id(), seq=1)
    nowhere = settings.model_copy(update={"rabbitmq_url": SecretStr("amqp://guest:guest@127.0.0.1:1/")})
    relay = relay_of(nowhere, engine)
    stopping = asyncio.Event()
    task = asyncio.create_task(relay.run(stopping))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), 0.5)
    assert await unpublished(engine) == 1
    stopping.set()
    await task
    async with running(relay_of(settings, engine)):
        assert (await take(spy, 1))[0]["data"]["color"] == "red"


def envelope_of(kind: type[Message], color: str, subject: UUID | None = None) -> bytes:
    heading = Heading.model_validate(
        {
            "id": new_id(),
            "source": "/rostrum/probe",
            "type": kind.message_type,
            "subject": subject or new_id(),
            "time": "2026-01-01T00:00:00Z",
            "aggregatetype": "probe.wall",
            "aggregateseq": 1,
        }
    )
    return json.dumps(
        {**heading.model_dump(mode="json"), "data": {"organizer": "acme", "color": color, "new_field": 1}}
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
