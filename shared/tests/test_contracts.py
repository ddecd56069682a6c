"""What was sent stays readable: today's classes against a frozen sample of every version that was ever shipped.

The checks are functions that report, so that the tests can also show what they report about a class that breaks
the promise. The documents that are made of the same sources are tested here too.
"""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from uuid import UUID

import pytest
from jsonschema import Draft7Validator
from pydantic import AwareDatetime, BaseModel, Field, ValidationError, create_model

from docs import generate_messages as documents
from docs.generate_messages import SAMPLES, Contract, Incomplete, Sample
from shared.contracts import media
from shared.contracts.envelope import Envelope, Message, MessageEnvelope, encode
from shared.contracts.events import EventCreatedV1
from shared.contracts.media import ImageProcessedV1

CLASSES = documents.message_classes()
SHIPPED = documents.samples()
CONTRACTS = documents.contracts(CLASSES, SHIPPED)
SHIPPED_ONES = [sample for samples in SHIPPED.values() for sample in samples]

each_class = pytest.mark.parametrize("message", CLASSES, ids=lambda message: message.message_type)
each_sample = pytest.mark.parametrize("sample", SHIPPED_ONES, ids=lambda sample: sample.name)


# ------------------------------------------------------------------ the promise

Place = tuple[str | int, ...]


def broken_promises(message: type[Message], samples: Sequence[Sample]) -> list[str]:
    """How the class fails readers of what was sent, or older readers of what it sends; empty when it does not."""
    found = []
    steady = set.intersection(*({place for place, _ in filled(sample.envelope["data"])} for sample in samples))
    for sample in samples:
        try:
            read = MessageEnvelope[message].model_validate_json(sample.text)  # type: ignore[valid-type]
        except ValidationError as error:
            found += [f"{sample.name}: {dotted(each['loc'])}: {each['msg']}" for each in error.errors()]
            continue
        faults = list(lost(sample.envelope, json.loads(read.model_dump_json())))
        if faults:
            found += [f"{sample.name}: {fault}" for fault in faults]
            continue
        for place, value in leaves(sample.envelope["data"]):
            for wrong in what_never_came(value, may_be_null=general(place) not in steady):
                if reads(message, replaced(sample.envelope["data"], place, wrong)):
                    found.append(f"{sample.name}: data.{dotted(place)} may now be {wrong!r}: older readers fail")
    return found


def lost(sent: Any, again: Any, place: Place = ()) -> Iterator[str]:
    """What of ``sent`` is not the same in ``again``, which may hold more."""
    if isinstance(sent, dict) and isinstance(again, dict):
        for name, value in sent.items():
            if name in again:
                yield from lost(value, again[name], (*place, name))
            else:
                yield f"{dotted((*place, name))} is missing"
    elif isinstance(sent, list) and isinstance(again, list) and len(sent) == len(again):
        for number, (one, other) in enumerate(zip(sent, again, strict=True)):
            yield from lost(one, other, (*place, number))
    elif type(sent) is not type(again) or (sent != again and (as_instant(sent) or sent) != as_instant(again)):
        yield f"{dotted(place)} was {sent!r} and is {again!r}"


def what_never_came(value: Any, *, may_be_null: bool) -> Iterator[Any]:
    """Values that a field with this value in a sample must refuse: its type is as narrow as when it was shipped."""
    if not may_be_null:
        yield None
    if isinstance(value, bool):
        yield "perhaps"
    elif isinstance(value, int):
        yield from ("some", 1.5)
    elif isinstance(value, str):
        if is_id(value):
            yield "no id"
        elif as_instant(value):
            yield from ("no time", value.removesuffix("Z"))
        else:
            yield 7


def leaves(value: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*place, name))
    else:
        yield place, value


def filled(value: Any) -> Iterator[tuple[Place, Any]]:
    return ((general(place), leaf) for place, leaf in leaves(value) if leaf is not None)


