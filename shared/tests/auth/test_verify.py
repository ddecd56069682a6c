import hashlib
import hmac
import json
from typing import Any

import pytest
from joserfc.jwk import OKPKey, RSAKey

from shared.auth.keys import JwksClient
from shared.auth.verify import Principal, TokenVerifier, Unauthenticated
from testkit.issuer import AUDIENCE, ED, FOREIGN, ISSUER, ROTATED, RSA, Clock, Issuer, b64, by_hand, claims, signed


async def refusal(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(token)
    assert refused.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return refused.value.detail


@pytest.mark.parametrize(
    ("key", "alg", "typ"),
    [
        (RSA, "RS256", "JWT"),
        (RSA, "RS256", "at+jwt"),
        (RSA, "RS256", "AT+JWT"),
        (RSA, "RS256", ...),
        (ED, "EdDSA", "JWT"),
        (ED, "Ed25519", "at+jwt"),
    ],
)
async def test_a_valid_token_names_its_principal(
    verifier: TokenVerifier, now: Clock, key: RSAKey | OKPKey, alg: str, typ: object
) -> None:
    principal = await verifier.verify(signed(claims(now), key, alg=alg, typ=typ))
    assert principal == Principal("user:7", "fossasia", frozenset({"events:read", "events:write"}))
    assert principal.has("events:write")
    assert not principal.has("events")
    assert not principal.is_service


async def test_the_audience_may_be_one_of_several(verifier: TokenVerifier, now: Clock) -> None:
    assert (await verifier.verify(signed(claims(now, aud=["other", AUDIENCE])))).subject == "user:7"


@pytest.mark.parametrize("declared", ["EdDSA", "Ed25519"])
async def test_both_names_of_the_ed25519_algorithm_fit_a_key_that_declares_either(
    issuer: Issuer, verifier: TokenVerifier, now: Clock, declared: str
) -> None:
    issuer.publish(ED.as_dict(alg=declared, use="sig"))
    for alg in ("EdDSA", "Ed25519"):
        assert (await verifier.verify(signed(claims(now), ED, alg=alg))).organizer == "fossasia"


async def test_a_service_is_known_by_its_subject_and_scope(verifier: TokenVerifier, now: Clock) -> None:
    service = {"sub": "service:exports", "scope": "internal", "org": ...}
    assert (await verifier.verify(signed(claims(now, **service)))).is_service
    assert not (await verifier.verify(signed(claims(now, **{**service, "sub": "user:1"})))).is_service
    assert not (await verifier.verify(signed(claims(now, **{**service, "scope": "events:read"})))).is_service


async def test_clocks_may_differ_by_a_minute(verifier: TokenVerifier, now: Clock) -> None:
    await verifier.verify(signed(claims(now, exp=int(now.at) - 50, nbf=int(now.at) - 100)))
    await verifier.verify(signed(claims(now, nbf=int(now.at) + 50)))
    assert "expired" in await refusal(verifier, signed(claims(now, exp=int(now.at) - 70)))
    assert "not yet valid" in await refusal(verifier, signed(claims(now, nbf=int(now.at) + 70)))


async def test_an_unsigned_token_is_refused(verifier: TokenVerifier, now: Clock) -> None:
    for alg in ("none", "None", "NONE"):
        token = by_hand({"alg": alg, "kid": "rsa-1"}, json.dumps(claims(now)).encode(), None)
        assert "algorithm" in await refusal(verifier, token)
    token = by_hand({"alg": "RS256", "kid": "rsa-1"}, json.dumps(claims(now)).encode(), None)
    assert "signature" in await refusal(verifier, token)


@pytest.mark.parametrize("secret", [RSA.as_pem(), RSA.as_der(), json.dumps(RSA.as_dict()).encode()])
async def test_an_hmac_made_with_the_public_key_is_refused(
    verifier: TokenVerifier, now: Clock, secret: bytes
) -> None:
    signing_input = (
        f"{b64(json.dumps({'alg': 'HS256', 'kid': 'rsa-1'}).encode())}.{b64(json.dumps(claims(now)).encode())}"
    )
    token = f"{signing_input}.{b64(hmac.digest(secret, signing_input.encode(), hashlib.sha256))}"
    assert "algorithm 'HS256' is not accepted" in await refusal(verifier, token)


@pytest.mark.parametrize("alg", ["RS512", "PS256", "ES256", "Ed448", "", None, 7, ["RS256"], {}])
async def test_only_the_named_algorithms_are_accepted(verifier: TokenVerifier, now: Clock, alg: object) -> None:
    assert "not accepted" in await refusal(verifier, signed(claims(now), alg=alg))


async def test_the_algorithm_must_fit_the_key(verifier: TokenVerifier, now: Clock) -> None:
    assert "cannot be verified" in await refusal(verifier, signed(claims(now), RSA, alg="EdDSA"))
    assert "cannot be verified" in await refusal(verifier, signed(claims(now), ED, alg="RS256"))


async def test_a_signature_of_another_key_is_refused(verifier: TokenVerifier, now: Clock) -> None:
    assert "signature is invalid" in await refusal(verifier, signed(claims(now), FOREIGN))
    good = signed(claims(now))
    head, _, signature = good.split(".")
    forged = f"{head}.{b64(json.dumps(claims(now, org='other')).encode())}.{signature}"
    assert "signature is invalid" in await refusal(verifier, forged)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"iss": "https://login.example/realms/other"}, "another issuer"),
        ({"iss": [ISSUER]}, "another issuer"),
        ({"iss": ...}, "`iss`"),
        ({"aud": "someone-else"}, "another audience"),
        ({"aud": ["a", "b"]}, "another audience"),
        ({"aud": []}, "another audience"),
        ({"aud": ...}, "`aud`"),
        ({"exp": 1_500_000_000}, "expired at 2017-07-14T02:40:00+00:00"),
        ({"exp": ...}, "`exp`"),
        ({"exp": "4102444800"}, "`exp`"),
        ({"exp": True}, "`exp`"),
        ({"exp": -(10**400)}, "expired"),
        ({"nbf": 4_102_444_800}, "not yet valid: its `nbf` is 2100-01-01"),
        ({"nbf": 10**400}, "not yet valid"),
        ({"nbf": "soon"}, "`nbf`"),
        ({"sub": ...}, "`sub`"),
        ({"sub": ""}, "`sub`"),
        ({"sub": 7}, "`sub`"),
        ({"sub": "a" * 256}, "`sub`"),
        ({"sub": "a\x00b"}, "`sub`"),
        ({"sub": "\ud800"}, "`sub`"),
        ({"org": ""}, "`org`"),
        ({"org": "  "}, "`org`"),
        ({"org": "o" * 201}, "`org`"),
        ({"org": ["fossasia"]}, "`org`"),
        ({"org": "a\nb"}, "`org`"),
        ({"scope": ["events:write"]}, "`scope`"),
    ],
)
async def test_an_invalid_claim_is_refused_by_name(
    verifier: TokenVerifier, now: Clock, changes: dict[str, Any], word: str
) -> None:
    assert word in await refusal(verifier, signed(claims(now, **changes)))


