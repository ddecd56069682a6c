"""Tables of the service, without a schema: the role's search path names it.

A wall time is four columns: ``*_local``, ``*_fold``, the derived ``*_at`` and the event's ``timezone``. The column
``tzdata_version`` is the release of the tz database that derived it (see ``shared.walltime``).
"""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.database.idempotency import idempotency_table
from shared.database.tables import COLUMN_TYPES, Fold, Local, new_metadata
from shared.ids import new_id
from shared.messaging.tables import messaging_tables

Id = Annotated[UUID, mapped_column(primary_key=True, default=new_id)]
OfEvent = Annotated[UUID, mapped_column(ForeignKey("events.id", ondelete="CASCADE"))]
Extra = Annotated[dict[str, Any], mapped_column(JSONB, server_default=text("'{}'"))]
Version = Annotated[int, mapped_column(server_default=text("1"))]


class Base(DeclarativeBase):
    metadata = new_metadata()
    type_annotation_map = COLUMN_TYPES


messaging_tables(Base.metadata)
idempotency_table(Base.metadata)


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint("identifier ~ '^[a-z0-9]{8}$' AND identifier ~ '[a-z]'", name="identifier"),
        CheckConstraint("state IN ('draft', 'published')", name="state"),
        CheckConstraint("privacy IN ('public', 'private')", name="privacy"),
        CheckConstraint("ends_at > starts_at", name="ends_after_it_starts"),
        CheckConstraint("starts_fold IN (0, 1) AND ends_fold IN (0, 1)", name="folds"),
        Index("ix_events_organizer_starts_at_id", "organizer", "starts_at", "id"),
        Index(
            "ix_events_listed",
            "starts_at",
            "id",
            postgresql_where=text("state = 'published' AND privacy = 'public'"),
        ),
    )

    id: Mapped[Id]
    identifier: Mapped[str] = mapped_column(unique=True)
    organizer: Mapped[str]
    name: Mapped[str]
    description: Mapped[str | None]

    timezone: Mapped[str]
    starts_local: Mapped[Local]
    starts_fold: Mapped[Fold]
    starts_at: Mapped[datetime]
    ends_local: Mapped[Local]
    ends_fold: Mapped[Fold]
    ends_at: Mapped[datetime]
    tzdata_version: Mapped[str]

    state: Mapped[str] = mapped_column(server_default="draft")
    privacy: Mapped[str] = mapped_column(server_default="public")
    published_at: Mapped[datetime | None]

    location_name: Mapped[str | None]
    searchable_location_name: Mapped[str | None]
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]
    online: Mapped[bool | None]
    owner_name: Mapped[str | None]
    owner_description: Mapped[str | None]
    external_event_url: Mapped[str | None]
    ticket_url: Mapped[str | None]
    code_of_conduct: Mapped[str | None]
    event_type: Mapped[str | None]
    event_topic: Mapped[str | None]
    event_sub_topic: Mapped[str | None]

    image_id: Mapped[UUID | None]
    image_url: Mapped[str | None]
    image_path: Mapped[str | None]
    logo_image_id: Mapped[UUID | None]
    logo_url: Mapped[str | None]
    logo_path: Mapped[str | None]

    # The archive's own values, for the next export, which repeats them while they still mean the same.
    import_id: Mapped[UUID | None] = mapped_column(unique=True)
    archive_key: Mapped[str | None]
    archive_state: Mapped[str | None]
    archive_privacy: Mapped[str | None]
    extra: Mapped[Extra]
    extra_members: Mapped[Extra]

    version: Mapped[Version]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class SocialLink(Base):
    __tablename__ = "social_links"
    __table_args__ = (UniqueConstraint("event_id", "key"),)

    id: Mapped[Id]
    event_id: Mapped[OfEvent]
    key: Mapped[str]
    name: Mapped[str]
    link: Mapped[str]
    extra: Mapped[Extra]


class Track(Base):
    __tablename__ = "tracks"
    __table_args__ = (UniqueConstraint("event_id", "key"),)

    id: Mapped[Id]
    event_id: Mapped[OfEvent]
    key: Mapped[str]
    name: Mapped[str]
    color: Mapped[str | None]
    description: Mapped[str | None]
    position: Mapped[int | None]
    extra: Mapped[Extra]


class Microlocation(Base):
    __tablename__ = "microlocations"
    __table_args__ = (UniqueConstraint("event_id", "key"),)

    id: Mapped[Id]
    event_id: Mapped[OfEvent]
    key: Mapped[str]
    name: Mapped[str]
    floor: Mapped[int | None]
    room: Mapped[str | None]
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]
    position: Mapped[int | None]
    extra: Mapped[Extra]


