"""Reading archives: every dialect, every repair, every refusal."""

import json
from typing import Any

import pytest
from pydantic import JsonValue

from exports.archive.container import ArchiveTooLarge, MemberBroken
from exports.archive.limits import Limits
from exports.archive.reader import ReadArchive, read_archive
from services.exports.tests.factories import Members, ReadMembers, ZipFile
from shared.contracts.programme import ImageRef, Repair
from shared.problems import Problem
from shared.walltime import AmbiguousTime, EndsBeforeItStarts, InvalidTime, NonexistentTime, UnknownZone


def line_with(found: ReadArchive, words: str) -> Repair:
    """Return the one line of the report that holds these words."""
    lines = [line for line in found.report if words in line.message]
    assert len(lines) == 1, found.report
    return lines[0]


HYPHENS: dict[str, JsonValue] = {
    "event": {
        "id": 7,
        "name": "Long night",
        "timezone": "Europe/Berlin",
        "starts-at": "2027-10-30T09:00:00+02:00",
        "ends-at": "2027-10-31T18:00:00+01:00",
        "location-name": "Berlin",
        "organizer-name": "Friends",
        "external-event-url": "https://night.example",
        "logo-url": "/images/logo.png",
        "original-image-url": "https://night.example/sky.png",
        "type": "Conference",
        "social-links": [{"id": 1, "name": "Code", "link": "https://code.example"}],
    },
    "sessions": [
        {
            "id": 1,
            "title": "Noon",
            "starts-at": "2027-10-30T10:00:00+02:00",
            "ends-at": "2027-10-30T11:00:00+02:00",
            "short-abstract": "Whose?",
            "slides-url": "https://slides.example",
            "audio-url": "",
            "track": {"id": 3, "name": "Clocks", "color": "#123456"},
            "microlocation": {"id": 4, "name": "Hall"},
            "session-type": {"id": 5, "name": "Talk", "length": "00.45"},
            "speakers": [{"id": 2, "name": "Zoë"}],
        }
    ],
    "speakers": [
        {
            "id": 2,
            "name": "Zoë",
            "photo-url": "images/speakers/Zoe_2.png",
            "is-featured": True,
            "short-biography": "Short",
            "sessions": [{"id": 1, "title": "Noon"}],
        }
    ],
    "tracks": [{"id": 3, "name": "Clocks", "color": "#123456", "font-color": "#fff", "sessions": [{"id": 1}]}],
    "microlocations": [{"id": 4, "name": "Hall", "floor": 2, "latitude": 52.5, "longitude": 13.4}],
    "session_types": [{"id": 5, "name": "Talk", "length": "00.45"}],
    "sponsors": [{"id": 6, "name": "S", "level": 1, "type": "Gold", "logo-url": "", "url": "https://s.example"}],
}
OLD_SNAKE: dict[str, JsonValue] = {
    "event": {
        "id": 7,
        "name": "Long night",
        "timezone": "Europe/Berlin",
        "start_time": "2027-10-30T09:00:00+02:00",
        "end_time": "2027-10-31T18:00:00+01:00",
        "location_name": "Berlin",
        "organizer_name": "Friends",
        "event_url": "https://night.example",
        "logo": "/images/logo.png",
        "background_image": "https://night.example/sky.png",
        "type": "Conference",
        "social_links": [{"id": 1, "name": "Code", "link": "https://code.example"}],
    },
    "sessions": [
        {
            "id": 1,
            "title": "Noon",
            "start_time": "2027-10-30T10:00:00+02:00",
            "end_time": "2027-10-30T11:00:00+02:00",
            "short_abstract": "Whose?",
            "slides": "https://slides.example",
            "audio": None,
            "track": {"id": 3, "name": "Clocks"},
            "microlocation": {"id": 4, "name": "Hall"},
            "session_type": {"id": 5, "name": "Talk", "length": "00:45"},
            "speakers": [{"id": 2, "name": "Zoë"}],
        }
    ],
    "speakers": [
        {
            "id": 2,
            "name": "Zoë",
            "photo": "/images/speakers/Zoe_2.png",
            "featured": True,
            "short_biography": "Short",
            "sessions": [{"id": 1, "title": "Noon"}],
        }
    ],
    "tracks": [{"id": 3, "name": "Clocks", "color": "#123456", "sessions": [{"id": 1, "title": "Noon"}]}],
    "microlocations": [{"id": 4, "name": "Hall", "floor": "2", "latitude": "52.5", "longitude": 13.4}],
    "sponsors": [{"id": 6, "name": "S", "level": "1", "sponsor_type": "Gold", "url": "https://s.example"}],
}
TODAY: dict[str, JsonValue] = {
    "event": {
        "id": 7,
        "name": "Long night",
        "timezone": "Europe/Berlin",
        "starts_at": "2027-10-30T09:00:00+02:00",
        "ends_at": "2027-10-31T18:00:00+01:00",
        "location_name": "Berlin",
        "owner_name": "Friends",
        "external_event_url": "https://night.example",
        "logo_url": "/images/logo.png",
        "original_image_url": "https://night.example/sky.png",
        "type": "Conference",
    },
    "social_links": [{"id": 1, "name": "Code", "link": "https://code.example", "event_id": 7}],
    "sessions": [
        {
            "id": 1,
            "title": "Noon",
            "starts_at": "2027-10-30T08:00:00Z",
            "ends_at": "2027-10-30T09:00:00+00:00",
            "short_abstract": "Whose?",
            "slides_url": "https://slides.example",
            "track_id": 3,
            "microlocation_id": 4,
            "session_type_id": 5,
            "speakers": [2],
            "event_id": 7,
        }
    ],
    "speakers": [
        {
            "id": 2,
            "name": "Zoë",
            "photo_url": "/images/speakers/Zoe_2.png",
            "is_featured": True,
            "short_biography": "Short",
            "event_id": 7,
        }
    ],
    "tracks": [{"id": 3, "name": "Clocks", "color": "#123456", "font_color": "#fff"}],
    "microlocations": [{"id": 4, "name": "Hall", "floor": 2, "latitude": 52.5, "longitude": 13.4}],
    "session_types": [{"id": 5, "name": "Talk", "length": "00:45"}],
    "sponsors": [
        {"id": 6, "name": "S", "level": "1", "type": "Gold", "logo_url": None, "url": "https://s.example"}
    ],
}


