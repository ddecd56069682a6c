"""Every route declares its access, and none reveals the drafts of another organizer."""

from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from services.events.tests.factories import CreateEvent, ImportProgramme
from shared.contracts.programme import Programme
from testkit.access import UNDECLARED, declared_access
from testkit.plugin import TokenFactory

NOT_OURS = ("/healthz/live", "/healthz/ready", "/metrics", "/docs")


async def test_no_route_reads_or_changes_a_draft_of_another_organizer(
    app: FastAPI,
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    import_programme: ImportProgramme,
    programme: Programme,
) -> None:
    content = programme.model_dump(mode="json")
    content["event"]["state"] = "draft"
    event_id: UUID = await import_programme(Programme.model_validate(content))
    own = tokens.organizer()
    event = (await client.get(f"/v1/events/{event_id}", headers=own)).json()
    session_id = (await client.get(f"/v1/events/{event_id}/sessions", headers=own)).json()["items"][0]["id"]
    speaker_id = (await client.get(f"/v1/events/{event_id}/speakers", headers=own)).json()["items"][0]["id"]

    access = {
        route: declared for route, declared in declared_access(app).items() if not route[1].startswith(NOT_OURS)
    }
    assert UNDECLARED not in access.values()
    tried = 0
    for (method, path), declared in access.items():
        if method == "HEAD" or "{" not in path or "{name" in path:
            continue
        for reference in (str(event_id), event["identifier"]):
            if "{event_id}" in path and reference != str(event_id):
                continue
            address = path.format(
                event_ref=reference, event_id=reference, session_id=session_id, speaker_id=speaker_id
            )
            body = {"name": "Mine"} if method == "PATCH" else None
            if declared == "internal":
                answer = await client.request(
                    method, address, params={"organizer": "other"}, headers=tokens.service("tickets")
                )
                assert answer.status_code == 404, (method, path)
                forbidden = await client.request(
                    method, address, params={"organizer": "acme"}, headers=tokens.organizer()
                )
                assert forbidden.status_code == 403, (method, path)
            else:
                answer = await client.request(method, address, json=body, headers=tokens.organizer("other"))
                assert answer.status_code == 404, (method, path)
                missing = address.replace(reference, "zzzzzzzz")
                unknown = await client.request(method, missing, json=body, headers=tokens.organizer("other"))
                assert _body(answer) == _body(unknown)
            anonymous = await client.request(method, address, json=body)
            assert anonymous.status_code == (404 if "public" in declared else 401), (method, path)
            tried += 1
    assert tried >= 30
    assert (await client.get(f"/v1/events/{event_id}", headers=own)).json() == event


def _body(answer: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name != "request_id"}


async def test_part_of_one_event_is_not_found_under_another(
    client: httpx.AsyncClient,
    import_programme: ImportProgramme,
    create_event: CreateEvent,
    programme: Programme,
) -> None:
    event_id = await import_programme(programme)
    other = await create_event(publish=True)
    for part in ("sessions", "speakers"):
        item = (await client.get(f"/v1/events/{event_id}/{part}")).json()["items"][0]
        assert (await client.get(f"/v1/events/{event_id}/{part}/{item['id']}")).status_code == 200
        assert (await client.get(f"/v1/events/{other['id']}/{part}/{item['id']}")).status_code == 404


@pytest.mark.main_path
async def test_public_reads_accepted_sessions_and_no_personal_data(
    client: httpx.AsyncClient, tokens: TokenFactory, import_programme: ImportProgramme, programme: Programme
) -> None:
    event_id = await import_programme(programme)
    path = f"/v1/events/{event_id}"
    own = {
        item["title"]: item
        for item in (await client.get(f"{path}/sessions", headers=tokens.organizer())).json()["items"]
    }
    rejected = own["Not accepted"]["id"]
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
        assert "Not accepted" not in schedule
    own_one = await client.get(f"{path}/speakers/{own_speakers[0]['id']}", headers=tokens.organizer())
    assert own_one.json()["mobile"] == "+49 30 1"
    public_one = await client.get(f"{path}/speakers/{own_speakers[0]['id']}")
    assert own_one.headers["ETag"] != public_one.headers["ETag"]


async def test_every_documented_operation_has_a_summary_and_a_tag(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len(operations) >= 16
    assert not any(path.startswith("/internal") for path in document["paths"]), "these are for services only"
    assert all(operation["summary"] and operation["tags"] for operation in operations)
