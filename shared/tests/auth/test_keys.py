import asyncio
import json
import os
from pathlib import Path

import pytest

from shared.auth.keys import MAX_JWKS_SIZE, JwksClient, KeysUnavailable
from shared.auth.verify import TokenVerifier, Unauthenticated
from testkit.issuer import AUDIENCE, FOREIGN, ISSUER, ROTATED, RSA, Clock, Issuer, b64, claims, signed


async def refusal(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(token)
    assert refused.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return refused.value.detail


async def test_keys_are_loaded_once_and_again_after_five_minutes(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, ticks: Clock
) -> None:
    await asyncio.gather(*(verifier.verify(signed(claims(now, jti=str(number)))) for number in range(20)))
    assert len(issuer.requests) == 1
    ticks.at += 299
    await verifier.verify(signed(claims(now, jti="a")))
    assert len(issuer.requests) == 1
    ticks.at += 2
    await verifier.verify(signed(claims(now, jti="b")))
    assert len(issuer.requests) == 2


async def test_a_rotated_key_works_at_once_and_the_old_one_until_it_is_withdrawn(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, ticks: Clock
) -> None:
    await verifier.verify(signed(claims(now)))
    issuer.publish(RSA, ROTATED)
    ticks.at += 1
    assert (await verifier.verify(signed(claims(now), ROTATED))).subject == "user:7"
    assert (await verifier.verify(signed(claims(now, jti="old")))).subject == "user:7"
    issuer.publish(ROTATED)
    ticks.at += 301
    assert "unknown key" in await refusal(verifier, signed(claims(now, jti="withdrawn")))


async def test_unknown_key_ids_cause_one_load_in_half_a_minute(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, ticks: Clock
) -> None:
    await verifier.verify(signed(claims(now)))
    for _ in range(3):
        ticks.at += 9
        await asyncio.gather(*(refusal(verifier, signed(claims(now), kid=f"made-up-{n}")) for n in range(5)))
    assert len(issuer.requests) == 2
    ticks.at += 30
    await refusal(verifier, signed(claims(now), kid="made-up"))
    assert len(issuer.requests) == 3


async def test_the_last_good_keys_serve_while_the_issuer_is_down_for_a_day_at_most(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, ticks: Clock
) -> None:
    await verifier.verify(signed(claims(now)))
    issuer.head = b"HTTP/1.1 503 Service Unavailable"
    ticks.at += 3600
    await verifier.verify(signed(claims(now, jti="an hour later")))
    await verifier.verify(signed(claims(now, jti="at once after")))
    assert len(issuer.requests) == 2, "an issuer in trouble is asked again after half a minute"
    ticks.at += 24 * 3600
    with pytest.raises(KeysUnavailable) as refused:
        await verifier.verify(signed(claims(now, jti="a day later")))
    assert refused.value.status == 503
    issuer.head = b"HTTP/1.1 200 OK"
    ticks.at += 1
    await verifier.verify(signed(claims(now, jti="up again")))


@pytest.mark.parametrize(
    "body",
    [
        b"<html>welcome to the hotel wifi</html>",
        b'{"keys": []}',
        b'{"keys": null}',
        b'{"keys": [1, null, "x", {}]}',
        b"[]",
        b"[" * 10_000,
        b'{"keys": [{"kty": "oct", "kid": "rsa-1", "k": "c2VjcmV0"}]}',
        b'{"keys": []}' + b" " * MAX_JWKS_SIZE,
    ],
)
async def test_a_bad_key_set_never_replaces_a_good_one(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, ticks: Clock, body: bytes
) -> None:
    await verifier.verify(signed(claims(now)))
    issuer.body = body
    ticks.at += 301
    assert (await verifier.verify(signed(claims(now, jti="after")))).subject == "user:7"
    assert len(issuer.requests) == 2


async def test_keys_of_no_use_are_ignored(verifier: TokenVerifier, issuer: Issuer, now: Clock) -> None:
    issuer.publish(
        {"kty": "AKP", "kid": "post-quantum", "pub": "AA"},
        {"kty": "EC", "kid": "rsa-1", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "RSA", "kid": "small", "n": b64(b"\xff" * 128), "e": "AQAB"},
        {"kty": "RSA", "kid": "broken", "n": "!" * 342, "e": "AQAB"},
        {"kty": "RSA", "kid": "odd", "n": RSA.as_dict()["n"], "e": "AQAB", "key_ops": 5},
        {**FOREIGN.as_dict(), "use": "enc"},
        RSA,
    )
    assert (await verifier.verify(signed(claims(now)))).subject == "user:7"
    for kid in ("post-quantum", "small", "broken", "odd"):
        assert "unknown key" in await refusal(verifier, signed(claims(now), kid=kid))


async def test_a_compressed_or_redirected_key_set_is_not_accepted(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, ticks: Clock
) -> None:
    issuer.headers = b"Content-Encoding: gzip\r\n"
    with pytest.raises(KeysUnavailable):
        await verifier.verify(signed(claims(now)))
    issuer.head, issuer.headers = b"HTTP/1.1 302 Found", b"Location: /elsewhere.json\r\n"
    ticks.at += 1
    with pytest.raises(KeysUnavailable):
        await verifier.verify(signed(claims(now)))
    assert issuer.requests == ["GET /jwks.json HTTP/1.1"] * 2


async def test_requests_with_a_known_key_do_not_wait_for_a_refresh(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, ticks: Clock
) -> None:
    await verifier.verify(signed(claims(now)))
    issuer.may_respond.clear()
    issuer.was_asked.clear()
    ticks.at += 301
    refreshing = asyncio.create_task(verifier.verify(signed(claims(now, jti="refreshes"))))
    await issuer.was_asked.wait()
    await verifier.verify(signed(claims(now, jti="passes by")))
    assert not refreshing.done()
    issuer.may_respond.set()
    await refreshing


async def test_an_issuer_that_does_not_respond_in_time_is_a_503(issuer: Issuer) -> None:
    issuer.may_respond.clear()
    keys = JwksClient(issuer.url, timeout=0.05)
    with pytest.raises(KeysUnavailable):
        await keys.key("rsa-1")
    issuer.may_respond.set()
    await keys.aclose()


async def test_an_unreachable_issuer_is_a_503() -> None:
    keys = JwksClient("http://127.0.0.1:1/jwks.json")
    with pytest.raises(KeysUnavailable):
        await keys.key("rsa-1")
    await keys.aclose()


async def test_keys_in_a_file_follow_the_file(tmp_path: Path, now: Clock, ticks: Clock) -> None:
    file = tmp_path / "key set.json"
    keys = JwksClient(file.as_uri(), clock=ticks)
    verifier = TokenVerifier(ISSUER, AUDIENCE, keys, clock=now)
    with pytest.raises(KeysUnavailable):
        await verifier.verify(signed(claims(now)))

    file.write_text(json.dumps({"keys": [RSA.as_dict()]}))
    ticks.at += 1
    await verifier.verify(signed(claims(now)))

    replacement = tmp_path / "next"
    replacement.write_text(json.dumps({"keys": [ROTATED.as_dict()]}))
    os.replace(replacement, file)
    ticks.at += 0.01
    await verifier.verify(signed(claims(now), ROTATED))  # an unknown key, so it does not wait for the second
    assert "unknown key" in await refusal(verifier, signed(claims(now, jti="withdrawn")))

    file.unlink()
    ticks.at += 60
    await verifier.verify(signed(claims(now, jti="last good"), ROTATED))


@pytest.mark.parametrize("url", ["ftp://login.example/jwks.json", "/etc/jwks.json", "", "data:application/json,{}"])
def test_other_kinds_of_key_addresses_are_refused_at_start(url: str) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        JwksClient(url)
