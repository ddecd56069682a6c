"""The bodies of internal HTTP calls, against a frozen sample of every version that was shipped."""

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from docs import generate_messages as documents
from shared.contracts.calls import OrganizerQuery
from shared.contracts.events import EventState
from shared.contracts.media import ImageImport, ImageStates, ImageStatesQuery, ImportedImage
from shared.contracts.programme import (
    ImageRef,
    Programme,
    ProgrammeImport,
    ProgrammeImported,
    ProgrammeSpeaker,
    Repair,
)
from shared.contracts.tickets import EventTickets, ExportedTicket
from testkit.calls import SAMPLES, Call, calls, newest_call

CALLS = calls()
QUERIES: dict[str, type[BaseModel]] = {
    "events.event.read": OrganizerQuery,
    "events.programme.export": OrganizerQuery,
    "tickets.event_tickets.read": OrganizerQuery,
    "media.image.import": ImageImport,
    "media.image.original": OrganizerQuery,
}
BODIES: dict[str, type[BaseModel]] = {
    "events.programme.import": ProgrammeImport,
    "media.image_states.read": ImageStatesQuery,
}
ANSWERS: dict[str, type[BaseModel]] = {
    "events.event.read": EventState,
    "events.programme.import": ProgrammeImported,
    "events.programme.export": Programme,
    "tickets.event_tickets.read": EventTickets,
    "media.image.import": ImportedImage,
    "media.image_states.read": ImageStates,
}
SPEAKER = {"key": "1", "name": "Zoë"}

each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


def kinds(call: Call) -> list[tuple[type[BaseModel], Any]]:
    """Return the classes of a call's query, body and answer, each with the sample's value."""
    name = call.name.partition("/")[0]
    found = [(QUERIES.get(name), call.query), (BODIES.get(name), call.body), (ANSWERS.get(name), call.answer)]
    assert all(kind is not None or not value for kind, value in found), "a part of the sample has no class"
    return [(kind, value) for kind, value in found if kind is not None]


def contains(written: Any, sent: Any) -> bool:
    """Whether all that was sent is written; fields that were added since then may be there too."""
    if isinstance(sent, dict):
        return isinstance(written, dict) and all(
            name in written and contains(written[name], value) for name, value in sent.items()
        )
    if isinstance(sent, list):
        return len(written) == len(sent) and all(map(contains, written, sent))
    return bool(written == sent)


@each_call
def test_a_sample_is_read_and_written_without_loss(call: Call) -> None:
    for kind, value in kinds(call):
        written = json.loads(kind.model_validate_json(json.dumps(value)).model_dump_json())
        assert contains(written, value)


@each_call
def test_the_newest_sample_of_a_call_shows_every_field(call: Call) -> None:
    if call != newest_call(call.name.partition("/")[0]):
        return
    for kind, value in kinds(call):
        assert json.loads(kind.model_validate_json(json.dumps(value)).model_dump_json()) == value


def test_every_sample_of_a_call_is_listed_with_its_digest() -> None:
    assert documents.digests(SAMPLES) == (SAMPLES / documents.DIGESTS).read_text()


@pytest.mark.parametrize("name", [*QUERIES, *BODIES])
def test_a_request_with_an_unknown_field_is_refused_by_its_name(name: str) -> None:
    call = newest_call(name)
    for kind, value in ((QUERIES.get(name), call.query), (BODIES.get(name), call.body)):
        if kind is not None:
            with pytest.raises(ValidationError, match="of_a_later_release\n  Extra inputs are not permitted"):
                kind.model_validate({**value, "of_a_later_release": 1})


def test_a_record_keeps_unknown_fields_in_extra_and_leaves_out_empty_ones() -> None:
    unknown = {"pronouns": "she", "badges": ["red"], "is_remote": False, "height": 0}
    empty: dict[str, Any] = {"pets": [], "title": None, "suffix": "", "links": {}}
    speaker = ProgrammeSpeaker.model_validate({**SPEAKER, "extra": {"gender": "x"}, **unknown, **empty})
    assert speaker.extra == {"gender": "x", **unknown}


def test_an_unknown_list_of_a_programme_is_kept_among_its_extra_members() -> None:
    sent = newest_call("events.programme.export").answer
    programme = Programme.model_validate({**sent, "exhibitors": [{"key": "1", "name": "Maps"}], "booths": []})
    assert programme.extra_members == {**sent["extra_members"], "exhibitors": [{"key": "1", "name": "Maps"}]}


@pytest.mark.parametrize("extra", [None, [], "x"])
def test_an_extra_that_is_no_object_is_refused_and_not_overwritten(extra: Any) -> None:
    with pytest.raises(ValidationError, match="extra"):
        ProgrammeSpeaker.model_validate({**SPEAKER, "extra": extra, "pronouns": "she"})


def test_an_image_with_an_unknown_field_is_refused_since_it_has_no_extra() -> None:
    with pytest.raises(ValidationError, match=r"photo\.alt"):
        ProgrammeSpeaker.model_validate({**SPEAKER, "photo": {"path": "images/zoe.png", "alt": "Zoë"}})
    assert ImageRef.model_validate({"path": "images/zoe.png"}).path == "images/zoe.png"


def test_an_answer_with_a_list_beside_the_tickets_is_refused() -> None:
    sent = newest_call("tickets.event_tickets.read").answer
    with pytest.raises(ValidationError, match="discount_codes"):
        EventTickets.model_validate({**sent, "discount_codes": []})


def test_a_ticket_keeps_unknown_fields() -> None:
    sent = newest_call("tickets.event_tickets.read").answer["tickets"][0]
    assert ExportedTicket.model_validate({**sent, "perks": ["coffee"]}).model_dump(mode="json") == {
        **sent,
        "perks": ["coffee"],
    }


def test_a_ticket_of_the_first_release_is_read() -> None:
    sent = newest_call("tickets.event_tickets.read").answer["tickets"][0]
    first = {name.replace("_per_order", "_order"): value for name, value in sent.items()}
    assert ExportedTicket.model_validate(first).model_dump(mode="json") == sent


def test_a_line_of_a_report_keeps_unknown_fields() -> None:
    line = {"member": "speakers", "record": "1", "field": "email", "message": "Shortened.", "severity": "low"}
    assert Repair.model_validate(line).model_dump() == line
