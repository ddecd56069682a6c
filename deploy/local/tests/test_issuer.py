import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from deploy.local import issuer as issuing
from deploy.local.issuer import (
    AUDIENCE,
    ISSUER,
    PUBLIC_SCOPES,
    keep_service_tokens_fresh,
    load_issuer,
    service_token_path,
    write_service_tokens,
)


def verified(token: str, folder: Path) -> jwt.Token:
    """Verify it as services do, with the public key set."""
    keys = KeySet.import_key_set(json.loads((folder / "jwks.json").read_text()))
    return jwt.decode(token, keys, algorithms=["RS256"])


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_published_keys_verify_a_developer_token(tmp_path: Path) -> None:
    token = verified(load_issuer(tmp_path).issue("ada", org="acme", scope="events:read", lifetime=60), tmp_path)
    assert token.header == {"typ": "at+jwt", "alg": "RS256", "kid": token.header["kid"]}
    claims = token.claims
    assert (claims["iss"], claims["aud"], claims["sub"], claims["org"]) == (ISSUER, AUDIENCE, "ada", "acme")
    assert claims["scope"] == "events:read"
    assert claims["exp"] == claims["iat"] + 60
    assert claims["nbf"] == claims["iat"] <= time.time()


def test_the_key_is_generated_once_and_stays_private(tmp_path: Path) -> None:
    first = load_issuer(tmp_path)
    token = first.issue("ada", org="acme")
    assert load_issuer(tmp_path).key.kid == first.key.kid
    verified(token, tmp_path)
    assert mode(tmp_path / "key.json") == 0o600
    [public] = json.loads((tmp_path / "jwks.json").read_text())["keys"]
    assert set(public) == {"kty", "n", "e", "kid", "use", "alg"}


def test_service_tokens_allow_internal_calls_only(tmp_path: Path) -> None:
    issuer = load_issuer(tmp_path / "issuer")
    write_service_tokens(issuer, tmp_path / "tokens", ["events", "media"])
    path = service_token_path(tmp_path / "tokens", "events")
    claims = verified(path.read_text(), tmp_path / "issuer").claims
    assert (claims["sub"], claims["scope"]) == ("service:events", "internal")
    assert "org" not in claims
    assert mode(path) == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == ["events.jwt", "media.jwt"]


async def test_service_tokens_are_renewed_long_before_they_expire(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "SERVICE_LIFETIME", 3)
    monkeypatch.setattr(issuing, "RENEWAL_CHECK", 0.05)
    issuer = load_issuer(tmp_path / "issuer")
    write_service_tokens(issuer, tmp_path, ["events"])
    first = service_token_path(tmp_path, "events").read_text()
    troubles: list[str] = []
    renewing = asyncio.create_task(keep_service_tokens_fresh(issuer, tmp_path, ["events"], trouble=troubles.append))
    deadline = time.monotonic() + 10
    while (second := service_token_path(tmp_path, "events").read_text()) == first:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    renewing.cancel()
    assert verified(first, tmp_path / "issuer").claims["exp"] > time.time()
    assert verified(second, tmp_path / "issuer").claims["jti"] != verified(first, tmp_path / "issuer").claims["jti"]
    assert troubles == []


def test_the_command_prints_a_token_without_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROSTRUM_STATE", str(tmp_path / "state"))
    printed = subprocess.run(
        [sys.executable, "-m", "deploy.local", "token", "--org", "acme"], capture_output=True, text=True, check=True
    ).stdout
    claims = verified(printed.removesuffix("\n"), tmp_path / "state" / "issuer").claims
    assert (claims["org"], claims["scope"]) == ("acme", PUBLIC_SCOPES)
    assert claims["exp"] - claims["iat"] == 8 * 3600