def general(place: Place) -> Place:
    """The same for all items of a list."""
    return tuple("*" if isinstance(part, int) else part for part in place)


def replaced(value: Any, place: Place, leaf: Any) -> Any:
    copied = inner = copy.deepcopy(value)
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = leaf
    return copied


def reads(message: type[Message], data: Any) -> bool:
    try:
        message.model_validate_json(json.dumps(data))
    except ValidationError:
        return False
    return True


def is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None


def as_instant(value: Any) -> datetime | None:
    try:
        read = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return read if read.tzinfo else None


def dotted(place: Sequence[str | int]) -> str:
    return ".".join(map(str, place))


@each_class
def test_todays_class_reads_all_that_was_ever_sent_and_says_the_same(message: type[Message]) -> None:
    assert broken_promises(message, SHIPPED[message.message_type]) == []


def unshown(message: type[Message], samples: Sequence[Sample]) -> list[str]:
    """Fields that the newest sample does not have, and that could therefore be changed without anybody noticing."""
    data = samples[-1].envelope["data"]
    return list(lost(json.loads(message.model_validate(data).model_dump_json()), data))


@each_class
def test_the_newest_sample_shows_every_field(message: type[Message]) -> None:
    assert unshown(message, SHIPPED[message.message_type]) == []


def test_a_field_that_was_added_without_a_sample_is_reported() -> None:
    shipped = SHIPPED[EventCreatedV1.message_type]
    with_balloons = changed(EventCreatedV1, balloons=(int, 0))
    assert unshown(with_balloons, shipped) == ["balloons is missing"]
    assert unshown(with_balloons, [*shipped, with_data(shipped[-1], balloons=120)]) == []


def changed(message: type[Message], *without: str, **fields: Any) -> type[Message]:
    """The class as it would be after an edit: some fields gone, some added or of another type."""
    kept = {name: (field.annotation, field) for name, field in message.model_fields.items() if name not in without}
    made: type[Message] = create_model(message.__name__, __base__=Message, **{**kept, **fields})
    made.message_type = message.message_type
    return made


class NameOfVariant(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("after", "report"),
    [
        (changed(EventCreatedV1, balloons=(int, ...)), "data.balloons: Field required"),
        (changed(EventCreatedV1, "name"), "data.name is missing"),
        (changed(EventCreatedV1, "name", title=(str, ...)), "data.title: Field required"),
        (changed(EventCreatedV1, "name", title=(str, "")), "data.name is missing"),
        (changed(EventCreatedV1, version=(str, ...)), "data.version: Input should be a valid string"),
        (changed(EventCreatedV1, version=(float, ...)), "data.version was 1 and is 1.0"),
        (changed(EventCreatedV1, version=(Any, ...)), "data.version may now be 'some'"),
        (changed(EventCreatedV1, version=(int | None, ...)), "data.version may now be None"),
        (changed(EventCreatedV1, version=(int | None, None)), "data.version may now be None"),
        (changed(EventCreatedV1, event_id=(str, ...)), "data.event_id may now be 'no id'"),
        (changed(EventCreatedV1, starts_at=(str, ...)), "data.starts_at may now be 'no time'"),
        (changed(EventCreatedV1, starts_at=(datetime, ...)), "data.starts_at may now be '2031-10-24T22:00:00'"),
        (changed(EventCreatedV1, name=(str | int, ...)), "data.name may now be 7"),
        (changed(EventCreatedV1, name=(str, Field(max_length=10))), "data.name: String should have at most 10"),
        (changed(ImageProcessedV1, variants=(dict[str, Any], ...)), "data.variants: Input should be an object"),
        (
            changed(ImageProcessedV1, variants=(list[NameOfVariant], ...)),
            "data.variants.0.path is missing",
        ),
    ],
)
def test_an_edit_in_place_that_breaks_readers_is_reported(after: type[Message], report: str) -> None:
    reported = broken_promises(after, SHIPPED[after.message_type])
    assert any(line.startswith(f"{after.message_type}/1.json: {report}") for line in reported), reported


