"""Where an image's files are kept and served. Keys and paths are made of ids and digests, never of users' words."""

import re
from uuid import UUID

from shared.storage import organizer_folder

DIGEST_LENGTH = 16

_VARIANT_FILE = re.compile(r"([a-z]{1,32})-([0-9a-f]{16})\.jpg")

# A job's state → the word the API has for it.
STATES = {"queued": "received", "running": "processing", "done": "ready", "failed": "rejected"}


def original_key(organizer: str, image_id: UUID) -> str:
    return f"originals/{organizer_folder(organizer)}/{image_id}"


def variant_key(image_id: UUID, name: str, digest: str) -> str:
    """Follows from the public path alone, so serving it takes no query; the same bytes have the same key again."""
    return f"variants/{image_id}/{name}-{digest}.jpg"


def variant_path(image_id: UUID, name: str, digest: str) -> str:
    return f"/v1/images/{image_id}/{name}-{digest}.jpg"


def name_and_digest(file_name: str) -> tuple[str, str] | None:
    """Of the last part of a variant's path; None when it is not one."""
    match = _VARIANT_FILE.fullmatch(file_name)
    return (match[1], match[2]) if match else None
