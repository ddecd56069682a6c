"""A programme goes in whole, is read in parts and as a schedule, and comes out whole."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.contracts.programme import Programme
from shared.ids import new_id
from testkit.plugin import Live, RecordedOutbox, TokenFactory


def canonical(programme: Programme) -> dict[str, Any]:
    """Without the event's own short name, which belongs to the server that made the archive."""
    content = programme.model_dump()
    content["event"].pop("identifier")
    return content


def programme_of_size(sessions: int, speakers: int = 0) -> Programme:
    zone = {"timezone": "Asia/Singapore", "starts_at": "2027-03-18T09:30:00+08:00"}
    return Programme.model_validate(
        {
            "event": {
                "key": "1",
                "name": "Big",
                **zone,
                "ends_at": "2027-03-20T17:30:00+08:00",
                "state": "published",
            },
            "tracks": [{"key": f"t{n}", "name": f"Track {n}"} for n in range(18)],
            "microlocations": [{"key": f"m{n}", "name": f"Room {n}"} for n in range(17)],
            "speakers": [
                {"key": f"p{n}", "name": f"Speaker {n}", "long_biography": "Talks. " * 200} for n in range(speakers)
            ],
            "sessions": [
                {
                    "key": f"s{n}",
                    "title": f"Session {n}",
                    "state": "accepted",
                    "long_abstract": "About. " * 150,
                    "starts_at": f"2027-03-18T{9 + n % 8:02}:00:00+08:00",
                    "ends_at": f"2027-03-18T{9 + n % 8:02}:45:00+08:00",
                    "track": f"t{n % 18}",
                    "microlocation": f"m{n % 17}",
                    "speakers": [f"p{n % speakers}", f"p{(n + 1) % speakers}"] if speakers > 1 else [],
                }
                for n in range(sessions)
            ],
        }
    )


async def exported(client: httpx.AsyncClient, tokens: TokenFactory, event_id: Any, org: str = "acme") -> Programme:
    path = f"/internal/programmes/{event_id}"
    answer = await client.get(path, params={"organizer": org}, headers=tokens.service("exports"))
    assert answer.status_code == 200, answer.text
    return Programme.model_validate(answer.json())


@pytest.mark.main_path
async def test_what_goes_in_comes_out_and_goes_in_again(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any, programme: Programme
) -> None:
    first = await exported(client, tokens, await import_programme(programme))
    assert canonical(first) == canonical(programme)
    second = await exported(client, tokens, await import_programme(first))
    assert canonical(second) == canonical(programme)
    assert second.event.identifier != first.event.identifier


@pytest.mark.main_path
async def test_an_event_made_by_hand_can_be_exported(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: Any
) -> None:
    event = await create_event(logo_url="https://example.org/logo.png")
    programme = await exported(client, tokens, event["id"])
    assert programme.event.key == event["id"]
    assert programme.event.identifier == event["identifier"]
    assert (programme.event.state, programme.event.privacy) == ("draft", "public")
    assert programme.event.logo is not None
    assert programme.event.logo.url == "https://example.org/logo.png"


@pytest.mark.main_path
async def test_an_export_tells_the_present_state_where_it_is_not_that_of_the_archive(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any, programme: Programme
) -> None:
    event_id = await import_programme(programme)
    await client.post(f"/v1/events/{event_id}/unpublish", headers=tokens.organizer())
    assert (await exported(client, tokens, event_id)).event.state == "draft"
    await client.post(f"/v1/events/{event_id}/publish", headers=tokens.organizer())
    assert (await exported(client, tokens, event_id)).event.state == "Published"


@pytest.mark.main_path
async def test_an_import_sent_twice_is_one_event_and_one_message(
    client: httpx.AsyncClient, tokens: TokenFactory, programme: Programme, outbox: RecordedOutbox
) -> None:
    body = {"import_id": str(uuid4()), "organizer": "acme", "programme": programme.model_dump(mode="json")}
    service = tokens.service("exports")
    first = await client.post("/internal/programmes", json=body, headers=service)
    again = await client.post("/internal/programmes", json=body, headers=service)
    taken = await client.post("/internal/programmes", json={**body, "organizer": "other"}, headers=service)

    assert (first.status_code, again.status_code, taken.status_code) == (201, 200, 409)
    assert first.json() == again.json()
    assert first.json()["counts"] == {
        "social_links": 1,
        "tracks": 2,
        "microlocations": 1,
        "session_types": 1,
        "speakers": 4,
        "sponsors": 1,
        "sessions": 5,
    }
    assert first.json()["repairs"] == []
    [message] = await outbox.messages()
    assert (message.type, message.seq) == ("events.event.created.v1", 1)
    assert message.payload["state"] == "published"


