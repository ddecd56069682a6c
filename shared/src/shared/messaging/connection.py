"""Connections to RabbitMQ. Not aio-pika's robust ones: what a lost connection means is for its user to decide."""

import asyncio

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.settings import Settings

BROKER_TIMEOUT = 10.0


async def connect(settings: Settings, purpose: str) -> AbstractConnection:
    """Raises ``ConnectionError`` or ``TimeoutError``; the purpose shows in the broker's list of connections."""
    name = f"{settings.service}.{purpose}"
    try:
        async with asyncio.timeout(BROKER_TIMEOUT):
            return await aio_pika.connect(
                settings.rabbitmq_url.get_secret_value(), heartbeat=30, client_properties={"connection_name": name}
            )
    except TimeoutError:
        raise
    except Exception as error:
        # A broker that goes away within the handshake makes aiormq raise what it happens to stumble over.
        raise ConnectionError(f"No connection to RabbitMQ: {error!r}") from error


async def until_closed(channel: AbstractChannel) -> None:
    closed = asyncio.Event()
    channel.close_callbacks.add(lambda *_: closed.set())
    if channel.is_closed:
        return
    await closed.wait()
