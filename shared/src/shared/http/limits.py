"""Limits of time and size on both sides of a request, so that no client holds a process by being slow.

``limited_server`` sees what comes before a request is known, and whether the answer is taken; ``RequestLimits``
sees the body, the work and how many there are at once. A stream (progress, a download) may last: only its beginning
is limited, and that somebody takes it.
"""

import asyncio
import json
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.http.headers import DATA_POLICY
from shared.http.problems import MEDIA_TYPE
from shared.problems import problem_document
from shared.settings import Settings
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

# For a client to see that it is refused.
_LINGER = 1.0


class BodyTooSlow(HTTPException):
    """Starlette's own kind, because FastAPI takes any other that is raised while it reads for a broken body."""

    def __init__(self) -> None:
        super().__init__(
            408,
            "The body came in too slowly, and the rest was not waited for. Send it again over a faster line.",
        )


class UnderWay:
    """One request, from its head to its answer."""

    __slots__ = (
        "_body_ends_at",
        "_is_begun",
        "_is_stopped",
        "_is_whole",
        "_limits",
        "_receive",
        "_task",
        "answer_by",
    )

    def __init__(self, limits: "RequestLimits", receive: Receive, now: float) -> None:
        self._limits = limits
        self._receive = receive
        self._task = asyncio.current_task()
        self._is_whole = self._is_begun = self._is_stopped = False
        self._body_ends_at = now + limits.body_timeout
        self.answer_by: float | None = now + limits.answer_timeout

    async def receive(self) -> Message:
        """The next of the body. Raises ``BodyTooSlow``."""
        if self._is_whole:  # from here on it only waits for the client to leave
            return await self._receive()
        # While the client sends, its own limit holds.
        self.answer_by = None
        try:
            async with asyncio.timeout(self._body_ends_at - time.perf_counter()):
                message = await self._receive()
        except TimeoutError:
            log.info("request.cut", reason="body too slow")
            raise BodyTooSlow from None
        self._is_whole = not message.get("more_body", False)
        self._body_ends_at += len(message.get("body", b"")) / self._limits.body_rate
        if not self._is_begun:
            self.answer_by = time.perf_counter() + self._limits.answer_timeout
        return message

    def begins_its_answer(self) -> None:
        self._is_begun = True
        self.answer_by = None

    def stop(self) -> None:
        assert self._task is not None  # noqa: S101 - it is made within one
        self._is_stopped = True
        self.answer_by = None
        self._task.cancel()

    def was_stopped(self) -> bool:
        """Whether it was cancelled for being late, and by nobody else."""
        return self._is_stopped and self._task is not None and self._task.uncancel() == 0


class RequestLimits:
    """How many requests there are, and which of them are late.

    One look at all of them now and then, because a timer of its own costs each request more than all else here.
    """

    def __init__(self, settings: Settings) -> None:
        self.body_timeout = settings.body_timeout
        self.body_rate = settings.body_rate
        self.answer_timeout = settings.answer_timeout
        self._at_once = settings.max_requests_at_once
        self._under_way: set[UnderWay] = set()
        self._next_look: asyncio.TimerHandle | None = None

    def is_full(self) -> bool:
        return 0 < self._at_once <= len(self._under_way)

    def enter(self, receive: Receive, now: float) -> UnderWay:
        """``now`` is of ``time.perf_counter``."""
        request = UnderWay(self, receive, now)
        self._under_way.add(request)
        if self._next_look is None:
            self._look_later()
        return request

    def leave(self, request: UnderWay) -> None:
        self._under_way.discard(request)

    def _look_later(self) -> None:
        often_enough = min(1.0, self.answer_timeout / 10)
        self._next_look = asyncio.get_running_loop().call_later(often_enough, self._look)

    def _look(self) -> None:
        now = time.perf_counter()
        for request in self._under_way:
            if request.answer_by is not None and request.answer_by < now:
                request.stop()
        self._next_look = None
        if self._under_way:
            self._look_later()


