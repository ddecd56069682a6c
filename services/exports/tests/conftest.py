"""A stand-in for the three services that imports and exports talk to.

It is a fake because they are other services, with databases of their own, that no unit test of this one can start;
the journeys under ``/tests`` use their real selves. It answers by the contracts and records what it was asked.
"""

import asyncio
import io
import json
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from exports.api import create_app
from exports.clients.calls import PeerServices, open_peers
from exports.resources import Resources
from exports.settings import ExportsSettings
from shared.http.problems import MEDIA_TYPE
from shared.ids import new_id
from shared.problems import problem_document
from testkit.plugin import Live, ServiceUnderTest, TokenFactory

Members = dict[str, Any]

PICTURE = b"\x89PNG\r\n\x1a\n" + b"pixels" * 200


@dataclass
class StandInImage:
    image_id: UUID
    organizer: str
    import_id: str | None
    name: str
    kind: str
    content: bytes
    state: str = "ready"
    format: str = "PNG"


@dataclass
class StandIn:
    """``problems`` maps a path's beginning to the status it answers with, ``counts`` how often it was asked."""

    programmes: dict[str, dict[str, Any]] = field(default_factory=dict)
    programme_of_event: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    event_of_import: dict[str, UUID] = field(default_factory=dict)
    owners: dict[UUID, str] = field(default_factory=dict)
    tickets: dict[UUID, list[dict[str, Any]]] = field(default_factory=dict)
    images: dict[UUID, StandInImage] = field(default_factory=dict)
    refused_images: dict[str, int] = field(default_factory=dict)
    states_of_images: dict[str, str] = field(default_factory=dict)
    problems: dict[str, int] = field(default_factory=dict)
    failures_left: Counter[str] = field(default_factory=Counter)
    asked: list[tuple[str, str]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    reached: dict[str, asyncio.Event] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)

    @property
    def app(self) -> Starlette:
        routes = [
            Route("/internal/programmes", self._store_programme, methods=["POST"]),
            Route("/internal/programmes/{event_id}", self._read_programme),
            Route("/internal/events/{event_ref}", self._read_event),
            Route("/internal/events/{event_id}/tickets", self._read_tickets),
            Route("/internal/images", self._take_image, methods=["POST"]),
            Route("/internal/images/states", self._read_states, methods=["POST"]),
            Route("/internal/images/{image_id}/original", self._read_original),
        ]
        return Starlette(routes=routes)

    def count(self, method: str, path: str) -> int:
        return sum(1 for asked in self.asked if asked == (method, path))

    def own_event(self, programme: dict[str, Any], org: str = "acme") -> UUID:
        """An event that is there without an import."""
        event_id = new_id()
        self.programme_of_event[event_id] = programme
        self.owners[event_id] = org
        return event_id

    def own_image(self, content: bytes = PICTURE, org: str = "acme", **values: Any) -> UUID:
        image = StandInImage(new_id(), org, None, "upload.png", "speaker", content, **values)
        self.images[image.image_id] = image
        return image.image_id

    async def _before(self, request: Request) -> Response | None:
        path = request.url.path
        self.asked.append((request.method, path))
        assert request.headers["authorization"].startswith("Bearer "), "a service shows its own token"
        for start, event in self.reached.items():
            if path.startswith(start):
                event.set()
        for start, gate in self.gates.items():
            if path.startswith(start):
                await gate.wait()
        for start in list(self.failures_left):
            if path.startswith(start) and self.failures_left[start] > 0:
                self.failures_left[start] -= 1
                return problem(503)
        for start, status in self.problems.items():
            if path.startswith(start):
                return problem(status)
        return None

    async def _store_programme(self, request: Request) -> Response:
        body = await request.json()
        if refusal := await self._before(request):
            return refusal
        import_id = body["import_id"]
        known = import_id in self.event_of_import
        if not known:
            self.programmes[import_id] = body
            self.event_of_import[import_id] = self.own_event(body["programme"], body["organizer"])
        counts = {name: len(value) for name, value in body["programme"].items() if isinstance(value, list)}
        return JSONResponse(
            {
                "event_id": str(self.event_of_import[import_id]),
                "identifier": "k3x9q0ab",
                "counts": counts,
                "repairs": [{"member": "sessions", "record": "1", "field": "title", "message": "Shortened."}],
            },
            200 if known else 201,
        )

    def _own(self, request: Request) -> UUID | None:
        event_id = UUID(request.path_params["event_id"])
        return event_id if self.owners.get(event_id) == request.query_params["organizer"] else None

    async def _read_programme(self, request: Request) -> Response:
        if refusal := await self._before(request):
            return refusal
        event_id = self._own(request)
        return problem(404) if event_id is None else JSONResponse(self.programme_of_event[event_id])

    async def _read_event(self, request: Request) -> Response:
        if refusal := await self._before(request):
            return refusal
        reference = request.path_params["event_ref"]
        known = {identifier(event_id): event_id for event_id in self.owners} | {str(i): i for i in self.owners}
        event_id = known.get(reference)
        if event_id is None or self.owners[event_id] != request.query_params["organizer"]:
            return problem(404)
        name = self.programme_of_event[event_id]["event"]["name"]
        return JSONResponse(
            {
                "event_id": str(event_id),
                "identifier": "k3x9q0ab",
                "organizer": self.owners[event_id],
                "name": name,
                "timezone": "Europe/Berlin",
                "starts_at": "2027-10-30T07:00:00Z",
                "ends_at": "2027-10-31T17:00:00Z",
                "state": "draft",
                "version": 1,
            }
        )

    async def _read_tickets(self, request: Request) -> Response:
        if refusal := await self._before(request):
            return refusal
        event_id = self._own(request)
        if event_id is None or event_id not in self.tickets:
            return problem(404)
        return JSONResponse({"tickets": self.tickets[event_id]})

    async def _take_image(self, request: Request) -> Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            content = await request.body()
            if refusal := await self._before(request):
                return refusal
        finally:
            self.at_once -= 1
        query = request.query_params
        if status := self.refused_images.get(query["name"]):
            return problem(status, "This is no picture.")
        for image in self.images.values():
            if (image.organizer, image.import_id, image.name) == (
                query["organizer"],
                query["import_id"],
                query["name"],
            ):
                return JSONResponse({"image_id": str(image.image_id), "state": image.state}, 200)
        image = StandInImage(
            new_id(), query["organizer"], query["import_id"], query["name"], query["kind"], content
        )
        image.state = self.states_of_images.get(query["name"], "ready")
        self.images[image.image_id] = image
        return JSONResponse({"image_id": str(image.image_id), "state": "received"}, 201)

    async def _read_states(self, request: Request) -> Response:
        body = await request.json()
        if refusal := await self._before(request):
            return refusal
        found = [self.images.get(UUID(image_id)) for image_id in body["image_ids"]]
        return JSONResponse(
            {
                "images": [
                    {"image_id": str(i.image_id), "state": i.state, "format": i.format, "variants": []}
                    for i in found
                    if i is not None and i.organizer == body["organizer"]
                ]
            }
        )

    async def _read_original(self, request: Request) -> Response:
        if refusal := await self._before(request):
            return refusal
        image = self.images.get(UUID(request.path_params["image_id"]))
        if image is None or image.organizer != request.query_params["organizer"]:
            return problem(404)
        return Response(image.content, media_type="image/png")


