"""Internal calls: the request of each frozen sample is accepted, and answered by the contract."""

from typing import Any
from uuid import UUID

import httpx
import pytest

from services.events.tests.factories import CreateEvent, ExportProgramme
from shared.contracts.events import EventState
from shared.contracts.programme import Programme, ProgrammeImported
from shared.ids import new_id
from testkit.calls import calls, newest_call, read_whole
from testkit.plugin import TokenFactory

IMPORTS = [call for call in calls() if call.name.startswith("events.programme.import/")]


@pytest.mark.parametrize("call", IMPORTS, ids=lambda call: call.name)
async def test_sample_of_an_import_is_stored_and_exported_without_loss(
    client: httpx.AsyncClient, tokens: TokenFactory, call: Any
) -> None:
    service = tokens.service("exports")
    imported = await client.post(call.url(), json=call.body, headers=service)
    assert imported.status_code == call.status
    event = read_whole(ProgrammeImported, imported)
    assert event.counts == call.answer["counts"]

    export = newest_call("events.programme.export")
    answer = await client.get(export.url(event_ref=event.event_id), params=export.query, headers=service)
    assert answer.status_code == export.status
    programme = read_whole(Programme, answer).model_dump(mode="json")
    sent = Programme.model_validate(call.body["programme"]).model_dump(mode="json")
    assert programme == {**sent, "event": {**sent["event"], "identifier": event.identifier}}


async def test_state_of_an_event_is_answered_by_the_contract(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    event = await create_event()
    call = newest_call("events.event.read")
    for reference in (event["identifier"], event["id"]):
        url = call.url(event_ref=reference)
        answer = await client.get(url, params=call.query, headers=tokens.service("exports"))
        assert answer.status_code == call.status
        assert read_whole(EventState, answer).event_id == UUID(event["id"])
        assert answer.json().keys() == call.answer.keys()


async def test_fields_and_lists_of_a_later_release_are_kept_and_exported(
    client: httpx.AsyncClient, tokens: TokenFactory, export_programme: ExportProgramme
) -> None:
    sent = newest_call("events.programme.import").body
    programme = sent["programme"]
    later = {
        **programme,
        "event": {**programme["event"], "languages": ["de", "en"]},
        "speakers": [{**speaker, "pronouns": "she", "alias": None} for speaker in programme["speakers"]],
        "exhibitors": [{"key": "1", "name": "Maps"}],
    }
    body = {**sent, "import_id": str(new_id()), "programme": later}
    answer = await client.post("/internal/programmes", json=body, headers=tokens.service("exports"))
    exported = await export_programme(read_whole(ProgrammeImported, answer).event_id)
    assert exported.event.extra == {**programme["event"]["extra"], "languages": ["de", "en"]}
    assert exported.speakers[0].extra == {**programme["speakers"][0]["extra"], "pronouns": "she"}
    assert exported.extra_members == {**programme["extra_members"], "exhibitors": [{"key": "1", "name": "Maps"}]}


async def test_unknown_parts_of_a_request_are_refused_by_name(
    client: httpx.AsyncClient, tokens: TokenFactory, create_event: CreateEvent
) -> None:
    service = tokens.service("exports")
    event = await create_event()
    sent = newest_call("events.programme.import").body
    logo = {**sent["programme"]["event"]["logo"], "alt": "A clock"}
    programme = {**sent["programme"], "event": {**sent["programme"]["event"], "logo": logo}}
    for body, field in (
        ({**sent, "dry_run": True}, "body.dry_run"),
        ({**sent, "programme": programme}, "body.programme.event.logo.alt"),
    ):
        answer = await client.post("/internal/programmes", json=body, headers=service)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    for path in (f"/internal/events/{event['id']}", f"/internal/programmes/{event['id']}"):
        answer = await client.get(path, params={"organizer": "acme", "trash": "true"}, headers=service)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "query.trash")
