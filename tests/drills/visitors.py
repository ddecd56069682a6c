"""Those who do not write events: they look at one that is on sale, send pictures, and ask for exports."""

import asyncio
import hashlib
import io
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import httpx
from PIL import Image

from tests.drills.waiting import within

# Few of all requests, since each is a job for a worker.
IMAGE_EVERY = 75
EXPORT_EVERY = 100
JOBS_TIMEOUT = 60.0
MAX_IN_FLIGHT = 32


class Visitors:
    """``async with`` them: they ask ``rate`` times a second until the block ends, and then all are answered."""

    def __init__(self, url: str, headers: Callable[[], dict[str, str]], *, rate: float) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=20)
        self._headers = headers
        self._rate = rate
        self._in_flight: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._event_path = ""
        self._images: list[str] = []
        self._exports: list[str] = []
        self.answered = 0
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        await self._put_on_sale()
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._ticking is not None
        self._ticking.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticking
        await asyncio.gather(*self._in_flight)

    async def until_jobs_are_done(self) -> tuple[int, int]:
        """How many pictures were converted and how many exports are there, all of them whole.

        Raises ``TimeoutError`` when one is not done, ``AssertionError`` when one has failed.
        """
        for image in self._images:
            assert (await self._ended(image, "received", "processing"))["state"] == "ready"
        for export in self._exports:
            job = await self._ended(export, "queued", "running")
            assert job["state"] == "done", job["error"]
            content = (await self._client.get(job["download_url"])).content
            assert hashlib.sha256(content).hexdigest() == job["sha256"]
        await self._client.aclose()
        return len(self._images), len(self._exports)

    async def _ended(self, path: str, *states: str) -> Any:
        job: dict[str, Any] = {}

        async def is_so() -> bool:
            job.update((await self._ask("GET", path)).json())
            return job["state"] not in states

        await within(JOBS_TIMEOUT, is_so)
        return job

    async def _put_on_sale(self) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        event = {
            "name": "Open house",
            "timezone": "Europe/Berlin",
            "starts_at": (now + timedelta(days=60)).isoformat(),
            "ends_at": (now + timedelta(days=61)).isoformat(),
        }
        created = (await self._ask("POST", "/v1/events", json=event)).raise_for_status()
        self._event_path = created.headers["Location"]
        (await self._ask("POST", f"{self._event_path}/publish")).raise_for_status()

        async def is_known() -> bool:
            return (await self._ask("GET", f"{self._event_path}/tickets")).is_success

        await within(20, is_known)
        ticket = {
            "name": "Regular",
            "type": "free",
            "quantity": 100,
            "sales_starts_at": (now - timedelta(days=1)).isoformat(),
            "sales_ends_at": (now + timedelta(days=1)).isoformat(),
        }
        (await self._ask("POST", f"{self._event_path}/tickets", json=ticket)).raise_for_status()

    async def _tick(self) -> None:
        started_at = time.monotonic()
        for number in itertools.count(1):
            await asyncio.sleep(max(0.0, started_at + number / self._rate - time.monotonic()))
            if len(self._in_flight) < MAX_IN_FLIGHT:
                task = asyncio.create_task(self._visit(number))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)

    async def _visit(self, number: int) -> None:
        if number % IMAGE_EVERY == 0:
            picture = {"file": ("photo.png", _picture(number))}
            await self._counted(
                lambda: self._ask("POST", "/v1/images", files=picture, data={"kind": "event"}), self._images
            )
        elif number % EXPORT_EVERY == 0:
            await self._counted(lambda: self._ask("POST", f"{self._event_path}/exports"), self._exports)
        else:
            path = self._event_path + ("", "/tickets?sales=open", "/schedule")[number % 3]
            await self._counted(lambda: self._ask("GET", path))

    async def _counted(self, ask: Callable[[], Awaitable[httpx.Response]], made: list[str] | None = None) -> None:
        try:
            answer = await ask()
        except httpx.TransportError as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return
        self.answered += 1
        if not answer.is_success:
            self.failures.append(f"{answer.request.method} {answer.request.url.path}: {answer.status_code}")
        elif made is not None:
            made.append(answer.headers["Location"])

    async def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        return await self._client.request(method, path, headers=self._headers(), **content)


def _picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 200), (number % 256, 80, 120)).save(file, "PNG")
    return file.getvalue()
