import httpx
import pytest

from services.events.tests.factories import CreateEvent, ImportProgramme
from shared.contracts.programme import Programme


async def test_schedule_of_the_night_in_which_clocks_are_set_back_is_sorted_by_instant(
    client: httpx.AsyncClient, import_programme: ImportProgramme, programme: Programme
) -> None:
    event_id = await import_programme(programme)
    schedule = (await client.get(f"/v1/events/{event_id}/schedule")).json()

    assert (schedule["timezone"], schedule["event_id"]) == ("Europe/Berlin", str(event_id))
    assert [
        (day["date"], [(item["title"], item["starts_at"], item["ends_at"]) for item in day["sessions"]])
        for day in schedule["days"]
    ] == [
        ("2027-10-30", [("Opening", "2027-10-30T09:00:00+02:00", "2027-10-30T10:00:00+02:00")]),
        (
            "2027-10-31",
            [
                ("Before the change", "2027-10-31T02:30:00+02:00", "2027-10-31T02:15:00+01:00"),
                ("After the change", "2027-10-31T02:30:00+01:00", "2027-10-31T03:15:00+01:00"),
            ],
        ),
    ]
    opening = schedule["days"][0]["sessions"][0]
    assert opening["microlocation"]["name"] == "Hall"
    assert opening["track"]["color"] == "#aabbcc"
    assert [speaker["name"] for speaker in opening["speakers"]] == ["Béla", "Ada"]


async def test_days_are_those_of_the_requested_zone(
    client: httpx.AsyncClient, import_programme: ImportProgramme, programme: Programme
) -> None:
    event_id = await import_programme(programme)
    path = f"/v1/events/{event_id}/schedule"

    async def titles(**query: str) -> dict[str, list[str]]:
        schedule = (await client.get(path, params=query)).json()
        return {day["date"]: [item["title"] for item in day["sessions"]] for day in schedule["days"]}

    new_york = {"2027-10-30": ["Opening", "Before the change", "After the change"]}
    assert await titles(timezone="America/New_York") == new_york
    assert await titles(timezone="America/New_York", day="first") == new_york
    assert await titles(day="first") == {"2027-10-30": ["Opening"]}
    assert await titles(day="2027-10-31") == {"2027-10-31": ["Before the change", "After the change"]}
    assert await titles(day="2027-11-01") == {}
    sessions = (await client.get(path, params={"timezone": "America/New_York"})).json()["days"][0]["sessions"]
    assert [item["starts_at"] for item in sessions] == [
        "2027-10-30T03:00:00-04:00",
        "2027-10-30T20:30:00-04:00",
        "2027-10-30T21:30:00-04:00",
    ]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"day": "tomorrow"}, "no-such-day"),
        ({"day": "20271030"}, "no-such-day"),
        ({"day": "0001-01-01"}, "no-such-day"),
        ({"day": "9999-12-31"}, "no-such-day"),
        ({"day": "2027-10-30T00:00"}, "invalid"),
        ({"timezone": "Mars"}, "unknown-zone"),
        ({"timezone": "a\0"}, "invalid"),
    ],
)
async def test_invalid_day_or_zone_is_refused(
    client: httpx.AsyncClient, create_event: CreateEvent, query: dict[str, str], code: str
) -> None:
    event = await create_event(publish=True)
    answer = await client.get(f"/v1/events/{event['id']}/schedule", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


@pytest.mark.main_path
async def test_event_without_sessions_has_an_empty_schedule(
    client: httpx.AsyncClient, create_event: CreateEvent
) -> None:
    event = await create_event(publish=True)
    for query in ({}, {"day": "first"}):
        answer = await client.get(f"/v1/events/{event['id']}/schedule", params=query)
        assert answer.json()["days"] == []
