from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import func, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Envelope
from shared.database.engine import Sessions, asyncpg_dsn
from shared.ids import new_id
from shared.messaging.consumer import Consumer, Retries
from shared.messaging.inbox import Subscription
from shared.messaging.tables import DEAD_LETTERS
from shared.messaging.topology import queue_name
from shared.settings import Settings
from testkit.messages import Painted, Queue, Recorder, body_of, painted_class, running
from testkit.plugin import server
from testkit.processes import until

SOON = Retries(first_delay=0.001, database_delay=0.01)


def test_a_consumer_refuses_subscriptions_that_would_lose_messages(settings: Settings, sessions: Sessions) -> None:
    subscriptions = [
        Subscription(painted_class(settings.service, verb), Recorder(), keep="latest")
        for verb in ("painted", "washed")
    ]
    with pytest.raises(ValueError, match="by different handlers"):
        Consumer(settings, sessions, subscriptions)


async def test_a_message_delivered_three_times_has_one_effect(
    settings: Settings, sessions: Sessions, queue: Queue
) -> None:
    painted, handler = painted_class(settings.service), Recorder()
    body = body_of(painted, "red")
    async with running(Consumer(settings, sessions, [Subscription(painted, handler, keep="latest")])):
        await queue.send(body, body, body, body_of(painted, "last"))
        await until(handler.has("last"))
        await until(queue.is_empty)
    assert sorted(handler.colors) == ["last", "red"]


async def test_messages_of_one_aggregate_are_handled_in_order_and_one_at_a_time(
    settings: Settings, sessions: Sessions, queue: Queue
) -> None:
    painted, wall = painted_class(settings.service), new_id()
    running_now: set[str] = set()
    done = Recorder()

    async def on_painted(session: AsyncSession, message: Painted, envelope: Envelope) -> None:
        running_now.add(message.color)
        assert running_now == {message.color}
        await session.execute(select(func.pg_sleep(0.01)))
        running_now.remove(message.color)
        await done(session, message, envelope)

    async with running(Consumer(settings, sessions, [Subscription(painted, on_painted, keep="latest")])):
        await queue.send(*(body_of(painted, str(number), wall) for number in range(40)))
        await until(done.has("39"))
    assert done.colors == [str(number) for number in range(40)]


async def test_a_type_without_a_subscription_is_counted_and_dropped(
    settings: Settings, sessions: Sessions, queue: Queue
) -> None:
    painted, strange = painted_class(settings.service), painted_class(settings.service, "sandblasted")

    async def is_counted() -> bool:
        labels = {"type": strange.message_type, "result": "unknown"}
        return REGISTRY.get_sample_value("rostrum_messages_handled_total", labels) == 1

    async with running(Consumer(settings, sessions, [Subscription(painted, Recorder(), keep="latest")])):
        await queue.send(body_of(strange))
        await until(is_counted)
        await until(queue.is_empty)
    async with sessions() as session:
        assert not (await session.execute(select(DEAD_LETTERS.c.id))).all()


async def test_later_messages_of_an_aggregate_wait_while_one_is_retried(
    settings: Settings, sessions: Sessions, queue: Queue
) -> None:
    painted, wall = painted_class(settings.service), new_id()
    failures = iter([True, True, True])
    done = Recorder()

    async def on_painted(session: AsyncSession, message: Painted, envelope: Envelope) -> None:
        if message.color == "1" and next(failures, False):
            raise RuntimeError("not yet")
        await done(session, message, envelope)

    subscription = Subscription(painted, on_painted, keep="latest")
    async with running(Consumer(settings, sessions, [subscription], retries=SOON)):
        await queue.send(*(body_of(painted, str(seq), wall, seq) for seq in range(1, 6)))
        await until(done.has("5"))
    assert done.colors == ["1", "2", "3", "4", "5"]


async def test_while_the_database_is_unavailable_no_message_becomes_a_dead_letter(
    settings: Settings, sessions: Sessions, queue: Queue
) -> None:
    painted, done = painted_class(settings.service), Recorder()

    async def has_failed_often() -> bool:
        labels = {"type": painted.message_type, "result": "failed"}
        failures = REGISTRY.get_sample_value("rostrum_messages_handled_total", labels) or 0
        return failures > 2 * SOON.attempts

    subscription = Subscription(painted, done, keep="latest")
    async with running(Consumer(settings, sessions, [subscription], retries=SOON)):
        async with closed_database(settings):
            await queue.send(body_of(painted, "red"))
            await until(has_failed_often)
        await until(done.has("red"))


@asynccontextmanager
async def closed_database(settings: Settings) -> AsyncIterator[None]:
    """Refuse connections to the test's database, as while its server starts."""
    name = make_url(settings.database_url.get_secret_value()).database
    admin = await asyncpg.connect(asyncpg_dsn(server("TEST_DATABASE_URL")))
    try:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
    finally:
        await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        await admin.close()


async def test_a_message_that_always_fails_becomes_a_dead_letter_and_others_are_handled(
    settings: Settings, sessions: Sessions, queue: Queue
) -> None:
    painted, handled = painted_class(settings.service), Recorder()
    reasons: dict[bytes, str] = {}

    async def on_painted(session: AsyncSession, message: Painted, envelope: Envelope) -> None:
        if message.color == "poison":
            raise RuntimeError("this one never works")
        await handled(session, message, envelope)

    async def are_three_dead() -> bool:
        async with sessions() as session:
            rows = await session.execute(select(DEAD_LETTERS.c.body, DEAD_LETTERS.c.reason))
            reasons.update({row.body: row.reason for row in rows})
        return len(reasons) == 3

    subscription = Subscription(painted, on_painted, keep="latest")
    async with running(Consumer(settings, sessions, [subscription], retries=SOON)):
        bodies = [body_of(painted, color) for color in ("red", "poison", "blue")]
        unreadable, newer = b"not json", body_of(painted_class(settings.service, version=2), "new")
        await queue.send(*bodies, unreadable, newer)
        await until(handled.has("red", "blue"))
        await until(are_three_dead)
    assert sorted(handled.colors) == ["blue", "red"]
    assert reasons == {bodies[1]: "handler", unreadable: "unreadable", newer: "version-unknown"}


async def test_a_consumer_reports_its_connection_and_its_queue(
    settings: Settings, sessions: Sessions, queue: Queue
) -> None:
    def connected() -> float | None:
        return REGISTRY.get_sample_value("rostrum_consumer_connected", {"queue": queue_name(settings.service)})

    async def is_reported() -> bool:
        waiting = REGISTRY.get_sample_value("rostrum_messages_waiting")
        return (connected(), REGISTRY.get_sample_value("rostrum_consumers"), waiting) == (1, 1, 0)

    subscription = Subscription(painted_class(settings.service), Recorder(), keep="latest")
    async with running(Consumer(settings, sessions, [subscription])):
        await until(is_reported)
    assert connected() == 0
