from typing import Any
from uuid import UUID

import pytest

from services.exports.tests.factories import Members, ReadJob, Upload, zipped
from testkit.plugin import Live, TokenFactory


@pytest.fixture
async def import_id(upload: Upload, members: Members) -> UUID:
    return UUID((await upload(zipped(members))).json()["id"])


@pytest.fixture
def read(live: Live, tokens: TokenFactory) -> ReadJob:
    async def read(import_id: UUID) -> dict[str, Any]:
        answer = await live.client.get(f"/v1/imports/{import_id}", headers=tokens.organizer())
        found: dict[str, Any] = answer.json()
        return found

    return read
