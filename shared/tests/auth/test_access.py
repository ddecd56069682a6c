from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI

from shared.auth.access import PUBLIC, SERVICE_ONLY, Requires
from shared.auth.verify import Principal, TokenVerifier
from shared.http.problems import add_problem_handlers
from testkit.access import UNDECLARED, declared_access
from testkit.issuer import Clock, Issuer, bearer, claims, signed


@pytest.fixture
def app(verifier: TokenVerifier) -> FastAPI:
    app = FastAPI()
    app.state.token_verifier = verifier
    add_problem_handlers(app)
    inner, outer = APIRouter(), APIRouter(prefix="/v1")

    @inner.post("/events")
    async def create(principal: Annotated[Principal, Depends(Requires("events:write"))]) -> str:
        return f"{principal.subject} of {principal.organizer}"

    @inner.get("/events")
    async def read(principal: Annotated[Principal | None, Depends(PUBLIC)]) -> str:
        return principal.subject if principal else "anybody"

    @inner.get("/forgotten")
    async def forgotten() -> str:
        return "open"

    outer.include_router(inner)
    app.include_router(outer)

    @app.get("/internal/events", dependencies=[Depends(SERVICE_ONLY)])
    async def internal() -> str:
        return "internal"

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_a_route_gets_the_principal_of_a_token_with_its_scope(client: httpx.AsyncClient, now: Clock) -> None:
    answer = await client.post("/v1/events", headers=bearer(signed(claims(now))))
    assert (answer.status_code, answer.json()) == (200, "user:7 of fossasia")
    answer = await client.post("/v1/events", headers={"authorization": f"bEARER {signed(claims(now))}"})
    assert answer.status_code == 200


async def test_a_missing_token_is_a_401_with_a_plain_challenge(client: httpx.AsyncClient) -> None:
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


def test_the_declared_access_of_every_route_is_listed(app: FastAPI) -> None:
    assert declared_access(app) == {
        ("POST", "/v1/events"): "events:write",
        ("GET", "/v1/events"): "public",
        ("GET", "/v1/forgotten"): UNDECLARED,
        ("GET", "/internal/events"): "internal",
    }


def test_the_openapi_document_says_where_a_token_is_required(app: FastAPI) -> None:
    document = app.openapi()
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert document["components"]["securitySchemes"]["token"]["bearerFormat"] == "JWT"
    assert document["paths"]["/v1/events"]["post"]["security"] == [{"token": []}]
    assert document["paths"]["/internal/events"]["get"]["security"] == [{"token": []}]
    assert "security" not in document["paths"]["/v1/events"]["get"]
