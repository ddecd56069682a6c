"""Connections to RabbitMQ. Not aio-pika's robust ones, because callers react to a lost connection themselves."""

import asyncio

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection

from shared.settings import Settings

BROKER_TIMEOUT = 10.0


async def connect(settings: Settings, purpose: str) -> AbstractConnection:
    """Connect under the name ``<service>.<purpose>``. Raise ``ConnectionError`` or ``TimeoutError``."""
    name = f"{settings.service}.{purpose}"
    try:
        async with asyncio.timeout(BROKER_TIMEOUT):
            return await aio_pika.connect(
                settings.rabbitmq_url.get_secret_value(), heartbeat=30, client_properties={"connection_name": name}
            )
    except TimeoutError:
        raise
    except Exception as error:
        # A broker that disappears during the handshake makes aiormq raise unrelated errors.
        raise ConnectionError(f"No connection to RabbitMQ: {error!r}") from error


async def until_closed(channel: AbstractChannel) -> None:
    closed = asyncio.Event()
    channel.close_callbacks.add(lambda *_: closed.set())
    if channel.is_closed:
        return
    await closed.wait()
