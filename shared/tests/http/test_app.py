"""What all services share: the commit before the response, problem documents, request ids, probes."""

from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi import APIRouter, Depends, FastAPI, Response
from pydantic import BaseModel, SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import Receive, Scope, Send

from shared.auth.access import PUBLIC
from shared.auth.verify import Principal
from shared.http.app import new_app
from shared.http.dependencies import SessionDep
from shared.problems import Conflict
from shared.settings import Settings
from testkit.plugin import TokenFactory

PublicDep = Annotated[Principal | None, Depends(PUBLIC)]


class Wall(BaseModel):
    color: str


def _router() -> APIRouter:
    router = APIRouter()

    @router.post("/walls", status_code=201)
    async def paint(wall: Wall, session: SessionDep, _: PublicDep) -> Wall:
        await session.execute(text("INSERT INTO walls (color) VALUES (:color)"), {"color": wall.color})
        if wall.color == "wet":
            raise Conflict("The wall is wet. Wait an hour.", field="color", alternatives=["dry"])
        if wall.color == "bug":
            raise RuntimeError("secret of the database")
        return wall

    @router.post("/walls/{color}/report")
    async def paint_and_report(color: str, session: SessionDep, _: PublicDep) -> Response:
        await session.execute(text("INSERT INTO walls (color) VALUES (:color)"), {"color": color})
        return Unsendable()

    return router


class Unsendable(Response):
    """A response that fails after the commit, before anything is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("secret of the response")


@pytest.fixture
async def app(settings: Settings, engine: AsyncEngine, tokens: TokenFactory) -> AsyncIterator[FastAPI]:
    async with engine.begin() as connection:
        # The constraint is deferred, so that the commit itself fails.
        await connection.execute(
            text("CREATE TABLE walls (color text, CONSTRAINT one UNIQUE (color) DEFERRABLE INITIALLY DEFERRED)")
        )
    app = new_app(
        settings.model_copy(update={"jwks_url": tokens.jwks_url}), [_router()], title="Probe", description=""
    )
    async with LifespanManager(app):
        yield app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://probe.test") as client:
        yield client


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return await connection.scalar(text("SELECT count(*) FROM walls")) or 0


async def test_a_failed_commit_is_not_answered_with_success(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    assert (await client.post("/walls", json={"color": "red"})).status_code == 201
    response = await client.post("/walls", json={"color": "red"})
    assert response.status_code == 500
    assert "Nothing was changed." in response.json()["detail"]
    assert await count(engine) == 1


async def test_a_refusal_is_a_problem_document_and_rolls_back(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    response = await client.post("/walls", json={"color": "wet"}, headers={"X-Request-ID": "abc-1"})
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json() == {
        "type": "urn:rostrum:problem:conflict",
        "title": "Conflict with the current state",
        "status": 409,
        "code": "conflict",
        "detail": "The wall is wet. Wait an hour.",
        "errors": [{"field": "color", "message": "The wall is wet. Wait an hour.", "alternatives": ["dry"]}],
        "request_id": "abc-1",
    }
    assert response.headers["x-request-id"] == "abc-1"
    assert await count(engine) == 0


async def test_an_internal_error_reveals_no_exception_text(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    response = await client.post("/walls", json={"color": "bug"})
    assert response.status_code == 500
    assert response.json()["code"] == "internal"
    assert "Nothing was changed." in response.json()["detail"]
    assert "secret" not in response.text
    assert await count(engine) == 0


async def test_an_error_after_the_commit_does_not_claim_that_nothing_was_changed(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    response = await client.post("/walls/red/report")
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "may or may not have been saved" in response.json()["detail"]
    assert await count(engine) == 1


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b'{"colour": "red"}', 422, "body.color"),
        (b"{", 422, "body"),
        (b'{"color": "' + b"x" * (2 << 20) + b'"}', 413, "large"),
    ],
)
async def test_an_invalid_body_is_refused_by_field(
    client: httpx.AsyncClient, content: bytes, status: int, words: str
) -> None:
    response = await client.post("/walls", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert words in response.text.lower()


async def test_an_unknown_path_is_a_problem_document_too(client: httpx.AsyncClient) -> None:
    response = await client.get("/nowhere")
    assert (response.status_code, response.json()["code"]) == (404, "not-found")


async def test_a_request_id_that_could_forge_a_log_line_is_replaced(client: httpx.AsyncClient) -> None:
    response = await client.get("/nowhere", headers={"X-Request-ID": 'x" level="error'})
    assert '"' not in response.headers["x-request-id"]


async def test_an_unavailable_database_fails_readiness_and_not_liveness(
    settings: Settings, tokens: TokenFactory
) -> None:
    gone = settings.model_copy(
        update={
            "database_url": SecretStr("postgresql+asyncpg://nobody@127.0.0.1:1/nothing"),
            "jwks_url": tokens.jwks_url,
        }
    )
    app = new_app(gone, [_router()], title="Probe", description="")
    async with LifespanManager(app):
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://probe.test") as client:
            ready = await client.get("/healthz/ready")
            assert ready.status_code == 503
            assert "database" in ready.json()["failed"]
            assert (await client.get("/healthz/live")).status_code == 200
            response = await client.post("/walls", json={"color": "red"})
            assert (response.status_code, response.json()["code"]) == (503, "unavailable")
            assert response.headers["retry-after"]


async def test_metrics_count_requests_by_route_template(client: httpx.AsyncClient) -> None:
    await client.post("/walls", json={"color": "green"})
    metrics = (await client.get("/metrics")).text
    assert 'rostrum_http_request_seconds_count{method="POST",route="/walls",status="201"}' in metrics


async def test_the_gateway_gets_problem_documents_for_its_refusals(client: httpx.AsyncClient) -> None:
    slow_down = await client.get("/docs/refusals/429")
    assert (slow_down.status_code, slow_down.json()["code"]) == (429, "too-many-requests")
    assert slow_down.headers["retry-after"] == "1"
    assert (await client.get("/docs/refusals/413")).json()["code"] == "too-large"
    assert (await client.get("/docs/refusals/200")).status_code == 404