def limited_server(settings: Settings) -> type[HttpToolsProtocol]:
    """uvicorn's protocol for its option ``http``, with the limits that it has not.

    It waits for a first request, for the rest of a head and for the rest of a refused body as long as the client
    likes, takes a head of any size, and keeps an answer as long as the client does not take it. What it can't read
    it refuses in plain text; here that is a problem document too.
    """

    class LimitedProtocol(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._watch: asyncio.TimerHandle | None = None
            self._stall: asyncio.TimerHandle | None = None
            self._is_refused = False
            self._is_in_head = True
            self._is_message_whole = True
            self._head_size = 0
            self._refusal: tuple[int, str, str, str] = _UNREADABLE

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._expect_within_limit()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_watch()
            self.resume_writing()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._is_refused:
                return
            if self._is_in_head:
                # Before it is read: what a client sends without an end must not be gathered.
                self._head_size += len(data)
            super().data_received(data)
            if self._is_in_head and self._head_size and not self._is_over():
                if self._head_size > settings.max_head_size:
                    self._refuse(_HEAD_TOO_LARGE)
                elif self._watch is None:
                    self._expect_within_limit()

        def on_headers_complete(self) -> None:
            # What came in one piece may be head and body: only then it is counted.
            if self._head_size > settings.max_head_size and self._size_of_head() > settings.max_head_size:
                self._refusal = _HEAD_TOO_LARGE
                raise ValueError("the head is too large")
            self._is_in_head = False
            self._is_message_whole = False
            self._stop_watch()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._is_in_head = self._is_message_whole = True
            self._head_size = 0
            self._stop_watch()
            super().on_message_complete()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self._is_message_whole and not self.transport.is_closing():
                self._expect_within_limit()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stall is None:
                self._stall = self.loop.call_later(settings.stall_timeout, self._cut, "answer not taken")

        def resume_writing(self) -> None:
            if self._stall is not None:
                self._stall.cancel()
                self._stall = None
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            self._refuse(self._refusal)

        def _expect_within_limit(self) -> None:
            self._stop_watch()
            self._watch = self.loop.call_later(settings.head_timeout, self._too_slow)

        def _stop_watch(self) -> None:
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None

        def _size_of_head(self) -> int:
            return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

        def _is_over(self) -> bool:
            return self._is_refused or self.transport.is_closing()

        def _is_answering(self) -> bool:
            return not getattr(self.cycle, "response_complete", True)

        def _too_slow(self) -> None:
            self._watch = None
            if self._is_answering():  # the next request may wait for this answer
                self._expect_within_limit()
            elif self._is_in_head and self._head_size:
                self._refuse(_HEAD_TOO_SLOW)
            else:  # nobody has asked for anything, or the answer is there already
                self.transport.close()

        def _refuse(self, refusal: tuple[int, str, str, str]) -> None:
            status = refusal[0]
            log.info("request.cut", reason=refusal[1])
            if self._is_answering():
                if self._is_message_whole:
                    # Another answer is on its way, and this would get into the middle of it.
                    self._is_refused = True
                    self.shutdown()
                    return
                if self.pipeline or self.cycle.response_started:
                    self.transport.close()
                    return
                # What waits for the rest of this request is told that there is none, and says nothing more.
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            body = json.dumps(problem_document(*refusal)).encode()
            lines = (
                f"HTTP/1.1 {status} {refusal[2]}",
                f"content-type: {MEDIA_TYPE}",
                f"content-length: {len(body)}",
                "cache-control: no-store",
                f"content-security-policy: {DATA_POLICY}",
                "x-content-type-options: nosniff",
                "connection: close",
            )
            self.transport.write("\r\n".join((*lines, "", "")).encode() + body)
            # Closed at once, with bytes of the client's unread, it would be reset, and the client not see why.
            self.transport.write_eof()
            self._is_refused = True
            self._stop_watch()
            self._watch = self.loop.call_later(_LINGER, self.transport.close)

        def _cut(self, reason: str) -> None:
            self._stall = None
            log.info("request.cut", reason=reason)
            self.transport.abort()

    return LimitedProtocol


_UNREADABLE = (400, "bad-request", "The request can't be read", "This is not HTTP as it is taken here.")
_HEAD_TOO_LARGE = (
    431,
    "head-too-large",
    "The headers are too large",
    "The request's line and headers are larger than is taken here. Send fewer of them, or a shorter token.",
)
_HEAD_TOO_SLOW = (
    408,
    "too-slow",
    "The request came in too slowly",
    "The headers did not come in time. Send it again.",
)
