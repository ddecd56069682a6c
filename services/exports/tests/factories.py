"""What tests of the exports service make: archives and uploads. Fixtures of these types are in conftest."""

import io
import json
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from uuid import UUID

import httpx

from exports.archive.reader import ReadArchive
from exports.models import Import
from services.media.tests.factories import png
from testkit.plugin import Live, TokenFactory

Members: TypeAlias = dict[str, Any]
"""An archive by member: bytes as they are, anything else as JSON."""

TemporaryFiles: TypeAlias = Callable[[], list[Path]]
LeftBehind: TypeAlias = Callable[[], Awaitable[dict[str, int]]]
ReadJob: TypeAlias = Callable[[UUID], Awaitable[dict[str, Any]]]
RequestExport: TypeAlias = Callable[[UUID], Awaitable[UUID]]
ZipFile: TypeAlias = Callable[[Members], Path]


class ReadMembers(Protocol):
    """Read an archive of one event with these other members."""

    def __call__(self, **members: Any) -> ReadArchive: ...


EVENT: Members = {
    "id": 7,
    "name": "Long night",
    "timezone": "Europe/Berlin",
    "starts_at": "2027-10-30T09:00:00+02:00",
    "ends_at": "2027-10-31T18:00:00+01:00",
}


def zipped(members: Members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content if isinstance(content, bytes) else json.dumps(content))
    return file.getvalue()


def with_event(**changes: Any) -> bytes:
    return zipped({"event": {**EVENT, **changes}})


def archive_members() -> Members:
    """Return a small event: two speakers share an image, and a sponsor's image is missing."""
    image = png(40, 30)
    return {
        "event": {**EVENT, "logo_url": "/images/logo.png", "state": "Completed"},
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
        "images/logo.png": image + b"logo",
        "images/speakers/both.png": image + b"both",
        "images/sponsors/bakery.png": image + b"bakery",
    }


@dataclass(frozen=True)
class Upload:
    """Upload an archive like an organizer."""

    client: httpx.AsyncClient
    tokens: TokenFactory

    async def __call__(
        self, content: bytes, *, name: str = "event.zip", org: str = "acme", key: str | None = None
    ) -> httpx.Response:
        headers = self.tokens.organizer(org) | ({"Idempotency-Key": key} if key else {})
        files = {"file": (name, content, "application/zip")}
        return await self.client.post("/v1/imports", files=files, headers=headers)


def request_scope(path: str, method: str, headers: dict[str, str]) -> dict[str, Any]:
    """Return the ASGI scope of a request, for tests that send or receive message by message."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "server": ("service.test", 80),
        "client": ("127.0.0.1", 1),
    }


async def set_progress(live: Live, import_id: str, **values: Any) -> None:
    async with live.sessions.begin() as session:
        job = await session.get_one(Import, UUID(import_id))
        for name, value in values.items():
            setattr(job, name, value)
