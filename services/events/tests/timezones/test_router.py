import httpx

from shared.walltime import TZDATA_VERSION, known_zones


async def test_everybody_lists_zones_with_their_current_offset(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/timezones")
    zones = {item["name"]: item["utc_offset"] for item in answer.json()["items"]}
    assert zones.keys() == known_zones()
    assert answer.json()["tzdata_version"] == TZDATA_VERSION
    assert (zones["Asia/Kolkata"], zones["UTC"], zones["Pacific/Marquesas"]) == ("+05:30", "+00:00", "-09:30")
    assert "public" in answer.headers["Cache-Control"]


async def test_zone_is_read_by_name_and_a_misspelled_name_gets_a_suggestion(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/timezones/Asia/Singapore")
    assert answer.json() == {"name": "Asia/Singapore", "utc_offset": "+08:00"}
    wrong = await client.get("/v1/timezones/Asia/Singapor")
    assert wrong.status_code == 404
    assert "Asia/Singapore" in wrong.json()["detail"]