@pytest.mark.parametrize("added", [(int, 0), (int | None, None), (list[str], Field(default_factory=list))])
def test_a_field_with_a_default_may_be_added_in_place(added: Any) -> None:
    assert broken_promises(changed(EventCreatedV1, balloons=added), SHIPPED[EventCreatedV1.message_type]) == []


def test_a_field_that_came_later_is_kept_as_well_once_a_sample_shows_it() -> None:
    first = SHIPPED[EventCreatedV1.message_type][0]
    second = with_data(first, balloons=120)
    with_balloons = changed(EventCreatedV1, balloons=(int | None, None))
    assert broken_promises(with_balloons, [first, second]) == []
    assert broken_promises(EventCreatedV1, [first, second]) == [f"{second.name}: data.balloons is missing"]


def with_data(sample: Sample, **values: Any) -> Sample:
    envelope = sample.envelope
    return Sample(
        sample.name.replace("1.json", "2.json"), json.dumps(envelope | {"data": envelope["data"] | values})
    )


@each_sample
def test_fields_of_a_later_producer_are_ignored_in_envelope_and_data(sample: Sample) -> None:
    later = sample.envelope | {"dataschema": "https://rostrum.test/later", "partitionkey": "b7"}
    later["data"] = later["data"] | {"balloons": {"red": 99}, "of_tomorrow": None}
    message = class_of(sample)
    assert Envelope.model_validate(later) == Envelope.model_validate(sample.envelope)
    assert message.model_validate(later["data"]) == message.model_validate(sample.envelope["data"])
    assert list(validator_of(sample).iter_errors(later)) == []


def class_of(sample: Sample) -> type[Message]:
    return next(message for message in CLASSES if message.message_type == sample.envelope["type"])


# ------------------------------------------------------------------ samples


@each_sample
def test_a_sample_is_an_envelope_as_its_service_sends_it(sample: Sample) -> None:
    envelope = sample.envelope
    folder, number = sample.name.split("/")
    service, subject, *_ = folder.split(".")
    assert re.fullmatch(r"[1-9]\d*\.json", number)
    assert envelope["type"] == folder
    assert envelope["source"] == f"/rostrum/{service}"
    assert envelope["aggregatetype"] == f"{service}.{subject}"
    assert envelope["subject"] in envelope["data"].values()
    assert envelope["aggregateseq"] == envelope["data"].get("version", envelope["aggregateseq"])
    assert set(envelope) <= {*Envelope.model_fields, "data"}


@each_sample
def test_what_the_relay_writes_is_what_the_samples_show(sample: Sample) -> None:
    envelope = Envelope.model_validate(sample.envelope)
    body = encode(
        message_id=str(envelope.id),
        source=envelope.source,
        message_type=envelope.type,
        subject=str(envelope.subject),
        time=envelope.time,
        aggregate_type=envelope.aggregatetype,
        aggregate_seq=envelope.aggregateseq,
        traceparent=envelope.traceparent,
        data=json.dumps(sample.envelope["data"]),
    )
    written = json.loads(body)
    assert [*lost(sample.envelope, written), *lost(written, sample.envelope)] == []


def test_every_sample_is_listed_with_its_digest() -> None:
    assert documents.digests() == (SAMPLES / documents.DIGESTS).read_text()


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """A folder of samples with one that is frozen."""
    write(tmp_path / "events.event.created.v1" / "1.json", '{"id": 1}\n')
    (tmp_path / documents.DIGESTS).write_text(documents.digests(tmp_path))
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def test_a_new_sample_is_added_to_the_digests(frozen: Path) -> None:
    before = documents.digests(frozen)
    write(frozen / "events.event.created.v1" / "2.json", '{"id": 2}\n')
    after = documents.digests(frozen)
    assert after.startswith(before)
    assert after.endswith("  events.event.created.v1/2.json\n")


