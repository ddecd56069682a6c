"""From a programme as data to rows, and back. Values without a column are kept in ``extra``."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from events.times import ends_of, starts_of, time_columns
from shared.contracts.programme import (
    ImageRef,
    Programme,
    ProgrammeEvent,
    ProgrammeMicrolocation,
    ProgrammeSession,
    ProgrammeSessionType,
    ProgrammeSocialLink,
    ProgrammeSpeaker,
    ProgrammeSponsor,
    ProgrammeTrack,
    Record,
    Repair,
)
from shared.ids import new_id
from shared.problems import Invalid, Problem
from shared.walltime import check_order, resolve

if TYPE_CHECKING:
    from events.models import Event, Session, SessionSpeaker

LISTS: dict[str, type[Record]] = {
    "social_links": ProgrammeSocialLink,
    "tracks": ProgrammeTrack,
    "microlocations": ProgrammeMicrolocation,
    "session_types": ProgrammeSessionType,
    "speakers": ProgrammeSpeaker,
    "sponsors": ProgrammeSponsor,
    "sessions": ProgrammeSession,
}
"""The lists of a programme, referenced ones before those that refer to them."""

LINKS = {"track": "tracks", "microlocation": "microlocations", "session_type": "session_types"}
"""Fields of a session that name one record of another list."""

IMAGES = {"event": ("image", "logo"), "speakers": ("photo",), "sponsors": ("logo",)}

NO_COLUMN = {"key", "identifier", "state", "privacy", "starts_at", "ends_at", "timezone"}
"""Fields of a programme's event without a column of the same name and content."""


class ProgrammeBroken(Invalid):
    code = "programme-broken"
    title = "Inconsistent programme"


@dataclass
class Rows:
    """A programme as rows to insert. ``event`` lacks id, identifier and organizer, the others lack ``event_id``."""

    event: dict[str, Any]
    lists: dict[str, list[dict[str, Any]]]
    lineups: list[dict[str, Any]]
    repairs: list[Repair] = field(default_factory=list)


def state_of(written: str | None) -> str:
    """Return ``published`` only for that very word: a past or unknown state must not make an event public."""
    return "published" if (written or "").strip().lower() == "published" else "draft"


def privacy_of(written: str | None) -> str:
    return "private" if (written or "").strip().lower() == "private" else "public"


def rows_of(programme: Programme) -> Rows:
    """Return the rows of a programme. Raises the problems of the event's times, ``ProgrammeBroken``."""
    rows = Rows(event={}, lists={}, lineups=[])
    rows.event = _event_row(programme, rows.repairs)
    ids: dict[str, dict[str, UUID]] = {}
    for name in LISTS:
        records: Sequence[Record] = getattr(programme, name)
        # UUIDv7 ascend, so rows sorted by id have the sequence of the archive.
        ids[name] = {record.key: new_id() for record in records}
        if len(ids[name]) < len(records):
            raise ProgrammeBroken("Two records have the same key. Keys must be unique in each list.", field=name)
        rows.lists[name] = [_row(record, name, ids[name][record.key]) for record in records]
    for record, row in zip(programme.sessions, rows.lists["sessions"], strict=True):
        _link(record, row, ids, rows.lineups)
        _schedule(record, row, programme.event.timezone, rows.repairs)
    return rows


def _event_row(programme: Programme, repairs: list[Repair]) -> dict[str, Any]:
    event = programme.event
    starts = resolve(event.starts_at, event.timezone, field="event.starts_at")
    ends = resolve(event.ends_at, event.timezone, field="event.ends_at")
    check_order(starts, ends, field="event.ends_at")
    state = state_of(event.state)
    if event.state and event.state.strip().lower() != state:
        repairs.append(
            Repair(
                member="event",
                record=None,
                field="state",
                message=f"State {event.state!r} is unknown; imported as a draft. Publish it when it is ready.",
            )
        )
    return {
        **event.model_dump(exclude=NO_COLUMN | {"image", "logo"}),
        **_image_columns("image", event.image),
        **_image_columns("logo", event.logo),
        **time_columns(starts, ends),
        "timezone": event.timezone,
        "state": state,
        "privacy": privacy_of(event.privacy),
        "archive_key": event.key,
        "archive_state": event.state,
        "archive_privacy": event.privacy,
        "extra_members": programme.extra_members,
    }


def _row(record: Record, name: str, row_id: UUID) -> dict[str, Any]:
    images = IMAGES.get(name, ())
    apart = {*images, *LINKS, "speakers", "starts_at", "ends_at"} if name == "sessions" else {*images}
    row = {"id": row_id, **record.model_dump(exclude=apart)}
    for image in images:
        row |= _image_columns(image, getattr(record, image))
    return row


def _image_columns(name: str, image: ImageRef | None) -> dict[str, Any]:
    prefix = "" if name == "image" else f"{name}_"
    given = image or ImageRef()
    return {f"{prefix}image_id": given.image_id, f"{name}_url": given.url, f"{name}_path": given.path}