async def test_an_expiry_beyond_the_calendar_is_accepted(verifier: TokenVerifier, now: Clock) -> None:
    assert (await verifier.verify(signed(claims(now, exp=10**400)))).subject == "user:7"


@pytest.mark.parametrize("typ", ["dpop+jwt", "logout+jwt", "id_token", "", 1, ["JWT"]])
async def test_a_token_of_another_type_is_refused(verifier: TokenVerifier, now: Clock, typ: object) -> None:
    assert "type" in await refusal(verifier, signed(claims(now), typ=typ))


@pytest.mark.parametrize("kid", ["../../etc/passwd", "file:///dev/zero", "rsa-1\x00", "' OR 1=1 --", "", "\ud800"])
async def test_a_key_id_is_only_ever_looked_up(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, kid: str
) -> None:
    assert "unknown key" in await refusal(verifier, signed(claims(now), kid=kid))
    assert set(issuer.requests) == {"GET /jwks.json HTTP/1.1"}


@pytest.mark.parametrize("kid", [..., None, 1, ["rsa-1"]])
async def test_a_token_without_a_key_id_is_refused(verifier: TokenVerifier, now: Clock, kid: object) -> None:
    assert "`kid`" in await refusal(verifier, signed(claims(now), kid=kid))


async def test_keys_inside_a_token_are_ignored(verifier: TokenVerifier, issuer: Issuer, now: Clock) -> None:
    elsewhere = issuer.url.replace("jwks.json", "evil.json")
    brought: dict[str, Any] = {"jku": elsewhere, "x5u": elsewhere, "jwk": FOREIGN.as_dict()}
    assert "signature" in await refusal(verifier, signed(claims(now), FOREIGN, **brought))
    assert "unknown key" in await refusal(verifier, signed(claims(now), ROTATED, **brought))
    assert (await verifier.verify(signed(claims(now), **brought))).subject == "user:7"
    assert set(issuer.requests) == {"GET /jwks.json HTTP/1.1"}


