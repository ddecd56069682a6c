"""Names of stored files. The server makes them, from ids and digests; a user's words never become part of one."""

import hashlib
import re

from shared.problems import Problem

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}(/[A-Za-z0-9][A-Za-z0-9._-]{0,199})*")


class StorageKeyInvalid(Problem):
    status = 400
    code = "storage-key-invalid"
    title = "Invalid storage key"


def organizer_folder(organizer: str) -> str:
    """Return the part of a key that keeps organizers' files apart; no organizer's name fits a key as it is."""
    return hashlib.sha256(organizer.encode()).hexdigest()[:16]


def check_key(key: str) -> None:
    """Raise ``StorageKeyInvalid`` unless every part of the key starts with a letter or digit."""
    if len(key) > 512 or _KEY.fullmatch(key) is None:
        raise StorageKeyInvalid(
            f"{key[:80]!r} is not a storage key. Use at most 512 characters: parts of letters, digits, '.', '_' "
            "and '-', each starting with a letter or digit, joined by '/'."
        )
