"""The connection to PostgreSQL is cut during COMMIT: the response says that the outcome is unknown."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

import httpx
import pytest

from shared.database.provisioning import DATABASE
from tests.drills.proxy import Proxy
from tests.drills.roles import Part
from tests.drills.scale import scale_of_this_run
from tests.drills.stage import Stage

CUT_API = Part("events.api").replica(2)

Moment = Literal["before", "after"]
"""Before the server gets COMMIT, or after it has committed and before its response passes."""


class CommitCutter(Proxy):
    def __init__(self, target: int) -> None:
        super().__init__(target)
        self._moment: Moment | None = None
        self._is_committing = False

    def cut_next_commit(self, moment: Moment) -> None:
        self._moment = moment

    def passes_to_server(self, chunk: bytes) -> bool:
        if self._moment is None or b"COMMIT;\0" not in chunk:
            return True
        self._is_committing = self._moment == "after"
        self._moment = None
        return self._is_committing

    def passes_to_client(self, chunk: bytes) -> bool:
        is_cut, self._is_committing = self._is_committing, False
        return not is_cut


@dataclass
class CutApi:
    """An api whose commits can be cut off."""

    stage: Stage
    wire: CommitCutter
    client: httpx.AsyncClient

    async def create(self, name: str, *, key: str | None = None) -> httpx.Response:
        body = {
            "name": name,
            "timezone": "Europe/Berlin",
            "starts_at": "2031-05-01T09:00",
            "ends_at": "2031-05-02T18:00",
        }
        headers = self.stage.credentials() | ({"Idempotency-Key": key} if key else {})
        return await self.client.post("/v1/events", json=body, headers=headers)

    async def count_effects(self, name: str) -> tuple[int, int]:
        """Return how many events and messages have this name."""
        connection = await self.stage.database.connect(DATABASE)
        try:
            events = await connection.fetchval("SELECT count(*) FROM events.events WHERE name = $1", name)
            messages = await connection.fetchval(
                "SELECT count(*) FROM events.outbox WHERE position($1 IN payload::text) > 0", name
            )
        finally:
            await connection.close()
        return events, messages


@asynccontextmanager
async def cut_api(stage: Stage, part: Part) -> AsyncIterator[CutApi]:
    async with CommitCutter(stage.database.port) as wire:
        stage.settings = {
            "DATABASE_URL": f"postgresql+asyncpg://events:secret@127.0.0.1:{wire.port}/{DATABASE}",
        }
        try:
            role = await stage.start(part)
        finally:
            stage.settings = {}
        try:
            async with httpx.AsyncClient(base_url=role.url, timeout=20, verify=False) as client:
                yield CutApi(stage, wire, client)
        finally:
            await stage.dismiss(part)


@pytest.fixture
async def api(stage: Stage) -> AsyncIterator[CutApi]:
    async with cut_api(stage, CUT_API) as api:
        yield api


MOMENTS: tuple[Moment, ...] = ("before", "after") * scale_of_this_run().restarts


async def test_a_creation_whose_commit_is_cut_off_is_unknown_and_its_repetition_has_one_effect(api: CutApi) -> None:
    for number, moment in enumerate(MOMENTS):
        name, key = f"cut {moment} {number}", str(uuid4())
        api.wire.cut_next_commit(moment)
        cut = await api.create(name, key=key)
        assert (cut.status_code, cut.json()["code"]) == (503, "outcome-unknown"), moment
        assert "Idempotency-Key" in cut.json()["detail"]
        assert cut.headers["Retry-After"] == "2"
        assert await api.count_effects(name) == ((1, 1) if moment == "after" else (0, 0))

        repeated = await api.create(name, key=key)
        assert repeated.status_code == 201, repeated.text
        assert ("Idempotent-Replayed" in repeated.headers) == (moment == "after")
        assert await api.count_effects(name) == (1, 1)


async def test_a_repetition_without_a_key_may_have_a_second_effect(api: CutApi) -> None:
    api.wire.cut_next_commit("after")
    assert (await api.create("cut without a key")).status_code == 503
    assert (await api.create("cut without a key")).status_code == 201
    assert await api.count_effects("cut without a key") == (2, 2)


async def test_a_read_whose_commit_is_cut_off_changes_nothing_and_says_so(api: CutApi) -> None:
    api.wire.cut_next_commit("after")
    response = await api.client.get("/v1/events")
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")
    assert "nothing was changed" in response.json()["detail"]


@pytest.mark.twin("outcome")
async def test_an_api_that_takes_a_lost_commit_for_a_refused_one_claims_what_is_not_true(stage: Stage) -> None:
    async with cut_api(stage, CUT_API.without("outcome")) as api:
        api.wire.cut_next_commit("after")
        response = await api.create("cut and denied", key=str(uuid4()))
        assert "nothing was changed" in response.json()["detail"]
        assert await api.count_effects("cut and denied") == (1, 1)
