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
USABLE_FOR = 24 * 3600.0

Key = RSAKey | OKPKey


class KeysUnavailable(Unavailable):
    code = "issuer-unavailable"
    title = "Token issuer unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The token cannot be verified because its issuer does not respond. Try again.",
            headers={"Retry-After": "5"},
        )


class _UnusableKeySet(Exception):
    """The JWKS address returned something that must not replace the last good key set."""


class JwksClient:
    """The issuer's public keys, from one ``https:``, ``http:`` or ``file:`` URL. Durations are in seconds.

    1. Keys are loaded on first use, and again when older than 5 minutes (from a file: a second). One load runs at a
       time; requests with a known key do not wait for it.
    2. An unknown key id forces a load, at most one in 30 seconds: a rotated key works at once.
    3. While the issuer is down, the last good set serves for 24 hours.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "file"):
            raise ValueError(f"The JWKS address must be an https:, http: or file: URL, not {url!r}.")
        self._url = url
        self._file = Path(url2pathname(parts.path)) if parts.scheme == "file" else None
        self._fresh_for = 1.0 if self._file else 300.0
        self._forced_every = 0.0 if self._file else 30.0
        self._timeout = timeout
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        self._lock = asyncio.Lock()
        self._keys: dict[str, Key] = {}
        self._loaded_at = -math.inf
        self._tried_at = -math.inf
        self._forced_at = -math.inf

    async def key(self, kid: str) -> Key | None:
        """Return the key with this id, ``None`` if the issuer does not have it. Raises ``KeysUnavailable``."""
        asked_at = self._clock()
        if not self._is_usable() or (self._is_due() and not self._lock.locked()):
            async with self._lock:
                if self._is_due():
                    await self._load()
        if self._is_usable() and kid not in self._keys:
            async with self._lock:  # a load in progress may bring the key
                may_be_old = kid not in self._keys and self._tried_at < asked_at
                if may_be_old and self._clock() - self._forced_at >= self._forced_every:
                    self._forced_at = self._clock()
                    await self._load()
        if not self._is_usable():
            raise KeysUnavailable
        return self._keys.get(kid)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _is_usable(self) -> bool:
        return self._clock() - self._loaded_at <= USABLE_FOR

    def _is_due(self) -> bool:
        now = self._clock()
        # Without keys no request can be served, so retry soon; with keys, spare an issuer in trouble.
        retry_after = min(30.0, self._fresh_for) if self._is_usable() else 1.0
        return now - self._loaded_at >= self._fresh_for and now - self._tried_at >= retry_after

    async def _load(self) -> None:
        self._tried_at = self._clock()
        try:
            content = await (self._fetch() if self._file is None else asyncio.to_thread(_read, self._file))
            self._keys = _parse_key_set(content)
            self._loaded_at = self._clock()
            JWKS_LOADED_AT.set_to_current_time()
            JWKS_LOADS.labels("loaded").inc()
        except (httpx.HTTPError, OSError, TimeoutError, _UnusableKeySet) as error:
            JWKS_LOADS.labels("failed").inc()
            log.warning("tokens.keys_not_loaded", url=self._url, error=str(error) or type(error).__name__)

    async def _fetch(self) -> bytes:
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=self._timeout, follow_redirects=False, limits=httpx.Limits(max_keepalive_connections=0)
            )
        # A compressed response is refused, as its size is known only after it is unpacked.
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        async with (
            asyncio.timeout(self._timeout),
            self._client.stream("GET", self._url, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise _UnusableKeySet(f"status {response.status_code}")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise _UnusableKeySet("a content encoding that was not requested")
            content = bytearray()
            async for chunk in response.aiter_raw(16 << 10):
                content += chunk
                if len(content) > MAX_JWKS_SIZE:
                    break
            return bytes(content)


def _read(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_JWKS_SIZE + 1)


def _parse_key_set(content: bytes) -> dict[str, Key]:
    if len(content) > MAX_JWKS_SIZE:
        raise _UnusableKeySet(f"larger than {MAX_JWKS_SIZE} bytes")
    try:
        keys: dict[str, Key] = {}
        for entry in json.loads(content)["keys"]:
            key = _import_key(entry)
            if key is not None:
                keys.setdefault(entry["kid"], key)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _UnusableKeySet("not a JSON Web Key Set") from error
    if not keys:
        raise _UnusableKeySet("no RSA (2048 bits or more) or Ed25519 signing key with a `kid`")
    return keys


def _import_key(entry: dict[str, Any]) -> Key | None:
    """Return ``None`` for a key of no use here, which RFC 7517 tells readers to ignore."""
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
