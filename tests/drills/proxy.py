"""A wire to a server that can fall silent or be cut, for faults of the network."""

import asyncio
import socket
import struct
from typing import Self

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, and send nothing more


class Proxy:
    """Listens on ``port`` and passes bytes on to ``target``, a port of this machine, in both directions.

    It works in the event loop of the test, so the test must not block it.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.resume()
        self.cut()
        await self._server.wait_closed()
        while self._writers:  # noqa: ASYNC110 - they end in their next steps
            await asyncio.sleep(0)

    def silence(self) -> None:
        """From now on no byte passes, and neither does the end of a connection. All of them stay open, and new ones
        are accepted. What is sent meanwhile is held back."""
        self._flows.clear()

    def resume(self) -> None:
        """What was held back passes, late."""
        self._flows.set()

    def cut(self) -> None:
        """Resets every connection, on both sides. New ones are let through."""
        for writer in self._writers:
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()

    async def _pass_on(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._writers.add(to_client)
        writers = [to_client]
        try:
            await self._flows.wait()
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(to_server)
            writers.append(to_server)
            ways = [
                asyncio.create_task(self._pump(from_client, to_server)),
                asyncio.create_task(self._pump(from_server, to_client)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # nobody listens at the server's port: this wire ends as that one would
        finally:
            for writer in writers:
                writer.transport.abort()
                self._writers.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            chunk = await reader.read(1 << 16)
            await self._flows.wait()
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()
