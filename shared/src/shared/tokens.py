"""Who is asking: OIDC access tokens (JWTs), checked in every service against the issuer's keys.

A route declares its access with one of three dependencies, and ``declared_access`` lists them all:
``Depends(requires("events:write"))``, ``Depends(PUBLIC)`` and ``Depends(service_only())``. They find the verifier
at ``app.state.token_verifier``. Identity never comes from a gateway's header: only from a token verified here.

Taken: a compact JWS of at most 8 KiB, signed with RS256 (RSA of 2048 bits or more) or Ed25519 (``alg`` may also say
``EdDSA``, its name before RFC 9864), with ``kid``, ``typ`` absent, ``JWT`` or ``at+jwt`` (RFC 9068), and the claims
``iss``, ``aud``, ``exp`` and ``sub``; ``nbf`` when there is one. Clocks may differ by 60 seconds.
"""

import asyncio
import hashlib
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.routing import iter_route_contexts
from fastapi.security.base import SecurityBase
from fastapi.security.utils import get_authorization_scheme_param
from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    JoseError,
    MissingClaimError,
    UnsupportedAlgorithmError,
)
from joserfc.jwk import OKPKey, RSAKey
from joserfc.jws import JWSRegistry, deserialize_compact
from joserfc.jwt import JWTClaimsRegistry
from joserfc.util import urlsafe_b64decode
from starlette.requests import HTTPConnection

from shared.logs import get_logger
from shared.metrics import JWKS_LOADED_AT, JWKS_LOADS, SERVICE_TOKEN_EXPIRES_AT
from shared.problems import Problem, Unavailable

log = get_logger(__name__)

LEEWAY = 60
MAX_TOKEN_SIZE = 8 << 10
MAX_JWKS_SIZE = 256 << 10
INTERNAL_SCOPE = "internal"

_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\Z")
_TOKEN_TYPES = {"jwt", "at+jwt", "application/at+jwt"}

Key = RSAKey | OKPKey


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a verified token speaks for. ``org`` is the organizer whose data may be touched."""

    subject: str
    org: str | None
    scopes: frozenset[str]

    def has(self, scope: str) -> bool:
        return scope in self.scopes

    @property
    def is_service(self) -> bool:
        return self.subject.startswith("service:") and INTERNAL_SCOPE in self.scopes


class Unauthenticated(Problem):
    status = 401
    code = "unauthenticated"
    title = "A valid token is needed"

    def __init__(self, detail: str, *, token_was_shown: bool = True) -> None:
        challenge = 'Bearer error="invalid_token"' if token_was_shown else "Bearer"
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class ScopeMissing(Problem):
    status = 403
    code = "scope-missing"
    title = "The token does not allow it"

    def __init__(self, scope: str, detail: str | None = None) -> None:
        super().__init__(
            detail or f"The token lacks the scope `{scope}`. Ask the issuer for a token that has it.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            scope=scope,
        )


class KeysUnavailable(Unavailable):
    code = "issuer-unavailable"
    title = "The token issuer's keys can't be loaded"

    def __init__(self) -> None:
        super().__init__(
            "Tokens can't be checked: their issuer does not answer. The token itself may be good; try again.",
            headers={"Retry-After": "5"},
        )


# -------------------- the issuer's keys


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


# -------------------- verifying a token


class _AcceptedSignatures(JWSRegistry):
    """The allow-list of algorithms: no HMAC, no ``none``, nothing the library may add later."""

    max_header_length = 4096
    max_payload_length = MAX_TOKEN_SIZE
    names: ClassVar[dict[str, str]] = {"RS256": "RS256", "Ed25519": "Ed25519", "EdDSA": "Ed25519"}

    def get_alg(self, name: str) -> Any:
        if name not in self.names:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not accepted")
        return self.algorithms[self.names[name]]


# Unknown header parameters are ignored, as RFC 7515 says; `jku`, `x5u` and `jwk` are never followed by anybody.
_signatures = _AcceptedSignatures(strict_check_header=False)


class TokenVerifier:
    """Checks tokens of one issuer for one audience.

    A token that was found good is remembered for up to 60 seconds, never beyond its ``exp``, so that a busy caller
    costs one signature check a minute; a key that the issuer withdraws therefore works for a minute longer.
    """

    remember_for = 60.0
    remember_at_most = 4096

    def __init__(
        self, issuer: str, audience: str, source: JwksSource, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._source = source
        self._clock = clock
        self._verified: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Raises ``Unauthenticated`` saying why, or ``KeysUnavailable`` when no key could be had to check it."""
        if len(token) > MAX_TOKEN_SIZE:
            raise Unauthenticated(f"The token is longer than {MAX_TOKEN_SIZE} characters.")
        if not _COMPACT_JWS.match(token):
            raise Unauthenticated("The token is not a signed JWT: three base64url parts joined by dots.")
        digest = hashlib.sha256(token.encode()).digest()
        remembered = self._verified.get(digest)
        if remembered is not None and self._clock() < remembered[1]:
            self._verified.move_to_end(digest)
            return remembered[0]

        claims = await self._claims(token)
        principal = _principal(claims)
        self._verified[digest] = (principal, min(claims["exp"], self._clock() + self.remember_for))
        self._verified.move_to_end(digest)
        if len(self._verified) > self.remember_at_most:
            self._verified.popitem(last=False)
        return principal

    async def aclose(self) -> None:
        await self._source.aclose()

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = _json_object(urlsafe_b64decode(token.partition(".")[0].encode()), "header")
        except ValueError as error:
            raise Unauthenticated("The token's header is not base64url.") from error
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in _AcceptedSignatures.names:
            raise Unauthenticated(f"The algorithm {_shown(algorithm)} is not accepted: sign with RS256 or Ed25519.")
        if not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
            raise Unauthenticated(f"The token's type {_shown(kind)} is not that of an access token.")
        if "crit" in header:
            raise Unauthenticated("The token has critical header parameters that are not understood here.")
        if not isinstance(kid, str):
            raise Unauthenticated("The token does not name the key that signed it: the `kid` header is missing.")
        key = await self._source.key(kid)
        if key is None:
            raise Unauthenticated(f"The token is signed with the unknown key {_shown(kid)}.")
        try:
            signed = deserialize_compact(token, key, registry=_signatures)
        except (BadSignatureError, ValueError) as error:
            raise Unauthenticated("The token's signature is not valid.") from error
        except JoseError as error:
            raise Unauthenticated(f"The token can't be verified: {error.description or error.error}.") from error
        if signed.payload is None:
            raise Unauthenticated("The token has no claims.")
        claims = _json_object(signed.payload, "payload")
        self._check(claims)
        return claims

    def _check(self, claims: dict[str, Any]) -> None:
        required = JWTClaimsRegistry(
            now=int(self._clock()),
            leeway=LEEWAY,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._audience},
            sub={"essential": True},
            exp={"essential": True},
        )
        try:
            required.validate(claims)
        except MissingClaimError as error:
            raise Unauthenticated(f"The token lacks the claim `{error.claim}`.") from error
        except ExpiredTokenError as error:
            raise Unauthenticated(f"The token expired at {_instant(claims['exp'])}. Get a new one.") from error
        except ClaimError as error:
            raise Unauthenticated(self._objection(error, claims)) from error

    def _objection(self, error: ClaimError, claims: dict[str, Any]) -> str:
        match error.claim:
            case "iss":
                return f"The token is from another issuer; this service trusts {_shown(self._issuer)}."
            case "aud":
                return f"The token is for another audience; this service is {_shown(self._audience)}."
            case "nbf" | "iat" if type(claims[error.claim]) in (int, float):
                return f"The token is not yet valid: its `{error.claim}` is {_instant(claims[error.claim])}."
            case claim:
                return f"The token's claim `{claim}` is not valid."


