"""What the API returns of an event's plain lists."""

from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from events.catalogue.repository import SponsorView
from events.images.repository import image_addresses
from events.models import Sponsor


class _FromRow(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, row: object) -> Self:
        return cls.model_validate(row)


class TrackRead(_FromRow):
    id: UUID
    name: str
    color: str | None
    description: str | None
    position: int | None


class MicrolocationRead(_FromRow):
    id: UUID
    name: str
    floor: int | None
    room: str | None
    latitude: float | None
    longitude: float | None
    position: int | None


class SessionTypeRead(_FromRow):
    id: UUID
    name: str
    length: str | None = Field(description="`HH:MM`")
    position: int | None


class SocialLinkRead(_FromRow):
    id: UUID
    name: str
    link: str


class SponsorRead(BaseModel):
    id: UUID
    name: str
    description: str | None
    url: str | None
    level: str | None
    type: str | None
    image_id: UUID | None
    images: dict[str, str] | None = Field(description="Addresses of the logo by variant; null until processed.")
    original_image_url: str | None

    @classmethod
    def of(cls, view: SponsorView, public_url: str) -> Self:
        row = view.sponsor
        return cls.model_validate(
            {
                **{name: getattr(row, name) for name in _SAME_NAME},
                "image_id": row.logo_image_id,
                "images": image_addresses(view.logo, public_url),
                "original_image_url": row.logo_url,
            }
        )


_SAME_NAME = SponsorRead.model_fields.keys() & Sponsor.__mapper__.columns.keys()
