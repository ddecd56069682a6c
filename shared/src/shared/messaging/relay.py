"""Relay: publishes the outbox's committed rows, in order per aggregate, and marks what the broker confirmed.

The messengers of a service share its aggregates by ``BUCKETS`` hash buckets; who holds a bucket's advisory lock
publishes its rows. The locks, the reading and the marking are on one connection, the guard: who has lost the locks
can't mark either. PostgreSQL itself ends a guard that says nothing for ``GUARD_PATIENCE``, so a frozen process does
not keep its buckets from the others; when it comes back, it starts no publish any more, as its ``PUBLISH_WINDOW``
is over.

No transaction is open while it talks to the broker. A crash between confirm and mark publishes a row again, with
the same id, which the consumer's inbox absorbs.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, cast

import asyncpg
import orjson
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError, PublishError
from aiormq import Channel, spec
from dramatiq import Message as JobMessage
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
from shared.telemetry.traces import is_exporting, span

log = get_logger(__name__)

BUCKETS = 16
BATCH = 500
LANES = 4
PERSISTENT = 2
_SEND = {"messaging.system": "rabbitmq"}
POLL_SECONDS = 1.0
# A publish starts at most this long after its row was read, and ends at most ``PUBLISH_TIMEOUT`` later; the guard
# is heard of again before its patience is over, unless the process stands still.
PUBLISH_WINDOW = 3.0
PUBLISH_TIMEOUT = 10.0
GUARD_PATIENCE = 15.0
GUARD_TIMEOUT = 5.0
MAX_REFUSAL_DELAY = 300.0

# Locks of two numbers: the service, and the bucket or, beyond the buckets, the presence of a messenger.
_PRESENT = "SELECT pg_advisory_lock_shared(hashtext('rostrum.relay.' || $1), $2)"
_COUNT_PRESENT = """
    SELECT count(*) FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND classid = hashtext('rostrum.relay.' || $1)::oid AND objid = $2::oid
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_TAKE = "SELECT pg_try_advisory_lock(hashtext('rostrum.relay.' || $1), $2)"
_GIVE_BACK = "SELECT pg_advisory_unlock(hashtext('rostrum.relay.' || $1), $2)"

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
    def __init__(self, settings: Settings, *, declare_job_queue: Callable[[str], None]) -> None:
        """``declare_job_queue`` makes a job queue on the broker; it blocks and is called in a thread."""
        self._settings = settings
        self._service = settings.service
        self._declare_job_queue = declare_job_queue
        self._wake = asyncio.Event()
        self._guard_turn = asyncio.Lock()
        self.buckets: set[int] = set()  # whose rows this relay publishes
        # Aggregates whose next message the broker refused, and until when (monotonic) they wait.
        self._refused: dict[str, float] = {}

    async def run(self, stopping: asyncio.Event) -> None:
        """Runs until ``stopping`` is set, through outages of broker and database; ends after the present batch."""
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
                    await _wait(stopping.wait(), at_most=POLL_SECONDS)
        finally:
            stopper.cancel()

    async def _wake_at_end(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._wake.set()

    async def _run_while_connected(self, stopping: asyncio.Event) -> None:
        guard = await self.connect_guard()
        try:
            async with await connect(self._settings, "relay") as connection:
                async with asyncio.timeout(BROKER_TIMEOUT):
                    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                    await declare_exchange(channel)
                    underlay = cast(Channel, await channel.get_underlay_channel())
                channel.close_callbacks.add(lambda *_: self._wake.set())
                # Only now, so that who can't reach the broker leaves the work to those who can.
                await guard.execute(_PRESENT, self._service, BUCKETS, timeout=GUARD_TIMEOUT)
                await guard.add_listener(channel_name(self._service), lambda *_: self._wake.set())
                shared_at = -POLL_SECONDS
                while not stopping.is_set():
                    self._wake.clear()
                    if channel.is_closed:
                        raise ConnectionError("The connection to the broker ended.")
                    if time.monotonic() - shared_at >= POLL_SECONDS:
                        await self._share_buckets(guard)
                        shared_at = time.monotonic()
                    if await self._publish_batch(guard, underlay, self.buckets):
                        await self._drain(guard, underlay)
                    else:
                        await _wait(self._wake.wait(), at_most=POLL_SECONDS)
        finally:
            self.buckets.clear()
            RELAY_BUCKETS.set(0)
            with suppress(Exception):
                await guard.close(timeout=2)

    async def connect_guard(self) -> asyncpg.Connection:
        """A connection that PostgreSQL ends, and its locks with it, when nothing is heard of it."""
        url = asyncpg_dsn(self._settings.database_url.get_secret_value())
        parameters = {
            **connection_settings(self._settings, "relay"),
            "idle_session_timeout": f"{GUARD_PATIENCE * 1000:.0f}",
        }
        return await asyncpg.connect(url, timeout=GUARD_TIMEOUT, server_settings=parameters)

    async def _share_buckets(self, guard: asyncpg.Connection) -> None:
        """Takes free buckets or gives some back, until this messenger has its share. Between batches only."""
        present = await guard.fetchval(_COUNT_PRESENT, self._service, BUCKETS, timeout=GUARD_TIMEOUT)
        share = -(-BUCKETS // present)
        before = len(self.buckets)
        while len(self.buckets) > share:
            bucket = self.buckets.pop()
            await guard.execute(_GIVE_BACK, self._service, bucket, timeout=GUARD_TIMEOUT)
        for bucket in range(BUCKETS):
            if len(self.buckets) >= share:
                break
            if bucket not in self.buckets and await guard.fetchval(
                _TAKE, self._service, bucket, timeout=GUARD_TIMEOUT
            ):
                self.buckets.add(bucket)
        if len(self.buckets) != before:
            RELAY_BUCKETS.set(len(self.buckets))
            log.info("relay.shared", buckets=len(self.buckets), messengers=present)

    async def _drain(self, guard: asyncpg.Connection, channel: Channel) -> None:
        """Publishes a backlog for a while, by parts of the buckets: some are read or marked as others are sent."""
        until = time.monotonic() + POLL_SECONDS

        async def drain(buckets: Collection[int]) -> None:
            while time.monotonic() < until and await self._publish_batch(guard, channel, buckets):
                pass

        buckets = list(self.buckets)
        await _all(drain(part) for part in (buckets[lane::LANES] for lane in range(LANES)) if part)

    async def _publish_batch(self, guard: asyncpg.Connection, channel: Channel, buckets: Collection[int]) -> bool:
        """Publishes up to ``BATCH`` rows of these buckets; says whether there may be more at once."""
        now = time.monotonic()
        self._refused = {aggregate: until for aggregate, until in self._refused.items() if until > now}
        start_before = now + PUBLISH_WINDOW
        async with self._guard_turn:
            rows = await guard.fetch(
                _READ, BUCKETS - 1, list(buckets), list(self._refused), BATCH, timeout=GUARD_TIMEOUT
            )
        by_aggregate = defaultdict(list)
        for row in rows:
            by_aggregate[row["aggregate_type"], row["aggregate_id"]].append(row)
        published: list[str] = []
        refused: list[tuple[asyncpg.Record, str]] = []

        async def publish_in_order(aggregate_rows: list[asyncpg.Record]) -> None:
            if len(aggregate_rows) > 1:
                # The database's clock may have been set back between two of them.
                aggregate_rows.sort(key=lambda row: row["aggregate_seq"])
            for row in aggregate_rows:
                if time.monotonic() > start_before:
                    return
                try:
                    if is_exporting():
                        with span(f"send {row['type']}", SpanKind.PRODUCER, _SEND, below=row["traceparent"]):
                            await self._publish(channel, row)
                    else:
                        await self._publish(channel, row)
                except DeliveryError as error:
                    # The broker said no to this one; its aggregate waits, the others go on.
                    refused.append((row, str(error)[:500]))
                    return
                published.append(row["id"])

        try:
            async with asyncio.timeout(PUBLISH_WINDOW + PUBLISH_TIMEOUT):
                await _all(publish_in_order(aggregate_rows) for aggregate_rows in by_aggregate.values())
        finally:
            async with self._guard_turn:
                await self._mark(guard, published, refused)
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
            # Nobody is bound to this type. A fact that nobody listens to is legitimate.
            _published(row["type"], "unrouted").inc()
        else:
            _published(row["type"], "published").inc()

    async def _publish_job(self, channel: Channel, row: asyncpg.Record) -> None:
        payload = orjson.loads(row["payload"])
        queue, job_id = payload["queue"], payload["job_id"]
        job: JobMessage[None] = JobMessage(
            queue_name=queue,
            actor_name=row["type"],
            args=(job_id,),
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
                await asyncio.to_thread(self._declare_job_queue, queue)
            except Exception as error:
                raise ConnectionError(f"The queue {queue} could not be declared: {error!r}") from error
            await _publish(channel, "", queue, body, properties)
        _published(row["type"], "published").inc()

    async def _mark(
        self, guard: asyncpg.Connection, published: list[str], refused: Sequence[tuple[asyncpg.Record, str]]
    ) -> None:
        if published:
            await guard.execute(_MARK_PUBLISHED, published, timeout=GUARD_TIMEOUT)
        for row, error in refused:
            delay = await guard.fetchval(_MARK_REFUSED, row["id"], error, MAX_REFUSAL_DELAY, timeout=GUARD_TIMEOUT)
            self._refused[row["aggregate_id"]] = time.monotonic() + delay
            _published(row["type"], "refused").inc()
            log.error("outbox.refused", outbox_id=row["id"], type=row["type"], error=error)


async def _publish(
    channel: Channel, exchange: str, routing_key: str, body: bytes, properties: spec.Basic.Properties
) -> None:
    """Sends, and waits for the confirm. Raises ``PublishError`` when no queue takes it, ``DeliveryError`` for a no.

    By aiormq, which is below aio-pika: of the time of a publish, aio-pika's message object alone takes a sixth.
    It need not ``wait`` for the socket to take each message by itself: ``BATCH`` bounds what is on its way.
    """
    began = time.perf_counter()
    await channel.basic_publish(
        body, exchange=exchange, routing_key=routing_key, properties=properties, mandatory=True, wait=False
    )
    PUBLISH_SECONDS.observe(time.perf_counter() - began)


@lru_cache(maxsize=1024)
def _published(message_type: str, result: str) -> Counter:
    """``PUBLISHED`` of these labels. Looking them up takes a lock, so they are looked up once."""
    return PUBLISHED.labels(message_type, result)


async def _all(parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Runs all of them side by side. Raises the first one's error when the others are cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(part)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _wait(waiting: Coroutine[Any, Any, Any], *, at_most: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(waiting, at_most)
