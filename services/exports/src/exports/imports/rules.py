"""Decisions about an import that need no database."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import UUID

from exports.archive import shapes
from exports.archive.reader import ImageMember
from exports.archive.shapes import Shape
from shared.contracts.media import ImageKind
from shared.contracts.programme import Programme, Record, Repair
from shared.storage import organizer_folder

R = TypeVar("R", bound=Record)

MAX_REPAIRS = 3_000


def archive_key(organizer: str, import_id: UUID) -> str:
    return f"imports/{organizer_folder(organizer)}/{import_id}.zip"


def kind_of(image: ImageMember) -> ImageKind:
    """Return the kind, which decides the sizes of the variants; the first use counts."""
    match image.used_by[0].partition("/")[0]:
        case "speakers":
            return "speaker"
        case "sponsors":
            return "sponsor"
        case _:
            return "event"


def with_images(programme: Programme, image_ids: Mapping[str, UUID]) -> Programme:
    """Turn references to members of the archive into references to images of the media service.

    A member without an image was refused there; its path moves to ``extra``, the contract's place for values that
    cannot be used.
    """

    def changed(record: R, shape: Shape) -> R:
        changes: dict[str, Any] = {}
        extra = dict(record.extra)
        for item in shape.fields:
            ref = getattr(record, item.name) if item.read is shapes.image else None
            if ref is None or ref.path is None:
                continue
            if ref.path in image_ids:
                changes[item.name] = ref.model_copy(update={"image_id": image_ids[ref.path]})
            elif ref.url is None:
                changes[item.name] = None
                extra[item.keys[0]] = f"/{ref.path}"
        return record.model_copy(update={**changes, "extra": extra}) if changes else record

    return programme.model_copy(
        update={
            "event": changed(programme.event, shapes.EVENT),
            "speakers": [changed(speaker, shapes.SPEAKERS) for speaker in programme.speakers],
            "sponsors": [changed(sponsor, shapes.SPONSORS) for sponsor in programme.sponsors],
        }
    )


def refused_image(image: ImageMember, why: str) -> Repair:
    users = ", ".join(image.used_by[:5]) + (" …" if len(image.used_by) > 5 else "")
    return Repair(member=image.member, message=f"Not imported; it was for {users}. {why}")


def as_report(repairs: Sequence[Repair]) -> list[dict[str, Any]]:
    lines = [repair.model_dump() for repair in repairs[:MAX_REPAIRS]]
    if len(repairs) > MAX_REPAIRS:
        more = Repair(member="archive", message=f"… and {len(repairs) - MAX_REPAIRS:,} more lines.")
        lines.append(more.model_dump())
    return lines
