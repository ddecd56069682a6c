"""Calls as the peers expect them: exactly the request of the frozen sample, and its answer read whole."""

import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import httpx
import pytest

from exports.clients import events, media, tickets
from exports.clients.calls import PeerFailed, PeerServices, open_peers
from shared.contracts.media import ImageImport
from shared.contracts.programme import Programme
from testkit.calls import Call, newest_call
from testkit.plugin import NewSettings

ORIGINAL = b"\x89PNG and pixels"


class Recorded(httpx.AsyncBaseTransport):
    """A network that records one request and answers with the sample's answer."""

    def __init__(self, call: Call, answer: Any) -> None:
        self._call = call
        self._answer = answer
        self.request: httpx.Request
        self.content = b""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.request = request
        self.content = await request.aread()
        if self._answer is None:
            return httpx.Response(self._call.status, stream=httpx.ByteStream(ORIGINAL))
        return httpx.Response(self._call.status, json=self._answer)


async def image_chunks() -> AsyncIterator[bytes]:
    yield ORIGINAL[:4]
    yield ORIGINAL[4:]


async def find_event(peers: PeerServices, call: Call) -> Any:
    event = await events.find_event(peers, call.ids["event_ref"], call.query["organizer"])
    return event.model_dump(mode="json")


async def store_programme(peers: PeerServices, call: Call) -> Any:
    programme = Programme.model_validate(call.body["programme"])
    stored = await events.store_programme(peers, UUID(call.body["import_id"]), call.body["organizer"], programme)
    return stored.model_dump(mode="json")


async def read_programme(peers: PeerServices, call: Call) -> Any:
    programme = await events.read_programme(peers, UUID(call.ids["event_ref"]), call.query["organizer"])
    return programme.model_dump(mode="json")


async def list_tickets(peers: PeerServices, call: Call) -> Any:
    found = await tickets.list_tickets(peers, UUID(call.ids["event_id"]), call.query["organizer"])
    return {"tickets": [ticket.model_dump(mode="json") for ticket in found]}


async def upload_image(peers: PeerServices, call: Call) -> Any:
    image_id = await media.upload_image(peers, ImageImport.model_validate(call.query), image_chunks)
    return {**call.answer, "image_id": str(image_id)}


async def image_states(peers: PeerServices, call: Call) -> Any:
    image_ids = [UUID(image_id) for image_id in call.body["image_ids"]]
    found = await media.image_states(peers, call.body["organizer"], image_ids)
    return {"images": [found[image_id].model_dump(mode="json") for image_id in image_ids]}


async def fetch_original(peers: PeerServices, call: Call) -> Any:
    file = io.BytesIO()
    await media.fetch_original(peers, call.query["organizer"], UUID(call.ids["image_id"]), file)
    assert file.getvalue() == ORIGINAL


CALLS: dict[str, Callable[[PeerServices, Call], Awaitable[Any]]] = {
    "events.event.read": find_event,
    "events.programme.import": store_programme,
    "events.programme.export": read_programme,
    "tickets.event_tickets.read": list_tickets,
    "media.image.import": upload_image,
    "media.image_states.read": image_states,
    "media.image.original": fetch_original,
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_is_the_request_of_its_sample_and_reads_the_answer_whole(
    new_settings: NewSettings, name: str
) -> None:
    call = newest_call(name)
    network = Recorded(call, call.answer)
    async with open_peers(new_settings(), transport=network) as peers:
        assert await CALLS[name](peers, call) == call.answer
    sent = network.request
    assert (sent.method, sent.url.path) == (call.method, call.url())
    assert sent.url.host == f"{name.partition('.')[0]}.test"
    assert dict(sent.url.params) == call.query
    assert sent.headers["authorization"].startswith("Bearer ")
    if call.body is not None:
        assert sent.headers["content-type"] == "application/json"
        assert json.loads(network.content) == call.body
    elif call.method == "POST":
        assert network.content == ORIGINAL


@pytest.mark.parametrize("name", ["events.programme.export", "tickets.event_tickets.read"])
async def test_an_answer_that_cannot_be_read_without_loss_fails_and_names_the_field(
    new_settings: NewSettings, name: str
) -> None:
    call = newest_call(name)
    records = "tickets" if "tickets" in call.answer else "speakers"
    [*others, record] = call.answer[records]
    unreadable = {**call.answer, records: [*others, {**record, "name": None}]}
    async with open_peers(new_settings(), transport=Recorded(call, unreadable)) as peers:
        with pytest.raises(PeerFailed, match=rf"{records}\.\d+\.name"):
            await CALLS[name](peers, call)