def test_three_dialects_give_the_same_programme(zip_file: ZipFile) -> None:
    pictures = {"images/logo.png": b"l", "images/speakers/Zoe_2.png": b"z"}
    found = [read_archive(zip_file({**dialect, **pictures})) for dialect in (HYPHENS, OLD_SNAKE, TODAY)]
    assert found[0].programme == found[1].programme == found[2].programme
    assert [image.member for image in found[0].images] == ["images/logo.png", "images/speakers/Zoe_2.png"]
    assert found[0].images[1].used_by == ["speakers/2"]
    assert [len(one.report) for one in found] == [0, 1, 0]
    assert line_with(found[1], "imported from the sessions").member == "session_types"
    programme = found[0].programme
    session = programme.sessions[0]
    assert (session.track, session.microlocation, session.session_type, session.speakers) == ("3", "4", "5", ["2"])
    assert session.starts_at == "2027-10-30T10:00:00+02:00"
    assert programme.event.image == ImageRef(url="https://night.example/sky.png")
    assert programme.session_types[0].length == "00:45"
    assert programme.social_links[0].link == "https://code.example"


def test_values_without_a_field_are_kept_as_extra(read: ReadMembers) -> None:
    found = read(
        speakers=[
            {"id": 1, "name": "A", "heard-from": "a friend", "gender": None, "icon": "https://x.example/i.png"}
        ],
        forms=[{"id": 1, "session_form": '{"title": {"requ'}],
        **{"config.json": {"Email": "a@x.example"}},
    )
    assert found.programme.speakers[0].extra == {"heard_from": "a friend", "icon": "https://x.example/i.png"}
    assert found.programme.extra_members["forms"] == [{"id": 1, "session_form": '{"title": {"requ'}]
    assert found.programme.extra_members["config.json"] == {"Email": "a@x.example"}
    assert found.report == []


# Keys and links