@pytest.mark.parametrize(
    ("state", "expected", "told"), [("Completed", "draft", True), (None, "draft", False), ("draft", "draft", False)]
)
async def test_only_what_says_published_gets_published(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    programme: Programme,
    state: str | None,
    expected: str,
    told: bool,
) -> None:
    content = programme.model_dump(mode="json")
    content["event"]["state"] = state
    body = {"import_id": str(uuid4()), "organizer": "acme", "programme": content}
    answer = await client.post("/internal/programmes", json=body, headers=tokens.service("exports"))
    event_id = answer.json()["event_id"]
    event = (await client.get(f"/v1/events/{event_id}", headers=tokens.organizer())).json()
    assert event["state"] == expected
    assert [repair["field"] for repair in answer.json()["repairs"]] == (["state"] if told else [])
    assert (await exported(client, tokens, event_id)).event.state == state


async def test_a_session_without_a_usable_time_comes_in_unscheduled_and_comes_out_as_it_was(
    client: httpx.AsyncClient, tokens: TokenFactory, programme: Programme
) -> None:
    content = programme.model_dump(mode="json")
    times = [
        ("2027-03-28T02:30", "2027-03-28T04:00"),  # a gap
        ("2027-10-30T12:00:00+02:00", "2027-10-30T11:00:00+02:00"),
        ("2027-10-30T12:00:00+02:00", None),
        ("never", "2027-10-30T11:00:00+02:00"),
    ]
    content["sessions"] = [
        {"key": str(n), "title": "x", "starts_at": starts, "ends_at": ends}
        for n, (starts, ends) in enumerate(times)
    ]
    body = {"import_id": str(uuid4()), "organizer": "acme", "programme": content}
    answer = await client.post("/internal/programmes", json=body, headers=tokens.service("exports"))
    assert [(repair["record"], repair["field"]) for repair in answer.json()["repairs"]] == [
        (str(n), "starts_at") for n in range(4)
    ]
    out = await exported(client, tokens, answer.json()["event_id"])
    kept = [(session.extra.get("starts_at"), session.extra.get("ends_at")) for session in out.sessions]
    assert kept == times
    assert all(session.starts_at is None for session in out.sessions)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"event": {"timezone": "Mars"}}, "unknown-zone", "timezone"),
        ({"event": {"ends_at": "2027-10-30T08:00"}}, "ends-before-it-starts", "event.ends_at"),
        ({"event": {"starts_at": "2027-03-28T02:30"}}, "time-in-gap", "event.starts_at"),
        ({"tracks": [{"key": "1", "name": "a"}, {"key": "1", "name": "b"}]}, "programme-broken", "tracks"),
        ({"sessions": [{"key": "1", "title": "a", "track": "9"}]}, "programme-broken", "sessions.1.track"),
        ({"sessions": [{"key": "1", "title": "a", "speakers": ["9"]}]}, "programme-broken", "sessions.1.speakers"),
        (
            {"sessions": [{"key": "1", "title": "a", "speakers": ["40", "40"]}]},
            "programme-broken",
            "sessions.1.speakers",
        ),
        ({"tracks": [{"key": "1", "name": "a\0"}]}, "invalid", "body.programme"),
        ({"extra_members": {"x": [{"\0": 1}]}}, "invalid", "body.programme"),
    ],
)
async def test_a_programme_that_contradicts_itself_is_refused_and_leaves_nothing(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    programme: Programme,
    outbox: RecordedOutbox,
    change: dict[str, Any],
    code: str,
    field: str,
) -> None:
    content = programme.model_dump(mode="json")
    if "tracks" in change:
        content["sessions"] = []
    content |= {**change, "event": content["event"] | change.get("event", {})}
    body = {"import_id": str(uuid4()), "organizer": "acme", "programme": content}
    answer = await client.post("/internal/programmes", json=body, headers=tokens.service("exports"))
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["errors"][0]["field"] == field
    assert await outbox.messages() == []
    assert (await client.get("/v1/events", headers=tokens.organizer())).json()["items"] == []


async def test_a_programme_may_be_larger_than_other_bodies(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any
) -> None:
    programme = programme_of_size(40)
    long = [item.model_copy(update={"long_abstract": "é" * 50_000}) for item in programme.sessions]
    event_id = await import_programme(programme.model_copy(update={"sessions": long}))
    assert len((await exported(client, tokens, event_id)).sessions) == 40


async def test_the_largest_sample_is_imported_in_a_moment(live: Live, tokens: TokenFactory) -> None:
    content = programme_of_size(491, 187).model_dump(mode="json")
    body = {"import_id": str(new_id()), "organizer": "acme", "programme": content}
    answer = await live.client.post("/internal/programmes", json=body, headers=tokens.service("exports"))
    assert answer.status_code == 201
    assert answer.json()["counts"]["sessions"] == 491


@pytest.mark.main_path
async def test_two_imports_at_once_with_one_id_make_one_event(
    live: Live, tokens: TokenFactory, programme: Programme
) -> None:
    body = {"import_id": str(new_id()), "organizer": "acme", "programme": programme.model_dump(mode="json")}

    async def send() -> httpx.Response:
        return await live.client.post("/internal/programmes", json=body, headers=tokens.service("exports"))

    answers = await asyncio.gather(*(send() for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.text for answer in answers}) == 1
    listed = await live.client.get("/v1/events", headers=tokens.organizer())
    assert len(listed.json()["items"]) == 1


