"""Decisions about an export that need no database."""

from datetime import datetime
from uuid import UUID

from shared.contracts.programme import Programme
from shared.storage import organizer_folder

ZIP = "application/zip"
FILES_PATH = "/v1/exports/files"

LISTS = ("sessions", "speakers", "tracks", "microlocations", "session_types", "sponsors", "social_links")


def file_key(organizer: str, export_id: UUID) -> str:
    """Return the same key for each attempt, so that a repeated one replaces what it has stored."""
    return f"exports/{organizer_folder(organizer)}/{export_id}.zip"


def file_name(event_name: str, created_at: datetime) -> str:
    return f"{event_name[:100]} {created_at:%Y-%m-%d}.zip"


def link_lifetime(expires_at: datetime | None, now: datetime, at_most: int) -> int:
    """Return the seconds that a link to a file may live: never beyond the file. 0 or less means no link."""
    if expires_at is None:
        return 0
    return min(at_most, int((expires_at - now).total_seconds()))


def counts_of(programme: Programme, *, tickets: int, images: int) -> dict[str, int]:
    return {
        **{name: len(getattr(programme, name)) for name in LISTS},
        "tickets": tickets,
        "images": images,
    }
