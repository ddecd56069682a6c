from typing import Any

import httpx
import pytest

from services.events.tests.factories import ImportProgramme
from shared.contracts.programme import Programme


@pytest.mark.main_path
async def test_lists_have_what_was_imported(
    client: httpx.AsyncClient, import_programme: ImportProgramme, programme: Programme
) -> None:
    path = f"/v1/events/{await import_programme(programme)}"

    async def items(name: str) -> list[dict[str, Any]]:
        answer = await client.get(f"{path}/{name}")
        rows = answer.json()["items"]
        return [{name: value for name, value in row.items() if name != "id"} for row in rows]

    assert (await items("tracks"))[0] == {"name": "Main", "color": "#aabbcc", "description": None, "position": 2}
    assert (await items("microlocations"))[0]["floor"] == -1
    assert await items("session-types") == [{"name": "Talk", "length": "00:45", "position": None}]
    assert await items("social-links") == [{"name": "Mastodon", "link": "https://example.org/@autumn"}]
    assert (await items("sponsors"))[0]["level"] == "1"
