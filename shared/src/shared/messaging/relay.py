"""Relay: publish the committed rows of the outbox in order per aggregate, and mark those that the broker confirmed.

1. The relay opens a lock session: one connection for its locks, reads and marks. PostgreSQL ends one that is silent
   for ``lock_patience``, so a frozen process does not keep its locks, and cannot mark rows without them.
2. The messengers of a service share ``BUCKETS`` hash buckets of aggregates. The one that holds a bucket's advisory
   lock publishes its rows.
3. The relay reads up to ``BATCH`` rows and publishes them with confirms, those of one aggregate one by one, while
   no transaction is open. After ``publish_window`` it starts no publish any more, because a process that was frozen
   may have lost its locks.
4. It marks the confirmed rows. A crash before that publishes them again with the same id, which the inbox absorbs.
5. A refused row is tried again with growing delay. The rows of its aggregate wait for it, others do not.
"""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import asyncpg
import orjson
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError, PublishError
from aiormq import Channel, spec
from opentelemetry.trace import SpanKind
from prometheus_client import Counter

from shared.contracts.envelope import CONTENT_TYPE, encode
from shared.database.engine import asyncpg_dsn, connection_settings
from shared.messaging.commit_notifier import channel_name
from shared.messaging.connection import BROKER_TIMEOUT, connect
from shared.messaging.topology import EXCHANGE, declare_exchange
from shared.settings import Settings
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import PUBLISH_SECONDS, PUBLISHED, RELAY_BUCKETS
from shared.telemetry.traces import span

log = get_logger(__name__)

BUCKETS = 16
BATCH = 500
LANES = 4
PERSISTENT = 2
_SEND = {"messaging.system": "rabbitmq"}
MAX_REFUSAL_DELAY = 300.0


@dataclass(frozen=True)
class Timings:
    """Seconds. ``publish_window`` and ``publish_timeout`` together must be shorter than ``lock_patience``."""

    poll: float = 1.0
    publish_window: float = 3.0
    publish_timeout: float = 10.0
    lock_patience: float = 15.0
    statement_timeout: float = 5.0


# Advisory locks have two numbers: the service, and a bucket or BUCKETS, which all connected messengers share.
_JOIN = "SELECT pg_advisory_lock_shared(hashtext('rostrum.relay.' || $1), $2)"
_COUNT_MESSENGERS = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND classid = hashtext('rostrum.relay.' || $1)::oid AND objid = $2::oid
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_TAKE = "SELECT pg_try_advisory_lock(hashtext('rostrum.relay.' || $1), $2)"
_RELEASE = "SELECT pg_advisory_unlock(hashtext('rostrum.relay.' || $1), $2)"

_READ = """
    SELECT id::text AS id, kind, type, aggregate_type, aggregate_id::text AS aggregate_id, aggregate_seq,
           payload::text AS payload, traceparent, created_at
    FROM outbox
    WHERE published_at IS NULL
      AND uuid_hash(aggregate_id) & $1 = ANY($2::int[])
      AND aggregate_id <> ALL($3::text[]::uuid[])
    ORDER BY created_at, aggregate_seq
    LIMIT $4
"""
_MARK_PUBLISHED = """
    UPDATE outbox SET published_at = clock_timestamp(), attempts = attempts + 1 WHERE id = ANY($1::text[]::uuid[])
"""
_MARK_REFUSED = """
    UPDATE outbox
    SET attempts = attempts + 1, last_error = $2,
        next_attempt_at = clock_timestamp() + least(power(2, attempts), $3) * interval '1 second'
    WHERE id = $1::text::uuid
    RETURNING extract(epoch FROM next_attempt_at - clock_timestamp())::float8
"""


