"""Calls to the peers: what is retried, what is passed on, and which failures a caller sees."""

import io
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from exports.clients.calls import PeerFailed, PeerUnavailable, call, open_peers
from shared.problems import Problem
from testkit.plugin import NewSettings, TokenFactory

URL = "http://media.test/internal/images/1/original"


class Scripted(httpx.AsyncBaseTransport):
    """A network that gives scripted answers in turn and records the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(b"".join([chunk async for chunk in request.stream]))  # type: ignore[union-attr]
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Body(httpx.AsyncByteStream):
    """A streamed body that may break off, as when the peer is killed."""

    def __init__(self, content: bytes, *, is_cut: bool = False) -> None:
        self.content = content
        self.is_cut = is_cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content
        if self.is_cut:
            raise httpx.ReadError("gone")


async def called(new_settings: NewSettings, network: Scripted, **arguments: Any) -> httpx.Response:
    async with open_peers(new_settings(), transport=network, pauses=(0.0, 0.0, 0.0)) as peers:
        return await call(peers, arguments.pop("method", "GET"), URL, **arguments)


async def test_body_that_breaks_off_is_fetched_again_from_its_beginning(new_settings: NewSettings) -> None:
    network = Scripted(
        httpx.Response(200, stream=Body(b"the wh", is_cut=True)),
        httpx.Response(200, stream=Body(b"short"), headers={"Content-Length": "9"}),
        httpx.Response(200, stream=Body(b"the whole")),
    )
    file = io.BytesIO()
    await called(new_settings, network, into=file)
    assert file.getvalue() == b"the whole"


async def test_streamed_body_is_sent_whole_at_each_attempt(new_settings: NewSettings) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"pic"
        yield b"ture"

    network = Scripted(httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(201, json={}))
    await called(new_settings, network, method="POST", content=chunks)
    assert network.bodies == [b"picture"] * 3


async def test_each_call_carries_the_services_own_token(new_settings: NewSettings, tokens: TokenFactory) -> None:
    network = Scripted(httpx.Response(200))
    await called(new_settings, network)
    assert network.requests[0].headers["authorization"].startswith("Bearer ey")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([httpx.ConnectError("refused")] * 4, PeerUnavailable),
        ([httpx.Response(503)] * 4, PeerUnavailable),
        ([httpx.ReadError("gone")] * 4, PeerFailed),
        ([httpx.ReadTimeout("slow")], PeerFailed),
        ([httpx.Response(500, text="boom")], PeerFailed),
        ([httpx.Response(404, text="a proxy's page")], PeerFailed),
        ([httpx.Response(403, json={})], PeerUnavailable),
    ],
)
async def test_call_that_is_given_up_raises_the_reason(
    new_settings: NewSettings, answers: list[Any], expected: type[Exception]
) -> None:
    network = Scripted(*answers)
    with pytest.raises(expected):
        await called(new_settings, network)
    assert network.answers == []


async def test_refusal_keeps_its_status_code_words_and_fields(new_settings: NewSettings) -> None:
    document = {
        "type": "urn:rostrum:problem:time-in-gap",
        "title": "The clock skips this time",
        "status": 422,
        "code": "time-in-gap",
        "detail": "02:30 does not exist.",
        "errors": [{"field": "event.starts_at", "message": "02:30 does not exist.", "alternatives": ["03:30"]}],
    }
    with pytest.raises(Problem) as caught:
        await called(new_settings, Scripted(httpx.Response(422, json=document)))
    assert caught.value.document() == document
