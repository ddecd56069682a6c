"""What is measured and what it is measured against: ``python -m benchmarks.bus.roles NAME``, each a process.

Settings come from the environment as for every role. Logs are written as in production, among them lines of the
benchmark's own with the moment of a fact (``at``) and the processor time used until then.
"""

import asyncio
import json
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage
from sqlalchemy import Column, MetaData, Table, Text, Uuid, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from benchmarks.bus.messages import MeasuredV1, amqp_message
from shared.contracts.envelope import Envelope, MessageEnvelope
from shared.database.engine import new_engine, new_sessions
from shared.messaging.consumer import PREFETCH, Consumer
from shared.messaging.inbox import Subscription
from shared.messaging.relay import BATCH, Relay
from shared.messaging.tables import OUTBOX
from shared.messaging.topology import declare_exchange
from shared.settings import Settings
from shared.telemetry.logs import configure_logs, get_logger

log = get_logger(__name__)

# The effect that a measured handler has.
EFFECTS = Table("effects", MetaData(), Column("message_id", Uuid, primary_key=True), Column("name", Text))
CREATE_EFFECTS = "CREATE TABLE IF NOT EXISTS effects (message_id uuid PRIMARY KEY, name text)"


def say(fact: str) -> None:
    log.info(fact, at=time.time(), processor=time.process_time())


async def relay(settings: Settings, engine: AsyncEngine) -> None:
    """The relay as the messenger runs it, until it is terminated."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    say("started")
    await Relay(settings, declare_job_queue=lambda _: None).run(stopping)
    say("ended")


async def bare_publish(settings: Settings, engine: AsyncEngine) -> None:
    """Publishes with confirms what the outbox holds, from memory, in batches as large as the relay's."""
    async with engine.connect() as connection:
        rows = await connection.execute(select(OUTBOX).order_by(OUTBOX.c.created_at))
        messages = [
            amqp_message(
                MessageEnvelope[MeasuredV1](
                    id=row.id,
                    source=f"/rostrum/{settings.service}",
                    type=row.type,
                    subject=row.aggregate_id,
                    time=row.created_at,
                    aggregatetype=row.aggregate_type,
                    aggregateseq=row.aggregate_seq,
                    traceparent=row.traceparent,
                    data=MeasuredV1.model_validate(row.payload),
                )
            )
            for row in rows
        ]
    say("started")
    async with await aio_pika.connect(settings.rabbitmq_url.get_secret_value()) as broker:
        channel = await broker.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await declare_exchange(channel)
        for first in range(0, len(messages), BATCH):
            batch = messages[first : first + BATCH]
            await asyncio.gather(*(exchange.publish(message, MeasuredV1.message_type) for message in batch))
        say("ended")


async def consume(settings: Settings, engine: AsyncEngine) -> None:
    """The consumer as the messenger runs it, with a handler of one statement; ends after so many messages."""
    stopping = asyncio.Event()
    counted = _counted(int(sys.argv[2]), stopping)

    async def on_measured(session: AsyncSession, message: MeasuredV1, envelope: Envelope) -> None:
        await counted(session, envelope.id, message.name)

    subscriptions = [Subscription(MeasuredV1, on_measured, keep="latest")]
    await Consumer(settings, new_sessions(engine), subscriptions).run(stopping)


async def bare_consume(settings: Settings, engine: AsyncEngine) -> None:
    """Takes each message of the queue, does the same in one transaction, and acks."""
    queue_name, count = sys.argv[2], int(sys.argv[3])
    stopping = asyncio.Event()
    counted = _counted(count, stopping)
    sessions = new_sessions(engine)
    transactions = asyncio.Semaphore(settings.database_pool_size - 1)  # as many as the consumer has
    received: set[asyncio.Task[Any]] = set()

    async def receive(incoming: AbstractIncomingMessage) -> None:
        if task := asyncio.current_task():
            received.add(task)
            task.add_done_callback(received.discard)
        body = json.loads(incoming.body)
        async with transactions, sessions.begin() as session:
            await counted(session, UUID(body["id"]), body["data"]["name"])
        log.info("message.handled", message_id=body["id"])
        await incoming.ack()

    async with await aio_pika.connect(settings.rabbitmq_url.get_secret_value()) as broker:
        channel = await broker.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue(queue_name)
        await queue.consume(receive)
        say("ready")
        await stopping.wait()
        await asyncio.gather(*received)


def _counted(count: int, stopping: asyncio.Event) -> Callable[[AsyncSession, UUID, str], Awaitable[None]]:
    """The effect; says when the first one begins and when the last one is there, and then stops."""
    begun = done = 0

    async def leave_effect(session: AsyncSession, message_id: UUID, name: str) -> None:
        nonlocal begun, done
        begun += 1
        if begun == 1:
            say("began")
        await session.execute(insert(EFFECTS).values(message_id=message_id, name=name))
        done += 1
        if done == count:
            say("ended")
            stopping.set()

    return leave_effect


ROLES = {"relay": relay, "bare-publish": bare_publish, "consume": consume, "bare-consume": bare_consume}


async def _run(name: str) -> None:
    settings = Settings()  # the name of the service is in the environment
    configure_logs(service=settings.service, role=name)
    engine = new_engine(settings, name)
    try:
        await ROLES[name](settings, engine)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    uvloop.run(_run(sys.argv[1]))  # as the messenger does
