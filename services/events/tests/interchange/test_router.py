"""A programme is imported whole and exported whole."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from services.events.tests.factories import CreateEvent, ExportProgramme, ImportProgramme, programme_of_size
from shared.contracts.programme import Programme
from shared.ids import new_id
from testkit.plugin import Live, RecordedOutbox, TokenFactory


def canonical(programme: Programme) -> dict[str, Any]:
    """Without the event's own short name, which belongs to the server that made the archive."""
    content = programme.model_dump()
    content["event"].pop("identifier")
    return content


@pytest.mark.main_path
async def test_exported_programme_equals_the_imported_one_and_can_be_imported_again(
    export_programme: ExportProgramme,
    import_programme: ImportProgramme,
    programme: Programme,
) -> None:
    first = await export_programme(await import_programme(programme))
    assert canonical(first) == canonical(programme)
    second = await export_programme(await import_programme(first))
    assert canonical(second) == canonical(programme)
    assert second.event.identifier != first.event.identifier


@pytest.mark.main_path
async def test_event_created_through_the_api_can_be_exported(
    export_programme: ExportProgramme, create_event: CreateEvent
) -> None:
    event = await create_event(logo_url="https://example.org/logo.png")
    programme = await export_programme(event["id"])
    assert programme.event.key == event["id"]
    assert programme.event.identifier == event["identifier"]
    assert (programme.event.state, programme.event.privacy) == ("draft", "public")
    assert programme.event.logo is not None
    assert programme.event.logo.url == "https://example.org/logo.png"


@pytest.mark.main_path
async def test_export_has_the_current_state_where_it_differs_from_the_archive(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    export_programme: ExportProgramme,
    import_programme: ImportProgramme,
    programme: Programme,
) -> None:
    event_id = await import_programme(programme)
    await client.post(f"/v1/events/{event_id}/unpublish", headers=tokens.organizer())
    assert (await export_programme(event_id)).event.state == "draft"
    await client.post(f"/v1/events/{event_id}/publish", headers=tokens.organizer())
    assert (await export_programme(event_id)).event.state == "Published"


@pytest.mark.main_path
async def test_import_sent_twice_is_one_event_and_one_message(
    client: httpx.AsyncClient, tokens: TokenFactory, programme: Programme, outbox: RecordedOutbox
) -> None:
    body = {"import_id": str(uuid4()), "organizer": "acme", "programme": programme.model_dump(mode="json")}
    service = tokens.service("exports")
    first = await client.post("/internal/programmes", json=body, headers=service)
    again = await client.post("/internal/programmes", json=body, headers=service)
    conflict = await client.post("/internal/programmes", json={**body, "organizer": "other"}, headers=service)

    assert (first.status_code, again.status_code, conflict.status_code) == (201, 200, 409)
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
    ("state", "expected", "has_repair"),
    [("Completed", "draft", True), (None, "draft", False), ("draft", "draft", False)],
)
async def test_only_the_word_published_publishes_the_event(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    export_programme: ExportProgramme,
    programme: Programme,
    state: str | None,
    expected: str,
    has_repair: bool,
) -> None:
    content = programme.model_dump(mode="json")
    content["event"]["state"] = state
    body = {"import_id": str(uuid4()), "organizer": "acme", "programme": content}
    answer = await client.post("/internal/programmes", json=body, headers=tokens.service("exports"))
    event_id = answer.json()["event_id"]
    event = (await client.get(f"/v1/events/{event_id}", headers=tokens.organizer())).json()
    assert event["state"] == expected
    assert [repair["field"] for repair in answer.json()["repairs"]] == (["state"] if has_repair else [])
    assert (await export_programme(event_id)).event.state == state


async def test_session_with_unusable_times_is_imported_unscheduled_and_exported_as_it_was(
    client: httpx.AsyncClient, tokens: TokenFactory, export_programme: ExportProgramme, programme: Programme
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
    out = await export_programme(answer.json()["event_id"])
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
async def test_inconsistent_programme_is_refused_and_stores_nothing(
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


async def test_programme_may_be_larger_than_other_bodies(
    export_programme: ExportProgramme,
    import_programme: ImportProgramme,
) -> None:
    programme = programme_of_size(40)
    long = [item.model_copy(update={"long_abstract": "é" * 50_000}) for item in programme.sessions]
    event_id = await import_programme(programme.model_copy(update={"sessions": long}))
    assert len((await export_programme(event_id)).sessions) == 40


async def test_programme_of_the_largest_size_is_imported(live: Live, tokens: TokenFactory) -> None:
    content = programme_of_size(491, 187).model_dump(mode="json")
    body = {"import_id": str(new_id()), "organizer": "acme", "programme": content}
    answer = await live.client.post("/internal/programmes", json=body, headers=tokens.service("exports"))
    assert answer.status_code == 201
    assert answer.json()["counts"]["sessions"] == 491


@pytest.mark.main_path
async def test_concurrent_imports_with_one_id_create_one_event(
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
async def test_programme_is_exported_to_services_for_its_organizer_only(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: ImportProgramme, programme: Programme
) -> None:
    path = f"/internal/programmes/{await import_programme(programme)}"
    service = tokens.service("exports")
    assert (await client.get(path, params={"organizer": "other"}, headers=service)).status_code == 404
    assert (await client.get(path, headers=service)).status_code == 422
    assert (await client.get(path, params={"organizer": "acme"}, headers=tokens.organizer())).status_code == 403
    assert (await client.get(path, params={"organizer": "acme"})).status_code == 401
