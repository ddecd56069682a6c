from collections.abc import AsyncIterator

import pytest
from aio_pika.abc import AbstractConnection, AbstractQueue

from shared.messaging.connection import connect
from shared.messaging.topology import EXCHANGE, declare_queue
from shared.settings import Settings
from testkit.messages import Queue
from testkit.plugin import delete_queues


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[AbstractConnection]:
    async with await connect(settings, "test") as connection:
        yield connection
        await delete_queues(await connection.channel(), settings.service)


@pytest.fixture
async def spy(settings: Settings, connection: AbstractConnection) -> AbstractQueue:
    """Return a queue that gets every message of the service under test."""
    channel = await connection.channel()
    exchange = await channel.declare_exchange(EXCHANGE, "topic", durable=True)
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(exchange, f"{settings.service}.#")
    return queue


@pytest.fixture
async def queue(settings: Settings, connection: AbstractConnection) -> Queue:
    channel = await connection.channel()
    await declare_queue(channel, settings.service, [])
    return Queue(settings.service, channel)
