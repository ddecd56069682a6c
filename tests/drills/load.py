"""Steady writes through the api, and a record of its answers."""

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

# Low, so that a busy machine makes fewer writes instead of queueing them until the api's timeouts: drills test
# faults, not overload.
MAX_IN_FLIGHT = 12
_CREATED = 0.2  # of the writes; the others change an event
_ANSWER_TIMEOUT = 20.0


@dataclass
class Write:
    """One write and its last answer. ``unknown``: no answer, or a 5xx, which does not say whether it was done.

    ``name`` is unique: by it the audit finds the write in the database and in messages.
    ``failures`` counts all unknown answers, also those after which the write was repeated.
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
    """``etag`` is the last one received. After a change without an answer the next one may get a 412 with the
    current tag."""

    event_id: str
    etag: str


class Load:
    """An async context manager that writes at ``rate`` per second until the block ends and all writes are answered.

    A rate of 0 makes no writes but those requested. Every fifth write creates an event with an ``Idempotency-Key``
    and is repeated when the answer is unknown. The others change the events in turn with ``If-Match``, one write at
    a time per event.
    """

    def __init__(self, url: str, headers: Callable[[], dict[str, str]], book: Book, *, rate: float) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=_ANSWER_TIMEOUT, verify=False)
        self._headers = headers
        self._book = book
        self._rate = rate
        self._idle: deque[Event] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
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
        await asyncio.gather(*self._in_flight)
        await self._client.aclose()

    async def go_on(self, seconds: float) -> None:
        """Return after these seconds and at least half of the writes due in them, so that on a busy machine too the
        fault happens among writes."""
        enough = len(self._answered()) + seconds * self._rate / 2
        await asyncio.sleep(seconds)
        async with asyncio.timeout(60):
            while len(self._answered()) < enough:  # noqa: ASYNC110 - waits for the machine
                await asyncio.sleep(0.02)

    async def create(self, name: str) -> Event:
        """Create an event that the steady writes leave alone. The write must be accepted."""
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
            if len(self._in_flight) < MAX_IN_FLIGHT:
                self._begun += 1
                task = asyncio.create_task(self._write_one(self._begun))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)

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
        write = self._recorded(Write(name))
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
        write = self._recorded(Write(name, event.event_id))
        answer = await self._send(write, "PATCH", path, {"name": name}, {"If-Match": event.etag})
        if answer is not None:
            event.etag = answer.headers.get("ETag", event.etag)
        if write.answer == "accepted" and answer is not None:
            write.version = answer.json()["version"]

    def _recorded(self, write: Write) -> Write:
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
            write.answer = "refused"  # a refusal of the second attempt says nothing about the first
        return answer
