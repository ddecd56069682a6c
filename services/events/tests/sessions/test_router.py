import httpx
import pytest

from services.events.tests.factories import ImportProgramme
from shared.contracts.programme import Programme
from testkit.plugin import TokenFactory


@pytest.mark.main_path
async def test_sessions_have_the_sequence_of_the_archive_and_their_references(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: ImportProgramme, programme: Programme
) -> None:
    event_id = await import_programme(programme)
    path = f"/v1/events/{event_id}/sessions"
    sessions = (await client.get(path, headers=tokens.organizer())).json()["items"]
    assert [item["title"] for item in sessions] == [
        "After the change",
        "Opening",
        "Before the change",
        "Not accepted",
        "Some time",
    ]
    opening = sessions[1]
    assert [speaker["name"] for speaker in opening["speakers"]] == ["Béla", "Ada"]
    assert (opening["track"]["name"], opening["track"]["color"]) == ("Main", "#aabbcc")
    assert opening["microlocation"]["name"] == "Hall"
    assert opening["session_type"]["name"] == "Talk"
    assert opening["starts_at"] == "2027-10-30T09:00:00+02:00"
    assert opening["comments"] == "Needs two microphones"
    assert (sessions[4]["starts_at"], sessions[4]["track"]) == (None, None)

    one = await client.get(f"{path}/{opening['id']}", headers=tokens.organizer())
    assert one.json() == opening
    headers = {**tokens.organizer(), "If-None-Match": one.headers["ETag"]}
    assert (await client.get(f"{path}/{opening['id']}", headers=headers)).status_code == 304
