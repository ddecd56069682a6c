"""What the API gives of an event's programme, and what the internal import takes."""

import datetime
from typing import Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from events.fields import Line
from shared.contracts.programme import Programme
from shared.texts import storable_json


class _FromRow(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Ref(_FromRow):
    id: UUID
    name: str


class TrackRef(Ref):
    color: str | None


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


class SpeakerRead(BaseModel):
    id: UUID
    name: str
    email: str | None = Field(default=None, description="For the organizer only, else null.")
    mobile: str | None = Field(default=None, description="For the organizer only, else null.")
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


class SessionRead(BaseModel):
    id: UUID
    title: str
    subtitle: str | None
    short_abstract: str | None
    long_abstract: str | None
    comments: str | None = Field(default=None, description="For the organizer only, else null.")
    language: str | None
    level: str | None
    state: str | None
    starts_at: AwareDatetime | None = Field(description="With the offset of the event's zone.")
    ends_at: AwareDatetime | None = Field(description="With the offset of the event's zone.")
    slides_url: str | None
    audio_url: str | None
    video_url: str | None
    signup_url: str | None
    track: TrackRef | None
    microlocation: Ref | None
    session_type: Ref | None
    speakers: list[Ref] = Field(description="In the order of the billing.")
    version: int


class ScheduledSession(BaseModel):
    id: UUID
    title: str
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    track: TrackRef | None
    microlocation: Ref | None
    session_type: Ref | None
    speakers: list[Ref]


class ScheduleDay(BaseModel):
    date: datetime.date
    sessions: list[ScheduledSession]


class ScheduleRead(BaseModel):
    event_id: UUID
    timezone: str = Field(description="The zone in which days and times are shown.")
    days: list[ScheduleDay]


class ProgrammeImport(BaseModel):
    """``import_id`` makes it safe to repeat: the second time nothing is stored and the answer is the same."""

    model_config = ConfigDict(extra="forbid")

    import_id: UUID
    organizer: Line = Field(min_length=1)
    programme: Programme

    @field_validator("programme", mode="before")
    @classmethod
    def _can_be_stored(cls, value: Any) -> Any:
        return storable_json(value)


class ProgrammeRepair(BaseModel):
    """What could not be taken as it was. ``record`` is a key within the member."""

    member: str
    record: str | None
    field: str | None
    message: str


class ProgrammeImported(BaseModel):
    event_id: UUID
    identifier: str
    counts: dict[str, int]
    repairs: list[ProgrammeRepair]
