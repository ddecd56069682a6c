import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Request, Response
from pydantic import BaseModel
from sqlalchemy import Column, Integer, Table, Text, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateSchema

from shared.auth.verify import Principal
from shared.database.engine import connection_settings, new_sessions
from shared.database.idempotency import IDEMPOTENCY_KEYS, forget_expired_keys, idempotency_table
from shared.database.tables import new_metadata
from shared.http.dependencies import SessionDep
from shared.http.idempotency import IdempotentDep
from shared.http.problems import add_problem_handlers
from shared.http.responses import created
from shared.problems import Conflict
from shared.settings import Settings
from testkit.plugin import Databases

METADATA = new_metadata()
idempotency_table(METADATA)
DONE = Table("done", METADATA, Column("id", Integer, primary_key=True), Column("name", Text, nullable=False))


class DoneOut(BaseModel):
    id: int
    name: str


class DoneIn(BaseModel):
    name: str
    fails_as: str = ""


@dataclass
class World:
    """A service with one route that creates, and its caller."""

    engine: AsyncEngine
    client: httpx.AsyncClient
    principal: Principal = field(default_factory=lambda: Principal("user:1", "acme", frozenset()))
    statements: list[str] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def create(self, key: str | None = "k-1", path: str = "/v1/done", **body: str) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.client.post(path, json={"name": "a", **body}, headers=headers)

    async def count(self, table: Table = DONE) -> int:
        async with self.engine.connect() as connection:
            return (await connection.scalar(select(func.count()).select_from(table))) or 0


@pytest.fixture(scope="module")
async def engine(databases: Databases) -> AsyncIterator[AsyncEngine]:
    settings = Settings(service="once", database_lock_timeout=0.3)
    engine = create_async_engine(
        await databases.empty("once"),
        pool_size=8,
        connect_args={"server_settings": connection_settings(settings, "test")},
    )
    async with engine.begin() as connection:
        await connection.execute(CreateSchema("once"))
        await connection.run_sync(METADATA.create_all)
    yield engine
    await engine.dispose()


@pytest.fixture
async def world(engine: AsyncEngine) -> AsyncIterator[World]:
    app = FastAPI()
    add_problem_handlers(app)
    app.state.sessions = new_sessions(engine)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        world = World(engine, client)
        world.may_go_on.set()

        async def principal() -> Principal:
            return world.principal

        @app.post("/v1/done", status_code=201, response_model=DoneOut)
        @app.post("/v1/{place}/done", status_code=201, response_model=DoneOut)
        async def create(
            body: DoneIn,
            who: Annotated[Principal, Depends(principal)],
            session: SessionDep,
            idempotent: IdempotentDep,
        ) -> Response:
            async def work() -> Response:
                world.started.set()
                await world.may_go_on.wait()
                made = (
                    await session.execute(DONE.insert().values(name=body.name).returning(DONE.c.id))
                ).scalar_one()
                if body.fails_as == "problem":
                    raise Conflict("Not now.")
                if body.fails_as == "crash":
                    raise RuntimeError("crash")
                return created(f"/v1/done/{made}", DoneOut(id=made, name=body.name))

            return await idempotent.create(who, work)

        @app.post("/v1/upload", status_code=204)
        async def upload(
            request: Request,
            who: Annotated[Principal, Depends(principal)],
            session: SessionDep,
            idempotent: IdempotentDep,
        ) -> Response:
            content = b"".join([chunk async for chunk in request.stream()])

            async def work() -> Response:
                await session.execute(DONE.insert().values(name="upload"))
                return Response(status_code=204)

            return await idempotent.create(who, work, fingerprint=content)

        yield world
    async with engine.begin() as connection:
        await connection.execute(DONE.delete())
        await connection.execute(IDEMPOTENCY_KEYS.delete())


async def test_a_repeated_request_has_one_effect_and_gets_the_same_response(world: World) -> None:
    first, second = await world.create(), await world.create()
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert first.headers["Location"] == second.headers["Location"] == f"/v1/done/{first.json()['id']}"
    assert second.headers["Content-Type"] == "application/json"
    assert second.headers["Content-Length"] == str(len(second.content))
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert await world.count() == 1


async def test_requests_without_a_key_are_independent(world: World) -> None:
    assert (await world.create(None)).status_code == 201
    assert (await world.create(None)).status_code == 201
    assert await world.count() == 2
    assert await world.count(IDEMPOTENCY_KEYS) == 0


async def test_a_key_may_be_quoted(world: World) -> None:
    await world.create("8e03978e-40d5")
    assert (await world.create('"8e03978e-40d5"')).headers["Idempotent-Replayed"] == "true"
    await world.create('"a\\"b\\\\"')
    assert await world.count() == 2


@pytest.mark.parametrize("key", ["", " ", '""', '"', '"a', '"a"b"', '"a\\b"', "k" * 256, "\u00e4", "a\tb"])
async def test_an_invalid_key_is_refused(world: World, key: str) -> None:
    response = await world.client.post(
        "/v1/done", json={"name": "a"}, headers={b"Idempotency-Key": key.encode("utf-8")}
    )
    assert response.status_code == 422
    assert response.json()["code"] == "idempotency-key-invalid"
    assert await world.count() == 0


