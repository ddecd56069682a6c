"""Signed download links of the local place.

The signature (HMAC-SHA256) covers the key, the expiry, the file name and the content type. Of several signing keys
the first signs and all verify: to rotate, put the new one in front and remove the old one when its links have
expired.
"""

import hashlib
import hmac
import json
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from shared.problems import Problem

SHORTEST_KEY = 16


class LinkInvalid(Problem):
    status = 403
    code = "link-invalid"
    title = "Invalid download link"


class LinkExpired(Problem):
    status = 410
    code = "link-expired"
    title = "Download link expired"


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """Secrets by key id, the signing one first."""

    by_id: dict[str, bytes]

    @classmethod
    def parse(cls, text: str) -> "SigningKeys":
        """Parse secrets separated by commas. Raises ``ValueError`` when there is none or one is too short."""
        keys = [part.strip().encode() for part in text.split(",") if part.strip()]
        if not keys or any(len(key) < SHORTEST_KEY for key in keys):
            raise ValueError(
                "STORAGE_SIGNING_KEY must hold one or more secrets of at least "
                f"{SHORTEST_KEY} characters, separated by commas, when STORAGE_PLACE is local. Make one with: "
                "openssl rand -hex 32"
            )
        return cls({hashlib.sha256(b"key id:" + key).hexdigest()[:8]: key for key in keys})


def sign_link(keys: SigningKeys, key: str, *, expires_at: int, filename: str, content_type: str) -> str:
    """Return the query of a link; ``expires_at`` in seconds since 1970."""
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


def verify_link(keys: SigningKeys, key: str, query: Mapping[str, str]) -> tuple[str, str]:
    """Return the file name and content type of a link's query.

    Raises ``LinkInvalid`` when any part was changed, ``LinkExpired`` when a valid link has expired.
    """
    key_id, expires, filename, content_type, signature = (
        query.get(name, "") for name in ("key", "expires", "filename", "type", "signature")
    )
    secret = keys.by_id.get(key_id, b"")
    expected = _signature(secret, key, expires, filename, content_type)
    if not secret or not hmac.compare_digest(expected.encode(), signature.encode()):
        raise LinkInvalid("The link was changed or signed with a removed key. Request a new download link.")
    if int(expires) <= time.time():
        raise LinkExpired("The link has expired. Request a new download link.")
    return filename, content_type


def content_disposition(filename: str) -> str:
    """Return ``attachment`` with the name in ASCII and in UTF-8 (RFC 6266), for old and new clients."""
    name = _sanitized(filename) or "download"
    stem, _, suffix = name.rpartition(".") if "." in name else (name, "", "")
    stem, suffix = stem[:150], suffix[:20]
    full = ".".join(part for part in (stem, suffix) if part)
    plain = ".".join(part for part in (_ascii(stem) or "download", _ascii(suffix)) if part)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(full, safe='')}"


def _sanitized(name: str) -> str:
    """Replace what ends a quoted header value, names a folder or is invisible."""
    return "".join("_" if char in '/\\"%' or not char.isprintable() else char for char in name).strip(". ")


def _ascii(text: str) -> str:
    return _sanitized(unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode())


def _signature(secret: bytes, key: str, expires: str, filename: str, content_type: str) -> str:
    message = json.dumps(["GET", key, expires, filename, content_type]).encode()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
