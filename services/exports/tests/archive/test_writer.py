"""A written archive is read back the same, is the same bytes each time, and can be checked by itself."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue, create_model

from exports.archive import shapes
from exports.archive.reader import ReadArchive, read_archive
from exports.archive.writer import archive_parts, check_archive, place_images
from services.exports.tests.factories import ZipFile
from shared.contracts.programme import (
    ImageRef,
    KeepsUnknown,
    Programme,
    ProgrammeEvent,
    ProgrammeMicrolocation,
    ProgrammeSession,
    ProgrammeSpeaker,
    ProgrammeSponsor,
    ProgrammeTrack,
)
from shared.problems import Problem

ROOT = Path(__file__).parents[4]
EVENT = ProgrammeEvent(
    key="7",
    name="Lange Nächte",
    timezone="Europe/Berlin",
    starts_at="2027-10-30T09:00:00+02:00",
    ends_at="2027-10-31T18:00:00+01:00",
    logo=ImageRef(path="images/logo.png", url="https://elsewhere.example/logo.png"),
)
PROGRAMME = Programme(
    event=EVENT,
    speakers=[ProgrammeSpeaker(key="a", name="Ada"), ProgrammeSpeaker(key="b", name="Bob", extra={"gender": "x"})],
    tracks=[ProgrammeTrack(key="1", name="Clocks", color="#123456")],
    microlocations=[ProgrammeMicrolocation(key="01", name="Hall")],
    sessions=[
        ProgrammeSession(key="1", title="T", track="1", microlocation="01", speakers=["b", "a"], comments="ü\n😀")
    ],
)


def written(
    path: Path, programme: Programme = PROGRAMME, images: dict[str, bytes] | None = None, **options: Any
) -> Path:
    pictures = {"images/logo.png": b"logo"} if images is None else images
    parts = archive_parts(
        programme,
        ((name, [data]) for name, data in pictures.items()),
        root_url="https://r.example",
        created_at="2027-01-01T00:00:00Z",
        **options,
    )
    path.write_bytes(b"".join(parts))
    return path


def test_archive_holds_links_as_objects_and_lists_its_members(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", tickets=[{"name": "Early bird"}])
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert [*members][-1] == "meta"
    session = json.loads(members["sessions"])[0]
    assert session["track"] == {"id": 1, "name": "Clocks"}
    assert session["microlocation"] == {"id": "01", "name": "Hall"}
    assert session["speakers"] == [{"id": "b", "name": "Bob"}, {"id": "a", "name": "Ada"}]
    assert "Lange Nächte".encode() in members["event"]
    assert b'\n    "name"' in members["event"]
    meta = json.loads(members["meta"])
    assert meta["root_url"] == "https://r.example"
    assert meta["counts"]["tickets"] == 1
    assert {item["name"] for item in meta["members"]} == set(members) - {"meta"}
    assert check_archive(path) == []


def test_tickets_keep_the_names_that_archives_have_for_their_limits(tmp_path: Path) -> None:
    ticket = {"name": "Early bird", "min_per_order": 2, "max_per_order": 4, "version": 3}
    with zipfile.ZipFile(written(tmp_path / "a.zip", tickets=[ticket])) as archive:
        (row,) = json.loads(archive.read("tickets"))
    assert row == {"name": "Early bird", "min_order": 2, "max_order": 4, "version": 3}


def older(model: type[KeepsUnknown], *without: str, **instead: Any) -> Any:
    """Return the class as an earlier release had it, without some fields."""
    fields: dict[str, Any] = {
        name: (field.annotation, field) for name, field in model.model_fields.items() if name not in without
    }
    made = create_model(model.__name__, __base__=KeepsUnknown, **{**fields, **instead})
    made.unknown_in = model.unknown_in
    return made


def test_export_after_an_import_by_an_older_events_service_holds_what_that_did_not_know(tmp_path: Path) -> None:
    older_speaker = older(ProgrammeSpeaker, "is_featured")
    older_programme = older(Programme, "sponsors", speakers=(GenericAlias(list, (older_speaker,)), ...))
    speaker = ProgrammeSpeaker(key="a", name="Ada", is_featured=True)
    sponsor = ProgrammeSponsor(key="1", name="Bakery", level="Gold")
    sent = PROGRAMME.model_copy(update={"speakers": [speaker], "sponsors": [sponsor], "sessions": []})

    stored = older_programme.model_validate_json(sent.model_dump_json())
    assert not hasattr(stored, "sponsors")
    assert not hasattr(stored.speakers[0], "is_featured")
    exported = Programme.model_validate_json(stored.model_dump_json())

    path = written(tmp_path / "a.zip", exported)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("speakers"))[0]["is_featured"] is True
        assert json.loads(archive.read("sponsors"))[0]["level"] == "Gold"
    again = read_archive(path).programme
    assert (again.speakers[0].is_featured, again.sponsors[0].level) == (True, "Gold")
    assert check_archive(path) == []


def test_written_programme_is_read_back(tmp_path: Path) -> None:
    found = read_archive(written(tmp_path / "a.zip"))
    logo = ImageRef(path="images/logo.png")
    assert found.programme == PROGRAMME.model_copy(update={"event": EVENT.model_copy(update={"logo": logo})})
    assert found.report == []


def test_same_programme_gives_the_same_bytes_in_small_parts(tmp_path: Path) -> None:
    noise = bytes(range(256)) * 4096
    whole = written(tmp_path / "a.zip", images={"images/logo.png": noise}).read_bytes()
    parts = archive_parts(
        PROGRAMME,
        [("images/logo.png", (noise[start : start + 1000] for start in range(0, len(noise), 1000)))],
        root_url="https://r.example",
        created_at="2027-01-01T00:00:00Z",
        part_size=10_000,
    )
    sizes, again = [], b""
    for part in parts:
        sizes.append(len(part))
        again += part
    assert again == whole
    assert max(sizes) < 12_000


def test_image_without_content_falls_back_to_its_address(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip", images={})
    found = read_archive(path)
    assert found.programme.event.logo == ImageRef(url="https://elsewhere.example/logo.png")
    assert isinstance(found.meta, dict)
    assert found.meta["missing_images"] == ["images/logo.png"]


@pytest.mark.parametrize(
    "changes",
    [
        {"sessions": [ProgrammeSession(key="1", title="T", track="9")]},
        {"sessions": [ProgrammeSession(key="1", title="T", speakers=["nobody"])]},
        {"sessions": [ProgrammeSession(key="1", title="T", speakers=["a", "a"])]},
        {"tracks": [ProgrammeTrack(key="1", name="A"), ProgrammeTrack(key="1", name="B")], "sessions": []},
        {"extra_members": {"../x": 1}},
        {"extra_members": {"meta": 1}},
        {"extra_members": {"x": float("nan")}},
    ],
)
def test_programme_that_could_not_be_read_back_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        written(tmp_path / "a.zip", PROGRAMME.model_copy(update=changes))


@pytest.mark.parametrize("name", ["images/other.png", "../logo.png", "event"])
def test_image_that_no_record_uses_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="used by no record"):
        written(tmp_path / "a.zip", images={name: b"x"})


def test_images_of_the_media_service_get_safe_unique_names(tmp_path: Path) -> None:
    ids = [UUID(int=number) for number in range(5)]
    programme = Programme(
        event=EVENT.model_copy(update={"logo": ImageRef(image_id=ids[0]), "image": ImageRef(image_id=ids[1])}),
        speakers=[
            ProgrammeSpeaker(key="x/1", name="Zoë Ada-Müller", photo=ImageRef(image_id=ids[2])),
            ProgrammeSpeaker(
                key="x-1", name="zoe ada müller", photo=ImageRef(image_id=ids[3], url="https://x.example")
            ),
            ProgrammeSpeaker(key="y", name="李", photo=ImageRef(url="https://x.example")),
        ],
        sponsors=[ProgrammeSponsor(key="1", name="../..", logo=ImageRef(image_id=ids[4]))],
    )
    placed, wanted = place_images(programme, lambda _: ".jpg")
    assert wanted == {
        "images/logo.jpg": ids[0],
        "images/background.jpg": ids[1],
        "images/speakers/ZoeAdaMuller_X1.jpg": ids[2],
        "images/speakers/ZoeAdaMuller_X1-2.jpg": ids[3],
        "images/sponsors/Unnamed_1.jpg": ids[4],
    }
    path = written(tmp_path / "a.zip", placed, dict.fromkeys(wanted, b"x"))
    assert {image.member for image in read_archive(path).images} == set(wanted)


def test_check_finds_every_change(tmp_path: Path) -> None:
    path = written(tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    del members["tracks"]
    members["images/logo.png"] = b"loga"
    members["speakers"] = b"[]"
    members["extra"] = b"{}"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    said = check_archive(path)
    for words in (
        "extra is not listed.",
        "images/logo.png has another checksum than listed.",
        "speakers has 2 bytes, not",
        "speakers holds 0 records, not 2.",
        "tracks is missing.",
    ):
        assert any(line.startswith(words) for line in said), said


@pytest.mark.parametrize("meta", [b"[]", b"{}", b'{"members": [1]}', b'{"members": [], "counts": 5}', b"nonsense"])
def test_check_of_a_foreign_archive_reports_one_problem(zip_file: ZipFile, meta: bytes) -> None:
    assert len(check_archive(zip_file({"meta": meta}))) == 1


def test_demo_archive_is_whole_and_made_by_its_script(tmp_path: Path) -> None:
    committed = ROOT / "deploy" / "local" / "demo-archive.zip"
    assert committed.stat().st_size < 300_000
    assert check_archive(committed) == []
    found = read_archive(committed)
    assert found.report == []
    assert len(found.images) == 14
    programme = found.programme
    assert (len(programme.sessions), len(programme.speakers), len(programme.sponsors)) == (12, 8, 4)
    fold = next(session for session in programme.sessions if session.title.startswith("Half past two"))
    assert (fold.starts_at, fold.ends_at) == ("2027-10-31T02:30:00+02:00", "2027-10-31T02:30:00+01:00")
    script = ROOT / "tests" / "fixtures" / "make_demo_archive.py"
    subprocess.run([sys.executable, script, tmp_path / "made.zip"], check=True, capture_output=True)
    assert read_archive(tmp_path / "made.zip").programme == programme


# Any archive

TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        "1",
        "T",
        "2027-10-31T02:30:00",
        "2027-03-28T02:30",
        "2027-10-30T10:00:00Z",
        "/images/x.png",
        "https://x.example",
    ]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "name", "title"]) | TEXTS, inner, max_size=3)
    ),
    max_leaves=5,
)


def rows_of(shape: shapes.Shape) -> st.SearchStrategy[Any]:
    keys = [key for item in shape.fields for key in item.keys] + ["id", *shape.derived]
    spelt = st.sampled_from([*keys, *(key.replace("_", "-") for key in keys)])
    return st.lists(st.dictionaries(spelt | TEXTS, VALUES, max_size=6), max_size=4)


@given(
    lists=st.fixed_dictionaries({}, optional={shape.member: rows_of(shape) for shape in shapes.LISTS}),
    more=st.dictionaries(st.sampled_from(["latitude", "logo", "social_links", "state", "x-y"]), VALUES, max_size=3),
    extra=st.dictionaries(st.sampled_from(["forms", "tickets", "config.json"]), VALUES, max_size=2),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_archive_is_read_and_survives_the_round_trip(
    tmp_path: Path,
    zip_file: ZipFile,
    lists: dict[str, JsonValue],
    more: dict[str, JsonValue],
    extra: dict[str, JsonValue],
) -> None:
    event = {
        **more,
        "name": "N",
        "timezone": "Europe/Berlin",
        "starts_at": "2027-01-01T00:00",
        "ends_at": "2028-01-01T00:00",
    }
    path = zip_file({"event": event, **lists, **extra, "images/x.png": b"x"})
    found: ReadArchive = read_archive(path)

    def images() -> Iterator[tuple[str, list[bytes]]]:
        return ((image.member, [b"x"]) for image in found.images)

    copy = tmp_path / "copy.zip"
    parts = archive_parts(found.programme, images(), root_url="", created_at="2027-01-01T00:00:00Z")
    copy.write_bytes(b"".join(parts))
    again = read_archive(copy)
    assert again.programme == found.programme
    assert check_archive(copy) == []
    Programme.model_validate_json(found.programme.model_dump_json())
    json.dumps([line.model_dump() for line in found.report], allow_nan=False).encode()


def test_refusals_render_as_problem_documents(zip_file: ZipFile) -> None:
    with pytest.raises(Problem) as refusal:
        read_archive(zip_file({"event": b"{"}))
    document = refusal.value.document()
    assert document["type"] == "urn:rostrum:problem:member-broken"
    assert document["errors"][0]["field"] == "event"