async def test_the_longest_key_subject_and_path_fit(world: World) -> None:
    world.principal = Principal("\U0001f600" * 255, "\U0001f600" * 200, frozenset())
    for path in ("/v1/done", f"/v1/{'p' * 280}/done", f"/v1/{'ü' * 2000}/done"):
        assert (await world.create("k" * 255, path)).status_code == 201
        assert (await world.create("k" * 255, path)).headers["Idempotent-Replayed"] == "true"
    assert await world.count() == 3


async def test_a_key_of_another_request_is_refused(world: World) -> None:
    await world.create()
    for response in (await world.create(name="b"), await world.create(path="/v1/done?x=1")):
        assert response.status_code == 422
        assert response.json()["code"] == "idempotency-key-reused"
    assert await world.count() == 1


async def test_a_key_belongs_to_organizer_subject_and_path(world: World) -> None:
    first = world.principal
    for principal in (
        first,
        replace(first, organizer="other"),
        replace(first, organizer=None),
        replace(first, subject="user:2"),
    ):
        world.principal = principal
        assert "Idempotent-Replayed" not in (await world.create()).headers
    await world.create(path="/v1/elsewhere/done")
    assert await world.count() == 5


async def test_concurrent_requests_with_one_key_have_one_effect(world: World) -> None:
    responses = await asyncio.gather(*(world.create() for _ in range(30)))
    assert {response.status_code for response in responses} <= {201, 409}
    made = [response for response in responses if response.status_code == 201]
    assert len({response.content for response in made}) == 1
    assert sum("Idempotent-Replayed" not in response.headers for response in made) == 1
    assert await world.count() == 1


async def test_a_request_waits_for_the_first_one_and_is_then_refused_as_in_progress(world: World) -> None:
    world.may_go_on.clear()
    first = asyncio.create_task(world.create())
    await world.started.wait()
    response = await world.create()
    assert response.status_code == 409
    assert response.json()["code"] == "idempotency-in-progress"
    assert response.headers["Retry-After"] == "2"
    world.may_go_on.set()
    assert (await first).status_code == 201
    assert (await world.create()).headers["Idempotent-Replayed"] == "true"
    assert await world.count() == 1


@pytest.mark.parametrize(("fails_as", "status"), [("problem", 409), ("crash", 500)])
async def test_a_failed_request_leaves_no_key(world: World, fails_as: str, status: int) -> None:
    assert (await world.create(fails_as=fails_as)).status_code == status
    assert await world.count(IDEMPOTENCY_KEYS) == 0
    assert (await world.create()).status_code == 201
    assert await world.count() == 1


async def test_an_expired_key_may_be_used_again(world: World) -> None:
    await world.create(name="old")
    async with world.engine.begin() as connection:
        lifetime = IDEMPOTENCY_KEYS.c.expires_at - IDEMPOTENCY_KEYS.c.created_at
        assert await connection.scalar(select(lifetime >= text("interval '23:59:59'"))) is True
        await connection.execute(update(IDEMPOTENCY_KEYS).values(expires_at=func.clock_timestamp()))
    response = await world.create(name="new")
    assert response.status_code == 201
    assert response.json()["name"] == "new"
    assert (await world.create(name="new")).headers["Idempotent-Replayed"] == "true"
    assert await world.count() == 2


async def test_expired_keys_are_pruned_and_valid_ones_kept(world: World) -> None:
    for number in range(5):
        await world.create(f"k-{number}")
    async with world.engine.begin() as connection:
        old = IDEMPOTENCY_KEYS.c.key.in_(["k-0", "k-1", "k-2"])
        await connection.execute(update(IDEMPOTENCY_KEYS).where(old).values(expires_at=func.clock_timestamp()))
    async with new_sessions(world.engine).begin() as session:
        assert await forget_expired_keys(session, at_most=2) == 2
        assert await forget_expired_keys(session, at_most=2) == 1
        assert await forget_expired_keys(session, at_most=2) == 0
    assert await world.count(IDEMPOTENCY_KEYS) == 2


async def test_streamed_bodies_are_compared_by_their_fingerprint(world: World) -> None:
    async def send(content: bytes) -> httpx.Response:
        return await world.client.post("/v1/upload", content=content, headers={"Idempotency-Key": "k"})

    assert (await send(b"a")).status_code == 204
    again = await send(b"a")
    assert (again.status_code, again.content) == (204, b"")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (await send(b"b")).json()["code"] == "idempotency-key-reused"
    assert await world.count() == 1


async def test_the_header_is_in_the_openapi_document(world: World) -> None:
    document = json.loads((await world.client.get("/openapi.json")).content)
    parameters = document["paths"]["/v1/done"]["post"]["parameters"]
    assert [(parameter["name"].lower(), parameter["required"]) for parameter in parameters] == [
        ("idempotency-key", False)
    ]
