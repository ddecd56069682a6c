"""A whole event as data: the bodies of ``/internal/programmes``, which exports calls on events.

Records name each other by ``key``, unique within a list; links stand on the session only. A record keeps everything
else that an archive says of it in ``extra``, under the snake_case name that archives use. There the name of a field
holds a value that could not be used, such as a time in a gap; it counts while the field itself is empty.
"""

from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, field_validator, model_validator

from shared.contracts.calls import Organizer, Request
from shared.texts import storable_json

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
Color = Annotated[str, StringConstraints(pattern=r"^#(?:[0-9a-fA-F]{3}){1,2}$")]
Length = Annotated[str, StringConstraints(pattern=r"^\d{2}:[0-5]\d$")]
Time = Annotated[
    str,
    Field(description="RFC 3339 with the offset of the event's zone, or a local time in that zone."),
]


class ImageRef(BaseModel):
    """A member of the archive, an address elsewhere, an image of the media service, or several of these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = Field(default=None, description="Member of the archive, without a leading slash.")
    url: Address | None = Field(default=None, description="Absolute address.")
    image_id: UUID | None = Field(default=None, description="Id in the media service.")


class KeepsUnknown(BaseModel):
    """Keeps unknown values that are not empty, such as fields of a later release, in the object ``unknown_in``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unknown_in: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _keep_unknown(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() <= cls.model_fields.keys():
            return value
        kept = value.get(cls.unknown_in, {})
        if not isinstance(kept, dict):
            return value
        known = {name: given for name, given in value.items() if name in cls.model_fields}
        unknown = {name: given for name, given in value.items() if name not in known and not is_empty(given)}
        return {**known, cls.unknown_in: {**kept, **unknown}}


def is_empty(value: Any) -> bool:
    return value is None or value in ("", [], {})


class Record(KeepsUnknown):
    unknown_in = "extra"

    key: Key
    extra: dict[str, JsonValue] = Field(default_factory=dict)


class ProgrammeEvent(Record):
    name: Name
    identifier: Line | None = Field(
        default=None, description="The event's short name where the archive was written; never imported."
    )
    description: Prose | None = None
    timezone: Line
    starts_at: Time
    ends_at: Time = Field(description="After the start.")
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
    image: ImageRef | None = Field(default=None, description="The large image behind the title.")


class ProgrammeSocialLink(Record):
    name: Name
    link: Address


class ProgrammeTrack(Record):
    name: Name
    color: Color | None = None
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
    starts_at: Time | None = Field(default=None, description="A session has both times or neither.")
    ends_at: Time | None = Field(default=None, description="After the start.")
    slides_url: Address | None = None
    audio_url: Address | None = None
    video_url: Address | None = None
    signup_url: Address | None = None
    track: Key | None = None
    microlocation: Key | None = None
    session_type: Key | None = None
    speakers: list[Key] = Field(default_factory=list, description="The lineup, in its sequence; each speaker once.")


class Programme(KeepsUnknown):
    unknown_in = "extra_members"

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


class ProgrammeImport(Request):
    """Body of ``POST /internal/programmes``. A repetition with the same ``import_id`` returns the same event."""

    import_id: UUID
    organizer: Organizer
    programme: Programme

    @field_validator("programme", mode="before")
    @classmethod
    def _can_be_stored(cls, value: Any) -> Any:
        return storable_json(value)


class Repair(BaseModel):
    """A line of an import's report: what was changed or left out. ``record`` is a key within the member."""

    model_config = ConfigDict(frozen=True, extra="allow")

    member: str
    record: str | None = None
    field: str | None = None
    message: str


class ProgrammeImported(BaseModel):
    """Answer to ``POST /internal/programmes``: 201, or 200 when the import was done before."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    event_id: UUID
    identifier: str
    counts: dict[str, int] = Field(description="Records by list.")
    repairs: list[Repair]