def test_duplicate_id_gets_another_key_and_links_follow_the_name(read: ReadMembers) -> None:
    found = read(
        speakers=[{"id": 1, "name": "Ada"}, {"id": 1, "name": "Bob"}, {"id": "1-2", "name": "Cem"}],
        sessions=[{"id": 1, "title": "T", "speakers": [{"id": 1, "name": "bob"}, 1]}],
    )
    assert [(s.key, s.name) for s in found.programme.speakers] == [("1", "Ada"), ("1-3", "Bob"), ("1-2", "Cem")]
    assert found.programme.sessions[0].speakers == ["1-3", "1"]
    assert line_with(found, "Id 1 is already in use").record == "1-3"


def test_duplicate_record_is_imported_once(read: ReadMembers) -> None:
    found = read(sessions=[{"id": 1, "title": "T"}, {"id": 1, "title": "T"}])
    assert len(found.programme.sessions) == 1
    line_with(found, "imported once")


@pytest.mark.parametrize("nothing", [None, "", [], True, {"a": 1}])
def test_record_without_an_id_gets_a_key(read: ReadMembers, nothing: JsonValue) -> None:
    found = read(tracks=[{"id": nothing, "name": "A"}, {"name": "B"}, {"id": "new-1", "name": "C"}])
    assert [track.key for track in found.programme.tracks] == ["new-2", "new-3", "new-1"]


def test_link_without_an_id_follows_a_name_that_is_unique(read: ReadMembers) -> None:
    found = read(
        speakers=[{"id": 1, "name": "Ada"}, {"id": 2, "name": "Bob"}, {"id": 3, "name": "Bob"}],
        sessions=[{"id": 1, "title": "T", "speakers": [{"id": None, "name": " ada "}]}],
    )
    assert found.programme.sessions[0].speakers == ["1"]


def test_link_to_no_record_is_left_out_and_reported(read: ReadMembers) -> None:
    found = read(sessions=[{"id": 1, "title": "T", "track_id": 9, "speakers": [8, None, {}], "session_type": {}}])
    assert found.programme.sessions[0].track is None
    assert found.programme.sessions[0].speakers == []
    assert {(line.field, line.record) for line in found.report} == {("track", "1"), ("speakers", "1")}


def test_nested_record_that_its_list_lacks_is_imported_from_the_session(read: ReadMembers) -> None:
    found = read(
        tracks=[{"id": 1, "name": "A"}],
        sessions=[{"id": 1, "title": "T", "track": {"id": 2, "name": "B", "color": "#fff"}}],
    )
    assert [(t.key, t.name, t.color) for t in found.programme.tracks] == [("1", "A", None), ("2", "B", "#fff")]
    assert found.programme.sessions[0].track == "2"
    assert line_with(found, "imported from this session").field == "track"


def test_link_may_be_named_by_either_side(read: ReadMembers) -> None:
    found = read(
        speakers=[
            {"id": 1, "name": "A", "sessions": [{"id": 1, "title": "T"}]},
            {"id": 2, "name": "B", "sessions": [{"id": 1, "title": "Another title under this id"}]},
        ],
        tracks=[{"id": 5, "name": "Web", "sessions": [1]}],
        sessions=[{"id": 1, "title": "T", "speakers": [{"id": 2, "name": "B"}]}],
    )
    assert found.programme.sessions[0].speakers == ["2", "1"]
    assert found.programme.sessions[0].track == "5"
    assert len(found.report) == 2


def test_deleted_record_is_left_out(read: ReadMembers) -> None:
    found = read(
        sessions=[{"id": 1, "title": "T", "deleted_at": "2027-01-01T00:00:00Z"}, {"id": 2, "deleted-at": ""}]
    )
    assert [session.key for session in found.programme.sessions] == ["2"]
    line_with(found, "trash")


def test_missing_title_falls_back_to_the_name_then_to_the_key(read: ReadMembers) -> None:
    found = read(sessions=[{"id": 11, "name": "Wrap-up"}, {"id": 12, "title": " "}], tracks=[{"id": 3}])
    assert [session.title for session in found.programme.sessions] == ["Wrap-up", "Untitled session 12"]
    assert found.programme.tracks[0].name == "Untitled track 3"


# Times


@pytest.mark.parametrize(
    ("given", "zone"), [("US / Pacific", "US/Pacific"), ("Hawaii-Aleutian", "Pacific/Honolulu"), ("utc", "UTC")]
)
def test_zone_with_a_clear_meaning_is_repaired(zip_file: ZipFile, event: Members, given: str, zone: str) -> None:
    found = read_archive(zip_file({"event": {**event, "timezone": given}}))
    assert found.programme.event.timezone == zone
    assert line_with(found, given).field == "timezone"


