import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection, AbstractQueue
from pydantic import SecretStr
from sqlalchemy import func, select

from shared.database.engine import Sessions
from shared.ids import new_id
from shared.messaging import outbox
from shared.messaging.relay import BUCKETS, Relay, Timings
from shared.messaging.tables import OUTBOX
from shared.messaging.topology import EXCHANGE
from shared.settings import Settings
from testkit.messages import paint, painted_class, receive, running
from testkit.processes import until

FAST = Timings(poll=0.05)


def unpublished(sessions: Sessions, count: int) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        async with sessions() as session:
            return count == await session.scalar(select(func.count()).where(OUTBOX.c.published_at.is_(None)))

    return is_so


async def test_messages_of_one_aggregate_leave_in_the_order_of_their_sequence(
    settings: Settings, sessions: Sessions, spy: AbstractQueue
) -> None:
    painted = painted_class(settings.service)
    walls = [new_id() for _ in range(10)]
    for seq in range(1, 31):
        async with sessions.begin() as session:
            for wall in walls:
                await outbox.add(session, paint(painted, str(seq)), subject=wall, seq=seq)
    async with running(Relay(settings)):
        envelopes = await receive(spy, 300)
    for wall in walls:
        seqs = [item["aggregateseq"] for item in envelopes if item["subject"] == str(wall)]
        assert seqs == list(range(1, 31))


async def test_a_message_without_subscribers_does_not_stay_in_the_outbox(
    settings: Settings, sessions: Sessions
) -> None:
    async with sessions.begin() as session:
        await outbox.add(session, paint(painted_class(settings.service), "red"), subject=new_id(), seq=1)
    async with running(Relay(settings)):
        await until(unpublished(sessions, 0))


async def test_a_refused_message_delays_its_own_aggregate_only_and_leaves_in_order_later(
    settings: Settings, sessions: Sessions, connection: AbstractConnection, spy: AbstractQueue
) -> None:
    painted, washed = painted_class(settings.service), painted_class(settings.service, "washed")
    channel = await connection.channel()
    full = await channel.declare_queue(
        exclusive=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    await full.bind(EXCHANGE, painted.message_type)
    await channel.default_exchange.publish(aio_pika.Message(b"fills it"), full.name)
    blocked, free = new_id(), new_id()
    async with sessions.begin() as session:
        await outbox.add(session, paint(painted, "refused"), subject=blocked, seq=1)
        await outbox.add(session, paint(washed, "waits"), subject=blocked, seq=2)
        await outbox.add(session, paint(washed, "goes"), subject=free, seq=1)

    async def is_refused() -> bool:
        async with sessions() as session:
            return await session.scalar(select(OUTBOX.c.id).where(OUTBOX.c.last_error.is_not(None))) is not None

    async with running(Relay(settings)):
        await until(is_refused)
        await until(unpublished(sessions, 2))
        await full.purge()
        await until(unpublished(sessions, 0))
    # The spy's queue had room, so it got the refused message once more: at least once, in order.
    colors = [item["data"]["color"] for item in await receive(spy, 4)]
    assert colors.index("goes") < colors.index("waits")
    assert [color for color in colors if color != "goes"] == ["refused", "refused", "waits"]


async def test_several_relays_share_the_buckets_and_take_over_those_of_one_that_ends(
    settings: Settings, sessions: Sessions, spy: AbstractQueue
) -> None:
    painted = painted_class(settings.service)
    relays = [Relay(settings, timings=FAST) for _ in range(3)]

    def shares(*expected: int) -> Callable[[], Awaitable[bool]]:
        async def are_so() -> bool:
            held = [relay.buckets for relay in relays]
            return sorted(map(len, held)) == sorted(expected) and set().union(*held) == set(range(BUCKETS))

        return are_so

    async with running(relays[0]):
        await until(shares(16, 0, 0))
        async with running(relays[1], relays[2]):
            await until(shares(6, 6, 4))
            for seq in range(1, 6):
                async with sessions.begin() as session:
                    for wall in range(20):
                        await outbox.add(session, paint(painted, "red"), subject=UUID(int=wall), seq=seq)
            envelopes = await receive(spy, 100)
        await until(shares(16, 0, 0))
    for wall in range(20):
        seqs = [item["aggregateseq"] for item in envelopes if item["subject"] == str(UUID(int=wall))]
        assert seqs == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("engine")
async def test_a_relay_whose_lock_session_is_silent_for_too_long_loses_its_buckets(settings: Settings) -> None:
    frozen, other = Relay(settings, timings=Timings(lock_patience=0.3)), Relay(settings, timings=FAST)
    locks = await frozen.open_lock_session()
    await locks.execute("SELECT pg_advisory_lock(hashtext('rostrum.relay.' || $1), 3)", settings.service)

    async def has_all() -> bool:
        return other.buckets == set(range(BUCKETS))

    async with running(other):
        await until(has_all)
    assert locks.is_closed()


async def test_messages_wait_while_the_broker_is_unavailable(
    settings: Settings, sessions: Sessions, spy: AbstractQueue
) -> None:
    async with sessions.begin() as session:
        await outbox.add(session, paint(painted_class(settings.service), "red"), subject=new_id(), seq=1)
    nowhere = settings.model_copy(update={"rabbitmq_url": SecretStr("amqp://guest:guest@127.0.0.1:1/")})
    stopping = asyncio.Event()
    task = asyncio.create_task(Relay(nowhere).run(stopping))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), 0.5)
    assert await unpublished(sessions, 1)()
    stopping.set()
    await task
    async with running(Relay(settings)):
        assert (await receive(spy, 1))[0]["data"]["color"] == "red"
