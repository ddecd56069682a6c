"""The fields of records in archives, for the reader and the writer.

The first key of a field is written (Open Event Server's own name); all keys are read. Archives of 2016 to 2018 use
hyphens, which are read as underscores everywhere, or an older set of snake_case names.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import JsonValue

from shared.contracts import programme


class Unusable(ValueError):
    """The value is invalid for its field. The message continues a sentence that starts with the value."""


def line(value: JsonValue) -> str:
    return _text(value).strip()


def prose(value: JsonValue) -> str:
    return _text(value)


_SCRIPTS = re.compile(r"\s*(javascript|vbscript|data|file|blob)\s*:", re.IGNORECASE)


def address(value: JsonValue) -> str:
    text = line(value)
    if _SCRIPTS.match(text):
        raise Unusable("is not a web address")
    if len(text) > programme.ADDRESS_LENGTH:
        raise Unusable(f"is longer than {programme.ADDRESS_LENGTH} characters")
    return text


_RECORDINGS = ("/", "audio/", "audios/", "video/", "videos/", "slides/", "images/", "documents/")


def recording(value: JsonValue) -> str:
    """Return an address of slides, audio or video. Files of the archive itself are not imported."""
    text = address(value)
    if text.startswith(_RECORDINGS):
        raise Unusable("is a file of the archive; recordings and slides are not imported, only their addresses")
    return text


def number(value: JsonValue) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable("is not a number")
    try:
        found = float(value)
    except (ValueError, OverflowError):
        raise Unusable("is not a number") from None
    if not math.isfinite(found):
        raise Unusable("is not a number")
    return found


def latitude(value: JsonValue) -> float:
    return _within(number(value), 90)


def longitude(value: JsonValue) -> float:
    return _within(number(value), 180)


def whole(value: JsonValue) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    else:
        given = number(value)
        if not given.is_integer():
            raise Unusable("is not a whole number")
        found = int(given)
    if not -(2**31) <= found < 2**31:
        raise Unusable(f"is not between {-(2**31):,} and {2**31 - 1:,}")
    return found


def truth(value: JsonValue) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return known[line(value).lower()]
    except KeyError:
        raise Unusable("is neither true nor false") from None


def color(value: JsonValue) -> str:
    text = line(value)
    if not re.fullmatch(r"#(?:[0-9a-fA-F]{3}){1,2}", text):
        raise Unusable("is not a color such as #3DC8C3")
    return text


def length(value: JsonValue) -> str:
    """Return ``HH:MM``. Archives also write 01.30 and the number 0.3 for hours and minutes."""
    text = f"{value:.2f}" if isinstance(value, float) else line(value)
    found = re.fullmatch(r"(\d{1,2})[.:]([0-5]\d)", text)
    if not found:
        raise Unusable("is not a length such as 00:45")
    return f"{int(found[1]):02}:{found[2]}"


def image(value: JsonValue) -> str:
    """Return the reference as written; the reader finds its member."""
    return line(value)


def time(value: JsonValue) -> str:
    """Return the time as written; the reader resolves it in the event's zone."""
    return line(value)