@pytest.mark.parametrize("given", ["Middle-earth/Shire", "", None, 5, ["UTC"], "../../etc/localtime"])
def test_unknown_zone_is_refused(zip_file: ZipFile, event: Members, given: JsonValue) -> None:
    with pytest.raises(UnknownZone) as refusal:
        read_archive(zip_file({"event": {**event, "timezone": given}}))
    assert refusal.value.status == 422
    assert refusal.value.errors[0].field == "event.timezone"


def test_times_without_an_offset_are_wall_times_of_the_event(zip_file: ZipFile, event: Members) -> None:
    event.update(starts_at="2027-10-30T09:00:00", ends_at="2027-10-31T18:00")
    session = {"id": 1, "title": "T", "starts_at": "2027-10-30 10:00:00", "ends_at": "2027-10-30T11:00:00"}
    found = read_archive(zip_file({"event": event, "sessions": [session]}))
    assert found.programme.event.ends_at == "2027-10-31T18:00:00+01:00"
    assert found.programme.sessions[0].starts_at == "2027-10-30T10:00:00+02:00"
    assert len([line for line in found.report if "no offset" in line.message]) == 3


@pytest.mark.parametrize(
    ("changes", "refusal", "field"),
    [
        ({"starts_at": "2027-03-28T02:30:00", "ends_at": "2027-03-29T10:00"}, NonexistentTime, "event.starts_at"),
        ({"ends_at": "2027-10-31T02:30:00"}, AmbiguousTime, "event.ends_at"),
        ({"ends_at": "2027-10-30T08:00:00+02:00"}, EndsBeforeItStarts, "event.ends_at"),
        ({"ends_at": "2027-10-30T07:00:00Z"}, EndsBeforeItStarts, "event.ends_at"),
        ({"starts_at": None}, InvalidTime, "event.starts_at"),
        ({"ends_at": {"when": "soon"}}, InvalidTime, "event.ends_at"),
        ({"starts_at": "2027-10-30T115:30"}, InvalidTime, "event.starts_at"),
        ({"starts_at": "0001-01-01T00:00:00+14:00"}, InvalidTime, "event.starts_at"),
    ],
)
def test_event_without_usable_times_is_refused(
    zip_file: ZipFile, event: Members, changes: dict[str, Any], refusal: type[Problem], field: str
) -> None:
    with pytest.raises(refusal) as raised:
        read_archive(zip_file({"event": {**event, **changes}}))
    assert raised.value.status == 422
    error = raised.value.errors[0].as_json()
    assert error["field"] == field
    if refusal in (NonexistentTime, AmbiguousTime):
        assert len(error["alternatives"]) == 2


@pytest.mark.parametrize(
    ("starts_at", "ends_at", "words"),
    [
        ("2027-10-30T11:00:00+02:00", "2027-10-30T10:00:00+02:00", "before its start"),
        ("2027-10-30T11:00:00+02:00", "2027-10-30T09:00:00Z", "starts and ends"),
        ("2027-03-28T02:30:00", "2027-03-28T04:00:00", "does not exist"),
        ("2027-10-30T11:00:00+02:00", None, "Only starts_at"),
        ("T9:00", "2027-10-30T10:00:00+02:00", "is not a time"),
        (5, "2027-10-30T10:00:00+02:00", "is not a time"),
    ],
)
def test_session_with_unusable_times_is_imported_without_them(
    read: ReadMembers, starts_at: JsonValue, ends_at: JsonValue, words: str
) -> None:
    found = read(sessions=[{"id": 1, "title": "T", "starts_at": starts_at, "ends_at": ends_at}])
    session = found.programme.sessions[0]
    assert (session.starts_at, session.ends_at) == (None, None)
    assert session.extra["starts_at"] == str(starts_at)
    assert line_with(found, words).record == "1"


def test_times_of_a_fold_keep_their_offsets(read: ReadMembers) -> None:
    found = read(
        sessions=[
            {
                "id": 1,
                "title": "T",
                "starts_at": "2027-10-31T02:30:00+02:00",
                "ends_at": "2027-10-31T02:30:00+01:00",
            },
            {"id": 2, "title": "U", "starts_at": "2027-10-31T02:30:00", "ends_at": "2027-10-31T04:00:00"},
        ]
    )
    first, second = found.programme.sessions
    assert (first.starts_at, first.ends_at) == ("2027-10-31T02:30:00+02:00", "2027-10-31T02:30:00+01:00")
    assert second.starts_at == "2027-10-31T02:30:00+02:00"
    assert line_with(found, "twice").record == "2"


