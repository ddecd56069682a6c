"""Relay: publishes the outbox's committed rows, in order per aggregate, and marks what the broker confirmed.

One relay of a service is active at a time (an advisory lock on a connection of its own); the others stand by.
No transaction is open while it talks to the broker. A crash between confirm and mark publishes a row again,
with the same id, which the consumer's inbox absorbs.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import aio_pika
import asyncpg
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import AMQPError, DeliveryError, PublishError
from dramatiq import Message as JobMessage
from sqlalchemy import Row, bindparam, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.contracts.envelope import CONTENT_TYPE, Heading
from shared.database import connection_settings
from shared.logs import get_logger
from shared.messaging.outbox import INBOX, OUTBOX, channel_name
from shared.messaging.topology import declare_exchange
from shared.metrics import OUTBOX_OLDEST_SECONDS, OUTBOX_ROWS, PUBLISHED
from shared.settings import Settings

log = get_logger(__name__)

BATCH = 200
PRUNE_BATCH = 2000
POLL_SECONDS = 1.0
STANDBY_SECONDS = 2.0
PUBLISH_TIMEOUT = 10.0
KEEP_PUBLISHED = timedelta(hours=24)
KEEP_RECEIVED = timedelta(days=30)


class Relay:
    def __init__(
        self, settings: Settings, engine: AsyncEngine, *, declare_job_queue: Callable[[str], None]
    ) -> None:
        """``declare_job_queue`` makes a job queue on the broker; it blocks and is called in a thread."""
        self._settings = settings
        self._engine = engine
        self._declare_job_queue = declare_job_queue
        self._wake = asyncio.Event()

    async def run(self, stopping: asyncio.Event) -> None:
        """Runs until ``stopping`` is set, through outages of broker and database; ends after the present batch."""
        stopper = asyncio.create_task(self._wake_at_end(stopping))
        try:
            while not stopping.is_set():
                try:
                    await self._run_while_connected(stopping)
                except (AMQPError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    log.warning("relay.interrupted", error=str(error), error_type=type(error).__name__)
                    await _wait(stopping.wait(), at_most=POLL_SECONDS)
        finally:
            stopper.cancel()

    async def _wake_at_end(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._wake.set()

    async def _run_while_connected(self, stopping: asyncio.Event) -> None:
        guard = await self._connect_guard()
        try:
            while not await self._is_active(guard):
                await _wait(stopping.wait(), at_most=STANDBY_SECONDS)
                if stopping.is_set():
                    return
            await guard.add_listener(channel_name(self._settings.service), lambda *_: self._wake.set())
            url = self._settings.rabbitmq_url.get_secret_value()
            async with asyncio.timeout(PUBLISH_TIMEOUT):
                connection = await aio_pika.connect(
                    url, heartbeat=30, client_properties={"connection_name": f"{self._settings.service}.relay"}
                )
            async with connection:
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                exchange = await declare_exchange(channel)
                log.info("relay.active")
                while not stopping.is_set():
                    self._wake.clear()
                    # The lock lives as long as this connection does: a dead one must stop the relay.
                    await guard.execute("SELECT 1", timeout=5)
                    if not await self._publish_batch(channel, exchange):
                        await _wait(self._wake.wait(), at_most=POLL_SECONDS)
        finally:
            with suppress(Exception):
                await guard.close(timeout=2)

    async def _connect_guard(self) -> asyncpg.Connection:
        url = self._settings.database_url.get_secret_value().replace("+asyncpg", "", 1)
        return await asyncpg.connect(url, timeout=5, server_settings=connection_settings(self._settings, "relay"))

    async def _is_active(self, guard: asyncpg.Connection) -> bool:
        active: bool = await guard.fetchval(
            "SELECT pg_try_advisory_lock(hashtext('rostrum.relay'), hashtext($1))", self._settings.service
        )
        return active

    async def _publish_batch(self, channel: AbstractChannel, exchange: AbstractExchange) -> bool:
        """Publishes up to ``BATCH`` rows; says whether there may be more at once."""
        rows = await self._read_batch()
        by_aggregate = defaultdict(list)
        for row in rows:
            by_aggregate[row.aggregate_type, row.aggregate_id].append(row)
        published: list[Any] = []
        failed: list[dict[str, Any]] = []

        async def publish_in_order(aggregate_rows: Sequence[Row[Any]]) -> None:
            for row in aggregate_rows:
                try:
                    async with asyncio.timeout(PUBLISH_TIMEOUT):
                        await self._publish(channel, exchange, row)
                except DeliveryError as error:
                    # The broker said no to this one; its aggregate waits, the others go on.
                    failed.append({"row_id": row.id, "error": str(error)[:500]})
                    PUBLISHED.labels(row.type, "refused").inc()
                    log.error("outbox.refused", outbox_id=str(row.id), type=row.type, error=str(error))
                    return
                published.append(row.id)

        try:
            async with asyncio.TaskGroup() as group:
                for aggregate_rows in by_aggregate.values():
                    group.create_task(publish_in_order(aggregate_rows))
        except* (AMQPError, OSError, TimeoutError) as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._mark(published, failed)
        return len(rows) == BATCH or bool(failed)

    async def _read_batch(self) -> Sequence[Row[Any]]:
        older = OUTBOX.alias("older")
        ready = (
            select(OUTBOX)
            .where(
                OUTBOX.c.published_at.is_(None),
                OUTBOX.c.next_attempt_at <= func.clock_timestamp(),
                ~select(older.c.id)
                .where(
                    older.c.published_at.is_(None),
                    older.c.next_attempt_at > func.clock_timestamp(),
                    older.c.aggregate_type == OUTBOX.c.aggregate_type,
                    older.c.aggregate_id == OUTBOX.c.aggregate_id,
                    older.c.aggregate_seq < OUTBOX.c.aggregate_seq,
                )
                .exists(),
            )
            .order_by(OUTBOX.c.created_at, OUTBOX.c.aggregate_seq)
            .limit(BATCH)
        )
        async with self._engine.connect() as connection:
            return (await connection.execute(ready)).all()

    async def _publish(self, channel: AbstractChannel, exchange: AbstractExchange, row: Row[Any]) -> None:
        if row.kind == "job":
            await self._publish_job(channel, row)
            return
        message = aio_pika.Message(
            _envelope(self._settings.service, row),
            content_type=CONTENT_TYPE,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=str(row.id),
            type=row.type,
            timestamp=row.created_at,
        )
        try:
            await exchange.publish(message, routing_key=row.type, timeout=PUBLISH_TIMEOUT)
        except PublishError:
            # Nobody is bound to this type. A fact that nobody listens to is legitimate.
            PUBLISHED.labels(row.type, "unrouted").inc()
        else:
            PUBLISHED.labels(row.type, "published").inc()

    async def _publish_job(self, channel: AbstractChannel, row: Row[Any]) -> None:
        queue, job_id = row.payload["queue"], row.payload["job_id"]
        job: JobMessage[None] = JobMessage(
            queue_name=queue,
            actor_name=row.type,
            args=(job_id,),
            kwargs={"traceparent": row.traceparent},
            options={},
            message_id=str(row.id),
        )
        message = aio_pika.Message(
            job.encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT, message_id=str(row.id)
        )
        try:
            await channel.default_exchange.publish(message, routing_key=queue, timeout=PUBLISH_TIMEOUT)
        except PublishError:
            await asyncio.to_thread(self._declare_job_queue, queue)
            await channel.default_exchange.publish(message, routing_key=queue, timeout=PUBLISH_TIMEOUT)
        PUBLISHED.labels(row.type, "published").inc()

    async def _mark(self, published: list[Any], failed: list[dict[str, Any]]) -> None:
        if not published and not failed:
            return
        async with self._engine.begin() as connection:
            if published:
                await connection.execute(
                    update(OUTBOX)
                    .where(OUTBOX.c.id.in_(published))
                    .values(published_at=func.clock_timestamp(), attempts=OUTBOX.c.attempts + 1)
                )
            if failed:
                delay = func.least(func.power(2, OUTBOX.c.attempts), 300) * timedelta(seconds=1)
                await connection.execute(
                    update(OUTBOX)
                    .where(OUTBOX.c.id == bindparam("row_id"))
                    .values(
                        attempts=OUTBOX.c.attempts + 1,
                        next_attempt_at=func.clock_timestamp() + delay,
                        last_error=bindparam("error"),
                    ),
                    failed,
                )


async def measure_outbox(engine: AsyncEngine) -> None:
    """Sets the gauges one pages on: age and number of what is committed and not yet published."""
    unpublished = select(
        func.count(),
        func.coalesce(func.extract("epoch", func.clock_timestamp() - func.min(OUTBOX.c.created_at)), 0),
    ).where(OUTBOX.c.published_at.is_(None))
    async with engine.connect() as connection:
        rows, age = (await connection.execute(unpublished)).one()
    OUTBOX_ROWS.set(rows)
    OUTBOX_OLDEST_SECONDS.set(float(age))


async def prune(engine: AsyncEngine) -> int:
    """Deletes some thousand rows of outbox and inbox that are too old to be of use; returns how many."""
    now = func.clock_timestamp()
    sent = select(OUTBOX.c.id).where(OUTBOX.c.published_at < now - KEEP_PUBLISHED).limit(PRUNE_BATCH)
    received = select(INBOX.c.message_id).where(INBOX.c.received_at < now - KEEP_RECEIVED).limit(PRUNE_BATCH)
    async with engine.begin() as connection:
        outbox = await connection.execute(delete(OUTBOX).where(OUTBOX.c.id.in_(sent)))
        inbox = await connection.execute(delete(INBOX).where(INBOX.c.message_id.in_(received)))
    return outbox.rowcount + inbox.rowcount


def _envelope(service: str, row: Row[Any]) -> bytes:
    heading = Heading(
        id=row.id,
        source=f"/rostrum/{service}",
        type=row.type,
        subject=row.aggregate_id,
        time=row.created_at,
        aggregatetype=row.aggregate_type,
        aggregateseq=row.aggregate_seq,
        traceparent=row.traceparent,
    )
    return json.dumps({**heading.model_dump(mode="json", exclude_none=True), "data": row.payload}).encode()


async def _wait(waiting: Coroutine[Any, Any, Any], *, at_most: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(waiting, at_most)
