import httpx
import pytest

from services.events.tests.factories import ExportProgramme, ImportProgramme, programme_of_size
from shared.contracts.programme import Programme
from testkit.plugin import TokenFactory


@pytest.mark.main_path
async def test_sessions_keep_their_wall_times_when_the_event_moves_to_another_zone(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: ImportProgramme, programme: Programme
) -> None:
    event_id = await import_programme(programme)
    path = f"/v1/events/{event_id}"
    answer = await client.patch(path, json={"timezone": "Europe/Paris"}, headers=tokens.organizer())
    assert answer.status_code == 200, answer.text
    answer = await client.patch(path, json={"timezone": "Asia/Tokyo"}, headers=tokens.organizer())
    # In Berlin and Paris the second session ended at 02:15 of the second hour, after a start at 02:30 of the
    # first; Tokyo has one such hour only.
    assert answer.json()["code"] == "sessions-cannot-move"
    assert answer.json()["errors"][0]["field"].endswith(".ends_at")

    schedule = (await client.get(f"{path}/schedule")).json()
    assert schedule["timezone"] == "Europe/Paris"
    assert [item["starts_at"] for day in schedule["days"] for item in day["sessions"]] == [
        "2027-10-30T09:00:00+02:00",
        "2027-10-31T02:30:00+02:00",
        "2027-10-31T02:30:00+01:00",
    ]


async def test_zone_change_moves_the_instants_of_sessions_and_changes_their_tags(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    export_programme: ExportProgramme,
    import_programme: ImportProgramme,
) -> None:
    event_id = await import_programme(programme_of_size(3))
    path = f"/v1/events/{event_id}"
    before = (await client.get(f"{path}/sessions")).json()["items"]
    tag = (await client.get(f"{path}/sessions/{before[0]['id']}")).headers["ETag"]
    await client.patch(path, json={"timezone": "Europe/Berlin"}, headers=tokens.organizer())

    after = (await client.get(f"{path}/sessions")).json()["items"]
    assert [item["starts_at"].replace("+01:00", "+08:00") for item in after] == [
        item["starts_at"] for item in before
    ]
    assert (await client.get(f"{path}/sessions/{before[0]['id']}")).headers["ETag"] != tag
    out = await export_programme(event_id)
    assert out.sessions[0].starts_at == "2027-03-18T09:00:00+01:00"