def test_a_sample_that_was_edited_is_named(frozen: Path) -> None:
    write(frozen / "events.event.created.v1" / "1.json", '{"id": 2}\n')
    with pytest.raises(Incomplete, match=r"events\.event\.created\.v1/1\.json was edited"):
        documents.digests(frozen)


def test_a_sample_that_has_gone_is_named(frozen: Path) -> None:
    (frozen / "events.event.created.v1" / "1.json").unlink()
    with pytest.raises(Incomplete, match=r"events\.event\.created\.v1/1\.json is missing"):
        documents.digests(frozen)


def test_samples_that_no_class_reads_are_named() -> None:
    remaining = [message for message in CLASSES if message is not ImageProcessedV1]
    with pytest.raises(Incomplete, match=r"No class reads the samples of media\.image\.processed\.v1"):
        documents.contracts(remaining, SHIPPED)


def test_a_class_without_a_sample_is_named() -> None:
    class EventMovedV1(EventCreatedV1):
        """The event has new dates."""

        message_type: ClassVar[str] = "events.event.moved.v1"

    with pytest.raises(Incomplete, match=r"EventMovedV1 has no sample.*events\.event\.moved\.v1/1\.json"):
        documents.contracts([*CLASSES, EventMovedV1], SHIPPED)


# ------------------------------------------------------------------ names and consumers


@each_class
def test_a_message_type_names_service_subject_verb_and_version(message: type[Message]) -> None:
    parts = re.fullmatch(r"([a-z]+)\.[a-z_]+\.[a-z_]+\.v([1-9]\d*)", message.message_type)
    assert parts is not None
    assert message.__module__ == f"shared.contracts.{parts[1]}"
    assert message.__name__.endswith(f"V{parts[2]}")
    assert parts[1] in documents.service_names()


def test_no_two_classes_share_a_message_type() -> None:
    types = [message.message_type for message in CLASSES]
    assert len(set(types)) == len(types)


def test_the_classes_of_a_module_are_found_and_what_it_imports_is_not() -> None:
    module = ModuleType("shared.contracts.later")
    later = type("ImageLostV1", (Message,), {"message_type": "media.image.lost.v1", "__module__": module.__name__})
    vars(module).update(ImageLostV1=later, ImageProcessedV1=ImageProcessedV1, Message=Message)
    assert documents.message_classes([media, module]) == [ImageProcessedV1, later]


def test_whatever_a_service_listens_to_is_sent() -> None:
    sent = {contract.type for contract in CONTRACTS if contract.senders}
    received = {consumer.subscription.message.message_type for consumer in documents.consumers()}
    assert received
    assert received <= sent


def test_a_message_that_its_service_does_not_name_has_no_sender() -> None:
    module = ModuleType("shared.contracts.events")
    never_sent = type(
        "EventForgottenV1", (Message,), {"message_type": "events.event.forgotten.v1", "__module__": module.__name__}
    )
    assert documents.senders(never_sent) == []
    assert [path.name for path in documents.senders(ImageProcessedV1)] == ["tasks.py"]


# ------------------------------------------------------------------ AsyncAPI

ASYNCAPI = documents.asyncapi(CONTRACTS)

TEXT = {"type": "string", "minLength": 1}
YES = {"const": True}