async def test_a_duplicate_name_is_refused(verifier: TokenVerifier, now: Clock) -> None:
    twice = json.dumps(claims(now))[:-1] + ', "org": "other"}'
    assert "unambiguous" in await refusal(verifier, by_hand({"alg": "RS256", "kid": "rsa-1"}, twice.encode(), RSA))
    header = b'{"alg":"RS256","kid":"rsa-1","kid":"rsa-2"}'
    assert "unambiguous" in await refusal(verifier, by_hand(header, json.dumps(claims(now)).encode(), RSA))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe{}",
        b'{"exp": NaN}',
        b'{"exp": 1e999}',
        b"[" * 5000,
        b'{"exp":' + b"9" * 5000,
    ],
)
async def test_a_signed_payload_that_is_not_an_object_of_claims_is_refused(
    verifier: TokenVerifier, payload: bytes
) -> None:
    await refusal(verifier, by_hand({"alg": "RS256", "kid": "rsa-1"}, payload, RSA))


@pytest.mark.parametrize("header", [b"", b"[]", b"{", b"\xff", b"[" * 2000, b'{"alg":"RS256"' + b" " * 5000 + b"}"])
async def test_a_broken_header_is_refused(verifier: TokenVerifier, header: bytes) -> None:
    await refusal(verifier, by_hand(header, b"{}", RSA))


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c.d.e", "a.b.c\n", "ä.b.c", "a b.c.d", "=.=.=", "A.A.A"])
async def test_text_that_is_not_a_token_is_refused(verifier: TokenVerifier, token: str) -> None:
    await refusal(verifier, token)


async def test_critical_extensions_are_refused(verifier: TokenVerifier, now: Clock) -> None:
    await refusal(verifier, signed(claims(now), crit=["b64"], b64=False))
    await refusal(verifier, signed(claims(now), b64=False))


async def test_an_oversized_token_is_refused_before_the_keys_are_loaded(
    verifier: TokenVerifier, issuer: Issuer, now: Clock
) -> None:
    assert "longer than 8192" in await refusal(verifier, signed(claims(now, padding="x" * 8192)))
    assert issuer.requests == []


async def test_a_verified_token_is_cached_for_a_minute(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, ticks: Clock
) -> None:
    token = signed(claims(now))
    first = await verifier.verify(token)
    issuer.publish(ROTATED)
    ticks.at += 301
    now.at += 59
    assert await verifier.verify(token) is first
    assert len(issuer.requests) == 1
    now.at += 2
    assert "unknown key" in await refusal(verifier, token)


async def test_a_cached_token_still_expires(verifier: TokenVerifier, now: Clock) -> None:
    token = signed(claims(now, exp=int(now.at) - 40))
    await verifier.verify(token)
    now.at += 21
    assert "expired" in await refusal(verifier, token)


async def test_a_full_cache_forgets_the_oldest_token(
    issuer: Issuer, keys: JwksClient, now: Clock, ticks: Clock
) -> None:
    verifier = TokenVerifier(ISSUER, AUDIENCE, keys, cache_size=2, clock=now)
    tokens = [signed(claims(now, jti=str(number))) for number in range(3)]
    for token in tokens:
        await verifier.verify(token)
    issuer.publish(ROTATED)
    ticks.at += 301
    assert "unknown key" in await refusal(verifier, tokens[0])
    assert [(await verifier.verify(token)).subject for token in tokens[1:]] == ["user:7", "user:7"]
