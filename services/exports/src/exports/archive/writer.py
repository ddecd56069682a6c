"""Write a programme as an Open Event archive in a stream. The same input gives the same bytes.

The dialect is that of the current Open Event Server, with additions: links of a session as nested ``{id, name}``
objects, its speakers, social links, tickets, and in ``meta`` a checksum of every member. Images come first, so
that the JSON names only images that were written; ``meta`` comes last. Blocking: call it in a thread.
"""

import hashlib
import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from exports.archive import shapes
from exports.archive.container import opened, unsafe_reason
from exports.archive.limits import LIMITS, Limits
from exports.archive.shapes import Row, Shape
from shared.contracts.programme import ImageRef, Programme, ProgrammeSession, Record
from shared.problems import Problem

FORMAT = "open-event"
FORMAT_VERSION = 1
PART_SIZE = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time in a zip
# Open Event's names of these fields.
_TICKET_NAMES = {"min_per_order": "min_order", "max_per_order": "max_order"}
_NEVER_EXTRA = ("meta", shapes.EVENT.member, shapes.SOCIAL_LINKS.member)
_FOLDERS = {"speakers": "images/speakers", "sponsors": "images/sponsors"}


def archive_parts(
    programme: Programme,
    images: Iterable[tuple[str, Iterable[bytes]]],
    *,
    root_url: str,
    created_at: str,
    tickets: Sequence[Mapping[str, JsonValue]] = (),
    part_size: int = PART_SIZE,
) -> Iterator[bytes]:
    """Yield the zip in parts of about ``part_size`` bytes, with one part and one record in memory.

    ``images`` yields (path as in the programme's references, chunks). An image that is not among them is written
    as its address and listed as missing in ``meta``. Without ``tickets``, those of an imported archive are written.
    Raise ``ValueError`` for what could not be read back: a broken link, a duplicate key, an unsafe path.
    """
    _check_links(programme)
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        written: dict[str, JsonValue] = {}
        for name, chunks, is_text in _members(programme, images, tickets, root_url, created_at, written):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # independent of the machine
            entry.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            digest, size = hashlib.sha256(), 0
            with archive.open(entry, "w") as member:
                for chunk in chunks:
                    member.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
                    if len(sink.waiting) >= part_size:
                        yield sink.take()
            written[name] = {"bytes": size, "sha256": digest.hexdigest()}
    yield sink.take()


def place_images(programme: Programme, suffix_of: Callable[[UUID], str]) -> tuple[Programme, dict[str, UUID]]:
    """Give every image of the media service a path in the archive, and return the image id of each path.

    ``suffix_of`` returns the suffix of an image id, such as ``.jpg``.
    """
    wanted: dict[str, UUID] = {}
    used: set[str] = set()

    def placed(record: Record, shape: Shape) -> Any:
        changes = {}
        for item in shape.fields:
            ref = getattr(record, item.name) if item.read is shapes.image else None
            if ref is None or ref.image_id is None:
                continue
            if shape is shapes.EVENT:
                stem = "images/logo" if item.name == "logo" else "images/background"
            else:
                stem = f"{_FOLDERS[shape.member]}/{_slug(getattr(record, 'name', ''))}_{_slug(record.key)}"
            path = stem + suffix_of(ref.image_id)
            number = 2
            while path.casefold() in used:
                path = f"{stem}-{number}{suffix_of(ref.image_id)}"
                number += 1
            used.add(path.casefold())
            wanted[path] = ref.image_id
            changes[item.name] = ref.model_copy(update={"path": path})
        return record.model_copy(update=changes)

    return (
        programme.model_copy(
            update={
                "event": placed(programme.event, shapes.EVENT),
                "speakers": [placed(speaker, shapes.SPEAKERS) for speaker in programme.speakers],
                "sponsors": [placed(sponsor, shapes.SPONSORS) for sponsor in programme.sponsors],
            }
        ),
        wanted,
    )