def _json_object(content: bytes, part: str) -> dict[str, Any]:
    """Refuses what two readers could understand in two ways: names given twice, NaN, bytes that are not UTF-8."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            raise ValueError("a name is given twice")
        return names

    def not_json(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(content.decode(), object_pairs_hook=unique, parse_constant=not_json)
    except (ValueError, RecursionError) as error:
        raise Unauthenticated(f"The token's {part} is not an unambiguous JSON object.") from error
    if not isinstance(value, dict):
        raise Unauthenticated(f"The token's {part} is not a JSON object.")
    return value


def _principal(claims: dict[str, Any]) -> Principal:
    scope = claims.get("scope", "")
    if not isinstance(scope, str):
        raise Unauthenticated("The token's claim `scope` must be one string of names separated by spaces.")
    return Principal(
        subject=_name(claims["sub"], "sub", at_most=255),
        org=None if claims.get("org") is None else _name(claims["org"], "org", at_most=200),
        scopes=frozenset(scope.split()),
    )


def _name(value: object, claim: str, *, at_most: int) -> str:
    # Not printable: control characters, which logs must not get, NUL and lone surrogates, which PostgreSQL refuses.
    if not isinstance(value, str) or not 0 < len(value) <= at_most or not value.isprintable() or not value.strip():
        raise Unauthenticated(f"The token's claim `{claim}` must be printable text of 1 to {at_most} characters.")
    return value


def _shown(value: object) -> str:
    return repr(value)[:100]


def _instant(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "a time beyond the calendar"


# -------------------- what a route declares


async def _verified(connection: HTTPConnection, *, needed: bool) -> Principal | None:
    shown = connection.headers.getlist("Authorization")
    if not shown:
        if needed:
            raise Unauthenticated(
                "There is no token. Send one in the header `Authorization: Bearer …`.", token_was_shown=False
            )
        return None
    scheme, token = get_authorization_scheme_param(shown[0])
    if len(shown) > 1 or scheme.lower() != "bearer" or not token:
        raise Unauthenticated("Send one `Authorization` header with one bearer token: `Authorization: Bearer …`.")
    verifier: TokenVerifier = connection.app.state.token_verifier
    return await verifier.verify(token)


async def _verified_principal(connection: HTTPConnection) -> Principal:
    principal = await _verified(connection, needed=True)
    assert principal is not None  # noqa: S101 - `needed`
    return principal


async def optional_principal(request: HTTPConnection) -> Principal | None:
    """``None`` when no ``Authorization`` header was sent; a token that was sent must be good."""
    return await _verified(request, needed=False)


_BEARER = HTTPBearerModel(
    bearerFormat="JWT", description="An OIDC access token with the claims `sub`, `org`, `scope`."
)


@dataclass(frozen=True)
class Requires(SecurityBase):
    """Gives the ``Principal`` of a token that has this scope and names an organizer."""

    scope: str

    model = _BEARER
    scheme_name = "token"

    async def __call__(self, connection: HTTPConnection) -> Principal:
        principal = await _verified_principal(connection)
        if not principal.has(self.scope):
            raise ScopeMissing(self.scope)
        if principal.org is None:
            raise Unauthenticated("The token names no organizer: get one that has an `org` claim.")
        return principal


@dataclass(frozen=True)
class ServiceOnly(SecurityBase):
    """Gives the ``Principal`` of another service of Rostrum; everybody else is refused."""

    model = _BEARER
    scheme_name = "token"

    async def __call__(self, connection: HTTPConnection) -> Principal:
        principal = await _verified_principal(connection)
        if not principal.is_service:
            raise ScopeMissing(INTERNAL_SCOPE, "Only services of Rostrum may use this path, with their own tokens.")
        return principal


@dataclass(frozen=True)
class Public:
    """Gives the ``Principal`` when a token was sent and ``None`` when not: open to everybody."""

    async def __call__(self, connection: HTTPConnection) -> Principal | None:
        return await optional_principal(connection)


PUBLIC = Public()
UNDECLARED = "undeclared"


def requires(scope: str) -> Requires:
    return Requires(scope)


def service_only() -> ServiceOnly:
    return ServiceOnly()


def declared_access(app: FastAPI) -> dict[tuple[str, str], str]:
    """What each route asks for, by method and path: a scope, ``public``, ``internal`` or ``UNDECLARED``.

    Several declarations on one route are joined by spaces. Mounts and WebSockets have the method ``*``; FastAPI's
    own pages (``/openapi.json``, ``/docs``) are left out.
    """
    own_pages = {app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url}
    access: dict[tuple[str, str], str] = {}
    for route in iter_route_contexts(app.routes):
        if route.path is None or route.path in own_pages:
            continue
        dependant: Dependant | None = getattr(route, "dependant", None)
        declared = " ".join(sorted(_declarations(dependant))) if dependant else ""
        for method in route.methods or {"*"}:
            access[method, route.path] = declared or UNDECLARED
    return access


def _declarations(dependant: Dependant) -> set[str]:
    found: set[str] = set()
    match dependant.call:
        case Requires(scope=scope):
            found.add(scope)
        case ServiceOnly():
            found.add(INTERNAL_SCOPE)
        case Public():
            found.add("public")
        case call if call is optional_principal:
            found.add("public")
    return found.union(*(_declarations(nested) for nested in dependant.dependencies))


# -------------------- calling other services


class ServiceTokenUnreadable(Unavailable):
    """The file of ``SERVICE_TOKEN_FILE`` is missing, empty or not set: another service can't be called."""


