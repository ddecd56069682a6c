"""Read an Open Event archive of any dialect into a programme, and report each repair.

An archive is refused for a missing event, invalid JSON, an unknown zone, unusable times of the event, and what
``container`` refuses. Any other invalid value is moved to the record's ``extra`` and reported in one line.
Blocking: call it in a thread.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue

from exports.archive import shapes
from exports.archive.container import Archive, ArchiveTooLarge, MemberBroken, opened
from exports.archive.limits import LIMITS, Limits
from exports.archive.shapes import Field, Row, Shape, Unusable
from exports.archive.zones import repaired_zone
from shared.contracts.programme import (
    KEY_LENGTH,
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
    is_empty,
)
from shared.problems import Problem
from shared.walltime import AmbiguousTime, EndsBeforeItStarts, InvalidTime, WallTime, resolve, zone_info

R = TypeVar("R", bound=Record)


class EventMissing(Problem):
    status = 422
    code = "event-missing"
    title = "Missing event"


class ImageMember(BaseModel):
    """An image of the archive that records use; ``used_by`` names them as ``speakers/12``."""

    model_config = ConfigDict(frozen=True)

    member: str
    used_by: list[str]


class ReadArchive(BaseModel):
    model_config = ConfigDict(frozen=True)

    programme: Programme
    images: list[ImageMember]
    report: list[Repair]
    meta: JsonValue = None


def read_archive(path: Path, limits: Limits = LIMITS) -> ReadArchive:
    """Return the programme, its images and the report. Raise a ``Problem`` that names the member or field."""
    with opened(path, limits) as archive:
        return _Reading(archive, limits).read()


def open_member(path: Path, member: str, limits: Limits = LIMITS) -> Iterator[bytes]:
    """Yield the bytes of an image in chunks. To read many, open the zip once with ``container.opened``."""
    with opened(path, limits) as archive:
        if member not in archive.names:
            raise MemberBroken(f"The archive has no member {member!r}.", field=member)
        yield from archive.chunks(member, limits.image_size)


@dataclass
class _Rows:
    """The raw records of one member by their keys, with indexes to find them from a link."""

    shape: Shape
    is_absent: bool = False
    by_key: dict[str, Row] = field(default_factory=dict)
    keys_by_id: dict[str, list[str]] = field(default_factory=dict)
    keys_by_name: dict[str, list[str]] = field(default_factory=dict)
    keys_by_id_and_name: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, record_id: str | None, row: Row, *, wanted: frozenset[str] = frozenset()) -> str:
        """Add a record and return its key. ``wanted`` are ids that other records will use as keys."""
        same_id = self.keys_by_id.setdefault(record_id or "", [])
        number = len(same_id) + 1
        key = record_id if record_id and number == 1 else f"{record_id or 'new'}-{number}"
        while key in self.by_key or (key in wanted and key != record_id):
            number += 1
            key = f"{record_id or 'new'}-{number}"
        self.by_key[key] = row
        same_id.append(key)
        name = self.name_of(key)
        self.keys_by_name.setdefault(name, []).append(key)
        self.keys_by_id_and_name.setdefault((record_id or "", name), key)
        return key

    def name_of(self, key: str) -> str:
        return _name(self.by_key[key], self.shape)

    def find(self, record_id: str | None, name: str) -> str | None:
        """Return a key by id. The name decides between records of one id, and replaces a missing id."""
        if record_id and (same_id := self.keys_by_id.get(record_id)):
            return self.keys_by_id_and_name.get((record_id, name), same_id[0])
        same_name = self.keys_by_name.get(name, []) if name else []
        return same_name[0] if len(same_name) == 1 else None


class _Reading:
    """One pass over one archive."""

    def __init__(self, archive: Archive, limits: Limits) -> None:
        self.archive = archive
        self.limits = limits
        self.repairs: list[Repair] = []
        self.unreported = 0
        self.images: dict[str, list[str]] = {}
        self.zone = "UTC"
        self.json_size = 0
        self.json_values = 0

    def read(self) -> ReadArchive:
        event_row = self._event_row()
        event = self._event(event_row)
        rows = {shape.member: self._rows(shape) for shape in shapes.LISTS}
        links_of_event = event_row.get("social_links")
        if isinstance(links_of_event, list):
            rows["social_links"] = self._keyed(shapes.SOCIAL_LINKS, links_of_event)
        links = self._links(rows)
        programme = Programme(
            event=event,
            social_links=self._records(ProgrammeSocialLink, rows["social_links"]),
            tracks=self._records(ProgrammeTrack, rows["tracks"]),
            microlocations=self._records(ProgrammeMicrolocation, rows["microlocations"]),
            session_types=self._records(ProgrammeSessionType, rows["session_types"]),
            speakers=self._records(ProgrammeSpeaker, rows["speakers"]),
            sponsors=self._records(ProgrammeSponsor, rows["sponsors"]),
            sessions=self._records(ProgrammeSession, rows["sessions"], links),
            extra_members=self._extra_members(),
        )
        has_meta = "meta" in self.archive.names
        meta = self._cleaned(self._json("meta"), "meta", None, None) if has_meta else None
        if self.unreported:
            self.repairs.append(Repair(member="archive", message=f"… and {self.unreported:,} more lines."))
        return ReadArchive(
            programme=programme,
            images=[ImageMember(member=member, used_by=users) for member, users in self.images.items()],
            report=self.repairs,
            meta=meta,
        )

    def report(self, message: str, member: str, record: str | None = None, name: str | None = None) -> None:
        if len(self.repairs) >= self.limits.report_lines:
            self.unreported += 1
            return
        self.repairs.append(Repair(member=member, record=record, field=name, message=message))

    # Members

    def _json(self, member: str) -> JsonValue:
        data = self.archive.read(member, min(self.limits.json_size, self.limits.json_total_size - self.json_size))
        self.json_size += len(data)
        self.json_values += sum(data.count(sign) for sign in b"{[,")
        if self.json_values > self.limits.json_values:
            raise ArchiveTooLarge(
                f"The archive has more than {self.limits.json_values:,} JSON values up to member {member!r}. "
                "Send the archive of one event.",
                field=member,
            )
        way_out = "Correct it and create the zip again; nothing was imported."
        try:
            value: JsonValue = json.loads(data)
        except json.JSONDecodeError as error:
            raise MemberBroken(
                f"Member {member!r} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
                + way_out,
                field=member,
                line=error.lineno,
                column=error.colno,
            ) from None
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
            raise MemberBroken(
                f"Member {member!r} is not UTF-8 text: line {line}, byte {column}. " + way_out,
                field=member,
                line=line,
                column=column,
            ) from None
        except RecursionError:
            raise self._too_deep(member) from None
        except ValueError as error:  # a number of thousands of digits
            raise MemberBroken(f"Member {member!r} cannot be parsed: {error}. " + way_out, field=member) from None
        return value

    def _too_deep(self, member: str) -> MemberBroken:
        return MemberBroken(
            f"Member {member!r} nests deeper than {self.limits.json_depth} levels. Flatten it, or export "
            "the archive again.",
            field=member,
        )

    def _event_row(self) -> Row:
        if "event" not in self.archive.names:
            found = ", ".join(self.archive.names[:5]) or "nothing"
            raise EventMissing(
                f"There is no member 'event' at the top of the zip (found: {found}). Zip the files of an Open "
                "Event export: event, sessions, speakers and so on.",
                field="event",
            )
        value = self._json("event")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, dict):
            raise MemberBroken(
                "Member 'event' must hold one JSON object. Correct it and create the zip again.", field="event"
            )
        return self._row(value, shapes.EVENT.member, None)

    def _rows(self, shape: Shape) -> _Rows:
        if shape.member not in self.archive.names:
            return _Rows(shape, is_absent=True)
        value = self._json(shape.member)
        if value is None:
            return _Rows(shape, is_absent=True)
        if not isinstance(value, list):
            raise MemberBroken(
                f"Member {shape.member!r} must hold a JSON array of records. Correct it and create the zip again.",
                field=shape.member,
            )
        if len(value) > self.limits.records:
            raise ArchiveTooLarge(
                f"Member {shape.member!r} lists more than {self.limits.records:,} records. "
                "Send the archive of one event.",
                field=shape.member,
            )
        return self._keyed(shape, value)

    def _keyed(self, shape: Shape, values: list[JsonValue]) -> _Rows:
        rows = _Rows(shape)
        wanted = frozenset(found for value in values if isinstance(value, dict) and (found := _id(value.get("id"))))
        for index, value in enumerate(values, start=1):
            if not isinstance(value, dict):
                self.report(f"Entry {index} is not a JSON object; not imported.", shape.member)
                continue
            row = self._row(value, shape.member, f"#{index}")
            record_id = _id(row.get("id"))
            if row.get("deleted_at"):
                self.report("In the trash of the exporting server; not imported.", shape.member, record_id)
            elif record_id and row == rows.by_key.get(record_id):
                self.report("Duplicate record; imported once.", shape.member, record_id)
            else:
                key = rows.add(record_id, row, wanted=wanted)
                if key != record_id:
                    why = f"Id {record_id} is already in use" if record_id else "Missing id"
                    self.report(f"{why}; imported as {key}.", shape.member, key, "id")
        return rows

    def _extra_members(self) -> dict[str, JsonValue]:
        kept: dict[str, JsonValue] = {}
        size = 0
        for name in self.archive.names:
            if name in shapes.RESERVED or name in self.images:
                continue
            if "/" in name or "." in name.removesuffix(".json"):
                why = "no record uses it" if name.startswith("images/") else "only JSON and images are imported"
                self.report(f"Not imported: {why}.", name)
                continue
            size += self.archive.declared_size(name)
            if size > self.limits.extra_members_size or len(kept) >= self.limits.extra_members:
                self.report("Not kept: extra members exceed the limit of their number or total size.", name)
                continue
            try:
                kept[name] = self._cleaned(self._json(name), name, None, None)
            except MemberBroken as problem:
                if name == "forms":
                    raise
                self.report(f"Not kept. {problem.detail}", name)
        return kept

    # Records

    def _row(self, value: dict[str, JsonValue], member: str, record: str | None) -> Row:
        """Return the record with snake_case keys and storable texts."""
        row: Row = {}
        record = _id(value.get("id")) or record
        for raw_key, raw in value.items():
            key = _UNSTORABLE.sub("", raw_key).strip().replace("-", "_")
            cleaned = self._cleaned(raw, member, record, key)
            if key in row and row[key] not in (None, "") and cleaned != row[key]:
                if cleaned not in (None, ""):
                    self.report(
                        "Given twice under different spellings; the first value is used.", member, record, key
                    )
                continue
            row[key] = cleaned
        return row

    def _cleaned(
        self, value: JsonValue, member: str, record: str | None, name: str | None, depth: int = 0
    ) -> JsonValue:
        if depth > self.limits.json_depth:
            raise self._too_deep(member)
        if isinstance(value, str):
            if not _UNSTORABLE.search(value):
                return value
            self.report("Invalid characters (NUL or lone surrogates) were removed.", member, record, name)
            return _UNSTORABLE.sub("", value)
        if isinstance(value, float) and not -_LARGEST <= value <= _LARGEST:
            self.report("Not a finite number; left empty.", member, record, name)
            return None
        if isinstance(value, list):
            return [self._cleaned(item, member, record, name, depth + 1) for item in value]
        if isinstance(value, dict):
            return {
                _UNSTORABLE.sub("", key): self._cleaned(item, member, record, name, depth + 1)
                for key, item in value.items()
            }
        return value

    def _records(self, model: type[R], rows: _Rows, links: dict[str, Row] | None = None) -> list[R]:
        records = []
        for key, row in rows.by_key.items():
            values, extra = self._values(rows.shape, key, row)
            if model is ProgrammeSession:
                self._schedule(key, values, extra)
            if model is ProgrammeSocialLink and "link" not in values:
                self.report("Missing or invalid address; not imported.", rows.shape.member, key, "link")
                continue
            called = rows.shape.fields[0].name
            if called not in values:
                extra.pop(called, None)
                values[called] = f"Untitled {rows.shape.member.removesuffix('s').replace('_', ' ')} {key}"
                self.report(f"Missing {called}; set to {values[called]!r}.", rows.shape.member, key, called)
            more = links[key] if links else {}
            records.append(model.model_validate({**values, **more, "key": key, "extra": extra}))
        return records

    def _values(self, shape: Shape, key: str, row: Row) -> tuple[dict[str, object], Row]:
        """Return the values of known fields, and the rest. The newer of two spellings wins."""
        values: dict[str, object] = {}
        extra: Row = {}
        known = {"id"} | shape.derived
        for item in shape.fields:
            known.update(item.keys)
            found = [(name, row[name]) for name in item.keys if not is_empty(row.get(name))]
            if not found:
                continue
            given = found[0][1]
            extra.update({name: other for name, other in found[1:] if other != given})
            try:
                value = self._value(item, given, shape, key)
            except Unusable as error:
                extra[item.keys[0]] = given
                self.report(f"{_excerpt(given)} {error}; not used.", shape.member, key, item.keys[0])
                continue
            if value != "":
                values[item.name] = value
        extra.update({name: value for name, value in row.items() if name not in known and not is_empty(value)})
        return values, extra

    def _value(self, item: Field, given: JsonValue, shape: Shape, key: str) -> object:
        value = item.read(given)
        if item.read is shapes.image:
            return self._image(str(value), shape, key, item)
        if isinstance(value, str) and item.max_length and len(value) > item.max_length:
            self.report(
                f"Has {len(value):,} characters; truncated to {item.max_length:,}.", shape.member, key, item.keys[0]
            )
            return value[: item.max_length].strip()
        return value

    def _image(self, reference: str, shape: Shape, key: str, item: Field) -> ImageRef:
        if re.match(r"https?://\S+$", reference, re.IGNORECASE):
            return ImageRef(url=shapes.address(reference))
        member = self.archive.find(reference)
        if member is None or not _MAY_BE_IMAGE.search(member):
            raise Unusable("is neither a member of the archive nor an address")
        if self.archive.declared_size(member) > self.limits.image_size:
            raise Unusable(f"is larger than {self.limits.image_size:,} bytes")
        if member != reference.lstrip("/"):
            self.report(f"{_excerpt(reference)} was matched to {member!r}.", shape.member, key, item.keys[0])
        user = shape.member if shape is shapes.EVENT else f"{shape.member}/{key}"
        self.images.setdefault(member, []).append(user)
        return ImageRef(path=member)

    # Times

    def _event(self, row: Row) -> ProgrammeEvent:
        member = shapes.EVENT.member
        values, extra = self._values(shapes.EVENT, member, row)
        given_zone = str(values.get("timezone", ""))
        self.zone = repaired_zone(given_zone) or zone_info(given_zone, field="event.timezone").key
        if self.zone != given_zone:
            self.report(f"Time zone {given_zone!r} was read as {self.zone}.", member, None, "timezone")
        starts = self._time_of_event(values, "starts_at")
        ends = self._time_of_event(values, "ends_at")
        if ends.instant <= starts.instant:
            raise EndsBeforeItStarts(
                f"The event ends at {ends.isoformat()}, which is not after its start at {starts.isoformat()}. "
                "Correct ends_at or starts_at in member 'event'.",
                field="event.ends_at",
            )
        if "name" not in values:
            extra.pop("name", None)
            values["name"] = "Untitled event"
            self.report(f"Missing name; set to {values['name']!r}.", member, None, "name")
        times = {"timezone": self.zone, "starts_at": starts.isoformat(), "ends_at": ends.isoformat()}
        key = _id(row.get("id")) or member
        return ProgrammeEvent.model_validate({**values, **times, "key": key, "extra": extra})

    def _time_of_event(self, values: dict[str, object], name: str) -> WallTime:
        text = str(values.get(name, ""))
        if not text:
            raise InvalidTime(
                f"The event has no {name}. Add it to member 'event', such as 2027-10-30T09:00.",
                field=f"event.{name}",
            )
        wall = resolve(text, self.zone, field=f"event.{name}")
        self._report_if_local(text, shapes.EVENT.member, None, name)
        return wall

    def _schedule(self, key: str, values: dict[str, object], extra: Row) -> None:
        """Resolve both times of a session, or move them to ``extra`` and leave it unscheduled."""
        given: dict[str, str] = {n: str(values.pop(n)) for n in ("starts_at", "ends_at") if n in values}
        if not given:
            return
        walls = {}
        try:
            for name, text in given.items():
                walls[name] = self._time_of_session(text, key, name)
            if len(walls) < 2:
                raise Unusable(f"Only {next(iter(walls))} is given.")
            if walls["ends_at"].instant == walls["starts_at"].instant:
                raise Unusable(f"It starts and ends at {given['starts_at']}.")
            if walls["ends_at"].instant < walls["starts_at"].instant:
                raise Unusable(f"It ends at {given['ends_at']}, before its start at {given['starts_at']}.")
        except Unusable as error:
            extra.update(given)
            self.report(f"Imported without times. {error}", "sessions", key, "starts_at")
            return
        except Problem as problem:
            extra.update(given)
            self.report(f"Imported without times. {problem.detail}", "sessions", key, "starts_at")
            return
        values.update({name: wall.isoformat() for name, wall in walls.items()})
        self._report_if_local(given["starts_at"], "sessions", key, "starts_at")

    def _time_of_session(self, text: str, key: str, name: str) -> WallTime:
        try:
            wall = resolve(text, self.zone, field=name)
        except AmbiguousTime:
            wall = resolve(text, self.zone, field=name, fold=0)
            message = f"{text} occurs twice in {self.zone}; the earlier one was used, {wall.isoformat()}."
            self.report(message, "sessions", key, name)
        return wall

    def _report_if_local(self, text: str, member: str, record: str | None, name: str) -> None:
        if not _HAS_OFFSET.search(text):
            self.report(f"{text} has no offset; read as local time in {self.zone}.", member, record, name)

    # Links

    def _links(self, rows: dict[str, _Rows]) -> dict[str, Row]:
        """Return the track, room, type and speakers of each session, given on either side of the link."""
        sessions = rows["sessions"]
        links: dict[str, Row] = {}
        lineups: dict[str, dict[str, None]] = {}  # ordered sets
        for key, row in sessions.by_key.items():
            found: Row = {}
            for name, shape in shapes.LINKS.items():
                given = next((row[n] for n in (name, f"{name}_id") if not is_empty(row.get(n))), None)
                found[name] = self._linked(given, rows[shape.member], key, name)
            speakers = row.get("speakers")
            if not isinstance(speakers, list):
                speakers = [speakers]
            keys = [self._linked(speaker, rows["speakers"], key, "speakers") for speaker in speakers]
            lineups[key] = dict.fromkeys(speaker for speaker in keys if speaker)
            links[key] = found
        for speaker, session in self._back_links(rows["speakers"], sessions):
            if speaker not in lineups[session]:
                lineups[session][speaker] = None
                message = f"Linked to speaker {speaker}, who lists this session."
                self.report(message, "sessions", session, "speakers")
        for track, session in self._back_links(rows["tracks"], sessions):
            if links[session]["track"] is None:
                links[session]["track"] = track
                self.report(f"Linked to track {track}, which lists this session.", "sessions", session, "track")
        for key, speakers_of_session in lineups.items():
            links[key]["speakers"] = list(speakers_of_session)
        for absent in rows.values():
            if absent.is_absent and absent.by_key:
                message = f"Missing member; {len(absent.by_key):,} records were imported from the sessions."
                self.report(message, absent.shape.member)
        return links

    def _linked(self, given: JsonValue, target: _Rows, session: str, name: str) -> str | None:
        if is_empty(given):
            return None
        nested: Row = self._row(given, "sessions", session) if isinstance(given, dict) else {}
        record_id = _id(nested.get("id")) if nested else _id(given)
        called = _name(nested, target.shape) if nested else _folded(given)
        key = target.find(record_id, called)
        if key is not None and not (target.is_absent and nested and target.name_of(key) != called):
            return key
        if nested and called:
            key = target.add(record_id, nested)
            if not target.is_absent:
                message = f"{_excerpt(given)} is missing in {target.shape.member}; imported from this session."
                self.report(message, "sessions", session, name)
            return key
        if nested and not any(nested.values()):
            return None
        self.report(f"{_excerpt(given)} is not in {target.shape.member}; not linked.", "sessions", session, name)
        return None

    def _back_links(self, owners: _Rows, sessions: _Rows) -> Iterator[tuple[str, str]]:
        """Yield (owner, session) for each session that an owner lists with a matching id and title."""
        for owner, row in owners.by_key.items():
            listed = row.get("sessions")
            for given in listed if isinstance(listed, list) else []:
                nested = given if isinstance(given, dict) else {}
                record_id = _id(nested.get("id")) if nested else _id(given)
                called = _name(nested, sessions.shape)
                session = sessions.find(record_id, called)
                if session is not None and (not called or called == sessions.name_of(session)):
                    yield owner, session


_MAY_BE_IMAGE = re.compile(r"/|\.(?!json$)[^.]+$", re.IGNORECASE)  # and not "event" or "config.json"
_LARGEST = 1.7976931348623157e308
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_HAS_OFFSET = re.compile(r"([Zz]|[+-]\d\d:\d\d|\])$")


def _id(value: JsonValue) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return _UNSTORABLE.sub("", str(value)).strip()[:KEY_LENGTH].strip() or None


def _name(row: Row, shape: Shape) -> str:
    return next((_folded(row[key]) for key in shape.fields[0].keys if not is_empty(row.get(key))), "")


def _folded(value: JsonValue) -> str:
    return " ".join(value.split()).casefold() if isinstance(value, str) else ""


def _excerpt(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    return repr(text if len(text) <= 80 else text[:80] + "…")
