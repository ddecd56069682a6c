"""What the API returns of speakers."""

from typing import Self
from uuid import UUID

from pydantic import BaseModel, Field

from events.images.repository import image_addresses
from events.models import Speaker
from events.speakers.repository import SpeakerView


class SpeakerRead(BaseModel):
    id: UUID
    name: str
    email: str | None = Field(default=None, description="Null for all but the organizer.")
    mobile: str | None = Field(default=None, description="Null for all but the organizer.")
    image_id: UUID | None
    images: dict[str, str] | None = Field(description="Addresses of the photo by variant; null until processed.")
    original_image_url: str | None
    organisation: str | None
    position: str | None = Field(description="What the speaker does at the organisation.")
    country: str | None
    city: str | None
    short_biography: str | None
    long_biography: str | None
    website: str | None
    twitter: str | None
    facebook: str | None
    github: str | None
    linkedin: str | None
    is_featured: bool | None
    version: int

    @classmethod
    def of(cls, view: SpeakerView, public_url: str, *, is_own: bool) -> Self:
        row = view.speaker
        return cls.model_validate(
            {
                **{name: getattr(row, name) for name in _SAME_NAME},
                "email": row.email if is_own else None,
                "mobile": row.mobile if is_own else None,
                "image_id": row.photo_image_id,
                "images": image_addresses(view.photo, public_url),
                "original_image_url": row.photo_url,
            }
        )


_SAME_NAME = (SpeakerRead.model_fields.keys() & Speaker.__mapper__.columns.keys()) - {"email", "mobile"}
