"""The contenders and their baselines, each a process: ``python -m benchmarks.bus.roles NAME``.

Settings come from the environment as for every role. Logs are those of production, with lines of the benchmark
that hold the time of a fact (``at``) and the processor time used until then.
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

# The effect of the measured handler.
EFFECTS = Table("effects", MetaData(), Column("message_id", Uuid, primary_key=True), Column("name", Text))
CREATE_EFFECTS = "CREATE TABLE IF NOT EXISTS effects (message_id uuid PRIMARY KEY, name text)"


def log_fact(fact: str) -> None:
    log.info(fact, at=time.time(), processor=time.process_time())


async def relay(settings: Settings, engine: AsyncEngine) -> None:
    """Run the relay as the messenger does, until SIGTERM."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    log_fact("started")
    await Relay(settings).run(stopping)
    log_fact("ended")


async def bare_publish(settings: Settings, engine: AsyncEngine) -> None:
    """Publish the content of the outbox from memory, with confirms, in batches of the relay's size."""
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
    log_fact("started")
    async with await aio_pika.connect(settings.rabbitmq_url.get_secret_value()) as broker:
        channel = await broker.channel(publisher_confirms=True, on_return_raises=True)
        exchange = await declare_exchange(channel)
        for first in range(0, len(messages), BATCH):
            batch = messages[first : first + BATCH]
            await asyncio.gather(*(exchange.publish(message, MeasuredV1.message_type) for message in batch))
        log_fact("ended")


async def consume(settings: Settings, engine: AsyncEngine) -> None:
    """Run the consumer as the messenger does, with a handler of one statement, for a number of messages."""
    stopping = asyncio.Event()
    counted = _counted(int(sys.argv[2]), stopping)

    async def on_measured(session: AsyncSession, message: MeasuredV1, envelope: Envelope) -> None:
        await counted(session, envelope.id, message.name)

    subscriptions = [Subscription(MeasuredV1, on_measured, keep="latest")]
    await Consumer(settings, new_sessions(engine), subscriptions).run(stopping)


async def bare_consume(settings: Settings, engine: AsyncEngine) -> None:
    """Consume each message, have the same effect in one transaction, and ack."""
    queue_name, count = sys.argv[2], int(sys.argv[3])
    stopping = asyncio.Event()
    counted = _counted(count, stopping)
    sessions = new_sessions(engine)
    transactions = asyncio.Semaphore(settings.database_pool_size - 1)  # as many as the consumer uses
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
        log_fact("ready")
        await stopping.wait()
        await asyncio.gather(*received)


def _counted(count: int, stopping: asyncio.Event) -> Callable[[AsyncSession, UUID, str], Awaitable[None]]:
    """Return the effect; it logs the begin of the first one and the end of the last one, then stops."""
    begun = done = 0

    async def leave_effect(session: AsyncSession, message_id: UUID, name: str) -> None:
        nonlocal begun, done
        begun += 1
        if begun == 1:
            log_fact("began")
        await session.execute(insert(EFFECTS).values(message_id=message_id, name=name))
        done += 1
        if done == count:
            log_fact("ended")
            stopping.set()

    return leave_effect


ROLES = {"relay": relay, "bare-publish": bare_publish, "consume": consume, "bare-consume": bare_consume}


async def _run(name: str) -> None:
    settings = Settings()  # the service comes from the environment
    configure_logs(settings, name)
    engine = new_engine(settings, name)
    try:
        await ROLES[name](settings, engine)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    uvloop.run(_run(sys.argv[1]))  # as the messenger does