class SessionType(Base):
    __tablename__ = "session_types"
    __table_args__ = (UniqueConstraint("event_id", "key"),)

    id: Mapped[Id]
    event_id: Mapped[OfEvent]
    key: Mapped[str]
    name: Mapped[str]
    length: Mapped[str | None]
    position: Mapped[int | None]
    extra: Mapped[Extra]


class Speaker(Base):
    __tablename__ = "speakers"
    __table_args__ = (UniqueConstraint("event_id", "key"),)

    id: Mapped[Id]
    event_id: Mapped[OfEvent]
    key: Mapped[str]
    name: Mapped[str]
    email: Mapped[str | None]
    mobile: Mapped[str | None]
    photo_image_id: Mapped[UUID | None]
    photo_url: Mapped[str | None]
    photo_path: Mapped[str | None]
    organisation: Mapped[str | None]
    position: Mapped[str | None]
    country: Mapped[str | None]
    city: Mapped[str | None]
    short_biography: Mapped[str | None]
    long_biography: Mapped[str | None]
    website: Mapped[str | None]
    twitter: Mapped[str | None]
    facebook: Mapped[str | None]
    github: Mapped[str | None]
    linkedin: Mapped[str | None]
    is_featured: Mapped[bool | None]
    extra: Mapped[Extra]
    version: Mapped[Version]


class Sponsor(Base):
    __tablename__ = "sponsors"
    __table_args__ = (UniqueConstraint("event_id", "key"),)

    id: Mapped[Id]
    event_id: Mapped[OfEvent]
    key: Mapped[str]
    name: Mapped[str]
    description: Mapped[str | None]
    url: Mapped[str | None]
    level: Mapped[str | None]
    type: Mapped[str | None]
    logo_image_id: Mapped[UUID | None]
    logo_url: Mapped[str | None]
    logo_path: Mapped[str | None]
    extra: Mapped[Extra]


class Session(Base):
    """One entry of the programme, such as a talk. Without times it is not in the schedule yet."""

    __tablename__ = "sessions"
    __table_args__ = (
        UniqueConstraint("event_id", "key"),
        CheckConstraint("ends_at > starts_at", name="ends_after_it_starts"),
        CheckConstraint(
            "num_nulls(starts_local, starts_fold, starts_at, ends_local, ends_fold, ends_at, tzdata_version)"
            " IN (0, 7)",
            name="both_times_or_none",
        ),
        Index("ix_sessions_event_id_starts_at", "event_id", "starts_at"),
    )

    id: Mapped[Id]
    event_id: Mapped[OfEvent]
    key: Mapped[str]
    title: Mapped[str]
    subtitle: Mapped[str | None]
    short_abstract: Mapped[str | None]
    long_abstract: Mapped[str | None]
    comments: Mapped[str | None]
    language: Mapped[str | None]
    level: Mapped[str | None]
    state: Mapped[str | None]

    starts_local: Mapped[Local | None]
    starts_fold: Mapped[Fold | None]
    starts_at: Mapped[datetime | None]
    ends_local: Mapped[Local | None]
    ends_fold: Mapped[Fold | None]
    ends_at: Mapped[datetime | None]
    tzdata_version: Mapped[str | None]

    slides_url: Mapped[str | None]
    audio_url: Mapped[str | None]
    video_url: Mapped[str | None]
    signup_url: Mapped[str | None]
    track_id: Mapped[UUID | None] = mapped_column(ForeignKey("tracks.id", ondelete="SET NULL"), index=True)
    microlocation_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("microlocations.id", ondelete="SET NULL"), index=True
    )
    session_type_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("session_types.id", ondelete="SET NULL"), index=True
    )
    extra: Mapped[Extra]
    version: Mapped[Version]


class SessionSpeaker(Base):
    """The lineup of a session; ``position`` counts from 0."""

    __tablename__ = "session_speakers"

    session_id: Mapped[UUID] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True)
    speaker_id: Mapped[UUID] = mapped_column(
        ForeignKey("speakers.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    position: Mapped[int]


class ImageCopy(Base):
    """Where the media service serves an image, a copy kept up to date by its messages."""

    __tablename__ = "image_copies"

    image_id: Mapped[UUID] = mapped_column(primary_key=True)
    organizer: Mapped[str]
    variants: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    seq: Mapped[int] = mapped_column(BigInteger)
