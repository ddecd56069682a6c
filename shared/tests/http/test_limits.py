"""Slow, large and many requests, over real connections to a real server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import uvicorn
from fastapi import APIRouter, Body, FastAPI, Request
from fastapi.responses import StreamingResponse

from shared.http.app import new_app
from shared.http.limits import limited_server
from shared.settings import Settings

HOST = "127.0.0.1"
KIBIBYTE = 1 << 10
# Short enough to be waited for, long enough for a busy machine to answer what is not slow.
SOON = 0.6


class Scene:
    """What the routes of the server under test wait for, and what has become of them."""

    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()
        self.is_inside = asyncio.Event()
        self.is_stopped = asyncio.Event()

    def app(self, settings: Settings) -> FastAPI:
        router = APIRouter()

        @router.get("/now")
        async def now() -> str:
            return "now"

        @router.post("/json")
        async def take(body: Annotated[Any, Body()]) -> int:
            return len(json.dumps(body))

        @router.post("/upload", max_body_size=1 << 40)
        async def upload(request: Request) -> int:
            return sum([len(part) async for part in request.stream()])

        @router.post("/refused")
        async def refused() -> str:
            return "nobody has read the body"

        @router.get("/work")
        async def work() -> str:
            self.is_inside.set()
            try:
                await self.may_go_on.wait()
            except asyncio.CancelledError:
                self.is_stopped.set()
                raise
            return "done"

        @router.get("/stream")
        async def stream() -> StreamingResponse:
            async def lines() -> AsyncIterator[bytes]:
                yield b"first"
                await self.may_go_on.wait()
                yield b"last"

            return StreamingResponse(lines())

        @router.get("/endless")
        async def endless() -> StreamingResponse:
            async def bytes_for_ever() -> AsyncIterator[bytes]:
                try:
                    while True:
                        yield bytes(64 * KIBIBYTE)
                        await asyncio.sleep(0)
                finally:
                    self.is_stopped.set()

            return StreamingResponse(bytes_for_ever())

        return new_app(settings, [router], title="Probe", description="")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/problem+json", self.body
        document = json.loads(self.body)
        assert document["status"] == self.status
        assert document["type"] == f"urn:rostrum:problem:{document['code']}"
        return str(document["code"])


class Line:
    """A connection on which bytes go out just as they are written."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    async def answer(self) -> Answer:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode()
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(status.split(" ")[1]), headers, body)

    async def is_closed(self) -> bool:
        """Waits for the server to close it; whatever it sends before is thrown away."""
        with suppress(ConnectionError):
            async with asyncio.timeout(20):
                while await self.reader.read(64 * KIBIBYTE):
                    pass
        return True

    async def trickle(self, content: bytes, every: float) -> None:
        """Sends byte by byte until the other side has had enough."""
        with suppress(ConnectionError):
            for byte in content:
                await self.send(bytes([byte]))
                await asyncio.sleep(every)


Open = Callable[[], Any]


@asynccontextmanager
async def serving(scene: Scene, **limits: object) -> AsyncIterator[Open]:
    settings = Settings.model_validate({"service": "probe", **limits})
    config = uvicorn.Config(
        scene.app(settings),
        host=HOST,
        port=0,
        lifespan="off",
        log_config=None,
        access_log=False,
        http=limited_server(settings),
        ws="none",
        timeout_keep_alive=settings.idle_timeout,
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    lines: list[Line] = []

    @asynccontextmanager
    async def line() -> AsyncIterator[Line]:
        reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 20)
        opened = Line(reader, writer)
        lines.append(opened)
        try:
            yield opened
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    try:
        yield line
    finally:
        scene.may_go_on.set()
        server.should_exit = True
        config.timeout_graceful_shutdown = 1
        await server.shutdown()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: probe", *headers, "", "")).encode()


async def test_connections_that_ask_nothing_are_closed(scene: Scene) -> None:
    async with serving(scene, head_timeout=SOON) as open_line, open_line() as silent, open_line() as empty_lines:
        trickling = asyncio.create_task(empty_lines.trickle(b"\r\n" * 1000, SOON / 10))
        assert await silent.is_closed()
        assert await empty_lines.is_closed()
        await trickling