def check_archive(path: Path, limits: Limits = LIMITS) -> list[str]:
    """Return the differences between an archive of Rostrum and its own ``meta``, in words."""
    problems: list[str] = []
    try:
        with opened(path, limits) as archive:
            if "meta" not in archive.names:
                return ["Member 'meta' is missing, so nothing can be checked."]
            meta = json.loads(archive.read("meta", limits.json_size))
            listed = meta.get("members") if isinstance(meta, dict) else None
            if not isinstance(listed, list):
                return ["Member 'meta' lists no members, so nothing can be checked."]
            expected = {item["name"]: item for item in listed}
            problems += [f"{name} is missing." for name in expected if name not in archive.names]
            problems += [
                f"{name} is not listed." for name in archive.names if name not in expected and name != "meta"
            ]
            for name in archive.names:
                if name in expected:
                    problems += _check_member(name, archive.chunks(name, limits.total_size), expected[name])
            for name, count in meta.get("counts", {}).items():
                found = json.loads(archive.read(name, limits.json_size)) if name in archive.names else []
                if len(found) != count:
                    problems.append(f"{name} holds {len(found)} records, not {count}.")
    except Problem as problem:
        problems.append(problem.detail)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problems.append(f"Member 'meta' or a list of records cannot be parsed: {error!r}.")
    return problems


def _check_member(name: str, chunks: Iterator[bytes], expected: Mapping[str, JsonValue]) -> list[str]:
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
    except Problem as problem:
        return [problem.detail]
    if size != expected["bytes"]:
        return [f"{name} has {size} bytes, not {expected['bytes']}."]
    return [] if digest.hexdigest() == expected["sha256"] else [f"{name} has another checksum than listed."]


