import asyncio

import pytest
from aiormq import spec
from pamqp import frame
from pydantic import SecretStr

from shared.messaging.connection import connect
from shared.settings import Settings


async def test_a_broker_that_closes_during_the_handshake_is_unavailable(settings: Settings) -> None:
    async def begin_a_handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(b"AMQP0091"))
        writer.write(frame.marshal(spec.Connection.Start(), 0))
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(begin_a_handshake, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    closing = settings.model_copy(update={"rabbitmq_url": SecretStr(f"amqp://guest:guest@127.0.0.1:{port}/")})
    async with listening:
        with pytest.raises(ConnectionError, match="No connection to RabbitMQ"):
            await connect(closing, "test")