async def test_a_head_that_comes_byte_by_byte_is_refused(scene: Scene) -> None:
    async with serving(scene, head_timeout=SOON) as open_line, open_line() as slow, open_line() as other:
        head = request("/now", *(f"X-Line-{number}: x" for number in range(500)))
        trickling = asyncio.create_task(slow.trickle(head, SOON / 10))
        await other.send(request("/now"))
        assert (await other.answer()).status == 200, "the others do not wait"
        answer = await slow.answer()
        assert (answer.status, answer.code) == (408, "too-slow")
        assert await slow.is_closed()
        await trickling


@pytest.mark.parametrize(
    "head",
    [
        request("/now", "X-Long: " + "x" * 33 * KIBIBYTE),
        request("/now?" + "x" * 33 * KIBIBYTE),
        request("/now", *(f"X-Line-{number}: x" for number in range(4000))),
        b"GET /now HTTP/1.1\r\nX-Endless: " + b"x" * 512 * KIBIBYTE,
        b"GET /" + b"x" * 512 * KIBIBYTE,
    ],
    ids=["a header", "a path", "many headers", "a header without an end", "a path without an end"],
)
async def test_a_head_that_is_too_large_is_refused(scene: Scene, head: bytes) -> None:
    async with serving(scene) as open_line, open_line() as line:
        with suppress(ConnectionError):
            await line.send(head)
        answer = await line.answer()
        assert (answer.status, answer.code) == (431, "head-too-large")
        assert await line.is_closed()


async def test_a_head_of_usual_size_passes(scene: Scene) -> None:
    async with serving(scene) as open_line, open_line() as line:
        for _ in range(3):  # on one connection, so that each is counted for itself
            await line.send(
                request("/now", "Authorization: Bearer " + "x" * 8 * KIBIBYTE, "X: " + "x" * 16 * KIBIBYTE)
            )
            assert (await line.answer()).status in (200, 401)


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\0\0\0\0\r\n\r\n"]
)
async def test_what_is_not_http_is_refused_with_a_problem_document(scene: Scene, nonsense: bytes) -> None:
    async with serving(scene) as open_line, open_line() as line:
        await line.send(nonsense)
        answer = await line.answer()
        assert (answer.status, answer.code) == (400, "bad-request")
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/json", "/upload"])
async def test_a_body_that_comes_byte_by_byte_is_refused(scene: Scene, path: str) -> None:
    async with serving(scene, body_timeout=SOON, head_timeout=SOON) as open_line, open_line() as slow:
        await slow.send(request(path, "Content-Type: application/json", "Content-Length: 1000", method="POST"))
        trickling = asyncio.create_task(slow.trickle(b"1" * 1000, SOON / 10))
        answer = await slow.answer()
        assert (answer.status, answer.code) == (408, "too-slow")
        assert await slow.is_closed()
        await trickling


async def test_a_long_body_gets_longer(scene: Scene) -> None:
    """At eight times the slowest rate, in three times the time that an empty body has."""
    async with serving(scene, body_timeout=SOON, body_rate=KIBIBYTE) as open_line, open_line() as line:
        part, parts = bytes(2 * KIBIBYTE), 6
        await line.send(request("/upload", f"Content-Length: {len(part) * parts}", method="POST"))
        started = time.monotonic()
        for _ in range(parts):
            await line.send(part)
            await asyncio.sleep(SOON / 2)
        assert (await line.answer()).body == str(len(part) * parts).encode()
        assert time.monotonic() - started > SOON


async def test_a_body_that_nobody_reads_does_not_keep_the_connection(scene: Scene) -> None:
    async with serving(scene, head_timeout=SOON) as open_line, open_line() as slow:
        await slow.send(request("/refused", "Content-Length: 1000", method="POST"))
        assert (await slow.answer()).status == 200
        trickling = asyncio.create_task(slow.trickle(b"1" * 1000, SOON / 10))
        assert await slow.is_closed()
        await trickling


async def test_work_that_takes_too_long_is_stopped_and_told_so(scene: Scene) -> None:
    async with serving(scene, answer_timeout=SOON) as open_line, open_line() as line:
        await line.send(request("/work"))
        answer = await line.answer()
        assert (answer.status, answer.code) == (503, "answer-too-late")
        assert answer.headers["retry-after"] == "5"
        assert answer.headers["content-security-policy"]
        assert answer.headers["x-request-id"]
        assert scene.is_stopped.is_set()


