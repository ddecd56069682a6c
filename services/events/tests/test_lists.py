"""What holds for every list of an event."""

from typing import Any

import httpx
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.ext.asyncio import AsyncConnection

from services.events.tests.factories import ImportProgramme, programme_of_size
from shared.contracts.programme import Programme


@pytest.mark.parametrize("name", ["sessions", "speakers", "tracks", "sponsors"])
async def test_pages_list_each_record_once(
    client: httpx.AsyncClient, import_programme: ImportProgramme, name: str
) -> None:
    programme = programme_of_size(7, 7)
    sponsors = [{"key": str(n), "name": f"Sponsor {n}"} for n in range(7)]
    event_id = await import_programme(Programme.model_validate({**programme.model_dump(), "sponsors": sponsors}))
    whole = (await client.get(f"/v1/events/{event_id}/{name}")).json()["items"]
    seen: list[dict[str, Any]] = []
    path = f"/v1/events/{event_id}/{name}?limit=3"
    while path:
        answer = await client.get(path)
        seen += answer.json()["items"]
        link = answer.headers.get("Link")
        path = link[1 : link.index(">")] if link else ""
    assert seen == whole
    assert len(whole) >= 7


async def test_number_of_queries_does_not_grow_with_the_number_of_sessions(
    client: httpx.AsyncClient, connection: AsyncConnection, import_programme: ImportProgramme
) -> None:
    small = await import_programme(programme_of_size(2, 2))
    large = await import_programme(programme_of_size(150, 30))
    statements: list[str] = []

    def record(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT"):
            statements.append(statement)

    sqlalchemy_event.listen(connection.sync_connection, "before_cursor_execute", record)
    counts: dict[str, list[int]] = {}
    for event_id in (small, large):
        for part in ("", "/sessions?limit=200", "/speakers?limit=200", "/schedule", "/schedule?day=first"):
            statements.clear()
            answer = await client.get(f"/v1/events/{event_id}{part}")
            assert answer.status_code == 200
            counts.setdefault(part, []).append(len(statements))
    sqlalchemy_event.remove(connection.sync_connection, "before_cursor_execute", record)
    assert counts == {
        "": [1, 1],
        "/sessions?limit=200": [3, 3],
        "/speakers?limit=200": [2, 2],
        "/schedule": [3, 3],
        "/schedule?day=first": [4, 4],
    }
