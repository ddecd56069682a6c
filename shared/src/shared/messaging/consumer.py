"""Consumer: hands each message of the service's queue to its handler, with one effect however often it comes.

The inbox row and the handler's effect are one transaction; the ack follows its commit. What fails is tried again
with growing delay and goes to the dead letters after ``DELIVERY_LIMIT`` deliveries.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from uuid import UUID

import aio_pika
import structlog
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError
from pydantic import ValidationError
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Heading, Message
from shared.database import Sessions
from shared.logs import get_logger
from shared.messaging.outbox import INBOX
from shared.messaging.topology import declare_queue
from shared.metrics import HANDLE_SECONDS, HANDLED
from shared.settings import Settings
from shared.tracing import continued_trace

log = get_logger(__name__)

PREFETCH = 16
CONNECT_TIMEOUT = 10.0
RETRY_SECONDS = 1.0
MAX_RETRY_DELAY = 30.0

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Subscription(Generic[M]):
    """One kind of message and the code that reacts.

    The handler gets the transaction's session, the payload and the envelope's heading; it must bear being called
    with a message older than what it knows (compare ``heading.aggregateseq``).
    """

    message: type[M]
    handler: Callable[[AsyncSession, M, Heading], Awaitable[None]]


@dataclass
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Consumer:
    def __init__(self, settings: Settings, sessions: Sessions, subscriptions: Sequence[Subscription[Any]]) -> None:
        self._settings = settings
        self._sessions = sessions
        self._subscriptions = {item.message.message_type: item for item in subscriptions}
        self._stems = {name.rpartition(".v")[0] for name in self._subscriptions}
        self._turns: dict[UUID, _Turn] = {}
        self._in_flight: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Consumes until ``stopping`` is set, through outages of the broker; then finishes what has begun."""
        while not stopping.is_set():
            try:
                await self._run_while_connected(stopping)
            except (AMQPError, OSError, TimeoutError) as error:
                log.warning("consumer.interrupted", error=str(error), error_type=type(error).__name__)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), RETRY_SECONDS)

    async def _run_while_connected(self, stopping: asyncio.Event) -> None:
        service = self._settings.service
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await aio_pika.connect(
                self._settings.rabbitmq_url.get_secret_value(),
                heartbeat=30,
                client_properties={"connection_name": f"{service}.consumer"},
            )
        async with connection:
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await declare_queue(channel, service, self._subscriptions)
            tag = await queue.consume(self._start)
            log.info("consumer.ready", messages=sorted(self._subscriptions))
            waits = [asyncio.create_task(stopping.wait()), asyncio.create_task(_until_closed(channel))]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if stopping.is_set():
                    await queue.cancel(tag)
                    if self._in_flight:
                        await asyncio.wait(self._in_flight, timeout=self._settings.shutdown_grace / 2)
            finally:
                for task in [*waits, *self._in_flight]:
                    task.cancel()  # unacked messages go back to the queue when the channel closes
                await asyncio.gather(*waits, *self._in_flight, return_exceptions=True)

    async def _start(self, incoming: AbstractIncomingMessage) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - aio-pika runs every callback as a task
        self._in_flight.add(task)
        try:
            await self._receive(incoming)
        except (AMQPError, OSError) as error:
            # The channel is gone and the broker delivers again; the inbox absorbs what was committed.
            log.warning("consumer.settle_failed", error=str(error))
        finally:
            self._in_flight.discard(task)

    async def _receive(self, incoming: AbstractIncomingMessage) -> None:
        try:
            heading = Heading.model_validate_json(incoming.body)
        except ValidationError as error:
            HANDLED.labels("unreadable", "dead").inc()
            log.error("message.unreadable", error=str(error)[:500])
            await incoming.reject(requeue=False)
            return
        carrier = {"traceparent": heading.traceparent} if heading.traceparent else {}
        with (
            continued_trace(carrier),
            structlog.contextvars.bound_contextvars(message_id=str(heading.id), message_type=heading.type),
        ):
            subscription = self._subscriptions.get(heading.type)
            if subscription is None:
                await self._settle_unknown(incoming, heading)
            else:
                async with self._turn_of(heading.subject):
                    await self._handle(incoming, heading, subscription)

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

    async def _settle_unknown(self, incoming: AbstractIncomingMessage, heading: Heading) -> None:
        if heading.type.rpartition(".v")[0] in self._stems:
            # A version this release can't read is kept for the one that can.
            HANDLED.labels(heading.type, "dead").inc()
            log.error("message.version_unknown")
            await incoming.reject(requeue=False)
        else:
            HANDLED.labels(heading.type, "unknown").inc()
            log.warning("message.type_unknown")
            await incoming.ack()

    async def _handle(
        self, incoming: AbstractIncomingMessage, heading: Heading, subscription: Subscription[Any]
    ) -> None:
        try:
            with HANDLE_SECONDS.labels(heading.type).time():
                is_new = await handle_once(self._sessions, incoming.body, heading, subscription)
        except Exception as error:
            count = int(str(incoming.headers.get("x-delivery-count", 0)))
            HANDLED.labels(heading.type, "failed").inc()
            log.error("message.failed", deliveries=count + 1, exc_info=error)
            await asyncio.sleep(min(0.25 * 2**count, MAX_RETRY_DELAY))
            await incoming.reject(requeue=True)
            return
        HANDLED.labels(heading.type, "handled" if is_new else "duplicate").inc()
        log.info("message.handled", is_new=is_new)
        await incoming.ack()


async def handle_once(sessions: Sessions, body: bytes, heading: Heading, subscription: Subscription[Any]) -> bool:
    """Runs the handler in one transaction with the inbox row; False if this message was handled before."""
    payload = subscription.message.model_validate(json.loads(body)["data"])
    async with sessions.begin() as session:
        received = await session.execute(
            insert(INBOX)
            .values(message_id=heading.id, type=heading.type)
            .on_conflict_do_nothing()
            .returning(INBOX.c.message_id)
        )
        if received.first() is None:
            return False
        await subscription.handler(session, payload, heading)
    return True


async def _until_closed(channel: AbstractChannel) -> None:
    closed = asyncio.Event()
    channel.close_callbacks.add(lambda *_: closed.set())
    await closed.wait()
