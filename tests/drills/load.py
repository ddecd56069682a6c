"""Steady writes through the api, and the book of what it answered."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self
from uuid import uuid4

import httpx

Answer = Literal["accepted", "refused", "unknown"]

# Few, so that a machine which is busy with other things has fewer writes, and no queue of them that runs into the
# time limits of the api. Drills are about faults, not about overload.
MOST_UNDER_WAY = 12
_CREATED = 0.2  # of the writes; the others change an event
_ANSWER_TIMEOUT = 20.0


@dataclass
class Write:
    """One write and the last answer to it. ``unknown``: no answer came, or one that says nothing of the work (5xx).

    ``name`` is no other write's: it is how the audit finds the write in the database and in the messages.
    ``failures`` counts the answers that are unknown, also those after which it was sent again.
    """

    name: str
    event_id: str | None = None
    version: int | None = None
    answer: Answer = "unknown"
    status: int | None = None
    failures: int = 0
    begun_at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0


@dataclass
class Book:
    writes: list[Write] = field(default_factory=list)

    def answers(self) -> Counter[str]:
        return Counter(write.answer for write in self.writes)

    def statuses(self) -> Counter[int | None]:
        return Counter(write.status for write in self.writes)

    def failures(self) -> int:
        return sum(write.failures for write in self.writes)


@dataclass
class Event:
    """``etag`` is the one that was told last. If a later change was done and not answered, the next one is refused
    for it, with the present tag."""

    event_id: str
    etag: str


class Load:
    """``async with`` it: writes go on at ``rate`` per second until the block ends, and then all are answered.

    With a rate of 0 there are only those that are asked for.

    One event in five writes is created, the others are changed in turn, each by one write at a time, with
    ``If-Match``. What is created is created with an ``Idempotency-Key``, and sent again when the answer is unknown.
    """

    def __init__(self, url: str, headers: Callable[[], dict[str, str]], book: Book, *, rate: float) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=_ANSWER_TIMEOUT, verify=False)
        self._headers = headers
        self._book = book
        self._rate = rate
        self._idle: deque[Event] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._begun = 0
        self._name = uuid4().hex[:8]
        self._ticking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._rate:
            self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticking
        await asyncio.gather(*self._under_way)
        await self._client.aclose()

    async def go_on(self, seconds: float) -> None:
        """Returns after these seconds, when as many writes were answered as are sent in half of them at least: on a
        machine that is busy with other things, too, a fault falls among writes."""
        enough = len(self._answered()) + seconds * self._rate / 2
        await asyncio.sleep(seconds)
        async with asyncio.timeout(60):
            while len(self._answered()) < enough:  # noqa: ASYNC110 - the machine is what is waited for
                await asyncio.sleep(0.02)

    async def create(self, name: str) -> Event:
        """One event beside the steady writes, which leave it alone. The write must be accepted."""
        event = await self._create(name)
        assert event is not None
        return event

    async def change(self, event: Event, name: str) -> None:
        await self._change(event, name)

    def _answered(self) -> list[Write]:
        return [write for write in self._book.writes if write.status is not None]

    async def _tick(self) -> None:
        started_at = time.monotonic()
        ticks = 0
        while True:
            ticks += 1
            await asyncio.sleep(max(0.0, started_at + ticks / self._rate - time.monotonic()))
            if len(self._under_way) < MOST_UNDER_WAY:
                self._begun += 1
                task = asyncio.create_task(self._write_one(self._begun))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def _write_one(self, number: int) -> None:
        name = f"drill {self._name} {number}"
        if not self._idle or number % round(1 / _CREATED) == 0:
            created = await self._create(name)
            if created is not None:
                self._idle.append(created)
            return
        event = self._idle.popleft()
        try:
            await self._change(event, name)
        finally:
            self._idle.append(event)

    async def _create(self, name: str) -> Event | None:
        write = self._noted(Write(name))
        body = {
            "name": name,
            "timezone": "Europe/Berlin",
            "starts_at": "2031-05-01T09:00",
            "ends_at": "2031-05-02T18:00",
        }
        key = {"Idempotency-Key": str(uuid4())}
        answer = await self._send(write, "POST", "/v1/events", body, key)
        if write.answer == "unknown":
            answer = await self._send(write, "POST", "/v1/events", body, key)
        if write.answer == "accepted" and answer is not None:
            write.event_id, write.version = answer.json()["id"], answer.json()["version"]
            return Event(answer.json()["id"], answer.headers["ETag"])
        return None

    async def _change(self, event: Event, name: str) -> None:
        path = f"/v1/events/{event.event_id}"
        write = self._noted(Write(name, event.event_id))
        answer = await self._send(write, "PATCH", path, {"name": name}, {"If-Match": event.etag})
        if answer is not None:
            event.etag = answer.headers.get("ETag", event.etag)
        if write.answer == "accepted" and answer is not None:
            write.version = answer.json()["version"]

    def _noted(self, write: Write) -> Write:
        self._book.writes.append(write)
        return write

    async def _send(
        self, write: Write, method: str, path: str, body: dict[str, str], headers: dict[str, str]
    ) -> httpx.Response | None:
        begun_at = time.monotonic()
        answer = None
        with suppress(httpx.TransportError):
            answer = await self._client.request(method, path, json=body, headers={**self._headers(), **headers})
        write.seconds = time.monotonic() - begun_at
        is_first, write.status = write.status is None, answer.status_code if answer is not None else 0
        write.failures += answer is None or answer.status_code >= 500
        if answer is not None and answer.is_success:
            write.answer = "accepted"
        elif answer is not None and answer.status_code < 500 and is_first:
            write.answer = "refused"  # a refusal of the second attempt says nothing of the first
        return answer