class _Sink(io.RawIOBase):
    """A write-only file that buffers what was written until ``take``."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = bytearray()
        self.position = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self.position

    def write(self, data: Any, /) -> int:
        self.waiting += data
        self.position += len(data)
        return len(data)

    def take(self) -> bytes:
        part = bytes(self.waiting)
        self.waiting.clear()
        return part


def _members(
    programme: Programme,
    images: Iterable[tuple[str, Iterable[bytes]]],
    tickets: Sequence[Mapping[str, JsonValue]],
    root_url: str,
    created_at: str,
    written: Mapping[str, JsonValue],
) -> Iterator[tuple[str, Iterable[bytes], bool]]:
    referenced = {ref.path: ref for ref in _image_refs(programme) if ref.path}
    folded: set[str] = set()
    for path, chunks in images:
        if path not in referenced or path.casefold() in folded or path.casefold() in _top_names(programme):
            raise ValueError(f"image {path!r} is used by no record or is a duplicate")
        if reason := unsafe_reason(path):
            raise ValueError(f"the path of image {path!r} {reason}")
        folded.add(path.casefold())
        yield path, chunks, False
    inside = set(written)

    lists: dict[str, Iterable[Row]] = {
        "microlocations": (_row(shapes.MICROLOCATIONS, record, inside) for record in programme.microlocations),
        "sessions": _session_rows(programme, inside),
        "speakers": (_row(shapes.SPEAKERS, record, inside) for record in programme.speakers),
        "sponsors": (_row(shapes.SPONSORS, record, inside) for record in programme.sponsors),
        "tracks": (_row(shapes.TRACKS, record, inside) for record in programme.tracks),
        "session_types": (_row(shapes.SESSION_TYPES, record, inside) for record in programme.session_types),
    }
    if tickets:
        lists["tickets"] = (
            {_TICKET_NAMES.get(name, name): value for name, value in ticket.items()} for ticket in tickets
        )
    # An older release of the events service returns a list that it does not know as an extra member.
    for name in lists.keys() & programme.extra_members.keys() - {"tickets"}:
        if not getattr(programme, name):
            del lists[name]
    event = _row(shapes.EVENT, programme.event, inside)
    event["social_links"] = [_row(shapes.SOCIAL_LINKS, record, inside) for record in programme.social_links]
    yield "event", [_dumped(event)], True
    counts: dict[str, JsonValue] = {}
    for name, rows in lists.items():
        yield name, _array(rows, counts, name), True
    for name, value in sorted(programme.extra_members.items()):
        if name in lists:
            continue
        if name in _NEVER_EXTRA or "/" in name or unsafe_reason(name):
            raise ValueError(f"{name!r} cannot be the name of a member")
        yield name, [_dumped(value)], True
    members: list[JsonValue] = [
        {"name": name, **facts} for name, facts in written.items() if isinstance(facts, dict)
    ]
    missing: list[JsonValue] = [*sorted(path for path in referenced if path not in inside)]
    meta: Row = {
        "root_url": root_url,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created_at": created_at,
        "counts": counts,
        "members": members,
        "missing_images": missing,
    }
    yield "meta", [_dumped(meta)], True


def _row(shape: Shape, record: Record, inside: set[str]) -> Row:
    row: Row = {"id": _id(record.key)}
    for item in shape.fields:
        value = getattr(record, item.name)
        if isinstance(value, ImageRef):
            value = f"/{value.path}" if value.path in inside else value.url
        row[item.keys[0]] = value
    for name, value in sorted(record.extra.items()):
        if row.get(name) is None:
            row[name] = value
    return row


def _session_rows(programme: Programme, inside: set[str]) -> Iterator[Row]:
    names = {
        link: {record.key: record.name for record in getattr(programme, shape.member)}
        for link, shape in (*shapes.LINKS.items(), ("speakers", shapes.SPEAKERS))
    }
    for session in programme.sessions:
        row = _row(shapes.SESSIONS, session, inside)
        for link in shapes.LINKS:
            key = getattr(session, link)
            row[link] = {"id": _id(key), "name": names[link][key]} if key else None
            row[f"{link}_id"] = _id(key) if key else None
        row["speakers"] = [{"id": _id(key), "name": names["speakers"][key]} for key in session.speakers]
        yield row


def _array(rows: Iterable[Row], counts: dict[str, JsonValue], name: str) -> Iterator[bytes]:
    count = 0
    for row in rows:
        count += 1
        yield (b"[\n" if count == 1 else b",\n") + _dumped(row, indent=b"    ")
    counts[name] = count
    yield b"\n]" if count else b"[]"


def _dumped(value: JsonValue, indent: bytes = b"") -> bytes:
    data = json.dumps(value, ensure_ascii=False, indent=4, allow_nan=False).encode()
    return indent + data.replace(b"\n", b"\n" + indent) if indent else data


def _id(key: str) -> JsonValue:
    return int(key) if re.fullmatch(r"0|[1-9][0-9]{0,15}", key) else key


def _slug(text: str) -> str:
    """Return the ASCII letters and digits of a text: ``Zoë Ada-Müller`` becomes ``ZoeAdaMuller``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = re.findall(r"[A-Za-z0-9]+", plain)
    return "".join(word[:1].upper() + word[1:] for word in words)[:60] or "Unnamed"


def _image_refs(programme: Programme) -> Iterator[ImageRef]:
    refs = [programme.event.logo, programme.event.image]
    refs += [speaker.photo for speaker in programme.speakers]
    refs += [sponsor.logo for sponsor in programme.sponsors]
    return (ref for ref in refs if ref is not None)


def _top_names(programme: Programme) -> set[str]:
    return {name.casefold() for name in (*shapes.RESERVED, "tickets", *programme.extra_members)}


def _check_links(programme: Programme) -> None:
    keys = {}
    for shape in shapes.LISTS:
        records: Sequence[Record] = getattr(programme, shape.member)
        keys[shape.member] = {record.key for record in records}
        if len(keys[shape.member]) < len(records):
            raise ValueError(f"duplicate key in {shape.member}")
    for session in programme.sessions:
        for link, shape in shapes.LINKS.items():
            key = getattr(session, link)
            if key is not None and key not in keys[shape.member]:
                raise ValueError(f"session {session.key} links to {link} {key}, which does not exist")
        _check_speakers(session, keys["speakers"])


def _check_speakers(session: ProgrammeSession, speakers: set[str]) -> None:
    for key in session.speakers:
        if key not in speakers:
            raise ValueError(f"session {session.key} links to speaker {key}, who does not exist")
    if len(set(session.speakers)) < len(session.speakers):
        raise ValueError(f"session {session.key} lists a speaker twice")