class Relay:
    def __init__(self, settings: Settings, *, timings: Timings | None = None) -> None:
        self._settings = settings
        self._timings = timings or Timings()
        self._service = settings.service
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()  # of the lock session, which runs one statement at a time
        self.buckets: set[int] = set()  # the buckets whose locks this relay holds
        # Aggregates whose next message the broker refused, and until when (monotonic) they wait.
        self._refused: dict[str, float] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Run until ``stopping`` is set, through outages of broker and database. End after the current batch."""
        stopper = asyncio.create_task(self._wake_at_end(stopping))
        try:
            while not stopping.is_set():
                try:
                    await self._run_while_connected(stopping)
                except (
                    AMQPError,
                    ChannelInvalidStateError,
                    OSError,
                    TimeoutError,
                    asyncpg.PostgresError,
                    asyncpg.InterfaceError,
                ) as error:
                    log.warning("relay.interrupted", error=str(error), error_type=type(error).__name__)
                    await _wait(stopping.wait(), at_most=self._timings.poll)
        finally:
            stopper.cancel()

    async def _wake_at_end(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._wake.set()

    async def _run_while_connected(self, stopping: asyncio.Event) -> None:
        locks = await self.open_lock_session()
        try:
            async with await connect(self._settings, "relay") as connection:
                async with asyncio.timeout(BROKER_TIMEOUT):
                    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                    await declare_exchange(channel)
                    underlay = cast(Channel, await channel.get_underlay_channel())
                channel.close_callbacks.add(lambda *_: self._wake.set())
                # Not before, so that a messenger without a broker leaves the work to the others.
                await locks.execute(_JOIN, self._service, BUCKETS)
                await locks.add_listener(channel_name(self._service), lambda *_: self._wake.set())
                shared_at = -math.inf
                while not stopping.is_set():
                    self._wake.clear()
                    if channel.is_closed:
                        raise ConnectionError("The connection to the broker ended.")
                    if time.monotonic() - shared_at >= self._timings.poll:
                        await self._share_buckets(locks)
                        shared_at = time.monotonic()
                    if await self._publish_batch(locks, underlay, self.buckets):
                        await self._drain(locks, underlay)
                    else:
                        await _wait(self._wake.wait(), at_most=self._timings.poll)
        finally:
            self.buckets.clear()
            RELAY_BUCKETS.set(0)
            with suppress(Exception):
                await locks.close(timeout=2)

    async def open_lock_session(self) -> asyncpg.Connection:
        """Open a connection that PostgreSQL ends, with its locks, when it is silent for ``lock_patience``."""
        url = asyncpg_dsn(self._settings.database_url.get_secret_value())
        parameters = {
            **connection_settings(self._settings, "relay"),
            "idle_session_timeout": f"{self._timings.lock_patience * 1000:.0f}",
        }
        timeout = self._timings.statement_timeout
        return await asyncpg.connect(url, timeout=timeout, command_timeout=timeout, server_settings=parameters)

    async def _share_buckets(self, locks: asyncpg.Connection) -> None:
        """Lock free buckets or release some, until this messenger has its share. Call it between batches only."""
        messengers = await locks.fetchval(_COUNT_MESSENGERS, self._service, BUCKETS)
        share = -(-BUCKETS // messengers)
        before = len(self.buckets)
        while len(self.buckets) > share:
            bucket = self.buckets.pop()
            await locks.execute(_RELEASE, self._service, bucket)
        for bucket in range(BUCKETS):
            if len(self.buckets) >= share:
                break
            if bucket not in self.buckets and await locks.fetchval(_TAKE, self._service, bucket):
                self.buckets.add(bucket)
        if len(self.buckets) != before:
            RELAY_BUCKETS.set(len(self.buckets))
            log.info("relay.shared", buckets=len(self.buckets), messengers=messengers)

    async def _drain(self, locks: asyncpg.Connection, channel: Channel) -> None:
        """Publish a backlog for a while in parallel lanes, so that reads and marks overlap with publishes."""
        until = time.monotonic() + self._timings.poll

        async def drain(buckets: Collection[int]) -> None:
            while time.monotonic() < until and await self._publish_batch(locks, channel, buckets):
                pass

        buckets = list(self.buckets)
        await _all(drain(part) for part in (buckets[lane::LANES] for lane in range(LANES)) if part)

    async def _publish_batch(self, locks: asyncpg.Connection, channel: Channel, buckets: Collection[int]) -> bool:
        """Publish up to ``BATCH`` rows of these buckets. Return whether more may be waiting."""
        now = time.monotonic()
        self._refused = {aggregate: until for aggregate, until in self._refused.items() if until > now}
        start_before = now + self._timings.publish_window
        async with self._turn:
            rows = await locks.fetch(_READ, BUCKETS - 1, list(buckets), list(self._refused), BATCH)
        by_aggregate = defaultdict(list)
        for row in rows:
            by_aggregate[row["aggregate_type"], row["aggregate_id"]].append(row)
        published: list[str] = []
        refused: list[tuple[asyncpg.Record, str]] = []

        async def publish_in_order(aggregate_rows: list[asyncpg.Record]) -> None:
            if len(aggregate_rows) > 1:
                # The database's clock may have been set back between two rows.
                aggregate_rows.sort(key=lambda row: row["aggregate_seq"])
            for row in aggregate_rows:
                if time.monotonic() > start_before:
                    return
                try:
                    with span(f"send {row['type']}", SpanKind.PRODUCER, _SEND, parent=row["traceparent"]):
                        await self._publish(channel, row)
                except DeliveryError as error:
                    # Refused by the broker: its aggregate waits, the others continue.
                    refused.append((row, str(error)[:500]))
                    return
                published.append(row["id"])

        try:
            async with asyncio.timeout(self._timings.publish_window + self._timings.publish_timeout):
                await _all(publish_in_order(aggregate_rows) for aggregate_rows in by_aggregate.values())
        finally:
            async with self._turn:
                await self._mark(locks, published, refused)
        return len(rows) == BATCH or len(published) < len(rows)

    async def _publish(self, channel: Channel, row: asyncpg.Record) -> None:
        if row["kind"] == "job":
            await self._publish_job(channel, row)
            return
        body = encode(
            message_id=row["id"],
            source=f"/rostrum/{self._service}",
            message_type=row["type"],
            subject=row["aggregate_id"],
            time=row["created_at"],
            aggregate_type=row["aggregate_type"],
            aggregate_seq=row["aggregate_seq"],
            traceparent=row["traceparent"],
            data=row["payload"],
        )
        properties = spec.Basic.Properties(
            content_type=CONTENT_TYPE,
            delivery_mode=PERSISTENT,
            message_id=row["id"],
            message_type=row["type"],
            timestamp=row["created_at"],
        )
        try:
            await _publish(channel, EXCHANGE, row["type"], body, properties)
        except PublishError:
            # No queue is bound to this type. A message without subscribers is legitimate.
            _published(row["type"], "unrouted").inc()
        else:
            _published(row["type"], "published").inc()

    async def _publish_job(self, channel: Channel, row: asyncpg.Record) -> None:
        from dramatiq import Message as JobMessage  # noqa: PLC0415 - costs memory that services without jobs save

        payload = orjson.loads(row["payload"])
        queue = payload["queue"]
        job: JobMessage[None] = JobMessage(
            queue_name=queue,
            actor_name=row["type"],
            args=(payload["job_id"],),
            kwargs={"traceparent": row["traceparent"]},
            options={},
            message_id=row["id"],
        )
        body = job.encode()
        properties = spec.Basic.Properties(delivery_mode=PERSISTENT, message_id=row["id"])
        try:
            await _publish(channel, "", queue, body, properties)
        except PublishError:
            try:
                await asyncio.to_thread(_declare_job_queue, self._settings, queue)
            except Exception as error:
                raise ConnectionError(f"The queue {queue} could not be declared: {error!r}") from error
            await _publish(channel, "", queue, body, properties)
        _published(row["type"], "published").inc()

    async def _mark(
        self, locks: asyncpg.Connection, published: list[str], refused: Sequence[tuple[asyncpg.Record, str]]
    ) -> None:
        if published:
            await locks.execute(_MARK_PUBLISHED, published)
        for row, error in refused:
            delay = await locks.fetchval(_MARK_REFUSED, row["id"], error, MAX_REFUSAL_DELAY)
            self._refused[row["aggregate_id"]] = time.monotonic() + delay
            _published(row["type"], "refused").inc()
            log.error("outbox.refused", outbox_id=row["id"], type=row["type"], error=error)


def _declare_job_queue(settings: Settings, queue: str) -> None:
    from shared.messaging.job_queues import declare_job_queue  # noqa: PLC0415 - as above, and rarely needed

    declare_job_queue(settings, queue)


async def _publish(
    channel: Channel, exchange: str, routing_key: str, body: bytes, properties: spec.Basic.Properties
) -> None:
    """Publish and wait for the confirm. Raise ``PublishError`` if no queue is bound, ``DeliveryError`` if refused.

    This calls aiormq, because aio-pika's message objects are costly, and does not ``wait`` for the socket, because
    ``BATCH`` bounds what is in flight.
    """
    began = time.perf_counter()
    await channel.basic_publish(
        body, exchange=exchange, routing_key=routing_key, properties=properties, mandatory=True, wait=False
    )
    PUBLISH_SECONDS.observe(time.perf_counter() - began)


@lru_cache(maxsize=1024)
def _published(message_type: str, result: str) -> Counter:
    """Return ``PUBLISHED`` with these labels, looked up once, because a look-up takes a lock."""
    return PUBLISHED.labels(message_type, result)


async def _all(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of them concurrently. On an error, cancel the others and raise it."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _wait(waiting: Coroutine[Any, Any, Any], *, at_most: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(waiting, at_most)
