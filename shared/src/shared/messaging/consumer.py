"""Consumer: hand each message of the service's queue to its handler, with one effect however often it is delivered.

The ack follows the commit of inbox row and effect. A failed message is retried with growing delay, while later
messages of its aggregate wait, and then becomes a dead letter. A failure counts only while the database answers. A
message that kills the process is counted by the broker, which gives up after ``DELIVERY_LIMIT`` deliveries.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, ChannelNotFoundEntity
from opentelemetry.trace import SpanKind, get_current_span
from pydantic import ValidationError
from sqlalchemy import text

from shared.contracts.envelope import Envelope
from shared.database.engine import Sessions
from shared.messaging.connection import BROKER_TIMEOUT, connect, until_closed
from shared.messaging.dead_letters import Letter, keep, letter_of, move_from_broker
from shared.messaging.inbox import Subscription, by_message_type, handle_once
from shared.messaging.topology import dead_letter_queue_name, declare_queue, parked_queue_name, queue_name
from shared.settings import Settings
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import (
    CONSUMER_CONNECTED,
    CONSUMERS,
    HANDLE_SECONDS,
    HANDLED,
    REDELIVERED,
    WAITING,
)
from shared.telemetry.traces import continued_trace

log = get_logger(__name__)

PREFETCH = 16
RECONNECT_SECONDS = 1.0


@dataclass(frozen=True)
class Retries:
    """The delay before the second attempt is ``first_delay`` seconds and doubles before each later one.

    ``database_delay`` is the seconds between looks at an unavailable database.
    """

    attempts: int = 8
    first_delay: float = 0.25
    database_delay: float = 1.0


class Consumer:
    def __init__(
        self,
        settings: Settings,
        sessions: Sessions,
        subscriptions: Sequence[Subscription[Any]],
        *,
        retries: Retries | None = None,
        measure_every: float = 15.0,
    ) -> None:
        """Raise ``ValueError`` for subscriptions that would lose messages to one another."""
        self._settings = settings
        self._retries = retries or Retries()
        self._measure_every = measure_every
        self._sessions = sessions
        self._subscriptions = by_message_type(subscriptions)
        self._stems = {name.rpartition(".v")[0] for name in self._subscriptions}
        self._turns = WeakValueDictionary[UUID, asyncio.Lock]()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        # One connection of the pool is left to the periodic tasks.
        self._transactions = asyncio.Semaphore(max(1, settings.database_pool_size - 1))

    async def run(self, stopping: asyncio.Event) -> None:
        """Consume until ``stopping`` is set, through outages of the broker. Then finish the messages in flight."""
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
        async with await connect(self._settings, "consumer") as connection:
            async with asyncio.timeout(BROKER_TIMEOUT):
                channel = await connection.channel()
                await channel.set_qos(prefetch_count=PREFETCH)
                queue = await declare_queue(channel, service, self._subscriptions)
                tag = await queue.consume(self._start)
            log.info("consumer.ready", messages=sorted(self._subscriptions))
            waits = [
                asyncio.create_task(self._stopping.wait()),
                asyncio.create_task(until_closed(channel)),
                asyncio.create_task(self._watch_queues(connection)),
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
                await _end([*waits, *self._in_flight])  # unacked messages go back when the channel closes

    async def _start(self, incoming: AbstractIncomingMessage) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - aio-pika runs every callback as a task
        self._in_flight.add(task)
        try:
            await self._receive(incoming)
        except (AMQPError, ChannelInvalidStateError, OSError, TimeoutError) as error:
            # The broker will deliver the message again. If its effect was committed, the inbox absorbs it.
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

    def _turn_of(self, subject: UUID) -> asyncio.Lock:
        """Return the lock that keeps the messages of one aggregate in order, as callbacks run concurrently."""
        return self._turns.setdefault(subject, asyncio.Lock())

    async def _settle_unknown(self, incoming: AbstractIncomingMessage, envelope: Envelope) -> None:
        if envelope.type.rpartition(".v")[0] in self._stems:
            # Kept for a release that knows this version.
            HANDLED.labels(envelope.type, "dead").inc()
            await self._bury(
                incoming, "version-unknown", f"This release does not subscribe to {envelope.type}.", attempts=1
            )
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
                    if attempt == self._retries.attempts:
                        HANDLED.labels(envelope.type, "dead").inc()
                        await self._bury(incoming, "handler", f"{type(error).__name__}: {error}", attempts=attempt)
                        return
                    await self._wait(self._retries.first_delay * 2 ** (attempt - 1))
                    attempt += 1
                else:
                    log.warning("message.waits_for_database", error=str(error), error_type=type(error).__name__)
                    await self._wait(self._retries.database_delay)
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
        """Keep the message as a dead letter, and only then ack it."""
        letter = letter_of(incoming, reason=reason, error=error, attempts=attempts, failed_at=datetime.now(UTC))
        if await self._keep([letter]):
            log.error("message.dead", reason=reason, error=letter["error"], attempts=attempts)
            await incoming.ack()
        else:
            await incoming.nack(requeue=True)

    async def _keep(self, letters: Sequence[Letter]) -> bool:
        """Commit the rows, waiting while the database is unavailable. Return False if the process stops first."""
        while True:
            try:
                async with self._transactions:
                    await keep(self._sessions, letters)
                return True
            except Exception as error:
                log.warning("dead_letters.wait_for_database", error=str(error), error_type=type(error).__name__)
            await self._wait(self._retries.database_delay)
            if self._stopping.is_set():
                return False

    async def _watch_queues(self, connection: AbstractConnection) -> None:
        """Empty the dead-letter queue and keep the gauges of the service's queue; end when the broker fails."""
        service = self._settings.service
        channel = await connection.channel(publisher_confirms=False)
        with suppress(ChannelNotFoundEntity):
            await move_from_broker(channel, parked_queue_name(service), self._keep, parked=True)
        await channel.close()
        channel = await connection.channel(publisher_confirms=False)
        while True:
            await move_from_broker(channel, dead_letter_queue_name(service), self._keep, parked=False)
            async with asyncio.timeout(BROKER_TIMEOUT):
                queue = await channel.declare_queue(queue_name(service), passive=True)
            WAITING.set(queue.declaration_result.message_count or 0)
            CONSUMERS.set(queue.declaration_result.consumer_count or 0)
            await asyncio.sleep(self._measure_every)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks until they have ended: a call of aiormq may lose a cancellation."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        ended, running = await asyncio.wait(running, timeout=0.1)
        await asyncio.gather(*ended, return_exceptions=True)
