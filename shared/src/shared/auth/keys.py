"""The public keys of the token issuer, loaded from its JWKS."""

import asyncio
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey, RSAKey

from shared.problems import Unavailable
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import JWKS_LOADED_AT, JWKS_LOADS

log = get_logger(__name__)

MAX_JWKS_SIZE = 256 << 10

Key = RSAKey | OKPKey


class KeysUnavailable(Unavailable):
    code = "issuer-unavailable"
    title = "Token issuer unavailable"

    def __init__(self) -> None:
        super().__init__(
            "Tokens can't be checked: their issuer does not answer. The token itself may be good; try again.",
            headers={"Retry-After": "5"},
        )


class _UnusableKeySet(Exception):
    """What the JWKS address gave is not a key set that could replace the last good one."""


class JwksSource:
    """The issuer's public keys, from one configured address: ``https:``, ``http:`` or ``file:``.

    Keys are loaded when first needed and again when older than 5 minutes (a file: when it changed, looked at once a
    second). An unknown key id forces one load per 30 seconds, so a rotated key works at once and made-up ids cost
    nothing. While the issuer is down the last good set serves for 24 hours. One load runs at a time; requests
    that can be answered with the keys at hand do not wait for it. Durations are seconds of ``clock``.
    """

    usable_for = 24 * 3600.0
    timeout = 5.0

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "file"):
            raise ValueError(f"The JWKS address must be an https:, http: or file: URL, not {url!r}.")
        self.url = url
        self._file = Path(url2pathname(parts.path)) if parts.scheme == "file" else None
        self.fresh_for = 1.0 if self._file else 300.0
        self.forced_every = 0.0 if self._file else 30.0
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        self._lock = asyncio.Lock()
        self._keys: dict[str, Key] = {}
        self._file_version: tuple[int, int, int] | None = None
        self._loaded_at = -math.inf
        self._tried_at = -math.inf
        self._forced_at = -math.inf

    async def key(self, kid: str) -> Key | None:
        """The key with this id; ``None`` when the issuer does not have it. Raises ``KeysUnavailable``."""
        asked_at = self._clock()
        if not self._usable() or (self._is_due() and not self._lock.locked()):
            async with self._lock:
                if self._is_due():
                    await self._load()
        if self._usable() and kid not in self._keys:
            async with self._lock:  # also waits for a load that is under way and may bring the key
                may_be_old = kid not in self._keys and self._tried_at < asked_at
                if may_be_old and self._clock() - self._forced_at >= self.forced_every:
                    self._forced_at = self._clock()
                    await self._load()
        if not self._usable():
            raise KeysUnavailable
        return self._keys.get(kid)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _usable(self) -> bool:
        return self._clock() - self._loaded_at <= self.usable_for

    def _is_due(self) -> bool:
        now = self._clock()
        # Without keys nothing can be served, so try again soon; with keys, spare an issuer that is in trouble.
        retry_after = min(30.0, self.fresh_for) if self._usable() else 1.0
        return now - self._loaded_at >= self.fresh_for and now - self._tried_at >= retry_after

    async def _load(self) -> None:
        self._tried_at = self._clock()
        try:
            content = await (self._fetch() if self._file is None else asyncio.to_thread(self._read, self._file))
            if content is not None:
                self._keys = _parse_key_set(content)
            self._loaded_at = self._clock()
            JWKS_LOADED_AT.set_to_current_time()
            JWKS_LOADS.labels("loaded").inc()
        except (httpx.HTTPError, OSError, TimeoutError, _UnusableKeySet) as error:
            self._file_version = None
            JWKS_LOADS.labels("failed").inc()
            log.warning("tokens.keys_not_loaded", url=self.url, error=str(error) or type(error).__name__)

    async def _fetch(self) -> bytes:
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=self.timeout, follow_redirects=False, limits=httpx.Limits(max_keepalive_connections=0)
            )
        # Unpacking happens before a size can be counted, so compressed answers are neither asked for nor taken.
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with asyncio.timeout(self.timeout), self._client.stream("GET", self.url, headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                raise _UnusableKeySet(f"answered with status {response.status_code}")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise _UnusableKeySet("answered in a content encoding that was not asked for")
            content = bytearray()
            async for chunk in response.aiter_raw(16 << 10):
                content += chunk
                if len(content) > MAX_JWKS_SIZE:
                    raise _UnusableKeySet(f"is larger than {MAX_JWKS_SIZE} bytes")
            return bytes(content)

    def _read(self, file: Path) -> bytes | None:
        """The file's content; ``None`` when it has not changed. Blocks."""
        facts = file.stat()
        version = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        if version == self._file_version:
            return None
        with file.open("rb") as opened:
            content = opened.read(MAX_JWKS_SIZE + 1)
        if len(content) > MAX_JWKS_SIZE:
            raise _UnusableKeySet(f"is larger than {MAX_JWKS_SIZE} bytes")
        self._file_version = version
        return content


def _parse_key_set(content: bytes) -> dict[str, Key]:
    try:
        entries = json.loads(content)["keys"]
        keys: dict[str, Key] = {}
        for entry in entries:
            key = _import_key(entry)
            if key is not None:
                keys.setdefault(entry["kid"], key)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _UnusableKeySet("is not a JSON Web Key Set") from error
    if not keys:
        raise _UnusableKeySet("has no RSA (2048 bits or more) or Ed25519 signing key with a `kid`")
    return keys


def _import_key(entry: dict[str, Any]) -> Key | None:
    """``None`` for a key that is of no use here: RFC 7517 tells readers to pass over what they do not know."""
    try:
        kid, kind = entry["kid"], entry["kty"]
        signs = entry.get("use", "sig") == "sig" and "verify" in entry.get("key_ops", ["verify"])
        if not signs or not isinstance(kid, str):
            return None
        if kind == "RSA" and entry.get("alg", "RS256") == "RS256" and len(entry["n"]) >= 342:  # base64 of 2048 bits
            return RSAKey.import_key({"kty": "RSA", "n": entry["n"], "e": entry["e"]})
        if kind == "OKP" and entry["crv"] == "Ed25519" and entry.get("alg", "EdDSA") in ("EdDSA", "Ed25519"):
            return OKPKey.import_key({"kty": "OKP", "crv": "Ed25519", "x": entry["x"]})
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning("tokens.key_skipped", error_type=type(error).__name__, error=str(error)[:200])
    return None