@pytest.mark.main_path
async def test_sessions_come_in_the_order_of_the_archive_with_their_links(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any, programme: Programme
) -> None:
    event_id = await import_programme(programme)
    path = f"/v1/events/{event_id}/sessions"
    sessions = (await client.get(path, headers=tokens.organizer())).json()["items"]
    assert [item["title"] for item in sessions] == [
        "After the change",
        "Opening",
        "Before the change",
        "Not taken",
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


@pytest.mark.main_path
async def test_the_public_sees_accepted_sessions_and_no_private_data(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any, programme: Programme
) -> None:
    event_id = await import_programme(programme)
    path = f"/v1/events/{event_id}"
    own = {
        item["title"]: item
        for item in (await client.get(f"{path}/sessions", headers=tokens.organizer())).json()["items"]
    }
    rejected = own["Not taken"]["id"]
    own_speakers = (await client.get(f"{path}/speakers", headers=tokens.organizer())).json()["items"]
    hidden = next(item["id"] for item in own_speakers if item["name"] == "Rejected only")
    assert own_speakers[0]["email"] == "ada@example.org"

    for headers in (None, tokens.organizer("other"), tokens.organizer(scope="tickets:read")):
        sessions = (await client.get(f"{path}/sessions", headers=headers)).json()["items"]
        assert [item["title"] for item in sessions] == [
            "After the change",
            "Opening",
            "Before the change",
            "Some time",
        ]
        assert {item["comments"] for item in sessions} == {None}
        assert (await client.get(f"{path}/sessions/{rejected}", headers=headers)).status_code == 404
        speakers = (await client.get(f"{path}/speakers", headers=headers)).json()["items"]
        assert [item["name"] for item in speakers] == ["Ada", "Béla", "Without sessions"]
        assert {(item["email"], item["mobile"]) for item in speakers} == {(None, None)}
        assert (await client.get(f"{path}/speakers/{hidden}", headers=headers)).status_code == 404
        one = await client.get(f"{path}/speakers/{speakers[0]['id']}", headers=headers)
        assert one.json() == speakers[0]
        schedule = (await client.get(f"{path}/schedule", headers=headers)).text
        assert "Not taken" not in schedule
    own_one = await client.get(f"{path}/speakers/{own_speakers[0]['id']}", headers=tokens.organizer())
    assert own_one.json()["mobile"] == "+49 30 1"
    public_one = await client.get(f"{path}/speakers/{own_speakers[0]['id']}")
    assert own_one.headers["ETag"] != public_one.headers["ETag"]


@pytest.mark.main_path
async def test_the_other_lists_have_what_was_imported(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any, programme: Programme
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


@pytest.mark.parametrize("name", ["sessions", "speakers", "tracks", "sponsors"])
async def test_pages_of_a_programme_show_each_record_once(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any, name: str
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


async def test_the_number_of_queries_does_not_grow_with_the_number_of_sessions(
    client: httpx.AsyncClient, connection: AsyncConnection, import_programme: Any
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


async def test_the_schedule_of_the_night_in_which_clocks_are_set_back_is_in_order_by_instant(
    client: httpx.AsyncClient, import_programme: Any, programme: Programme
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


async def test_days_of_the_schedule_are_those_of_the_zone_it_is_shown_in(
    client: httpx.AsyncClient, import_programme: Any, programme: Programme
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
    shown = (await client.get(path, params={"timezone": "America/New_York"})).json()["days"][0]["sessions"]
    assert [item["starts_at"] for item in shown] == [
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
async def test_a_day_or_zone_that_is_none_is_refused(
    client: httpx.AsyncClient, create_event: Any, query: dict[str, str], code: str
) -> None:
    event = await create_event(publish=True)
    answer = await client.get(f"/v1/events/{event['id']}/schedule", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


@pytest.mark.main_path
async def test_an_event_without_sessions_has_an_empty_schedule(
    client: httpx.AsyncClient, create_event: Any
) -> None:
    event = await create_event(publish=True)
    for query in ({}, {"day": "first"}):
        answer = await client.get(f"/v1/events/{event['id']}/schedule", params=query)
        assert answer.json()["days"] == []


@pytest.mark.main_path
async def test_sessions_keep_their_wall_times_when_the_event_moves_to_another_zone(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any, programme: Programme
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


async def test_a_zone_change_moves_instants_of_sessions_and_their_tags(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any
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
    out = await exported(client, tokens, event_id)
    assert out.sessions[0].starts_at == "2027-03-18T09:00:00+01:00"


@pytest.mark.main_path
async def test_a_programme_is_given_to_its_organizer_and_to_services_only(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: Any, programme: Programme
) -> None:
    path = f"/internal/programmes/{await import_programme(programme)}"
    service = tokens.service("exports")
    assert (await client.get(path, params={"organizer": "other"}, headers=service)).status_code == 404
    assert (await client.get(path, headers=service)).status_code == 422
    assert (await client.get(path, params={"organizer": "acme"}, headers=tokens.organizer())).status_code == 403
    assert (await client.get(path, params={"organizer": "acme"})).status_code == 401