class ServiceTokenAuth(httpx.Auth):
    """Shows this service's own token to other services; for the ``auth`` of an ``httpx`` client.

    The file is looked at for every request, because what writes it (the local issuer, a Kubernetes projection)
    replaces the token long before it expires; it is read again only when it changed.
    """

    def __init__(self, token_file: Path | None) -> None:
        self._file = token_file
        self._read: tuple[tuple[int, int, int], str] | None = None
        if token_file is not None:
            # Asked for at each scrape and not noted at each use: a service that calls nobody for hours would tell
            # the end of a token that has long been replaced.
            SERVICE_TOKEN_EXPIRES_AT.labels(token_file.name).set_function(self._expires_at)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self._token()}"
        yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        request.headers["Authorization"] = f"Bearer {await asyncio.to_thread(self._token)}"
        yield request

    def _token(self) -> str:
        try:
            return self._newest()
        except (OSError, ValueError) as error:
            log.error("tokens.service_token_unreadable", file=str(self._file), error=str(error))
            raise ServiceTokenUnreadable(
                "This service can't identify itself to the others at the moment."
            ) from error

    def _newest(self) -> str:
        if self._file is None:
            raise ValueError("SERVICE_TOKEN_FILE is not set")
        facts = self._file.stat()
        version = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
        if self._read is None or self._read[0] != version:
            token = self._file.read_text("ascii").strip()
            if not _COMPACT_JWS.match(token):
                raise ValueError("the file does not hold a token")
            self._read = (version, token)
        return self._read[1]

    def _expires_at(self) -> float:
        try:
            return float(json.loads(urlsafe_b64decode(self._newest().split(".")[1].encode()))["exp"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0.0
