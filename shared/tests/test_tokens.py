import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from joserfc.jwk import OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from shared.auth.access import PUBLIC, UNDECLARED, declared_access, optional_principal, requires, service_only
from shared.auth.keys import MAX_JWKS_SIZE, JwksSource, KeysUnavailable
from shared.auth.outgoing import ServiceTokenAuth, ServiceTokenUnreadable
from shared.auth.verify import Principal, TokenVerifier, Unauthenticated
from shared.http.problems import add_problem_handlers

ISSUER = "https://login.example/realms/rostrum"
AUDIENCE = "rostrum"
RSA = RSAKey.generate_key(2048, {"kid": "rsa-1"})
ROTATED = RSAKey.generate_key(2048, {"kid": "rsa-2"})
FOREIGN = RSAKey.generate_key(2048, {"kid": "rsa-1"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed-1"})


class Clock:
    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


class Issuer:
    """An HTTP server that answers every request with given bytes."""

    def __init__(self) -> None:
        self.body = b""
        self.head = b"HTTP/1.1 200 OK"
        self.headers = b""
        self.requests: list[str] = []
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.url = ""

    def publish(self, *keys: RSAKey | OKPKey | dict[str, Any]) -> None:
        entries = [key if isinstance(key, dict) else key.as_dict() for key in keys]
        self.body = json.dumps({"keys": entries}).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(request.split(b"\r\n")[0].decode())
        self.was_asked.set()
        await self.may_answer.wait()
        length = str(len(self.body)).encode()
        writer.write(
            self.head + b"\r\n" + self.headers + b"Content-Length: " + length + b"\r\nConnection: close\r\n\r\n"
        )
        writer.write(self.body)
        with contextlib.suppress(ConnectionError):  # the client may have had enough
            await writer.drain()
        writer.close()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    issuer.publish(RSA, ED)
    server = await asyncio.start_server(issuer.answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    issuer.url = f"http://{host}:{port}/jwks.json"
    yield issuer
    server.close()
    await server.wait_closed()


@pytest.fixture
def ticks() -> Clock:
    """The clock of the key source."""
    return Clock(1000.0)


@pytest.fixture
def now() -> Clock:
    """The clock on the wall."""
    return Clock(time.time())


@pytest.fixture
async def source(issuer: Issuer, ticks: Clock) -> AsyncIterator[JwksSource]:
    source = JwksSource(issuer.url, clock=ticks)
    yield source
    await source.aclose()


@pytest.fixture
def verifier(source: JwksSource, now: Clock) -> TokenVerifier:
    return TokenVerifier(ISSUER, AUDIENCE, source, clock=now)


def claims(now: Clock, **changes: Any) -> dict[str, Any]:
    usual = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "user:7",
        "org": "fossasia",
        "scope": "events:read events:write",
        "exp": int(now.at) + 600,
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not ...}


def signed(payload: dict[str, Any], key: RSAKey | OKPKey = RSA, *, alg: str = "RS256", **header: Any) -> str:
    header = {name: value for name, value in {"alg": alg, "kid": key.kid, **header}.items() if value is not ...}
    return by_hand(header, json.dumps(payload).encode(), key)


def by_hand(header: dict[str, Any] | bytes, payload: bytes, key: RSAKey | OKPKey | None) -> str:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    signing_input = f"{b64(head)}.{b64(payload)}"
    if key is None:
        return f"{signing_input}."
    name = "RS256" if isinstance(key, RSAKey) else "Ed25519"
    signature = JWSRegistry.algorithms[name].sign(signing_input.encode(), key)
    return f"{signing_input}.{b64(signature)}"


def b64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


async def refusal(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(Unauthenticated) as refused:
        await verifier.verify(token)
    assert refused.value.headers == {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return refused.value.detail


# -------------------- good tokens


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
async def test_a_good_token_tells_who_asks(
    verifier: TokenVerifier, now: Clock, key: RSAKey | OKPKey, alg: str, typ: Any
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


# -------------------- bad tokens


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
async def test_only_the_named_algorithms_are_accepted(verifier: TokenVerifier, now: Clock, alg: Any) -> None:
    assert "not accepted" in await refusal(verifier, signed(claims(now), alg=alg))


async def test_the_algorithm_must_fit_the_key(verifier: TokenVerifier, now: Clock) -> None:
    assert "can't be verified" in await refusal(verifier, signed(claims(now), RSA, alg="EdDSA"))
    assert "can't be verified" in await refusal(verifier, signed(claims(now), ED, alg="RS256"))


async def test_a_signature_of_another_key_is_refused(verifier: TokenVerifier, now: Clock) -> None:
    assert "signature is not valid" in await refusal(verifier, signed(claims(now), FOREIGN))
    good = signed(claims(now))
    head, _, signature = good.split(".")
    forged = f"{head}.{b64(json.dumps(claims(now, org='other')).encode())}.{signature}"
    assert "signature is not valid" in await refusal(verifier, forged)


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
async def test_a_claim_that_does_not_hold_is_refused_by_name(
    verifier: TokenVerifier, now: Clock, changes: dict[str, Any], word: str
) -> None:
    assert word in await refusal(verifier, signed(claims(now, **changes)))


async def test_a_date_beyond_every_calendar_is_no_crash(verifier: TokenVerifier, now: Clock) -> None:
    assert (await verifier.verify(signed(claims(now, exp=10**400)))).subject == "user:7"


@pytest.mark.parametrize("typ", ["dpop+jwt", "logout+jwt", "id_token", "", 1, ["JWT"]])
async def test_a_token_of_another_type_is_refused(verifier: TokenVerifier, now: Clock, typ: Any) -> None:
    assert "type" in await refusal(verifier, signed(claims(now), typ=typ))


@pytest.mark.parametrize("kid", ["../../etc/passwd", "file:///dev/zero", "rsa-1\x00", "' OR 1=1 --", "", "\ud800"])
async def test_a_key_id_is_only_ever_looked_up(
    verifier: TokenVerifier, issuer: Issuer, now: Clock, kid: str
) -> None:
    assert "unknown key" in await refusal(verifier, signed(claims(now), kid=kid))
    assert set(issuer.requests) == {"GET /jwks.json HTTP/1.1"}


@pytest.mark.parametrize("kid", [..., None, 1, ["rsa-1"]])
async def test_a_token_without_a_key_id_is_refused(verifier: TokenVerifier, now: Clock, kid: Any) -> None:
    assert "`kid`" in await refusal(verifier, signed(claims(now), kid=kid))


async def test_keys_that_a_token_brings_along_are_ignored(
    verifier: TokenVerifier, issuer: Issuer, now: Clock
) -> None:
    elsewhere = issuer.url.replace("jwks.json", "evil.json")
    brought: dict[str, Any] = {"jku": elsewhere, "x5u": elsewhere, "jwk": FOREIGN.as_dict()}
    assert "signature" in await refusal(verifier, signed(claims(now), FOREIGN, **brought))
    assert "unknown key" in await refusal(verifier, signed(claims(now), ROTATED, **brought))
    assert (await verifier.verify(signed(claims(now), **brought))).subject == "user:7"
    assert set(issuer.requests) == {"GET /jwks.json HTTP/1.1"}


async def test_a_name_given_twice_is_refused(verifier: TokenVerifier, now: Clock) -> None:
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
async def test_a_signed_payload_that_is_no_claims_object_is_refused(
    verifier: TokenVerifier, payload: bytes
) -> None:
    await refusal(verifier, by_hand({"alg": "RS256", "kid": "rsa-1"}, payload, RSA))


@pytest.mark.parametrize("header", [b"", b"[]", b"{", b"\xff", b"[" * 2000, b'{"alg":"RS256"' + b" " * 5000 + b"}"])
async def test_a_broken_header_is_refused(verifier: TokenVerifier, header: bytes) -> None:
    await refusal(verifier, by_hand(header, b"{}", RSA))


@pytest.mark.parametrize("token", ["", "a", "a.b", "a.b.c.d.e", "a.b.c\n", "ä.b.c", "a b.c.d", "=.=.=", "A.A.A"])
async def test_what_is_no_token_is_refused(verifier: TokenVerifier, token: str) -> None:
    await refusal(verifier, token)


async def test_critical_extensions_are_refused(verifier: TokenVerifier, now: Clock) -> None:
    await refusal(verifier, signed(claims(now), crit=["b64"], b64=False))
    await refusal(verifier, signed(claims(now), b64=False))


async def test_an_oversize_token_is_refused_before_any_work(
    verifier: TokenVerifier, issuer: Issuer, now: Clock
) -> None:
    assert "longer than 8192" in await refusal(verifier, signed(claims(now, padding="x" * 8192)))
    assert issuer.requests == []


# -------------------- the issuer's keys


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


async def test_unknown_key_ids_cost_one_load_per_half_minute(
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
    assert (
        len(issuer.requests) == 2
    )  # an issuer in trouble is asked again after half a minute, not by every request
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


async def test_keys_of_no_use_are_passed_over(verifier: TokenVerifier, issuer: Issuer, now: Clock) -> None:
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


async def test_a_compressed_or_redirected_key_set_is_not_taken(
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


async def test_requests_do_not_wait_for_a_refresh_while_good_keys_are_at_hand(
    verifier: TokenVerifier, issuer: Issuer, source: JwksSource, now: Clock, ticks: Clock
) -> None:
    await verifier.verify(signed(claims(now)))
    issuer.may_answer.clear()
    issuer.was_asked.clear()
    ticks.at += 301
    refreshing = asyncio.create_task(verifier.verify(signed(claims(now, jti="refreshes"))))
    await issuer.was_asked.wait()
    await verifier.verify(signed(claims(now, jti="passes by")))
    assert not refreshing.done()
    issuer.may_answer.set()
    await refreshing


async def test_an_issuer_that_does_not_answer_in_time_is_a_503(
    verifier: TokenVerifier, issuer: Issuer, source: JwksSource, now: Clock
) -> None:
    issuer.may_answer.clear()
    source.timeout = 0.05
    with pytest.raises(KeysUnavailable):
        await verifier.verify(signed(claims(now)))
    issuer.may_answer.set()


async def test_an_issuer_that_is_not_there_is_a_503(now: Clock) -> None:
    source = JwksSource("http://127.0.0.1:1/jwks.json")
    with pytest.raises(KeysUnavailable):
        await TokenVerifier(ISSUER, AUDIENCE, source, clock=now).verify(signed(claims(now)))
    await source.aclose()


async def test_keys_in_a_file_follow_the_file(tmp_path: Path, now: Clock, ticks: Clock) -> None:
    file = tmp_path / "key set.json"
    source = JwksSource(file.as_uri(), clock=ticks)
    verifier = TokenVerifier(ISSUER, AUDIENCE, source, clock=now)
    with pytest.raises(KeysUnavailable):
        await verifier.verify(signed(claims(now)))

    file.write_text(json.dumps({"keys": [RSA.as_dict()]}))
    ticks.at += 1
    await verifier.verify(signed(claims(now)))

    replacement = tmp_path / "next"
    replacement.write_text(json.dumps({"keys": [ROTATED.as_dict()]}))
    os.replace(replacement, file)
    ticks.at += 0.01
    await verifier.verify(signed(claims(now), ROTATED))
    assert "unknown key" in await refusal(verifier, signed(claims(now, jti="withdrawn")))

    file.unlink()
    ticks.at += 60
    await verifier.verify(signed(claims(now, jti="last good"), ROTATED))


@pytest.mark.parametrize("url", ["ftp://login.example/jwks.json", "/etc/jwks.json", "", "data:application/json,{}"])
def test_other_kinds_of_key_addresses_are_refused_at_start(url: str) -> None:
    with pytest.raises(ValueError, match="JWKS"):
        JwksSource(url)


# -------------------- remembered tokens


async def test_a_verified_token_is_remembered_for_a_minute(
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


async def test_a_remembered_token_still_expires(verifier: TokenVerifier, now: Clock) -> None:
    token = signed(claims(now, exp=int(now.at) - 40))
    await verifier.verify(token)
    now.at += 21
    assert "expired" in await refusal(verifier, token)


async def test_the_memory_of_tokens_is_bounded(verifier: TokenVerifier, now: Clock) -> None:
    verifier.remember_at_most = 3
    for number in range(10):
        await verifier.verify(signed(claims(now, jti=str(number))))
    assert len(verifier._verified) == 3


# -------------------- what routes declare


@pytest.fixture
def app(verifier: TokenVerifier) -> FastAPI:
    app = FastAPI()
    app.state.token_verifier = verifier
    add_problem_handlers(app)
    inner, outer = APIRouter(), APIRouter(prefix="/v1")

    @inner.post("/events")
    async def create(principal: Annotated[Principal, Depends(requires("events:write"))]) -> str:
        return f"{principal.subject} of {principal.organizer}"

    @inner.get("/events")
    async def read(principal: Annotated[Principal | None, Depends(PUBLIC)]) -> str:
        return principal.subject if principal else "anybody"

    @inner.get("/forgotten")
    async def forgotten() -> str:
        return "open"

    outer.include_router(inner)
    app.include_router(outer)

    @app.get("/internal/events", dependencies=[Depends(service_only())])
    async def internal() -> str:
        return "internal"

    @app.get("/calendar")
    async def calendar(principal: Annotated[Principal | None, Depends(optional_principal)]) -> str:
        return "calendar"

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_route_gets_the_principal_that_has_its_scope(client: httpx.AsyncClient, now: Clock) -> None:
    answer = await client.post("/v1/events", headers=bearer(signed(claims(now))))
    assert (answer.status_code, answer.json()) == (200, "user:7 of fossasia")
    answer = await client.post("/v1/events", headers={"authorization": f"bEARER {signed(claims(now))}"})
    assert answer.status_code == 200


async def test_no_token_is_a_401_with_a_plain_challenge(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/events")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "unauthenticated"


async def test_a_missing_scope_is_a_403_that_names_it(client: httpx.AsyncClient, now: Clock) -> None:
    answer = await client.post("/v1/events", headers=bearer(signed(claims(now, scope="events:read"))))
    assert answer.status_code == 403
    assert answer.json()["code"] == "scope-missing"
    assert answer.json()["scope"] == "events:write"
    assert "events:write" in answer.json()["detail"]
    assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]


async def test_a_token_without_an_organizer_is_a_401(client: httpx.AsyncClient, now: Clock) -> None:
    for org in (..., None):
        answer = await client.post("/v1/events", headers=bearer(signed(claims(now, org=org))))
        assert answer.status_code == 401
        assert "`org`" in answer.json()["detail"]


async def test_a_public_route_is_open_but_a_bad_token_is_still_refused(
    client: httpx.AsyncClient, now: Clock
) -> None:
    assert (await client.get("/v1/events")).json() == "anybody"
    assert (await client.get("/v1/events", headers=bearer(signed(claims(now))))).json() == "user:7"
    for value in ("Bearer broken", "Basic dXNlcjpwYXNz", "Bearer", "", "Bearer a b"):
        answer = await client.get("/v1/events", headers={"Authorization": value})
        assert answer.status_code == 401, value
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    twice = [("Authorization", f"Bearer {signed(claims(now))}"), ("Authorization", "Bearer other")]
    assert (await client.get("/v1/events", headers=twice)).status_code == 401


async def test_internal_routes_are_for_services_only(client: httpx.AsyncClient, now: Clock) -> None:
    assert (await client.get("/internal/events")).status_code == 401
    for changes in ({}, {"sub": "service:x"}, {"scope": "internal"}):
        answer = await client.get("/internal/events", headers=bearer(signed(claims(now, **changes))))
        assert answer.status_code == 403
    token = signed(claims(now, sub="service:exports", scope="internal", org=...))
    assert (await client.get("/internal/events", headers=bearer(token))).status_code == 200


async def test_an_issuer_that_is_down_is_a_503_and_not_a_401(
    client: httpx.AsyncClient, issuer: Issuer, now: Clock
) -> None:
    issuer.head = b"HTTP/1.1 500 Oops"
    answer = await client.post("/v1/events", headers=bearer(signed(claims(now))))
    assert answer.status_code == 503
    assert answer.json()["code"] == "issuer-unavailable"
    assert "Retry-After" in answer.headers


def test_every_route_tells_what_it_asks_for(app: FastAPI) -> None:
    assert declared_access(app) == {
        ("POST", "/v1/events"): "events:write",
        ("GET", "/v1/events"): "public",
        ("GET", "/v1/forgotten"): UNDECLARED,
        ("GET", "/internal/events"): "internal",
        ("GET", "/calendar"): "public",
    }


def test_the_openapi_document_shows_where_a_token_is_needed(app: FastAPI) -> None:
    document = app.openapi()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert document["components"]["securitySchemes"]["token"]["bearerFormat"] == "JWT"
    assert document["paths"]["/v1/events"]["post"]["security"] == [{"token": []}]
    assert document["paths"]["/internal/events"]["get"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/v1/events"]["get"]


# -------------------- calling other services


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("first.token.x\n")
    return file


def echo(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, text=request.headers["Authorization"])


def test_a_blocking_client_shows_the_token_too(token_file: Path) -> None:
    with httpx.Client(transport=httpx.MockTransport(echo), auth=ServiceTokenAuth(token_file)) as client:
        assert client.get("http://events/internal").text == "Bearer first.token.x"


async def test_calls_to_other_services_show_the_token_that_is_in_the_file_now(token_file: Path) -> None:
    auth = ServiceTokenAuth(token_file)
    async with httpx.AsyncClient(transport=httpx.MockTransport(echo), auth=auth) as client:
        assert (await client.get("http://events/internal")).text == "Bearer first.token.x"
        replacement = token_file.with_name("next")
        replacement.write_text("second.token.x")
        os.replace(replacement, token_file)
        assert (await client.get("http://events/internal")).text == "Bearer second.token.x"


async def test_a_service_token_that_can_not_be_read_is_a_503(token_file: Path) -> None:
    other = token_file.with_name("other")
    await asyncio.to_thread(other.write_text, "not a token\n")
    for file in (None, other, token_file.with_name("missing")):
        async with httpx.AsyncClient(auth=ServiceTokenAuth(file)) as client:
            with pytest.raises(ServiceTokenUnreadable):
                await client.get("http://127.0.0.1:1/internal")