async def test_time_for_the_answer_begins_when_the_body_is_there(scene: Scene) -> None:
    async with serving(scene, answer_timeout=SOON, body_timeout=20) as open_line, open_line() as line:
        await line.send(request("/upload", "Content-Length: 8", method="POST"))
        await line.trickle(b"12345678", SOON / 4)
        assert (await line.answer()).body == b"8"


async def test_a_stream_is_not_cut(scene: Scene) -> None:
    limits = {"answer_timeout": SOON, "body_timeout": SOON, "head_timeout": SOON, "stall_timeout": SOON}
    async with serving(scene, **limits, idle_timeout=1) as open_line, open_line() as line:
        await line.send(request("/stream"))
        assert b"first" in await line.reader.readuntil(b"first")
        await asyncio.sleep(SOON * 3)
        scene.may_go_on.set()
        assert b"last" in await asyncio.wait_for(line.reader.readuntil(b"last"), 20)


async def test_an_answer_that_nobody_takes_is_given_up(scene: Scene) -> None:
    async with serving(scene, stall_timeout=SOON) as open_line, open_line() as line:
        await line.send(request("/endless"))
        await line.reader.readuntil(b"\r\n\r\n")
        # The line's own buffers fill; then the server sees that nothing is taken.
        await asyncio.wait_for(scene.is_stopped.wait(), 20)


async def test_more_requests_than_fit_are_sent_away_and_probes_are_not(scene: Scene) -> None:
    async with (
        serving(scene, max_requests_at_once=1) as open_line,
        open_line() as first,
        open_line() as second,
        open_line() as probe,
    ):
        await first.send(request("/work"))
        await scene.is_inside.wait()
        await second.send(request("/now"))
        refused = await second.answer()
        assert (refused.status, refused.code) == (503, "too-busy")
        assert refused.headers["retry-after"] == "1"
        await probe.send(request("/healthz/live"))
        assert (await probe.answer()).status == 200
        scene.may_go_on.set()
        assert (await first.answer()).status == 200
        await second.send(request("/now"))
        assert (await second.answer()).status == 200


async def test_a_connection_is_kept_for_the_next_request_and_not_for_ever(scene: Scene) -> None:
    async with serving(scene, idle_timeout=1) as open_line, open_line() as line:
        for _ in range(2):
            await line.send(request("/now"))
            assert (await line.answer()).status == 200
        assert await line.is_closed()


async def test_requests_sent_ahead_are_answered_in_turn(scene: Scene) -> None:
    async with serving(scene) as open_line, open_line() as line:
        await line.send(request("/now") * 3 + request("/nowhere"))
        assert [(await line.answer()).status for _ in range(4)] == [200, 200, 200, 404]


async def test_nonsense_after_a_request_takes_nothing_of_its_answer(scene: Scene) -> None:
    async with serving(scene) as open_line, open_line() as line:
        await line.send(request("/now") + b"\0 nonsense\r\n\r\n")
        answer = await line.answer()
        assert (answer.status, answer.body) == (200, b'"now"')
        assert answer.headers["connection"] == "close"
        assert await line.is_closed()


async def test_nonsense_within_a_body_is_refused_and_ends_the_connection(scene: Scene) -> None:
    chunked = request("/upload", "Transfer-Encoding: chunked", method="POST") + b"5\r\nfirst\r\n"
    async with serving(scene) as open_line, open_line() as line:
        await line.send(chunked)
        await line.send(b"no length\r\n")
        answer = await line.answer()
        assert (answer.status, answer.code) == (400, "bad-request")
        assert await line.is_closed()


async def test_nonsense_within_a_body_takes_nothing_of_the_answer_before(scene: Scene) -> None:
    chunked = request("/upload", "Transfer-Encoding: chunked", method="POST")
    async with serving(scene) as open_line, open_line() as line:
        await line.send(request("/stream"))
        await line.reader.readuntil(b"first")
        await line.send(chunked + b"no length\r\n")
        assert b"HTTP" not in await asyncio.wait_for(line.reader.read(), 20)


async def test_a_request_to_change_the_protocol_is_answered_as_any_other(scene: Scene) -> None:
    async with serving(scene) as open_line, open_line() as line:
        await line.send(request("/now", "Connection: Upgrade", "Upgrade: websocket"))
        assert (await line.answer()).status == 200
