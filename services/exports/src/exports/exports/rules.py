"""Decisions of an export that need nothing but the job."""

from datetime import datetime
from uuid import UUID

from exports.models import Export
from shared.contracts.programme import Programme
from shared.jobs.rows import DONE
from shared.storage import organizer_folder

ZIP = "application/zip"
FILES_PATH = "/v1/exports/files"

LISTS = ("sessions", "speakers", "tracks", "microlocations", "session_types", "sponsors", "social_links")


def file_key(organizer: str, export_id: UUID) -> str:
    """The same for each attempt, so that a repeated one replaces what it had stored."""
    return f"exports/{organizer_folder(organizer)}/{export_id}.zip"


def file_name(export: Export) -> str:
    return f"{export.event_name[:100]} {export.created_at:%Y-%m-%d}.zip"


def is_expired(export: Export, now: datetime) -> bool:
    return export.state == DONE and (export.expires_at is None or export.expires_at <= now)


def link_lifetime(export: Export, now: datetime, at_most: int) -> int:
    """Seconds: no link outlives its file."""
    if export.expires_at is None:
        return 0
    return min(at_most, int((export.expires_at - now).total_seconds()))


def counts_of(programme: Programme, *, tickets: int, images: int) -> dict[str, int]:
    return {
        **{name: len(getattr(programme, name)) for name in LISTS},
        "tickets": tickets,
        "images": images,
    }
