"""The local token issuer, which replaces the identity provider of a real installation.

It signs tokens for developers and for the services of this checkout; its key never leaves the state folder.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import RSAKey

# RFC 2606 reserves the name, so no real issuer can have it.
ISSUER = "https://local-issuer.rostrum.invalid"
AUDIENCE = "rostrum"
PUBLIC_SCOPES = (
    "events:read events:write tickets:read tickets:write media:read media:write "
    "exports:read exports:write imports:write"
)
DEVELOPER_LIFETIME = 8 * 3600
SERVICE_LIFETIME = 3600
RENEWAL_CHECK = 30.0


@dataclass(frozen=True)
class Issuer:
    """Lifetimes are seconds."""

    key: RSAKey
    jwks_path: Path

    @property
    def jwks_url(self) -> str:
        return self.jwks_path.absolute().as_uri()

    def issue(
        self, sub: str, *, org: str | None = None, scope: str = PUBLIC_SCOPES, lifetime: float = DEVELOPER_LIFETIME
    ) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": sub,
            "scope": scope,
            "iat": now,
            "nbf": now,
            "exp": now + int(lifetime),
            "jti": uuid4().hex,
            **({"org": org} if org is not None else {}),
        }
        return jwt.encode({"alg": "RS256", "typ": "at+jwt", "kid": self.key.kid}, claims, self.key)


def load_issuer(folder: Path) -> Issuer:
    """Load the issuer whose key is in ``folder``; generate the key the first time."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_path, jwks_path = folder / "key.json", folder / "jwks.json"
    if not key_path.exists():
        new = RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": uuid4().hex}, private=True)
        write_secret(key_path, json.dumps(new.as_dict(private=True)), replace=False)
    key = RSAKey.import_key(json.loads(key_path.read_text()))
    jwks = json.dumps({"keys": [key.as_dict(private=False)]}, indent=2)
    if not jwks_path.exists() or jwks_path.read_text() != jwks:
        write_secret(jwks_path, jwks)
        jwks_path.chmod(0o644)
    return Issuer(key=key, jwks_path=jwks_path)


def write_secret(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file for its owner only, atomically: a reader sees the old text or the new one.

    Without ``replace`` the first writer wins, and a later one changes nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    if replace:
        unfinished.rename(path)
        return
    try:
        path.hardlink_to(unfinished)
    except FileExistsError:
        pass
    finally:
        unfinished.unlink()


def service_token_path(folder: Path, service: str) -> Path:
    return folder / f"{service}.jwt"


def write_service_tokens(issuer: Issuer, folder: Path, services: Sequence[str]) -> None:
    """Write a token for each service to present to others: without an organizer, for `/internal` only."""
    for service in services:
        token = issuer.issue(f"service:{service}", scope="internal", lifetime=SERVICE_LIFETIME)
        write_secret(service_token_path(folder, service), token)


async def keep_service_tokens_fresh(
    issuer: Issuer, folder: Path, services: Sequence[str], *, trouble: Callable[[str], None]
) -> None:
    """Write new tokens at a third of their lifetime, for ever; report a failure and retry.

    It uses the wall clock, which continues while the machine is suspended.
    """
    written_at = time.time()
    while True:
        await asyncio.sleep(RENEWAL_CHECK)
        if 0 <= time.time() - written_at < SERVICE_LIFETIME / 3:
            continue
        try:
            await asyncio.to_thread(write_service_tokens, issuer, folder, services)
            written_at = time.time()
        except OSError as error:
            trouble(f"service tokens could not be renewed: {error}")
