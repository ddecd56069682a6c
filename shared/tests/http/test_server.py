"""The api's server, over real connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request

from shared.http.limits import RequestLimits
from shared.http.problems import add_problem_handlers
from shared.http.server import server_config
from shared.settings import Settings

HOST = "127.0.0.1"


def _app(settings: Settings) -> FastAPI:
    app = FastAPI()
    add_problem_handlers(app)
    app.add_middleware(RequestLimits, settings)

    @app.get("/now")
    async def now() -> str:
        return "now"

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    return app


@asynccontextmanager
async def connected(**changes: object) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    settings = Settings.model_validate({"service": "probe", "api_port": 0, **changes})
    config = server_config(_app(settings), settings)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: probe", *headers, "", "")).encode()


async def status_of(reader: asyncio.StreamReader) -> int:
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)).decode().lower()
    [size] = [line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:")]
    await reader.readexactly(int(size))
    return int(head.split(" ")[1])


async def test_a_connection_serves_further_requests_and_is_closed_when_idle() -> None:
    async with connected(idle_timeout=1) as (reader, writer):
        for _ in range(2):
            writer.write(request("/now"))
            assert await status_of(reader) == 200
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_a_body_that_is_too_slow_does_not_keep_the_connection() -> None:
    async with connected(body_timeout=0.1) as (reader, writer):
        writer.write(request("/upload", "Content-Length: 1000", method="POST") + b"1")
        assert await status_of(reader) == 408
        assert await asyncio.wait_for(reader.read(), 20) == b""


async def test_requests_sent_ahead_are_answered_in_sequence() -> None:
    async with connected() as (reader, writer):
        writer.write(request("/now") * 3 + request("/nowhere"))
        assert [await status_of(reader) for _ in range(4)] == [200, 200, 200, 404]


async def test_a_request_to_change_the_protocol_is_answered_like_any_other() -> None:
    async with connected() as (reader, writer):
        writer.write(request("/now", "Connection: Upgrade", "Upgrade: websocket"))
        assert await status_of(reader) == 200
