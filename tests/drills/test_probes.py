"""Probes while a server is unavailable: every role stays live, and is not ready if it cannot do its work.

A role that is not live is restarted, which repairs no database and stops the work that it can still do.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from shared.telemetry.health import PROBE_TIMEOUT
from testkit.plugin import TokenFactory
from tests.drills.load import Book, Load
from tests.drills.roles import Role
from tests.drills.scale import scale_of_this_run
from tests.drills.services import OTHER_ROLES, prepare_other_services
from tests.drills.stage import API, MESSENGER, Stage
from tests.drills.waiting import within


@pytest.fixture(scope="module")
async def roles(
    stage: Stage, tokens: TokenFactory, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[list[Role]]:
    """One of every role, all ready."""
    await prepare_other_services(stage, tokens, tmp_path_factory.mktemp("services"))
    await stage.cast(API, MESSENGER, *OTHER_ROLES)
    yield list(stage.roles.values())
    await stage.repair()
    stage.settings = {}
    await stage.cast()


async def test_without_the_database_every_role_lives_says_why_it_is_not_ready_and_is_again_when_it_is_back(
    stage: Stage, roles: list[Role]
) -> None:
    await stage.database.stop()
    await within(20, lambda: all_say(roles, 503))
    for status, body in await readiness(roles):
        assert status == 503
        assert "database" in body["failed"]
    await live_through(roles, scale_of_this_run().outage)
    await stage.database.start()
    await within(30, lambda: all_say(roles, 200))


async def test_without_the_broker_every_role_lives_and_is_ready_as_writes_go_on_without_it(
    stage: Stage, roles: list[Role]
) -> None:
    await stage.broker.stop()
    await live_through(roles, scale_of_this_run().outage)
    assert {status for status, _ in await readiness(roles)} == {200}
    async with Load(stage.api_url, stage.credentials, Book(), rate=0) as load:
        await load.create("one without a broker")
    await stage.broker.start()


async def live_through(roles: list[Role], seconds: float) -> None:
    """All of them are alive all the time, and say so at once."""
    ends_at = asyncio.get_running_loop().time() + seconds
    async with httpx.AsyncClient(timeout=PROBE_TIMEOUT) as client:
        while asyncio.get_running_loop().time() < ends_at:
            answers = await asyncio.gather(*(client.get(f"{role.url}/healthz/live") for role in roles))
            assert {answer.status_code for answer in answers} == {200}
            await asyncio.sleep(0.25)
    assert all(role.is_alive for role in roles)


async def all_say(roles: list[Role], status: int) -> bool:
    return all(said == status for said, _ in await readiness(roles))


async def readiness(roles: list[Role]) -> list[tuple[int, Any]]:
    async with httpx.AsyncClient(timeout=3 * PROBE_TIMEOUT) as client:
        answers = await asyncio.gather(*(client.get(f"{role.url}/healthz/ready") for role in roles))
    return [(answer.status_code, answer.json()) for answer in answers]
