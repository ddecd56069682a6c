"""The real peer services in this process, and the network to them, which a test can disturb."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from sqlalchemy import select

import events.api
import media.api
import tickets.api
from events.models import Event
from events.settings import EventsSettings
from media.images.sandbox import Sandbox
from media.images.tasks import Resources as MediaResources
from media.images.tasks import convert_image
from media.models import Image
from media.settings import MediaSettings
from services.tickets.tests.factories import create_ticket_on, receive_event_on
from shared.contracts.events import EventState
from shared.contracts.media import ImageImport, ImageKind, ImportedImage
from shared.contracts.programme import Programme, ProgrammeImport, ProgrammeImported
from shared.http.problems import MEDIA_TYPE
from shared.ids import new_id
from shared.problems import problem_document
from testkit.plugin import Databases, Live, ServiceUnderTest, TokenFactory, settings_of, started
from tickets.settings import TicketsSettings

SERVICES = Path(__file__).parents[2]
MAX_IMAGE_SIZE = 1 << 20
PEERS = {
    "events": ServiceUnderTest(EventsSettings, events.api.create_app, SERVICES / "events"),
    "tickets": ServiceUnderTest(TicketsSettings, tickets.api.create_app, SERVICES / "tickets"),
    "media": ServiceUnderTest(
        MediaSettings, media.api.create_app, SERVICES / "media", {"max_image_size": MAX_IMAGE_SIZE}
    ),
}


@dataclass
class Network(httpx.AsyncBaseTransport):
    """Hands requests to the applications by host, and answers itself where a test wants that.

    Keys are beginnings of paths: ``statuses`` are refusals, ``busy`` how many requests get a 503 first. A request
    sets the event in ``reached`` and waits for the one in ``gates``. ``later`` holds query parameters of a later
    release, by path.
    """

    hosts: Mapping[str, httpx.AsyncBaseTransport]
    statuses: dict[str, int] = field(default_factory=dict)
    busy: Counter[str] = field(default_factory=Counter)
    reached: dict[str, asyncio.Event] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    later: dict[str, dict[str, str]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    in_flight: Counter[str] = field(default_factory=Counter)
    most_in_flight: Counter[str] = field(default_factory=Counter)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.requests.append((request.method, path))
        self.in_flight[path] += 1
        self.most_in_flight[path] = max(self.most_in_flight[path], self.in_flight[path])
        try:
            await request.aread()
            request.url = request.url.copy_merge_params(self.later.get(path, {}))
            return await self._disturbance(path) or await self.hosts[request.url.host].handle_async_request(request)
        finally:
            self.in_flight[path] -= 1

    async def _disturbance(self, path: str) -> httpx.Response | None:
        for start, event in self.reached.items():
            if path.startswith(start):
                event.set()
        for start, gate in self.gates.items():
            if path.startswith(start):
                await gate.wait()
        for start in self.busy:
            if path.startswith(start) and self.busy[start] > 0:
                self.busy[start] -= 1
                return refusal(503)
        return next((refusal(status) for start, status in self.statuses.items() if path.startswith(start)), None)

    def stop_at(self, path: str) -> asyncio.Event:
        """Hold requests to the path up; return the event that the first one sets."""
        self.reached[path], self.gates[path] = asyncio.Event(), asyncio.Event()
        return self.reached[path]


def refusal(status: int) -> httpx.Response:
    document = problem_document(
        status, "refused-by-peer", "Refused by a peer", "The peer refuses it. Do not repeat it."
    )
    return httpx.Response(status, json=document, headers={"Content-Type": MEDIA_TYPE})


@dataclass
class Peers:
    """``converts``: whether an image is converted before its upload is answered."""

    events: Live
    tickets: Live
    media: Live
    tokens: TokenFactory
    sandbox: Sandbox
    converts: bool = True

    def network(self) -> Network:
        return Network({f"{name}.test": Hosted(self, live) for name, live in self._lives()})

    def _lives(self) -> list[tuple[str, Live]]:
        return [("events", self.events), ("tickets", self.tickets), ("media", self.media)]

    async def add_event(self, programme: Programme, organizer: str = "acme") -> UUID:
        body = ProgrammeImport(import_id=new_id(), organizer=organizer, programme=programme)
        answer = await self.events.client.post(
            "/internal/programmes",
            content=body.model_dump_json(),
            headers={"Content-Type": "application/json", **self.tokens.service("exports")},
        )
        assert answer.status_code == 201, answer.text
        return ProgrammeImported.model_validate_json(answer.content).event_id

    async def exported(self, event_id: UUID | str, organizer: str = "acme") -> Programme:
        answer = await self.events.client.get(
            f"/internal/programmes/{event_id}",
            params={"organizer": organizer},
            headers=self.tokens.service("exports"),
        )
        assert answer.status_code == 200, answer.text
        return Programme.model_validate_json(answer.content)

    async def events_of(self, import_id: UUID) -> list[Event]:
        async with self.events.sessions() as session:
            return list(await session.scalars(select(Event).where(Event.import_id == import_id)))

    async def add_ticket(self, event_id: UUID, name: str, **fields: Any) -> dict[str, Any]:
        return await create_ticket_on(self.tickets.client, self.tokens)(event_id, name, **fields)

    async def announce(self, event_id: UUID, organizer: str = "acme") -> None:
        """Let tickets receive the message about the event."""
        answer = await self.events.client.get(
            f"/internal/events/{event_id}", params={"organizer": organizer}, headers=self.tokens.service("exports")
        )
        state = EventState.model_validate_json(answer.content)
        await receive_event_on(self.tickets.sessions)(seq=state.version, **state.model_dump(exclude={"version"}))

    async def add_image(self, content: bytes, kind: ImageKind = "speaker", organizer: str = "acme") -> UUID:
        query = ImageImport(organizer=organizer, import_id=new_id(), name="image", kind=kind)
        answer = await self.media.client.post(
            "/internal/images",
            params=query.model_dump(mode="json"),
            content=content,
            headers=self.tokens.service("exports"),
        )
        assert answer.status_code == 201, answer.text
        image_id = ImportedImage.model_validate_json(answer.content).image_id
        await self.convert(image_id)
        return image_id

    async def images_of(self, import_id: UUID) -> dict[str, Image]:
        """Return an import's images by name."""
        async with self.media.sessions() as session:
            found = await session.scalars(select(Image).where(Image.import_id == import_id))
            return {image.name: image for image in found}

    async def original(self, image: Image) -> bytes:
        return b"".join([chunk async for chunk in self.media.app.state.storage.read(image.original_key)])

    async def convert(self, image_id: UUID) -> None:
        media = self.media
        await convert_image(MediaResources(media.sessions, media.app.state.storage, self.sandbox), image_id)


class Hosted(httpx.AsyncBaseTransport):
    """An application as a host of the network. Images are converted as a worker would."""

    def __init__(self, peers: Peers, live: Live) -> None:
        self._peers = peers
        self._app = httpx.ASGITransport(app=live.app, raise_app_exceptions=False)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._app.handle_async_request(request)
        if self._peers.converts and request.url.path == "/internal/images" and response.status_code == 201:
            content = await response.aread()
            await self._peers.convert(ImportedImage.model_validate_json(content).image_id)
        return response


@asynccontextmanager
async def running_peers(databases: Databases, tokens: TokenFactory, folder: Path) -> AsyncIterator[Peers]:
    sandbox = Sandbox(workers=1)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(sandbox.close)
        lives = {}
        for name, service in PEERS.items():
            settings = settings_of(service, tokens, folder / name, database_url=await databases.clone(service))
            lives[name] = await stack.enter_async_context(started(service, settings))
        yield Peers(lives["events"], lives["tickets"], lives["media"], tokens, sandbox)
