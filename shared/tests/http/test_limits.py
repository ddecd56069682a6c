"""Slow and many requests. Time stands still unless a test moves it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Body, Request
from fastapi.responses import StreamingResponse

from shared.http.app import new_app
from shared.settings import Settings

BODY_TIMEOUT = 30.0
BODY_RATE = 100
ANSWER_TIMEOUT = 50.0


class StillLoop(asyncio.SelectorEventLoop):
    now = 0.0

    def time(self) -> float:
        return self.now


class Scene:
    """An app with routes that wait for the test, and a client that sends bodies piece by piece."""

    def __init__(self, loop: StillLoop, max_requests_at_once: int) -> None:
        self._loop = loop
        self.may_go_on = asyncio.Event()
        self.is_inside = asyncio.Event()
        self.is_stopped = asyncio.Event()
        settings = Settings(
            service="probe",
            body_timeout=BODY_TIMEOUT,
            body_rate=BODY_RATE,
            answer_timeout=ANSWER_TIMEOUT,
            max_requests_at_once=max_requests_at_once,
        )
        app = new_app(settings, [self._router()], title="Probe", description="")
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://probe.test")

    def _router(self) -> APIRouter:
        router = APIRouter()

        @router.get("/now")
        async def now() -> str:
            return "now"

        @router.post("/json")
        async def parsed(body: Annotated[Any, Body()]) -> None:
            pass

        @router.post("/upload")
        async def upload(request: Request) -> int:
            size = sum([len(part) async for part in request.stream()])
            await self.may_go_on.wait()
            return size

        @router.get("/work")
        async def work() -> str:
            self.is_inside.set()
            try:
                await self.may_go_on.wait()
            except asyncio.CancelledError:
                self.is_stopped.set()
                raise
            return "done"

        @router.get("/timeout")
        async def timeout() -> None:
            raise TimeoutError

        @router.get("/stream")
        async def stream() -> StreamingResponse:
            async def lines() -> AsyncIterator[bytes]:
                yield b"first "
                self.is_inside.set()
                await self.may_go_on.wait()
                yield b"last"

            return StreamingResponse(lines())

        return router

    def get(self, path: str) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self._client.get(path))

    def post(self, path: str) -> "Upload":
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def body() -> AsyncIterator[bytes]:
            while (part := await parts.get()) is not None:
                yield part

        headers = {"Content-Type": "application/json"}
        sending = self._client.post(path, content=body(), headers=headers)
        return Upload(parts, asyncio.create_task(sending))

    async def wait(self, seconds: float) -> None:
        """Let everything happen that is due now, and then what is due after ``seconds``."""
        for step in (0.0, seconds):
            self._loop.now += step
            for _ in range(50):
                await asyncio.sleep(0)


@dataclass
class Upload:
    parts: asyncio.Queue[bytes | None]
    response: asyncio.Task[httpx.Response]


Story = Callable[[Scene], Awaitable[None]]


def play(story: Story, *, max_requests_at_once: int = 0) -> None:
    loop = StillLoop()

    async def tell() -> None:
        await story(Scene(loop, max_requests_at_once))

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(tell())


@pytest.mark.parametrize("path", ["/json", "/upload"])
def test_a_body_slower_than_the_body_rate_is_refused(path: str) -> None:
    async def story(scene: Scene) -> None:
        upload = scene.post(path)
        for _ in range(round(BODY_TIMEOUT)):
            upload.parts.put_nowait(b"1")
            await scene.wait(1)
        assert not upload.response.done()
        await scene.wait(1)
        response = await upload.response
        assert (response.status_code, response.json()["code"]) == (408, "too-slow")
        assert response.headers["connection"] == "close", "the rest of the body must not keep the connection"

    play(story)


def test_a_large_body_has_more_time() -> None:
    async def story(scene: Scene) -> None:
        upload = scene.post("/upload")
        for _ in range(10):
            upload.parts.put_nowait(bytes(BODY_RATE * 10))
            await scene.wait(9)
        upload.parts.put_nowait(None)
        scene.may_go_on.set()
        assert (await upload.response).json() == BODY_RATE * 100

    play(story)


def test_the_answer_timeout_begins_when_the_body_is_complete() -> None:
    async def story(scene: Scene) -> None:
        upload = scene.post("/upload")
        upload.parts.put_nowait(bytes(BODY_RATE * 60))
        await scene.wait(BODY_TIMEOUT + 55)
        upload.parts.put_nowait(None)
        await scene.wait(ANSWER_TIMEOUT - 1)
        assert not upload.response.done()
        await scene.wait(2)
        assert (await upload.response).json()["code"] == "answer-too-late"

    play(story)


def test_work_that_takes_too_long_is_stopped_and_reported() -> None:
    async def story(scene: Scene) -> None:
        late = scene.get("/work")
        await scene.wait(ANSWER_TIMEOUT + 1)
        response = await late
        assert (response.status_code, response.json()["code"]) == (503, "answer-too-late")
        assert "may or may not have been saved" in response.json()["detail"]
        assert response.headers["retry-after"] == "5"
        assert response.headers["content-security-policy"]
        assert response.headers["x-request-id"] == response.json()["request_id"]
        assert scene.is_stopped.is_set()
        assert (await scene.get("/now")).status_code == 200, "its place is free again"

    play(story, max_requests_at_once=1)


def test_a_timeout_of_the_work_itself_is_an_internal_error() -> None:
    async def story(scene: Scene) -> None:
        response = await scene.get("/timeout")
        assert (response.status_code, response.json()["code"]) == (500, "internal")

    play(story)


def test_a_stream_may_last() -> None:
    async def story(scene: Scene) -> None:
        stream = scene.get("/stream")
        await scene.wait(0)
        assert scene.is_inside.is_set()
        await scene.wait(100 * (ANSWER_TIMEOUT + BODY_TIMEOUT))
        scene.may_go_on.set()
        assert (await stream).text == "first last"

    play(story)


def test_requests_above_the_limit_are_refused_and_probes_are_not() -> None:
    async def story(scene: Scene) -> None:
        first = scene.get("/work")
        await scene.is_inside.wait()
        refused = await scene.get("/now")
        assert (refused.status_code, refused.json()["code"]) == (503, "too-busy")
        assert "nothing was changed" in refused.json()["detail"]
        assert refused.headers["retry-after"] == "1"
        assert (await scene.get("/healthz/live")).status_code == 200
        scene.may_go_on.set()
        assert (await first).status_code == 200
        assert (await scene.get("/now")).status_code == 200

    play(story, max_requests_at_once=1)
