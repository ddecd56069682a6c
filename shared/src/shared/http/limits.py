"""Limits on the requests of one process: how many run, how slow a body may be, how late a response may begin.

A stream (progress, a download) may last: only its beginning is limited. Slow connections, large heads and clients
that do not read are the gateway's to cut off.
"""

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.http.problems import response_timeout, too_busy
from shared.settings import Settings
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

# Always answered: a busy process must be able to say that it lives.
PROBES = ("/healthz/live", "/healthz/ready", "/metrics")


class BodyTooSlow(HTTPException):
    """Of Starlette's own type: FastAPI takes any other exception while it reads a body for a malformed body."""

    def __init__(self) -> None:
        detail = "The body arrived too slowly. Send it again over a faster connection."
        # The rest of the body would otherwise keep the connection.
        super().__init__(408, detail, headers={"Connection": "close"})


class RequestLimits:
    """Answer 503 above ``max_requests_at_once`` and after ``answer_timeout``, and 408 when the body is too slow."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
        elif 0 < self._settings.max_requests_at_once <= self._in_flight:
            await too_busy()(scope, receive, send)
        else:
            self._in_flight += 1
            try:
                await self._serve(scope, receive, send)
            finally:
                self._in_flight -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = self._settings.answer_timeout
        deadline = asyncio.timeout(seconds)
        request = InFlightRequest(receive, send, deadline, self._settings)
        try:
            async with deadline:
                await self._app(scope, request.receive, request.send)
        except TimeoutError:
            if not deadline.expired():
                raise
            log.error("request.cut", reason="answer too late")
            await response_timeout(seconds)(scope, receive, send)


class InFlightRequest:
    """The ``receive`` and ``send`` of one request. ``deadline`` holds until the response begins, except while the
    client sends the body, which has ``body_timeout`` and a second more for each ``body_rate`` bytes."""

    __slots__ = ("_body_due", "_deadline", "_has_begun", "_is_body_complete", "_receive", "_send", "_settings")

    def __init__(self, receive: Receive, send: Send, deadline: asyncio.Timeout, settings: Settings) -> None:
        self._receive = receive
        self._send = send
        self._deadline = deadline
        self._settings = settings
        self._body_due = 0.0
        self._is_body_complete = False
        self._has_begun = False

    async def receive(self) -> Message:
        """Raise ``BodyTooSlow`` when the body is late."""
        if self._is_body_complete:  # from here on it only waits for the client to leave
            return await self._receive()
        loop = asyncio.get_running_loop()
        self._body_due = self._body_due or loop.time() + self._settings.body_timeout
        self._set_deadline(None)
        try:
            async with asyncio.timeout_at(self._body_due):
                message = await self._receive()
        except TimeoutError:
            log.info("request.cut", reason="body too slow")
            raise BodyTooSlow from None
        self._is_body_complete = not message.get("more_body", False)
        self._body_due += len(message.get("body", b"")) / self._settings.body_rate
        if not self._has_begun:
            self._set_deadline(loop.time() + self._settings.answer_timeout)
        return message

    async def send(self, message: Message) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._set_deadline(None)
        await self._send(message)

    def _set_deadline(self, when: float | None) -> None:
        if not self._deadline.expired():
            self._deadline.reschedule(when)
