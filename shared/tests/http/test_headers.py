"""The security headers of every response, and CORS."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Response
from pydantic import BaseModel, ValidationError

from shared.http.app import new_app
from shared.http.docs import docs_router
from shared.settings import Settings

DATA = "default-src 'none'; frame-ancestors 'none'"
SITE = "https://shop.example.org"


class Wall(BaseModel):
    color: str


def _app(**changes: object) -> FastAPI:
    router = APIRouter()

    @router.get("/wall")
    async def look() -> dict[str, str]:
        return {"color": "red"}

    @router.get("/kept")
    async def kept() -> Response:
        return Response(
            headers={"Cache-Control": "private, no-cache", "Cross-Origin-Resource-Policy": "cross-origin"}
        )

    @router.post("/wall")
    async def paint(wall: Wall) -> Wall:
        return wall

    @router.get("/bug")
    async def bug() -> None:
        raise RuntimeError("secret of the wall")

    return new_app(
        Settings.model_validate({"service": "probe", **changes}),
        [router, docs_router(["probe"])],
        title="Probe",
        description="",
    )


@asynccontextmanager
async def asking(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://probe.test") as client:
        yield client


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with asking(_app()) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/wall", 200),
        ("GET", "/nowhere", 404),
        ("DELETE", "/wall", 405),
        ("POST", "/wall", 422),
        ("GET", "/bug", 500),
        ("GET", "/healthz/live", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs/refusals/429", 429),
        ("GET", "/docs/assets/page.js", 200),
    ],
)
async def test_every_response_has_the_security_headers(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await client.request(method, path)
    assert response.status_code == status
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["content-security-policy"] == DATA
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert "strict-transport-security" not in response.headers
    names = [name for name, _ in response.headers.multi_items()]
    assert len(names) == len(set(names)), "no header is repeated"


async def test_the_docs_page_allows_scripts_of_its_own_host_only(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "<style" not in page.text
    assert "<script>" not in page.text


async def test_a_header_that_a_route_sets_is_kept(client: httpx.AsyncClient) -> None:
    response = await client.get("/kept", headers={"Authorization": "Bearer x"})
    assert response.headers["cache-control"] == "private, no-cache"
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"


async def test_a_response_to_a_token_must_not_be_stored(client: httpx.AsyncClient) -> None:
    assert (await client.get("/wall", headers={"Authorization": "Bearer x"})).headers["cache-control"] == "no-store"
    assert "cache-control" not in (await client.get("/wall")).headers


async def test_hsts_is_sent_where_the_public_url_is_https() -> None:
    async with asking(_app(public_url="https://api.example.org")) as client:
        assert (await client.get("/wall")).headers["strict-transport-security"] == "max-age=31536000"


async def test_an_internal_error_carries_the_request_id(client: httpx.AsyncClient) -> None:
    response = await client.get("/bug", headers={"X-Request-ID": "abc-7"})
    assert (response.status_code, response.json()["code"], response.json()["request_id"]) == (
        500,
        "internal",
        "abc-7",
    )
    assert response.headers["x-request-id"] == "abc-7"
    assert "secret" not in response.text


def preflight(origin: str, method: str = "PATCH", headers: str = "authorization,if-match") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


def cors_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


async def test_without_origins_no_response_has_cors_headers(client: httpx.AsyncClient) -> None:
    assert not cors_headers(await client.get("/wall", headers={"Origin": SITE}))
    refused = await client.options("/wall", headers=preflight(SITE))
    assert refused.status_code == 405
    assert not cors_headers(refused)


async def test_an_allowed_origin_may_send_requests_and_read_responses() -> None:
    async with asking(_app(cors_origins=f"{SITE}, http://localhost:3000")) as client:
        asked = await client.options("/wall", headers=preflight(SITE))
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == SITE
        assert "PATCH" in asked.headers["access-control-allow-methods"]
        assert asked.headers["access-control-max-age"] == "7200"
        for path, status in (("/wall", 200), ("/nowhere", 404), ("/bug", 500), ("/docs/refusals/429", 429)):
            response = await client.get(path, headers={"Origin": SITE})
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == SITE
            assert response.headers["vary"] == "Origin"
            exposed = response.headers["access-control-expose-headers"].split(", ")
            assert exposed == ["ETag", "Link", "Location", "Retry-After", "X-Request-ID"]
            assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "https://shop.example.org.evil.example", "null"])
async def test_another_origin_is_refused(origin: str) -> None:
    async with asking(_app(cors_origins=SITE)) as client:
        refused = await client.options("/wall", headers=preflight(origin))
        assert (refused.status_code, refused.json()["code"]) == (400, "origin-refused")
        assert refused.headers["content-type"] == "application/problem+json"
        assert "access-control-allow-origin" not in refused.headers
        response = await client.get("/wall", headers={"Origin": origin})
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["vary"] == "Origin", "a cache must not serve it to an allowed origin"


async def test_a_script_may_send_listed_headers_only() -> None:
    async with asking(_app(cors_origins=SITE)) as client:
        refused = await client.options("/wall", headers=preflight(SITE, headers="x-user-id"))
        assert (refused.status_code, refused.json()["code"]) == (400, "origin-refused")


async def test_the_wildcard_origin_allows_no_credentials() -> None:
    async with asking(_app(cors_origins="*")) as client:
        for response in (
            await client.get("/wall", headers={"Origin": SITE, "Cookie": "a=b"}),
            await client.options("/wall", headers=preflight(SITE)),
        ):
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    "origin",
    ["https://shop.example.org/", "shop.example.org", "https://Shop.example.org", "https://*.example.org", "null"],
)
def test_a_malformed_origin_is_refused_at_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="is not an origin"):
        Settings.model_validate({"service": "probe", "cors_origins": origin})


def test_origins_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", f"{SITE},https://[::1]:8443")
    assert Settings(service="probe").cors_origins == (SITE, "https://[::1]:8443")