def identifier(event_id: UUID) -> str:
    return event_id.hex[-8:]


def problem(status: int, detail: str = "Says the other service.") -> Response:
    code = {404: "not-found", 422: "not-an-image", 413: "image-file-too-large"}.get(status, "told-elsewhere")
    return JSONResponse(problem_document(status, code, "Title", detail), status, media_type=MEDIA_TYPE)


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def storage_place() -> str:
    """A test that names it as a parameter runs on other places too."""
    return "local"


def s3_settings() -> dict[str, Any]:
    """One bucket for all tests: each new one takes gigabytes from the test server. Keys are never the same."""
    needed = ("TEST_S3_ENDPOINT", "TEST_S3_ACCESS_KEY_ID", "TEST_S3_SECRET_ACCESS_KEY")
    if missing := [name for name in needed if not os.environ.get(name)]:
        pytest.fail(f"{', '.join(missing)} not set: start the test servers (`make test` does) to test S3.")
    return {
        "storage_place": "s3",
        "s3_endpoint": os.environ["TEST_S3_ENDPOINT"],
        "s3_access_key_id": os.environ["TEST_S3_ACCESS_KEY_ID"],
        "s3_secret_access_key": os.environ["TEST_S3_SECRET_ACCESS_KEY"],
        "s3_bucket": "rostrum-exports-test",
    }


@pytest.fixture
def service(storage_place: str, tokens: TokenFactory, tmp_path: Path) -> ServiceUnderTest:
    token_file = tmp_path / "service-token"
    token_file.write_text(tokens.service("exports")["Authorization"].removeprefix("Bearer "))
    extra: dict[str, Any] = {
        "service_token_file": token_file,
        "events_url": "http://events.test",
        "tickets_url": "http://tickets.test",
        "media_url": "http://media.test",
        **(s3_settings() if storage_place == "s3" else {}),
    }
    return ServiceUnderTest(ExportsSettings, create_app, Path(__file__).parents[1], extra)