# Values


def test_images_are_found_under_every_spelling(zip_file: ZipFile, event: Members) -> None:
    names = {1: "/images/speakers/Ada.PNG", 2: "images/speakers/Zo%C3%AB.png", 3: "/images/speakers/ZoÃ«.png"}
    speakers = [{"id": key, "name": f"S{key}", "photo-url": name} for key, name in names.items()]
    path = zip_file(
        {"event": event, "speakers": speakers, "images/speakers/ada.png": b"1", "images/speakers/Zoë.png": b"2"}
    )
    found = read_archive(path)
    paths = [speaker.photo and speaker.photo.path for speaker in found.programme.speakers]
    assert paths == ["images/speakers/ada.png", "images/speakers/Zoë.png", "images/speakers/Zoë.png"]
    assert len(found.report) == 3
    assert found.images[1].used_by == ["speakers/2", "speakers/3"]


@pytest.mark.parametrize(
    "reference", ["/images/none.png", "event", "config.json", "data:image/png;base64,AAAA", "C:\\x.png", {"url": 1}]
)
def test_reference_to_no_image_is_reported_and_kept_as_extra(read: ReadMembers, reference: JsonValue) -> None:
    found = read(speakers=[{"id": 1, "name": "A", "photo_url": reference}], **{"config.json": {}})
    assert found.programme.speakers[0].photo is None
    assert found.programme.speakers[0].extra == {"photo_url": reference}
    assert found.report[0].field == "photo_url"


def test_image_above_the_limit_is_left_out(zip_file: ZipFile, event: Members) -> None:
    path = zip_file({"event": {**event, "logo": "/images/l.png"}, "images/l.png": bytes(100)})
    found = read_archive(path, Limits(image_size=99))
    assert found.programme.event.logo is None
    line_with(found, "larger than 99 bytes")


@pytest.mark.parametrize(
    ("member", "field", "value"),
    [
        ("speakers", "website", "javascript:alert(1)"),
        ("speakers", "website", "https://x.example/" + "x" * 5000),
        ("tracks", "color", "red"),
        ("tracks", "position", 2**40),
        ("tracks", "position", 1.5),
        ("microlocations", "latitude", 91),
        ("microlocations", "longitude", "east"),
        ("microlocations", "latitude", "nan"),
        ("microlocations", "latitude", True),
        ("microlocations", "floor", 10**400),
        ("session_types", "length", "00.2 Hour"),
        ("speakers", "is_featured", "perhaps"),
        ("speakers", "email", ["a@x.example"]),
        ("sessions", "audio_url", "audio/session_40.mp3"),
    ],
)
def test_unusable_value_is_reported_and_kept_as_extra(
    read: ReadMembers, member: str, field: str, value: JsonValue
) -> None:
    found = read(**{member: [{"id": 1, "name": "A", field: value}]})
    record = getattr(found.programme, member)[0]
    assert getattr(record, field) is None
    assert record.extra == {field: value}
    assert (found.report[0].member, found.report[0].record, found.report[0].field) == (member, "1", field)


def test_empty_coordinates_are_null(zip_file: ZipFile, event: Members) -> None:
    found = read_archive(zip_file({"event": {**event, "latitude": "", "longitude": None}}))
    assert found.programme.event.latitude is None
    assert found.report == []


def test_characters_that_cannot_be_stored_are_removed(zip_file: ZipFile, event: Members) -> None:
    event.update({"description": "a\x00b\ud800c 😀", "no\x00tes": ["\udfffx"]})
    found = read_archive(zip_file({"event": event}))
    assert found.programme.event.description == "abc 😀"
    assert found.programme.event.extra == {"notes": ["x"]}
    assert len(found.report) == 2


def test_text_above_the_limit_is_shortened(read: ReadMembers) -> None:
    text = "é".join(str(number) for number in range(200_000))
    found = read(sessions=[{"id": 1, "title": text}])
    assert found.programme.sessions[0].title == text[:1_000]
    line_with(found, f"{len(text):,} characters")


