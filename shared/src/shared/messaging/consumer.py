"""Consumer: hands each message of the service's queue to its handler, with one effect however often it comes.

The inbox row and the handler's effect are one transaction; the ack follows its commit. What fails is tried again
with growing delay while the messages of its aggregate wait behind it, and ends among the dead letters. While the
database is away nothing has failed: messages wait. What kills the process is counted by the broker, which gives
up after ``DELIVERY_LIMIT`` deliveries.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from opentelemetry.trace import SpanKind, get_current_span
from pydantic import ValidationError
from sqlalchemy import text

from shared.contracts.envelope import Envelope
from shared.database.engine import Sessions
from shared.messaging.connection import BROKER_TIMEOUT, connect, until_closed
from shared.messaging.inbox import Subscription, by_message_type, handle_once
from shared.messaging.topology import (
    dead_letter_queue_name,
    declare_kept_queue,
    declare_queue,
    parked_queue_name,
    queue_name,
)
from shared.settings import Settings
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import (
    CONSUMER_CONNECTED,
    CONSUMERS,
    DEAD_LETTERS,
    HANDLE_SECONDS,
    HANDLED,
    PARKED_LETTERS,
    REDELIVERED,
    WAITING,
)
from shared.telemetry.traces import continued_trace

log = get_logger(__name__)

PREFETCH = 16
RECONNECT_SECONDS = 1.0
MEASURE_SECONDS = 15.0
# 0.25 + 0.5 + … + 16 s: about half a minute until a message that always fails is a dead letter.
ATTEMPTS = 8
FIRST_RETRY_DELAY = 0.25
DATABASE_RETRY_SECONDS = 1.0


@dataclass
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Consumer:
    def __init__(self, settings: Settings, sessions: Sessions, subscriptions: Sequence[Subscription[Any]]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._subscriptions = by_message_type(subscriptions)
        self._stems = {name.rpartition(".v")[0] for name in self._subscriptions}
        self._turns: dict[UUID, _Turn] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        # One connection of the pool is left to the periodic tasks.
        self._transactions = asyncio.Semaphore(max(1, settings.database_pool_size - 1))

    async def run(self, stopping: asyncio.Event) -> None:
        """Consumes until ``stopping`` is set, through outages of the broker; then finishes what has begun."""
        self._stopping = stopping
        CONSUMER_CONNECTED.labels(queue_name(self._settings.service)).set(0)
        while not stopping.is_set():
            try:
                await self._run_while_connected()
            except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError) as error:
                log.warning("consumer.interrupted", error=str(error), error_type=type(error).__name__)
                await self._wait(RECONNECT_SECONDS)

    async def _run_while_connected(self) -> None:
        service = self._settings.service
        # A broker that is short of memory stops reading from connections that publish, so acks go on another one.
        async with (
            await connect(self._settings, "consumer") as connection,
            await connect(self._settings, "dead_letters") as publishing,
        ):
            async with asyncio.timeout(BROKER_TIMEOUT):
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=PREFETCH)
                queue = await declare_queue(channel, service, self._subscriptions)
                self._dead_letters = await publishing.channel(publisher_confirms=True, on_return_raises=True)
                tag = await queue.consume(self._start)
            log.info("consumer.ready", messages=sorted(self._subscriptions))
            waits = [
                asyncio.create_task(self._stopping.wait()),
                asyncio.create_task(until_closed(channel)),
                asyncio.create_task(until_closed(self._dead_letters)),
                asyncio.create_task(_measure(await connection.channel(), service)),
            ]
            connected = CONSUMER_CONNECTED.labels(queue_name(service))
            connected.set(1)
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if not self._stopping.is_set():
                    raise ConnectionError("The connection to the broker ended.")
                async with asyncio.timeout(BROKER_TIMEOUT):
                    await queue.cancel(tag)
                if self._in_flight:
                    await asyncio.wait(self._in_flight, timeout=self._settings.shutdown_grace / 2)
            finally:
                connected.set(0)
                for task in [*waits, *self._in_flight]:
                    task.cancel()  # unacked messages go back to the queue when the channel closes
                await asyncio.gather(*waits, *self._in_flight, return_exceptions=True)

    async def _start(self, incoming: AbstractIncomingMessage) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - aio-pika runs every callback as a task
        self._in_flight.add(task)
        try:
            await self._receive(incoming)
        except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError) as error:
            # The broker is gone and delivers again when it is back; the inbox absorbs what was committed.
            log.warning("consumer.settle_failed", error=str(error), error_type=type(error).__name__)
        finally:
            self._in_flight.discard(task)

    async def _receive(self, incoming: AbstractIncomingMessage) -> None:
        if incoming.redelivered:
            REDELIVERED.inc()
        try:
            envelope = Envelope.model_validate_json(incoming.body)
        except ValidationError as error:
            HANDLED.labels("unreadable", "dead").inc()
            await self._bury(incoming, "unreadable", str(error), attempts=1)
            return
        carrier = {"traceparent": envelope.traceparent} if envelope.traceparent else {}
        with continued_trace(
            carrier,
            f"process {envelope.type}",
            SpanKind.CONSUMER,
            {"messaging.system": "rabbitmq", "messaging.message.id": str(envelope.id)},
            message_id=str(envelope.id),
            message_type=envelope.type,
        ):
            subscription = self._subscriptions.get(envelope.type)
            if subscription is None:
                await self._settle_unknown(incoming, envelope)
            else:
                async with self._turn_of(envelope.subject):
                    await self._handle(incoming, envelope, subscription)

    @asynccontextmanager
    async def _turn_of(self, subject: UUID) -> AsyncIterator[None]:
        """Callbacks run side by side; this keeps the messages of one aggregate in their order."""
        turn = self._turns.setdefault(subject, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[subject]

    async def _settle_unknown(self, incoming: AbstractIncomingMessage, envelope: Envelope) -> None:
        if envelope.type.rpartition(".v")[0] in self._stems:
            # A version this release can't read is kept for the one that can.
            HANDLED.labels(envelope.type, "dead").inc()
            await self._bury(incoming, "version-unknown", f"{envelope.type} is not read here.", attempts=1)
        else:
            HANDLED.labels(envelope.type, "unknown").inc()
            log.warning("message.type_unknown")
            await incoming.ack()

    async def _handle(
        self, incoming: AbstractIncomingMessage, envelope: Envelope, subscription: Subscription[Any]
    ) -> None:
        attempt = 1
        while True:
            try:
                async with self._transactions:
                    with HANDLE_SECONDS.labels(envelope.type).time():
                        outcome = await handle_once(self._sessions, incoming.body, envelope, subscription)
            except Exception as error:
                HANDLED.labels(envelope.type, "failed").inc()
                get_current_span().record_exception(error)
                if await self._database_answers():
                    log.error("message.failed", attempt=attempt, exc_info=error)
                    if attempt == ATTEMPTS:
                        HANDLED.labels(envelope.type, "dead").inc()
                        await self._bury(incoming, "handler", f"{type(error).__name__}: {error}", attempts=attempt)
                        return
                    await self._wait(FIRST_RETRY_DELAY * 2 ** (attempt - 1))
                    attempt += 1
                else:
                    log.warning("message.waits_for_database", error=str(error), error_type=type(error).__name__)
                    await self._wait(DATABASE_RETRY_SECONDS)
                if self._stopping.is_set():
                    await incoming.nack(requeue=True)
                    return
            else:
                HANDLED.labels(envelope.type, outcome).inc()
                log.info("message.handled", outcome=outcome)
                await incoming.ack()
                return

    async def _database_answers(self) -> bool:
        try:
            async with self._transactions, self._sessions() as session:
                await session.execute(text("SELECT 1"))
        except Exception:
            return False
        return True

    async def _bury(self, incoming: AbstractIncomingMessage, reason: str, error: str, *, attempts: int) -> None:
        """Puts the message among the dead letters, with what went wrong, and only then takes it from the queue."""
        service = self._settings.service
        letter = aio_pika.Message(
            incoming.body,
            content_type=incoming.content_type,
            message_id=incoming.message_id,
            type=incoming.type,
            timestamp=incoming.timestamp,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            headers={
                "failure-reason": reason,
                "failure-error": error[:1000],
                "failure-attempts": attempts,
                "failed-at": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        async with asyncio.timeout(BROKER_TIMEOUT):
            await self._dead_letters.default_exchange.publish(letter, dead_letter_queue_name(service))
        log.error("message.dead", reason=reason, error=error[:1000], attempts=attempts)
        await incoming.ack()

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


async def _measure(channel: AbstractChannel, service: str) -> None:
    """Keeps the gauges of the three queues; ends when the broker can't tell."""
    async with asyncio.timeout(BROKER_TIMEOUT):
        await declare_kept_queue(channel, parked_queue_name(service))
    names = (queue_name(service), dead_letter_queue_name(service), parked_queue_name(service))
    while True:
        for name, gauge in zip(names, (WAITING, DEAD_LETTERS, PARKED_LETTERS), strict=True):
            async with asyncio.timeout(BROKER_TIMEOUT):
                queue = await channel.declare_queue(name, passive=True)
            gauge.set(queue.declaration_result.message_count or 0)
            if gauge is WAITING:
                CONSUMERS.set(queue.declaration_result.consumer_count or 0)
        await asyncio.sleep(MEASURE_SECONDS)
