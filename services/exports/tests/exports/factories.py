"""What tests of exports make: events with images, and downloads."""

import io
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from PIL import Image
from sqlalchemy import update

from exports.models import Export
from shared.contracts.programme import ImageRef, Programme, ProgrammeEvent, ProgrammeSpeaker
from testkit.plugin import Live


@dataclass(frozen=True)
class ExportedEvent:
    """An event with a logo, two speakers' photos and two tickets. ``images``: content by suffix of the file."""

    id: UUID
    images: dict[str, bytes]
    image_ids: dict[str, UUID]


def image(format_: str, padding: int) -> bytes:
    """Return a picture with bytes behind its end, which no decoder reads."""
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, format_)
    return file.getvalue() + bytes([padding]) * 700_000


def programme_with(logo: ImageRef | None = None, *photos: ImageRef) -> Programme:
    return Programme(
        event=ProgrammeEvent(
            key="6",
            name="Long night",
            timezone="Europe/Berlin",
            starts_at="2097-10-26T09:00:00+02:00",
            ends_at="2097-10-27T18:00:00+01:00",
            logo=logo,
        ),
        speakers=[
            ProgrammeSpeaker(key=str(number), name=name, photo=photo)
            for number, (name, photo) in enumerate(zip(("Ada", "Bo"), photos, strict=False))
        ],
    )


async def download(live: Live, link: str) -> httpx.Response:
    """Fetch a link without a token."""
    parts = urlsplit(link)
    if parts.netloc == "gateway.test":
        return await live.client.get(f"{parts.path}?{parts.query}")
    async with httpx.AsyncClient() as client:
        return await client.get(link)


async def change(live: Live, export_id: UUID, **values: Any) -> None:
    async with live.sessions.begin() as session:
        await session.execute(update(Export).where(Export.id == export_id).values(**values))
