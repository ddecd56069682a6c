"""Verify OIDC access tokens (JWTs) against the issuer's keys.

Accepted is a compact JWS of at most 8 KiB, signed with RS256 (RSA of 2048 bits or more) or Ed25519 (RFC 9864, or
its older name ``EdDSA``), with ``kid``; ``typ`` may be absent, ``JWT`` or ``at+jwt`` (RFC 9068). The claims
``iss``, ``aud``, ``exp`` and ``sub`` are required, ``nbf`` is optional. Clocks may differ by 60 seconds.
"""

import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from joserfc.errors import (
    BadSignatureError,
    ClaimError,
    ExpiredTokenError,
    JoseError,
    MissingClaimError,
)
from joserfc.jws import JWSRegistry, deserialize_compact
from joserfc.jwt import JWTClaimsRegistry
from joserfc.util import urlsafe_b64decode

from shared.auth.keys import JwksClient
from shared.problems import Problem

LEEWAY = 60
CACHED_FOR = 60.0
MAX_TOKEN_SIZE = 8 << 10

INTERNAL_SCOPE = "internal"

COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\Z")
_TOKEN_TYPES = {"jwt", "at+jwt", "application/at+jwt"}


@dataclass(frozen=True, slots=True)
class Principal:
    """The subject of a verified token. ``organizer`` is the claim ``org``: the tenant whose data it may access."""

    subject: str
    organizer: str | None
    scopes: frozenset[str]

    def has(self, scope: str) -> bool:
        return scope in self.scopes

    @property
    def is_service(self) -> bool:
        return self.subject.startswith("service:") and INTERNAL_SCOPE in self.scopes


@dataclass(frozen=True, slots=True)
class OrganizerPrincipal(Principal):
    """A principal whose token names an organizer."""

    organizer: str


class Unauthenticated(Problem):
    status = 401
    code = "unauthenticated"
    title = "Authentication required"

    def __init__(self, detail: str, *, token_was_sent: bool = True) -> None:
        challenge = 'Bearer error="invalid_token"' if token_was_sent else "Bearer"
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class _AcceptedSignatures(JWSRegistry):
    """The allowed algorithms by name: no HMAC, no ``none``, none that the library adds later.

    ``EdDSA`` is mapped, as the library warns of that name, which issuers still use.
    """

    max_header_length = 4096
    max_payload_length = MAX_TOKEN_SIZE
    names: ClassVar[dict[str, str]] = {"RS256": "RS256", "Ed25519": "Ed25519", "EdDSA": "Ed25519"}

    def get_alg(self, name: str) -> Any:
        return self.algorithms[self.names[name]]


# RFC 7515 says to ignore unknown header parameters. Nothing follows `jku`, `x5u` and `jwk`.
_signatures = _AcceptedSignatures(strict_check_header=False)


class TokenVerifier:
    """Verify tokens of one issuer for one audience.

    A verified token is cached for 60 seconds, at most until its ``exp``, to save signature checks. So a key that
    the issuer has withdrawn may work for a minute longer.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: JwksClient,
        *,
        cache_size: int = 4096,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._cache_size = cache_size
        self._clock = clock
        self._verified: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Return the token's principal. Raises ``Unauthenticated`` and ``KeysUnavailable``."""
        if len(token) > MAX_TOKEN_SIZE:
            raise Unauthenticated(f"The token is longer than {MAX_TOKEN_SIZE} characters.")
        if not COMPACT_JWS.match(token):
            raise Unauthenticated("The token is not a signed JWT: three base64url parts joined by dots.")
        digest = hashlib.sha256(token.encode()).digest()
        cached = self._verified.get(digest)
        if cached is not None and self._clock() < cached[1]:
            self._verified.move_to_end(digest)
            return cached[0]

        claims = await self._claims(token)
        principal = _principal(claims)
        self._verified[digest] = (principal, min(claims["exp"], self._clock() + CACHED_FOR))
        self._verified.move_to_end(digest)
        if len(self._verified) > self._cache_size:
            self._verified.popitem(last=False)
        return principal

    async def aclose(self) -> None:
        await self._keys.aclose()

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = _json_object(urlsafe_b64decode(token.partition(".")[0].encode()), "header")
        except ValueError as error:
            raise Unauthenticated("The token's header is not base64url.") from error
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in _AcceptedSignatures.names:
            raise Unauthenticated(
                f"The algorithm {_quoted(algorithm)} is not accepted. Sign with RS256 or Ed25519."
            )
        if not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
            raise Unauthenticated(f"The token's type {_quoted(kind)} is not that of an access token.")
        if "crit" in header:
            raise Unauthenticated("The token has critical header parameters (`crit`), which are not supported.")
        if not isinstance(kid, str):
            raise Unauthenticated("The token does not name its key: the header `kid` is missing.")
        key = await self._keys.key(kid)
        if key is None:
            raise Unauthenticated(f"The token is signed with the unknown key {_quoted(kid)}.")
        try:
            signed = deserialize_compact(token, key, registry=_signatures)
        except (BadSignatureError, ValueError) as error:
            raise Unauthenticated("The token's signature is invalid.") from error
        except JoseError as error:
            raise Unauthenticated(f"The token cannot be verified: {error.description or error.error}.") from error
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
            raise Unauthenticated(self._reason(error, claims)) from error

    def _reason(self, error: ClaimError, claims: dict[str, Any]) -> str:
        match error.claim:
            case "iss":
                return f"The token is from another issuer; this service trusts {_quoted(self._issuer)}."
            case "aud":
                return f"The token is for another audience; this service is {_quoted(self._audience)}."
            case "nbf" | "iat" if type(claims[error.claim]) in (int, float):
                return f"The token is not yet valid: its `{error.claim}` is {_instant(claims[error.claim])}."
            case claim:
                return f"The token's claim `{claim}` is invalid."


def _json_object(content: bytes, part: str) -> dict[str, Any]:
    """Refuse what two readers could read differently: duplicate names, NaN, bytes that are not UTF-8."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            raise ValueError("a duplicate name")
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
        organizer=None if claims.get("org") is None else _name(claims["org"], "org", at_most=200),
        scopes=frozenset(scope.split()),
    )


def _name(value: object, claim: str, *, at_most: int) -> str:
    # Printable text has no control characters, which would forge log lines, and no NUL or lone surrogates.
    if not isinstance(value, str) or not 0 < len(value) <= at_most or not value.isprintable() or not value.strip():
        raise Unauthenticated(f"The token's claim `{claim}` must be printable text of 1 to {at_most} characters.")
    return value


def _quoted(value: object) -> str:
    return repr(value)[:100]


def _instant(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "a time beyond the calendar"
