"""Events through the API."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from services.events.tests.factories import CreateEvent
from testkit.plugin import Live, RecordedOutbox, TokenFactory

BERLIN = {
    "name": "Autumn days",
    "timezone": "Europe/Berlin",
    "starts_at": "2027-10-30T09:00",
    "ends_at": "2027-10-31T18:00",
}


@pytest.mark.main_path
async def test_new_event_is_a_draft_with_the_offsets_of_its_zone(
    client: httpx.AsyncClient, tokens: TokenFactory, outbox: RecordedOutbox
) -> None:
    answer = await client.post("/v1/events", json={**BERLIN, "latitude": 52.5}, headers=tokens.organizer())

    event = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/v1/events/{event['id']}"
    assert answer.headers["ETag"] == '"1"'
    assert event["starts_at"] == "2027-10-30T09:00:00+02:00"
    assert event["ends_at"] == "2027-10-31T18:00:00+01:00"
    assert (event["state"], event["organizer"], event["latitude"]) == ("draft", "acme", 52.5)
    assert len(event["identifier"]) == 8
    assert not event["identifier"].isdigit()
    [message] = await outbox.messages()
    assert (message.type, str(message.subject), message.seq) == ("events.event.created.v1", event["id"], 1)
    assert message.payload["organizer"] == "acme"
    assert message.payload["starts_at"] == "2027-10-30T07:00:00Z"


@pytest.mark.main_path
async def test_event_is_found_by_id_and_by_identifier(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event()
    for reference in (event["id"], event["identifier"]):
        answer = await client.get(f"/v1/events/{reference}", headers=tokens.organizer())
        assert answer.json() == event
    for nothing in ("abcdefgh", "ABCDEFGH", "12345678", "x", "%00", "a%00bcdefg", "é" * 8):
        answer = await client.get(f"/v1/events/{nothing}", headers=tokens.organizer())
        assert answer.status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "code", "field", "hint"),
    [
        ({"starts_at": "2027-03-28T02:30"}, 422, "time-in-gap", "starts_at", "2027-03-28T03:30:00+02:00"),
        ({"starts_at": "2027-10-31T02:30"}, 422, "time-in-fold", "starts_at", "2027-10-31T02:30:00+01:00"),
        ({"ends_at": "2027-10-31T02:30"}, 422, "time-in-fold", "ends_at", "2027-10-31T02:30:00+02:00"),
        ({"timezone": "US / Pacific"}, 422, "unknown-zone", "timezone", "US/Pacific"),
        ({"timezone": "Nowhere/Land"}, 422, "unknown-zone", "timezone", "/v1/timezones"),
        ({"ends_at": "2027-10-30T08:59"}, 422, "ends-before-it-starts", "ends_at", "after the start"),
        ({"ends_at": "2027-10-30T09:00"}, 422, "ends-before-it-starts", "ends_at", "after the start"),
        ({"ends_at": "2029-10-30T09:00"}, 422, "lasts-too-long", "ends_at", "366 days"),
        ({"starts_at": "soon"}, 422, "invalid-time", "starts_at", "2026-10-25T14:30"),
        ({"name": "  "}, 422, "invalid", "body.name", "at least 1"),
        ({"name": "a\0b"}, 422, "invalid", "body.name", "NUL"),
        ({"description": "\ud800"}, 422, "invalid", "body.description", "unicode"),
        ({"latitude": 1e400}, 422, "invalid", "body.latitude", "finite"),
        ({"latitude": 91}, 422, "invalid", "body.latitude", "90"),
        ({"starts_fold": 2}, 422, "invalid", "body.starts_fold", "1"),
        ({"external_event_url": "javascript:alert(1)"}, 422, "invalid", "body.external_event_url", "pattern"),
        ({"state": "published"}, 422, "invalid", "body.state", "Extra"),
    ],
)
async def test_invalid_field_is_refused_with_its_name_and_the_way_out(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    outbox: RecordedOutbox,
    fields: dict[str, Any],
    status: int,
    code: str,
    field: str,
    hint: str,
) -> None:
    content = json.dumps({**BERLIN, **fields}).encode()
    headers = {**tokens.organizer(), "Content-Type": "application/json"}
    answer = await client.post("/v1/events", content=content, headers=headers)

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem["errors"][0]["field"] == field
    assert hint in str(problem)
    assert await outbox.messages() == []
    assert (await client.get("/v1/events", headers=tokens.organizer())).json()["items"] == []


async def test_number_of_many_digits_is_refused(client: httpx.AsyncClient, tokens: TokenFactory) -> None:
    headers = {**tokens.organizer(), "Content-Type": "application/json"}
    for number in ("9" * 5000, "1e999999", "-" + "9" * 400):
        content = '{"name": "x", "latitude": ' + number + "}"
        answer = await client.post("/v1/events", content=content.encode(), headers=headers)
        assert answer.status_code in (400, 422)
        assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.main_path
async def test_fold_is_chosen_by_number_or_by_offset(create_event: CreateEvent) -> None:
    first = await create_event(starts_at="2027-10-31T02:30", starts_fold=0)
    second = await create_event(starts_at="2027-10-31T02:30", starts_fold=1)
    by_offset = await create_event(starts_at="2027-10-31T02:30:00+01:00")
    assert first["starts_at"] == "2027-10-31T02:30:00+02:00"
    assert second["starts_at"] == by_offset["starts_at"] == "2027-10-31T02:30:00+01:00"


@pytest.mark.main_path
async def test_change_of_the_zone_alone_keeps_the_local_times(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent, outbox: RecordedOutbox
) -> None:
    event = await create_event()

    answer = await client.patch(
        f"/v1/events/{event['id']}", json={"timezone": "America/New_York"}, headers=tokens.organizer()
    )

    assert answer.json()["starts_at"] == "2027-10-30T09:00:00-04:00"
    assert answer.json()["ends_at"] == "2027-10-31T18:00:00-04:00"
    assert answer.json()["version"] == 2
    message = (await outbox.messages())[-1]
    assert (message.type, message.seq) == ("events.event.changed.v1", 2)
    assert (message.payload["timezone"], message.payload["starts_at"]) == (
        "America/New_York",
        "2027-10-30T13:00:00Z",
    )


async def test_zone_in_which_a_time_does_not_exist_is_refused_unless_a_time_is_sent_with_it(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event(starts_at="2027-03-14T02:30", ends_at="2027-03-14T18:00")
    path = f"/v1/events/{event['id']}"

    refused = await client.patch(path, json={"timezone": "America/New_York"}, headers=tokens.organizer())
    assert refused.json()["code"] == "time-in-gap"
    assert refused.json()["errors"][0]["alternatives"] == [
        "2027-03-14T01:30:00-05:00",
        "2027-03-14T03:30:00-04:00",
    ]
    assert (await client.get(path, headers=tokens.organizer())).json() == event

    moved = {"timezone": "America/New_York", "starts_at": "2027-03-14T03:30"}
    changed = await client.patch(path, json=moved, headers=tokens.organizer())
    assert changed.json()["starts_at"] == "2027-03-14T03:30:00-04:00"
    assert changed.json()["ends_at"] == "2027-03-14T18:00:00-04:00"


@pytest.mark.main_path
async def test_zone_in_which_a_time_is_ambiguous_is_accepted_with_a_fold(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event(starts_at="2027-11-07T01:30", ends_at="2027-11-07T18:00")
    path = f"/v1/events/{event['id']}"
    refused = await client.patch(path, json={"timezone": "America/New_York"}, headers=tokens.organizer())
    assert refused.json()["code"] == "time-in-fold"
    body = {"timezone": "America/New_York", "starts_fold": 1}
    changed = await client.patch(path, json=body, headers=tokens.organizer())
    assert changed.json()["starts_at"] == "2027-11-07T01:30:00-05:00"


@pytest.mark.main_path
async def test_change_keeps_the_fields_that_are_not_sent(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event(description="Talks", location_name="Hall")
    path = f"/v1/events/{event['id']}"
    body = {"name": "Winter days", "location_name": None, "ends_at": "2027-10-31T20:00"}
    answer = await client.patch(path, json=body, headers=tokens.organizer())

    changed = answer.json()
    expected = {**event, **body, "ends_at": "2027-10-31T20:00:00+01:00", "version": 2}
    assert changed == {**expected, "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > event["updated_at"]


@pytest.mark.main_path
async def test_change_without_a_difference_makes_no_version_and_no_message(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent, outbox: RecordedOutbox
) -> None:
    event = await create_event()
    body = {"name": event["name"], "starts_at": "2027-10-30T07:00:00Z", "timezone": "Europe/Berlin"}
    answer = await client.patch(f"/v1/events/{event['id']}", json=body, headers=tokens.organizer())
    assert answer.json() == event
    assert len(await outbox.messages()) == 1


@pytest.mark.parametrize("field", ["name", "timezone", "starts_at", "ends_at", "privacy"])
async def test_required_field_cannot_be_cleared(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent, field: str
) -> None:
    event = await create_event()
    answer = await client.patch(f"/v1/events/{event['id']}", json={field: None}, headers=tokens.organizer())
    assert answer.status_code == 422
    assert field in answer.json()["detail"]


async def test_start_after_the_end_is_refused(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event()
    body = {"starts_at": "2027-11-01T09:00"}
    answer = await client.patch(f"/v1/events/{event['id']}", json=body, headers=tokens.organizer())
    assert answer.json()["code"] == "ends-before-it-starts"


async def test_stale_change_is_refused_with_the_current_tag(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event()
    path = f"/v1/events/{event['id']}"
    headers = {**tokens.organizer(), "If-Match": '"1"'}
    first = await client.patch(path, json={"name": "One"}, headers=headers)
    second = await client.patch(path, json={"name": "Two"}, headers=headers)
    assert (first.status_code, first.headers["ETag"]) == (200, '"2"')
    assert (second.status_code, second.headers["ETag"]) == (412, '"2"')
    assert (await client.get(path, headers=tokens.organizer())).json()["name"] == "One"
    publishing = await client.post(f"{path}/publish", headers=headers)
    assert publishing.status_code == 412


@pytest.mark.main_path
async def test_event_that_did_not_change_is_not_sent_again(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event()
    headers = {**tokens.organizer(), "If-None-Match": '"1"'}
    answer = await client.get(f"/v1/events/{event['id']}", headers=headers)
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["Vary"] == "Authorization"


@pytest.mark.main_path
async def test_creation_sent_twice_happens_once(
    client: httpx.AsyncClient, tokens: TokenFactory, outbox: RecordedOutbox
) -> None:
    headers = {**tokens.organizer(), "Idempotency-Key": "k1"}
    first = await client.post("/v1/events", json=BERLIN, headers=headers)
    again = await client.post("/v1/events", json=BERLIN, headers=headers)
    other = await client.post("/v1/events", json={**BERLIN, "name": "Other"}, headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    assert first.content == again.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert len(await outbox.messages()) == 1


@pytest.mark.main_path
async def test_publishing_twice_makes_one_message_and_the_same_response(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent, outbox: RecordedOutbox
) -> None:
    event = await create_event()
    path = f"/v1/events/{event['id']}"
    assert (await client.get(path)).status_code == 404

    first = await client.post(f"{path}/publish", headers=tokens.organizer())
    again = await client.post(f"{path}/publish", headers=tokens.organizer())
    assert first.json() == again.json()
    assert first.json()["published_at"] is not None
    assert (await client.get(path)).json() == first.json()

    for _ in range(2):
        draft = await client.post(f"{path}/unpublish", headers=tokens.organizer())
        assert (draft.json()["state"], draft.json()["published_at"]) == ("draft", None)
    assert (await client.get(path)).status_code == 404
    messages = await outbox.messages()
    assert [(message.type.split(".")[2], message.seq) for message in messages] == [
        ("created", 1),
        ("published", 2),
        ("unpublished", 3),
    ]
    assert [message.payload["version"] for message in messages] == [1, 2, 3]
    assert [message.payload["state"] for message in messages] == ["draft", "published", "draft"]


@pytest.mark.main_path
async def test_public_lists_public_events_and_organizers_list_their_own(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    draft = await create_event(name="Draft")
    public = await create_event(name="Public", publish=True)
    private = await create_event(name="Private", publish=True, privacy="private")
    foreign = await create_event("other", name="Foreign", publish=True)

    async def listed(headers: dict[str, str] | None = None, **query: str) -> set[str]:
        answer = await client.get("/v1/events", headers=headers, params=query)
        return {item["id"] for item in answer.json()["items"]}

    own = tokens.organizer()
    assert await listed() == {public["id"], foreign["id"]}
    assert await listed(own) == {draft["id"], public["id"], private["id"]}
    assert await listed(own, state="draft") == {draft["id"]}
    assert await listed(own, state="published") == {public["id"], private["id"]}
    assert await listed(tokens.organizer(scope="tickets:read")) == {public["id"], foreign["id"]}
    assert await listed(state="draft") == set()
    assert (await client.get(f"/v1/events/{private['id']}")).status_code == 200
    assert (await client.get("/v1/events", params={"state": "gone"})).status_code == 422


@pytest.mark.main_path
async def test_pages_list_each_event_once_by_start_while_events_are_created(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    days = [5, 3, 3, 1, 4, 3, 2]
    for day in days:
        await create_event(starts_at=f"2027-06-0{day}T09:00", ends_at="2027-06-30T09:00")
    seen: list[dict[str, Any]] = []
    path = "/v1/events?limit=2"
    while path:
        answer = await client.get(path, headers=tokens.organizer())
        assert len(answer.json()["items"]) <= 2
        seen += answer.json()["items"]
        await create_event(starts_at="2027-06-01T08:00", ends_at="2027-06-30T09:00")  # before the cursor
        link = answer.headers.get("Link")
        path = link[1 : link.index(">")] if link else ""
        assert (answer.json()["next_cursor"] is None) == (path == "")
    assert [event["starts_at"][8:10] for event in seen] == [f"0{day}" for day in sorted(days)]
    assert len({event["id"] for event in seen}) == len(days)


@pytest.mark.parametrize("cursor", ["x", "%00", "WzEsMSwxXQ", "a" * 2001, "é"])
async def test_forged_cursor_is_refused(client: httpx.AsyncClient, tokens: TokenFactory, cursor: str) -> None:
    answer = await client.get(f"/v1/events?cursor={cursor}", headers=tokens.organizer())
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "query.cursor"


@pytest.mark.main_path
async def test_only_the_organizer_changes_an_event(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event(publish=True)
    path = f"/v1/events/{event['id']}"
    for method, address in (("PATCH", path), ("POST", f"{path}/publish"), ("POST", f"{path}/unpublish")):
        body = {"name": "Mine now"} if method == "PATCH" else None
        foreign = await client.request(method, address, json=body, headers=tokens.organizer("other"))
        reader = await client.request(method, address, json=body, headers=tokens.organizer(scope="events:read"))
        anonymous = await client.request(method, address, json=body)
        assert (foreign.status_code, reader.status_code, anonymous.status_code) == (404, 403, 401)


@pytest.mark.main_path
async def test_other_services_read_an_event(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event()
    path = f"/internal/events/{event['id']}"
    service = tokens.service("tickets")
    facts = await client.get(path, params={"organizer": "acme"}, headers=service)
    by_identifier = f"/internal/events/{event['identifier']}"
    again = await client.get(by_identifier, params={"organizer": "acme"}, headers=service)
    assert again.json() == facts.json()
    assert facts.json() == {
        "event_id": event["id"],
        "identifier": event["identifier"],
        "organizer": "acme",
        "name": "Autumn days",
        "timezone": "Europe/Berlin",
        "starts_at": "2027-10-30T07:00:00Z",
        "ends_at": "2027-10-31T17:00:00Z",
        "state": "draft",
        "version": 1,
    }
    assert (await client.get(path, params={"organizer": "other"}, headers=service)).status_code == 404
    assert (await client.get(path, params={"organizer": "a\0"}, headers=service)).status_code == 422
    assert (await client.get(path, params={"organizer": "acme"}, headers=tokens.organizer())).status_code == 403


@pytest.mark.main_path
async def test_one_of_concurrent_changes_to_a_version_succeeds(live: Live, tokens: TokenFactory) -> None:
    created = await live.client.post("/v1/events", json=BERLIN, headers=tokens.organizer())
    headers = {**tokens.organizer(), "If-Match": created.headers["ETag"]}

    async def change(name: str) -> httpx.Response:
        return await live.client.patch(created.headers["Location"], json={"name": name}, headers=headers)

    answers = await asyncio.gather(*(change(f"Name {n}") for n in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412]


async def test_failed_commit_is_not_answered_with_success(live: Live, tokens: TokenFactory) -> None:
    async with live.engine.begin() as connection:
        for statement in (
            "CREATE FUNCTION events.fail() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'at commit'; END $$",
            "CREATE CONSTRAINT TRIGGER fails AFTER INSERT OR UPDATE ON events.events DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION events.fail()",
        ):
            await connection.exec_driver_sql(statement)
    headers = {**tokens.organizer(), "Idempotency-Key": "k1"}
    answer = await live.client.post("/v1/events", json=BERLIN, headers=headers)
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"

    async with live.engine.begin() as connection:
        await connection.exec_driver_sql("DROP TRIGGER fails ON events.events")
        assert (await connection.exec_driver_sql("SELECT count(*) FROM outbox")).scalar() == 0
    retried = await live.client.post("/v1/events", json=BERLIN, headers=headers)
    assert retried.status_code == 201
    assert "Idempotent-Replayed" not in retried.headers
