import json
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from deploy.compose import issuer as issuing
from deploy.local.issuer import load_issuer


def test_the_published_keys_verify_the_token_of_each_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuing, "JWKS", tmp_path / "jwks")
    monkeypatch.setattr(issuing, "TOKENS", tmp_path / "tokens")
    (tmp_path / "jwks").mkdir()
    for service in ("media", "events"):
        (tmp_path / "tokens" / service).mkdir(parents=True)

    assert issuing.write_all(load_issuer(tmp_path / "key")) == ["events", "media"]

    keys = KeySet.import_key_set(json.loads((tmp_path / "jwks" / "jwks.json").read_text()))
    assert [path.name for path in (tmp_path / "jwks").iterdir()] == ["jwks.json"]
    for service in ("media", "events"):
        (path,) = (tmp_path / "tokens" / service).iterdir()
        assert path.name == f"{service}.jwt"
        assert jwt.decode(path.read_text(), keys, algorithms=["RS256"]).claims["sub"] == f"service:{service}"
