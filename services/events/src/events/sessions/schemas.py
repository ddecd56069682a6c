"""What the API returns of sessions."""

from typing import Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from events.models import Session
from events.sessions.repository import SessionView
from events.times import ends_of, starts_of


class Ref(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str


class TrackRef(Ref):
    color: str | None


class SessionRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    title: str
    subtitle: str | None
    short_abstract: str | None
    long_abstract: str | None
    comments: str | None = Field(default=None, description="Null for all but the organizer.")
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
    speakers: list[Ref] = Field(description="The lineup, in its sequence.")
    version: int

    @classmethod
    def of(cls, view: SessionView, zone: str, *, is_own: bool) -> Self:
        """``zone`` is the event's."""
        row = view.session
        is_scheduled = row.starts_at is not None
        return cls.model_validate(
            {
                **{name: getattr(row, name) for name in _SAME_NAME},
                "comments": row.comments if is_own else None,
                "starts_at": starts_of(row, zone).isoformat() if is_scheduled else None,
                "ends_at": ends_of(row, zone).isoformat() if is_scheduled else None,
                "track": view.track,
                "microlocation": view.microlocation,
                "session_type": view.session_type,
                "speakers": view.lineup,
            }
        )


_SAME_NAME = (SessionRead.model_fields.keys() & Session.__mapper__.columns.keys()) - {
    "comments",
    "starts_at",
    "ends_at",
}
