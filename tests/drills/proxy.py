"""A TCP proxy that can stall or reset its connections, for network faults."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Self

_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, and send nothing more


class Proxy:
    """Forwards connections to ``target``, a port of this machine. It runs in the test's event loop."""

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
        while self._writers:  # noqa: ASYNC110 - they end within a few steps of the loop
            await asyncio.sleep(0)

    def silence(self) -> None:
        """Hold back all bytes and closes from now on. Connections stay open, and new ones are accepted."""
        self._flows.clear()

    def resume(self) -> None:
        """Forward what was held back."""
        self._flows.set()

    def cut(self) -> None:
        """Reset every connection on both sides. New ones are forwarded."""
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
                asyncio.create_task(self._pump(from_client, to_server, self.passes_to_server)),
                asyncio.create_task(self._pump(from_server, to_client, self.passes_to_client)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # nothing listens at the server's port, so this connection ends like that one
        finally:
            for writer in writers:
                writer.transport.abort()
                self._writers.discard(writer)

    def passes_to_server(self, chunk: bytes) -> bool:
        """Return whether the bytes may pass; the connection is closed on both sides when not."""
        return True

    def passes_to_client(self, chunk: bytes) -> bool:
        """As ``passes_to_server``, for the other direction."""
        return True

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passes: Callable[[bytes], bool]
    ) -> None:
        while True:
            chunk = await reader.read(1 << 16)
            await self._flows.wait()
            if not chunk or not passes(chunk):
                return
            writer.write(chunk)
            await writer.drain()