def _text(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise Unusable("is not text")


def _within(value: float, bound: int) -> float:
    if not -bound <= value <= bound:
        raise Unusable(f"is not between -{bound} and {bound}")
    return value


@dataclass(frozen=True)
class Field:
    name: str
    read: Callable[[JsonValue], str | float | bool]
    keys: tuple[str, ...]
    max_length: int | None = None


def _field(
    read: Callable[[JsonValue], str | float | bool], name: str, *aliases: str, key: str | None = None
) -> Field:
    max_length = programme.LINE_LENGTH if read is line else programme.PROSE_LENGTH if read is prose else None
    return Field(name, read, (key or name, *aliases), max_length)


@dataclass(frozen=True)
class Shape:
    member: str
    record: type[programme.Record]
    fields: tuple[Field, ...]
    derived: frozenset[str] = frozenset()  # derived from other fields, so not kept


EVENT = Shape(
    "event",
    programme.ProgrammeEvent,
    (
        _field(line, "name", "title"),
        _field(line, "identifier"),
        _field(prose, "description"),
        _field(line, "timezone"),
        _field(time, "starts_at", "start_time"),
        _field(time, "ends_at", "end_time"),
        _field(line, "location_name"),
        _field(line, "searchable_location_name"),
        _field(latitude, "latitude"),
        _field(longitude, "longitude"),
        _field(truth, "online", "is_event_online"),
        _field(line, "owner_name", "organizer_name"),
        _field(prose, "owner_description", "organizer_description"),
        _field(address, "external_event_url", "event_url"),
        _field(address, "ticket_url"),
        _field(prose, "code_of_conduct"),
        _field(line, "privacy"),
        _field(line, "state"),
        _field(line, "event_type", key="type"),
        _field(line, "event_topic", key="topic"),
        _field(line, "event_sub_topic", key="sub_topic"),
        _field(image, "logo", "logo", key="logo_url"),
        _field(image, "image", "background_image", key="original_image_url"),
    ),
    frozenset({"social_links"}),
)
SOCIAL_LINKS = Shape(
    "social_links",
    programme.ProgrammeSocialLink,
    (_field(line, "name"), _field(address, "link", "url")),
    frozenset({"event_id"}),
)
TRACKS = Shape(
    "tracks",
    programme.ProgrammeTrack,
    (
        _field(line, "name"),
        _field(color, "color"),
        _field(prose, "description"),
        _field(whole, "position"),
    ),
    frozenset({"sessions", "font_color", "event_id"}),
)
MICROLOCATIONS = Shape(
    "microlocations",
    programme.ProgrammeMicrolocation,
    (
        _field(line, "name"),
        _field(whole, "floor"),
        _field(line, "room"),
        _field(latitude, "latitude"),
        _field(longitude, "longitude"),
        _field(whole, "position"),
    ),
    frozenset({"sessions", "event_id"}),
)
SESSION_TYPES = Shape(
    "session_types",
    programme.ProgrammeSessionType,
    (_field(line, "name"), _field(length, "length"), _field(whole, "position")),
    frozenset({"sessions", "event_id"}),
)
SPEAKERS = Shape(
    "speakers",
    programme.ProgrammeSpeaker,
    (
        _field(line, "name"),
        _field(line, "email"),
        _field(line, "mobile"),
        _field(image, "photo", "photo", key="photo_url"),
        _field(line, "organisation", "organization"),
        _field(line, "position"),
        _field(line, "country"),
        _field(line, "city"),
        _field(prose, "short_biography"),
        _field(prose, "long_biography"),
        _field(address, "website"),
        _field(address, "twitter"),
        _field(address, "facebook"),
        _field(address, "github"),
        _field(address, "linkedin"),
        _field(truth, "is_featured", "featured"),
    ),
    frozenset({"sessions", "event_id"}),
)
SPONSORS = Shape(
    "sponsors",
    programme.ProgrammeSponsor,
    (
        _field(line, "name"),
        _field(prose, "description"),
        _field(address, "url"),
        _field(line, "level"),
        _field(line, "type", "sponsor_type"),
        _field(image, "logo", "logo", key="logo_url"),
    ),
    frozenset({"event_id"}),
)
SESSIONS = Shape(
    "sessions",
    programme.ProgrammeSession,
    (
        _field(line, "title", "name"),
        _field(line, "subtitle"),
        _field(prose, "short_abstract"),
        _field(prose, "long_abstract"),
        _field(prose, "comments"),
        _field(line, "language"),
        _field(line, "level"),
        _field(line, "state"),
        _field(time, "starts_at", "start_time"),
        _field(time, "ends_at", "end_time"),
        _field(recording, "slides_url", "slides"),
        _field(recording, "audio_url", "audio"),
        _field(recording, "video_url", "video"),
        _field(address, "signup_url"),
    ),
    # links, which are read and written separately
    frozenset(
        {
            "event_id",
            "speakers",
            *("track", "track_id"),
            *("microlocation", "microlocation_id"),
            *("session_type", "session_type_id"),
        }
    ),
)

LISTS = (SOCIAL_LINKS, TRACKS, MICROLOCATIONS, SESSION_TYPES, SPEAKERS, SPONSORS, SESSIONS)
LINKS: dict[str, Shape] = {"track": TRACKS, "microlocation": MICROLOCATIONS, "session_type": SESSION_TYPES}
"""The links of a session to one record each. Links to speakers are a list."""

RESERVED = frozenset({"meta", EVENT.member, *(shape.member for shape in LISTS)})

Row: TypeAlias = dict[str, JsonValue]
