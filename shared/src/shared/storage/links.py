"""Signed download links of the local place.

The signature (HMAC-SHA256) covers the key, the expiry, the file name and the content type. Several signing keys
may be given: the first signs, all verify, so a key is rotated by putting the new one in front and removing the
old one when the last link of it has expired.
"""

import hashlib
import hmac
import json
import time
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from shared.problems import Problem

SHORTEST_KEY = 16


class LinkInvalid(Problem):
    status = 403
    code = "link-invalid"
    title = "This download link was not made here"


class LinkExpired(Problem):
    status = 410
    code = "link-expired"
    title = "This download link is over"


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Keys by their ids, the signing one first."""

    by_id: dict[str, bytes]

    @classmethod
    def parse(cls, text: str) -> "SigningKeys":
        """From the setting: keys separated by commas. ``ValueError`` when there is none or one is too short."""
        keys = [part.strip().encode() for part in text.split(",") if part.strip()]
        if not keys or any(len(key) < SHORTEST_KEY for key in keys):
            raise ValueError(
                "STORAGE_SIGNING_KEY must hold one or more secrets (the first signs, all verify), separated by "
                f"commas, of at least {SHORTEST_KEY} characters each, when STORAGE_PLACE is local. Make one with: "
                "openssl rand -hex 32"
            )
        return cls({hashlib.sha256(b"key id:" + key).hexdigest()[:8]: key for key in keys})


def sign_link(keys: SigningKeys, key: str, *, expires_at: int, filename: str, content_type: str) -> str:
    """The query of a link; ``expires_at`` in seconds since 1970."""
    key_id, secret = next(iter(keys.by_id.items()))
    return urlencode(
        {
            "expires": expires_at,
            "filename": filename,
            "type": content_type,
            "key": key_id,
            "signature": _signature(secret, key, str(expires_at), filename, content_type),
        }
    )


def verify_link(
    keys: SigningKeys, key: str, *, expires: str, filename: str, content_type: str, key_id: str, signature: str
) -> None:
    """Raises ``LinkInvalid`` when any part was changed, ``LinkExpired`` when it was right but is over."""
    secret = keys.by_id.get(key_id, b"")
    right = _signature(secret, key, expires, filename, content_type)
    if not secret or not hmac.compare_digest(right.encode(), signature.encode()):
        raise LinkInvalid("The link was changed or is of another installation. Ask for a new download link.")
    if int(expires) <= time.time():
        raise LinkExpired("The link has expired. Ask for a new download link.")


def content_disposition(filename: str) -> str:
    """``attachment`` with the name for every client (RFC 6266): plain ASCII, and UTF-8 for those who read it."""
    name = _harmless(filename) or "download"
    stem, _, suffix = name.rpartition(".") if "." in name else (name, "", "")
    stem, suffix = stem[:150], suffix[:20]
    full = ".".join(part for part in (stem, suffix) if part)
    plain = ".".join(part for part in (_ascii(stem) or "download", _ascii(suffix)) if part)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(full, safe='')}"


def _harmless(name: str) -> str:
    """Nothing that ends a quoted header value, names a folder or hides what is there."""
    return "".join("_" if char in '/\\"%' or not char.isprintable() else char for char in name).strip(". ")


def _ascii(text: str) -> str:
    return _harmless(unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode())


def _signature(secret: bytes, key: str, expires: str, filename: str, content_type: str) -> str:
    message = json.dumps(["GET", key, expires, filename, content_type]).encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
