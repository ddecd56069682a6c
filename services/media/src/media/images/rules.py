"""Where an image's files are stored and served: keys and paths of ids and digests, never of users' words."""

import re
from uuid import UUID

from shared.storage.keys import organizer_folder

DIGEST_LENGTH = 16

_VARIANT_FILE = re.compile(r"([a-z]{1,32})-([0-9a-f]{16})\.jpg")

# The API's word for each state of the job.
STATES = {"queued": "received", "running": "processing", "done": "ready", "failed": "rejected"}


def original_key(organizer: str, image_id: UUID) -> str:
    return f"originals/{organizer_folder(organizer)}/{image_id}"


def variant_key(image_id: UUID, name: str, digest: str) -> str:
    """Return a key that follows from the public path, so that serving needs no query. Equal bytes share a key."""
    return f"variants/{image_id}/{name}-{digest}.jpg"


def variant_path(image_id: UUID, name: str, digest: str) -> str:
    return f"/v1/images/{image_id}/{name}-{digest}.jpg"


def name_and_digest(file_name: str) -> tuple[str, str] | None:
    """Parse the last part of a variant's path; None when it is not one."""
    match = _VARIANT_FILE.fullmatch(file_name)
    return (match[1], match[2]) if match else None