def _image_ref(name: str, row: Any) -> ImageRef | None:
    prefix = "" if name == "image" else f"{name}_"
    image = ImageRef(
        image_id=getattr(row, f"{prefix}image_id"),
        url=getattr(row, f"{name}_url"),
        path=getattr(row, f"{name}_path"),
    )
    return None if image == ImageRef() else image


def _link(
    record: ProgrammeSession,
    row: dict[str, Any],
    ids: dict[str, dict[str, UUID]],
    lineups: list[dict[str, Any]],
) -> None:
    for name, target in LINKS.items():
        key = getattr(record, name)
        row[f"{name}_id"] = None if key is None else _linked(key, target, ids, record.key, name)
    if len(set(record.speakers)) < len(record.speakers):
        raise ProgrammeBroken(
            "A speaker is listed twice. A lineup must list each speaker once.",
            field=f"sessions.{record.key}.speakers",
        )
    for position, key in enumerate(record.speakers):
        speaker_id = _linked(key, "speakers", ids, record.key, "speakers")
        lineups.append({"session_id": row["id"], "speaker_id": speaker_id, "position": position})


def _linked(key: str, target: str, ids: dict[str, dict[str, UUID]], session: str, name: str) -> UUID:
    try:
        return ids[target][key]
    except KeyError:
        raise ProgrammeBroken(
            f"{key!r} is not a key in {target}. Add the record or remove the reference.",
            field=f"sessions.{session}.{name}",
        ) from None


def _schedule(record: ProgrammeSession, row: dict[str, Any], zone: str, repairs: list[Repair]) -> None:
    """Set both times or none; keep unusable values in ``extra``."""
    row |= dict.fromkeys(
        ("starts_local", "starts_fold", "starts_at", "ends_local", "ends_fold", "ends_at", "tzdata_version")
    )
    given = {name: text for name in ("starts_at", "ends_at") if (text := getattr(record, name)) is not None}
    if not given:
        return
    try:
        if len(given) < 2:
            raise Invalid(f"The session has {next(iter(given))} only.")
        starts = resolve(given["starts_at"], zone, field="starts_at")
        ends = resolve(given["ends_at"], zone, field="ends_at")
        check_order(starts, ends, field="ends_at")
        row |= time_columns(starts, ends)
    except Problem as problem:
        row["extra"] = {**row["extra"], **given}
        repairs.append(
            Repair(
                member="sessions",
                record=record.key,
                field="starts_at",
                message=f"Imported without a time. {problem.detail}",
            )
        )


# From rows to a programme

R = TypeVar("R", bound=Record)


def programme_of(event: "Event", lists: dict[str, Sequence[Any]], lineups: "Sequence[SessionSpeaker]") -> Programme:
    """Return the programme that ``rows_of`` was given, with the keys that were imported."""
    keys: dict[UUID | None, str | None] = {row.id: row.key for rows in lists.values() for row in rows}
    speakers: dict[UUID, list[str | None]] = {}
    for entry in lineups:
        speakers.setdefault(entry.session_id, []).append(keys[entry.speaker_id])

    def record(model: type[R], row: Any, **more: Any) -> R:
        same = {name: getattr(row, name) for name in model.model_fields if hasattr(row, name) and name not in more}
        return model.model_validate({**same, **more})

    def session_record(row: "Session") -> ProgrammeSession:
        times: dict[str, Any] = {"starts_at": None, "ends_at": None}
        if row.starts_at is not None:
            times["starts_at"] = starts_of(row, event.timezone).isoformat()
            times["ends_at"] = ends_of(row, event.timezone).isoformat()
        links = {name: keys.get(getattr(row, f"{name}_id")) for name in LINKS}
        return record(ProgrammeSession, row, **times, **links, speakers=speakers.get(row.id, []))

    def images(name: str, row: Any) -> dict[str, ImageRef | None]:
        return {image: _image_ref(image, row) for image in IMAGES.get(name, ())}

    made: dict[str, list[Record]] = {}
    for name, model in LISTS.items():
        if name == "sessions":
            made[name] = [session_record(row) for row in lists[name]]
        else:
            made[name] = [record(model, row, **images(name, row)) for row in lists[name]]
    is_imported = event.import_id is not None
    kept_state = is_imported and state_of(event.archive_state) == event.state
    kept_privacy = is_imported and privacy_of(event.archive_privacy) == event.privacy
    return Programme.model_validate(
        {
            **made,
            "event": record(
                ProgrammeEvent,
                event,
                **images("event", event),
                key=event.archive_key or str(event.id),
                state=event.archive_state if kept_state else event.state,
                privacy=event.archive_privacy if kept_privacy else event.privacy,
                starts_at=starts_of(event, event.timezone).isoformat(),
                ends_at=ends_of(event, event.timezone).isoformat(),
            ),
            "extra_members": event.extra_members,
        }
    )