def test_numbers_that_are_not_finite_become_null(zip_file: ZipFile) -> None:
    raw = (
        b'{"name": "N", "timezone": "UTC", "starts_at": "2027-01-01T00:00", "ends_at": "2027-01-02T00:00",'
        b' "latitude": NaN, "longitude": -Infinity, "x": {"y": [1e999, 1.5]}}'
    )
    found = read_archive(zip_file({"event": raw}))
    assert found.programme.event.latitude is None
    assert found.programme.event.extra == {"x": {"y": [None, 1.5]}}
    assert len([line for line in found.report if "finite" in line.message]) == 3


# Members


@pytest.mark.parametrize("member", ["event", "sessions", "session_types", "forms", "meta"])
def test_refusal_of_broken_json_names_member_line_and_column(
    zip_file: ZipFile, event: Members, member: str
) -> None:
    with pytest.raises(MemberBroken) as refusal:
        read_archive(zip_file({"event": event, member: b'[\n  {"id": 1\n   "name": 2}\n]'}))
    error = refusal.value.errors[0].as_json()
    assert (refusal.value.status, error["field"], error["line"], error["column"]) == (422, member, 3, 4)
    assert "line 3, column 4" in refusal.value.detail


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\xfd",
        b'["\xe4"]',
        b"[" * 100_000,
        b'[{"a":' + b"[" * 100 + b"]" * 100 + b"}]",
        b'[{"a":' * 400 + b"1" + b"}]" * 400,
        b"[" + b"9" * 5_000 + b"]",
        b"{}",
        b'"text"',
        b"7",
    ],
)
def test_member_other_than_a_list_of_records_is_refused(zip_file: ZipFile, event: Members, content: bytes) -> None:
    with pytest.raises(MemberBroken) as refusal:
        read_archive(zip_file({"event": event, "sessions": content}))
    assert refusal.value.errors[0].field == "sessions"


def test_utf_16_and_a_byte_order_mark_are_read(zip_file: ZipFile, event: Members) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        path = zip_file({"event": json.dumps(event).encode(encoding)})
        assert read_archive(path).programme.event.name == "Long night"


@pytest.mark.parametrize("event", [[], "x", None, 5, [{}, {}]])
def test_event_other_than_an_object_is_refused(zip_file: ZipFile, event: JsonValue) -> None:
    with pytest.raises(MemberBroken, match="one JSON object"):
        read_archive(zip_file({"event": event}))


def test_entries_other_than_records_are_left_out(read: ReadMembers) -> None:
    found = read(sessions=[None, 5, "x", [], {"id": 1, "title": "T"}])
    assert len(found.programme.sessions) == 1
    assert len(found.report) == 4


@pytest.mark.parametrize(
    "limits", [Limits(json_values=20), Limits(records=9), Limits(json_size=90), Limits(json_total_size=150)]
)
def test_data_above_the_limits_is_refused(zip_file: ZipFile, event: Members, limits: Limits) -> None:
    path = zip_file({"event": event, "sessions": [{"id": number} for number in range(10)]})
    with pytest.raises(ArchiveTooLarge):
        read_archive(path, limits)


def test_files_that_are_not_imported_are_reported(read: ReadMembers) -> None:
    found = read(
        **{
            "audio/session_1.mp3": b"x",
            "images/spare.png": b"x",
            "README": b"hello",
            "notes.txt": b"x",
            "index": [],
        }
    )
    assert {line.member for line in found.report} == {
        "audio/session_1.mp3",
        "images/spare.png",
        "README",
        "notes.txt",
    }
    assert found.programme.extra_members == {"index": []}


def test_extra_members_are_bounded(zip_file: ZipFile, event: Members) -> None:
    path = zip_file({"event": event, **{f"extra{number}": ["x"] for number in range(5)}})
    assert len(read_archive(path, Limits(extra_members=3)).programme.extra_members) == 3
    assert len(read_archive(path, Limits(extra_members_size=6)).programme.extra_members) == 1


def test_report_is_bounded(zip_file: ZipFile, event: Members) -> None:
    found = read_archive(zip_file({"event": event, "tracks": [{} for _ in range(30)]}), Limits(report_lines=10))
    assert len(found.report) == 11
    assert "50 more lines" in found.report[-1].message
