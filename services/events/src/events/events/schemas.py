"""Bodies of requests and responses for events."""

from datetime import datetime
from typing import Literal, Self, TypeAlias
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from events.events.repository import EventView
from events.fields import Fold, Latitude, Line, Longitude, Name, Prose, WebAddress
from events.images.repository import image_addresses
from events.models import Event
from events.times import ends_of, starts_of
from shared.http.fields import WallTimeInput

State: TypeAlias = Literal["draft", "published"]
Privacy: TypeAlias = Literal["public", "private"]

_ZONE_EXAMPLE = "Europe/Berlin"


class _EventFields(BaseModel):
    """Fields of creation and change: each may be left out, or set to null to clear it."""

    model_config = ConfigDict(extra="forbid")

    description: Prose | None = None
    location_name: Line | None = None
    searchable_location_name: Line | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    online: bool | None = None
    owner_name: Line | None = None
    owner_description: Prose | None = None
    external_event_url: WebAddress | None = None
    ticket_url: WebAddress | None = None
    code_of_conduct: Prose | None = None
    event_type: Line | None = None
    event_topic: Line | None = None
    event_sub_topic: Line | None = None
    image_id: UUID | None = Field(default=None, description="The large image, uploaded to `/v1/images`.")
    original_image_url: WebAddress | None = Field(default=None, description="Another address of the same image.")
    logo_image_id: UUID | None = None
    logo_url: WebAddress | None = None
    starts_fold: Fold | None = None
    ends_fold: Fold | None = None


class EventCreate(_EventFields):
    name: Name
    timezone: Line = Field(description="IANA name; `/v1/timezones` lists all.", examples=[_ZONE_EXAMPLE])
    starts_at: WallTimeInput
    ends_at: WallTimeInput
    privacy: Privacy = Field(
        default="public",
        description="Private events are not listed; everybody with the link can read them.",
    )


class EventUpdate(_EventFields):
    """Only fields that are sent change. A new `timezone` alone keeps the local times, so the instants move."""

    name: Name | None = None
    timezone: Line | None = Field(default=None, examples=[_ZONE_EXAMPLE])
    starts_at: WallTimeInput | None = None
    ends_at: WallTimeInput | None = None
    privacy: Privacy | None = None

    @model_validator(mode="after")
    def _cannot_be_cleared(self) -> Self:
        for name in ("name", "timezone", "starts_at", "ends_at", "privacy"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} must not be null; leave it out to keep its value")
        return self


class EventRead(BaseModel):
    id: UUID
    identifier: str = Field(description="Short name for links.", examples=["k3x9q0ab"])
    organizer: str
    name: str
    description: str | None
    timezone: str
    starts_at: AwareDatetime = Field(description="With the offset of the event's zone.")
    ends_at: AwareDatetime = Field(description="With the offset of the event's zone.")
    state: State
    privacy: Privacy
    location_name: str | None
    searchable_location_name: str | None
    latitude: float | None
    longitude: float | None
    online: bool | None
    owner_name: str | None
    owner_description: str | None
    external_event_url: str | None
    ticket_url: str | None
    code_of_conduct: str | None
    event_type: str | None
    event_topic: str | None
    event_sub_topic: str | None
    image_id: UUID | None
    images: dict[str, str] | None = Field(
        description="Addresses of the large image by variant: `large`, `thumbnail`, `icon`; null until processed."
    )
    original_image_url: str | None
    logo_image_id: UUID | None
    logo_images: dict[str, str] | None
    logo_url: str | None
    published_at: datetime | None
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, view: EventView, public_url: str) -> Self:
        event = view.event
        return cls.model_validate(
            {
                **{name: getattr(event, name) for name in _SAME_NAME},
                "starts_at": starts_of(event, event.timezone).isoformat(),
                "ends_at": ends_of(event, event.timezone).isoformat(),
                "images": image_addresses(view.image, public_url),
                "original_image_url": event.image_url,
                "logo_images": image_addresses(view.logo, public_url),
            }
        )


_SAME_NAME = (EventRead.model_fields.keys() & Event.__mapper__.columns.keys()) - {"starts_at", "ends_at"}