def with_members(needed: Mapping[str, Any], allowed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An object that has these members and no others."""
    members = {**needed, **(allowed or {})}
    return {"type": "object", "required": list(needed), "properties": members, "additionalProperties": False}


def map_of(value: Mapping[str, Any]) -> dict[str, Any]:
    """Keyed by names that AsyncAPI allows."""
    return {
        "type": "object",
        "minProperties": 1,
        "patternProperties": {r"^[\w.\-]+$": value},
        "additionalProperties": False,
    }


def list_of(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "uniqueItems": True, "items": value}


def amqp(needed: Mapping[str, Any]) -> dict[str, Any]:
    return with_members({"amqp": with_members({**needed, "bindingVersion": {"const": "0.3.0"}})})


REFERENCE = with_members({"$ref": {"type": "string", "pattern": "^#/"}})
EXCHANGE = with_members({"name": TEXT, "type": {"const": "topic"}, "durable": YES, "autoDelete": {"const": False}})
OPERATION = {
    "channel": REFERENCE,
    "messages": list_of(REFERENCE),
    "tags": list_of(with_members({"name": TEXT})),
}
# The part of AsyncAPI 3.0 that the document uses, as the specification has it: what is required, and nothing
# that it does not know. The official schema is in no package for Python.
ASYNCAPI_SCHEMA = with_members(
    {
        "asyncapi": {"const": "3.0.0"},
        "info": with_members(
            {"title": TEXT, "version": TEXT}, {"description": TEXT, "license": with_members({"name": TEXT})}
        ),
        "defaultContentType": {"const": "application/cloudevents+json"},
        "servers": map_of(
            with_members(
                {"host": TEXT, "protocol": {"const": "amqp"}},
                {
                    "protocolVersion": TEXT,
                    "description": TEXT,
                    "variables": map_of(with_members({"default": TEXT, "description": TEXT})),
                },
            )
        ),
        "channels": map_of(
            with_members(
                {
                    "address": TEXT,
                    "messages": map_of(REFERENCE),
                    "servers": list_of(REFERENCE),
                    "bindings": amqp({"is": {"const": "routingKey"}, "exchange": EXCHANGE}),
                }
            )
        ),
        "operations": map_of(
            {
                "oneOf": [
                    with_members(
                        {
                            "action": {"const": "send"},
                            **OPERATION,
                            "summary": TEXT,
                            "bindings": amqp({"deliveryMode": {"const": 2}, "timestamp": YES}),
                        }
                    ),
                    with_members(
                        {
                            "action": {"const": "receive"},
                            **OPERATION,
                            "description": TEXT,
                            "bindings": amqp({"ack": YES}),
                        }
                    ),
                ]
            }
        ),
        "components": with_members(
            {
                "messages": map_of(
                    with_members(
                        {
                            "name": TEXT,
                            "title": TEXT,
                            "summary": TEXT,
                            "contentType": TEXT,
                            "payload": {"type": "object"},
                            "bindings": amqp({"messageType": TEXT}),
                            "examples": list_of(with_members({"name": TEXT, "payload": {"type": "object"}})),
                        }
                    )
                ),
                "schemas": map_of({"$ref": "http://json-schema.org/draft-07/schema#"}),
            }
        ),
    }
)


def validator_of(sample: Sample) -> Draft7Validator:
    """Of the documented payload of the sample's message."""
    payload = {"$ref": f"#/components/messages/{sample.envelope['type']}/payload"}
    return Draft7Validator(ASYNCAPI | payload, format_checker=Draft7Validator.FORMAT_CHECKER)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def referred(reference: str) -> Any:
    place: Any = ASYNCAPI
    for part in reference.removeprefix("#/").split("/"):
        place = place[part]
    return place


def test_the_asyncapi_document_has_the_members_that_the_specification_asks_for() -> None:
    faults = [
        f"{dotted(list(e.absolute_path))}: {e.message}"
        for e in Draft7Validator(ASYNCAPI_SCHEMA).iter_errors(ASYNCAPI)
    ]
    assert faults == []


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    found = set(references(ASYNCAPI))
    assert found
    for reference in found:
        assert reference.startswith("#/")
        assert referred(reference)


def test_every_operation_of_the_asyncapi_document_names_messages_of_its_channel() -> None:
    for operation in ASYNCAPI["operations"].values():
        channel = operation["channel"]["$ref"]
        for message in operation["messages"]:
            assert message["$ref"].startswith(f"{channel}/messages/")
            assert referred(referred(message["$ref"])["$ref"])["name"] == referred(channel)["address"]


def test_the_asyncapi_document_has_who_sends_and_who_receives_what() -> None:
    operations = {
        (operation["tags"][0]["name"], operation["action"], referred(operation["channel"]["$ref"])["address"])
        for operation in ASYNCAPI["operations"].values()
    }
    sent = {(message.message_type.partition(".")[0], "send", message.message_type) for message in CLASSES}
    received = {(each.service, "receive", each.subscription.message.message_type) for each in documents.consumers()}
    assert operations == sent | received


@each_sample
def test_a_sample_fits_the_documented_schema(sample: Sample) -> None:
    assert [error.message for error in validator_of(sample).iter_errors(sample.envelope)] == []


@each_sample
def test_the_documented_schema_wants_what_the_class_wants(sample: Sample) -> None:
    envelope, validator = sample.envelope, validator_of(sample)
    for name in envelope["data"]:
        for data in (without(envelope["data"], name), envelope["data"] | {name: None}):
            assert validator.is_valid(envelope | {"data": data}) is reads(class_of(sample), data)
    for name in {*Envelope.model_fields, "data"} - {"traceparent"}:
        assert not validator.is_valid(without(envelope, name))
    assert not validator.is_valid(envelope | {"type": "media.image.lost.v1"})


def without(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: inner for other, inner in value.items() if other != name}


# ------------------------------------------------------------------ the page and the command


def test_the_page_has_every_message_with_its_consumers_and_its_newest_sample() -> None:
    page = documents.markdown(CONTRACTS)
    for contract in CONTRACTS:
        section = page.partition(f"\n## {contract.type}\n")[2].partition("\n## ")[0]
        assert contract.samples[-1].text.strip() in section
        for consumer in contract.consumers:
            handler = consumer.subscription.handler
            name = f"{handler.__module__}.{handler.__qualname__}"
            assert f"- Consumed by **{consumer.service}**: [`{name}`]" in section
        for name in contract.message.model_fields:
            assert f"\n| `{name}` | " in section


def test_every_link_of_the_page_leads_somewhere() -> None:
    page = documents.markdown(CONTRACTS)
    headings = {re.sub(r"[^\w\- ]", "", line[3:]) for line in page.splitlines() if line.startswith("## ")}
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", page):
        file, _, anchor = target.partition("#")
        assert not file or (documents.ROOT / "docs" / file).exists(), target
        assert file or anchor in headings, target


def test_a_field_without_a_description_is_named() -> None:
    made = changed(EventCreatedV1, balloons=(int, 0))
    made.__doc__ = "An event with balloons."
    with pytest.raises(Incomplete, match="balloons of EventCreatedV1 has no description"):
        documents.markdown([Contract(made, [], [], SHIPPED[made.message_type])])


def test_a_field_that_may_be_left_out_is_shown_with_its_default() -> None:
    made = changed(
        EventCreatedV1,
        balloons=(int, Field(default=0, description="How many there are.")),
        opens_at=(AwareDatetime | None, Field(default=None, description="An instant.")),
        hosts=(list[UUID], Field(default_factory=list, description="Who | invites.")),
    )
    made.__doc__ = "An event with balloons."
    page = documents.markdown([Contract(made, [], [], SHIPPED[made.message_type])])
    assert "| `balloons` | integer | default `0` | How many there are. |" in page
    assert "| `opens_at` | string (date-time) or null | optional | An instant. |" in page
    assert "| `hosts` | array of string (uuid) | optional | Who \\| invites. |" in page


def test_the_check_names_what_is_stale_and_the_command_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = documents.ROOT / "docs" / "messages.md"
    wanted = {place: documents.markdown(CONTRACTS)}
    assert documents.stale(wanted) == []
    monkeypatch.setattr(documents, "documents", lambda: {place: "another text\n"})
    assert documents.main(["--check"]) == 1
    assert capsys.readouterr().err == "docs/messages.md is outdated: run `make messages-doc` and commit it.\n"
    assert documents.stale(wanted) == []
