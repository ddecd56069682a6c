"""A whole event as data: what exports hands to events after reading an archive, and gets back for an export.

The body of the internal calls ``POST /internal/programmes`` and ``GET /internal/programmes/{event_id}``.

Records name each other by ``key``, which is unique within its list: an id of the archive on the way in, an id of
the events service on the way out. Links stand on the session only. Whatever a record says beyond these fields is
kept in its ``extra`` under the snake_case name it has in archives, so that an export gives back everything that an
import brought. An ``extra`` entry under the name of a field (``photo_url``, ``starts_at``) is a value that could
not be used, such as a dead image or a time in a gap, and counts only while the field itself is empty.

Times are text for ``shared.walltime.resolve``: the reader of archives writes RFC 3339 with the offset that the
event's zone has then; a local time without an offset is a reading in that zone. The event's zone is known to the tz
database. The event's start is before its end. A session has both times or neither, and its start is before its end.
"""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

LINE_LENGTH = 1_000
ADDRESS_LENGTH = 4_000
PROSE_LENGTH = 500_000
KEY_LENGTH = 100

Key = Annotated[str, StringConstraints(min_length=1, max_length=KEY_LENGTH)]
Line = Annotated[str, StringConstraints(max_length=LINE_LENGTH)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=LINE_LENGTH)]
Address = Annotated[str, StringConstraints(max_length=ADDRESS_LENGTH)]
Prose = Annotated[str, StringConstraints(max_length=PROSE_LENGTH)]
Latitude = Annotated[float, Field(ge=-90, le=90)]
Longitude = Annotated[float, Field(ge=-180, le=180)]
Whole = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Colour = Annotated[str, StringConstraints(pattern=r"^#(?:[0-9a-fA-F]{3}){1,2}$")]
Length = Annotated[str, StringConstraints(pattern=r"^\d{2}:[0-5]\d$")]


class ImageRef(BaseModel):
    """A picture: a member of the archive, an address elsewhere, an image of the media service, or several."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    path: str | None = Field(default=None, description="Member of the archive, without a leading slash.")
    url: Address | None = Field(default=None, description="Absolute address.")
    image_id: UUID | None = Field(default=None, description="Id in the media service.")


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    key: Key
    extra: dict[str, JsonValue] = Field(default_factory=dict)


class ProgrammeEvent(Record):
    name: Name
    identifier: Line | None = Field(
        default=None, description="The event's short name where the archive was made; never taken over."
    )
    description: Prose | None = None
    timezone: Line
    starts_at: str
    ends_at: str
    location_name: Line | None = None
    searchable_location_name: Line | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    online: bool | None = None
    owner_name: Line | None = None
    owner_description: Prose | None = None
    external_event_url: Address | None = None
    ticket_url: Address | None = None
    code_of_conduct: Prose | None = None
    privacy: Line | None = None
    state: Line | None = Field(default=None, description="As written: `Published`, `Completed`, `draft`, …")
    event_type: Line | None = None
    event_topic: Line | None = None
    event_sub_topic: Line | None = None
    logo: ImageRef | None = None
    image: ImageRef | None = Field(default=None, description="The large picture behind the title.")


class ProgrammeSocialLink(Record):
    name: Name
    link: Address


class ProgrammeTrack(Record):
    name: Name
    color: Colour | None = None
    description: Prose | None = None
    position: Whole | None = None


class ProgrammeMicrolocation(Record):
    name: Name
    floor: Whole | None = None
    room: Line | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    position: Whole | None = None


class ProgrammeSessionType(Record):
    name: Name
    length: Length | None = Field(default=None, description="`HH:MM`")
    position: Whole | None = None


class ProgrammeSpeaker(Record):
    name: Name
    email: Line | None = None
    mobile: Line | None = None
    photo: ImageRef | None = None
    organisation: Line | None = None
    position: Line | None = Field(default=None, description="What the speaker does at the organisation.")
    country: Line | None = None
    city: Line | None = None
    short_biography: Prose | None = None
    long_biography: Prose | None = None
    website: Address | None = None
    twitter: Address | None = None
    facebook: Address | None = None
    github: Address | None = None
    linkedin: Address | None = None
    is_featured: bool | None = None


class ProgrammeSponsor(Record):
    name: Name
    description: Prose | None = None
    url: Address | None = None
    level: Line | None = None
    type: Line | None = None
    logo: ImageRef | None = None


class ProgrammeSession(Record):
    title: Name
    subtitle: Line | None = None
    short_abstract: Prose | None = None
    long_abstract: Prose | None = None
    comments: Prose | None = None
    language: Line | None = None
    level: Line | None = None
    state: Line | None = None
    starts_at: str | None = None
    ends_at: str | None = None
    slides_url: Address | None = None
    audio_url: Address | None = None
    video_url: Address | None = None
    signup_url: Address | None = None
    track: Key | None = None
    microlocation: Key | None = None
    session_type: Key | None = None
    speakers: list[Key] = Field(default_factory=list, description="The lineup, in its sequence; each speaker once.")


class Programme(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    event: ProgrammeEvent
    social_links: list[ProgrammeSocialLink] = Field(default_factory=list)
    tracks: list[ProgrammeTrack] = Field(default_factory=list)
    microlocations: list[ProgrammeMicrolocation] = Field(default_factory=list)
    session_types: list[ProgrammeSessionType] = Field(default_factory=list)
    speakers: list[ProgrammeSpeaker] = Field(default_factory=list)
    sponsors: list[ProgrammeSponsor] = Field(default_factory=list)
    sessions: list[ProgrammeSession] = Field(default_factory=list)
    extra_members: dict[str, JsonValue] = Field(
        default_factory=dict, description="JSON members at the top of the archive that are not named above."
    )