@pytest.fixture
async def peers(new_settings: Callable[..., Any], stand_in: StandIn) -> AsyncIterator[PeerServices]:
    async with open_peers(new_settings(), transport=httpx.ASGITransport(app=stand_in.app)) as peers:
        yield peers


@pytest.fixture
async def live(live: Live, peers: PeerServices) -> Live:
    """The plugin's, beside the stand-in, with its bucket or folder made."""
    live.app.state.peers = peers
    await live.app.state.storage.prepare()
    return live


@pytest.fixture
def resources(live: Live, peers: PeerServices) -> Resources:
    """Those of a worker, beside the api of ``live``."""
    return Resources(live.settings, live.engine, live.sessions, live.app.state.storage, peers)


@pytest.fixture(autouse=True)
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """Lists the temporary files that there are, to see that they go away again."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return lambda: list(folder.iterdir())


@pytest.fixture
def left_behind(live: Live, temporary_files: Callable[[], list[Path]]) -> Callable[[], Awaitable[dict[str, int]]]:
    """What there is in the storage's folder, the temporary folder and the tables, without what is empty."""

    async def look() -> dict[str, int]:
        found = {
            "stored files": sum(1 for path in live.settings.storage_folder.rglob("*") if path.is_file()),
            "temporary files": len(temporary_files()),
        }
        async with live.sessions() as session:
            for table in ("imports", "exports", "files_in_transit", "idempotency_keys", "outbox"):
                found[table] = await session.scalar(text(f"SELECT count(*) FROM {table}")) or 0
        return {name: count for name, count in found.items() if count}

    return look


def zipped(members: Members) -> bytes:
    """A zip of members: bytes as they are, anything else as JSON."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return file.getvalue()


EVENT: Members = {
    "id": 7,
    "name": "Long night",
    "timezone": "Europe/Berlin",
    "starts_at": "2027-10-30T09:00:00+02:00",
    "ends_at": "2027-10-31T18:00:00+01:00",
    "logo_url": "/images/logo.png",
}


def archive_members() -> Members:
    """A small event: two speakers share a picture, a sponsor's is not there."""
    return {
        "event": EVENT,
        "sessions": [
            {
                "id": 1,
                "title": "Opening",
                "starts_at": "2027-10-30T10:00:00+02:00",
                "ends_at": "2027-10-30T11:00:00+02:00",
                "speakers": [{"id": 1, "name": "Ada"}],
            }
        ],
        "speakers": [
            {"id": 1, "name": "Ada", "photo_url": "/images/speakers/both.png"},
            {"id": 2, "name": "Bo", "photo_url": "/images/speakers/both.png"},
        ],
        "sponsors": [
            {"id": 1, "name": "Bakery", "logo_url": "/images/sponsors/bakery.png"},
            {"id": 2, "name": "Brewery", "logo_url": "/images/sponsors/dead.png"},
        ],
        "images/logo.png": PICTURE + b"logo",
        "images/speakers/both.png": PICTURE + b"both",
        "images/sponsors/bakery.png": PICTURE + b"bakery",
    }


@pytest.fixture
def members() -> Members:
    return archive_members()


@dataclass(frozen=True)
class Uploader:
    """Uploads as an organizer does."""

    client: httpx.AsyncClient
    tokens: TokenFactory

    async def __call__(
        self, content: bytes, *, name: str = "event.zip", org: str = "acme", key: str | None = None
    ) -> httpx.Response:
        headers = self.tokens.organizer(org) | ({"Idempotency-Key": key} if key else {})
        files = {"file": (name, content, "application/zip")}
        return await self.client.post("/v1/imports", files=files, headers=headers)


@pytest.fixture
def upload(live: Live, tokens: TokenFactory) -> Uploader:
    return Uploader(live.client, tokens)


@pytest.fixture
def programme() -> dict[str, Any]:
    """A programme as events gives it, with nothing but an event and a speaker."""
    return {
        "event": {
            "key": str(new_id()),
            "name": "Long night",
            "timezone": "Europe/Berlin",
            "starts_at": "2027-10-30T09:00:00+02:00",
            "ends_at": "2027-10-31T18:00:00+01:00",
        },
        "speakers": [{"key": str(new_id()), "name": "Ada"}],
    }


@pytest.fixture
def zip_of() -> Callable[[Members], bytes]:
    return zipped
