"""Hostile and broken zips: refused by name, in bounded memory, and never a 500."""

import copy
import json
import stat
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from exports.archive.container import (
    ArchiveTooLarge,
    DuplicateMember,
    EncryptedMember,
    MemberBroken,
    NotAnArchive,
    UnsafeName,
    opened,
)
from exports.archive.limits import Limits
from exports.archive.reader import EventMissing, open_member, read_archive
from services.exports.tests.factories import Members, ZipFile
from shared.problems import Problem

GIGABYTE = 1 << 30


def zip_of(path: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return path


def named(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


def deflated_zeros(size: int) -> bytes:
    """Return a raw deflate stream of zeros: one block, repeated."""
    block_size = 1 << 24
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(block_size)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size // block_size) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def raw_zip(path: Path, name: str, packed: bytes, *, declared_size: int, packed_size: int | None = None) -> Path:
    """Return a zip of one deflated member with any declared sizes; it has zip64 fields when they need them."""
    stored_size = len(packed) if packed_size is None else packed_size
    is_large = declared_size > 0xFFFFFFFF
    extra = struct.pack("<HHQQ", 1, 16, declared_size, stored_size) if is_large else b""
    sizes = (0xFFFFFFFF, 0xFFFFFFFF) if is_large else (stored_size, declared_size)
    head = struct.pack("<HHHHHLLLHH", 45, 0, 8, 0, 33, 0, *sizes, len(name), len(extra))
    local = b"PK\x03\x04" + head + name.encode() + extra
    central = b"PK\x01\x02" + struct.pack("<H", 0x032D) + head + struct.pack("<HHHLL", 0, 0, 0, 0o100644 << 16, 0)
    central += name.encode() + extra
    end = b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(central), len(local) + len(packed), 0)
    path.write_bytes(local + packed + central + end)
    return path


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x05\x06" + bytes(3), b"PK\x03\x04" + bytes(500), b"\x89PNG\r\n\x1a\n" + bytes(99)],
)
def test_file_other_than_a_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "archive.zip"
    path.write_bytes(content)
    with pytest.raises(NotAnArchive) as refusal:
        read_archive(path)
    assert (refusal.value.status, refusal.value.code) == (422, "not-a-zip")


def test_refusal_of_a_zip_without_an_event_names_its_members(zip_file: ZipFile) -> None:
    with pytest.raises(EventMissing, match=r"found: holiday\.txt"):
        read_archive(zip_file({"holiday.txt": b"sun"}))
    with pytest.raises(EventMissing, match="nothing"):
        read_archive(zip_file({}))


def test_ten_megabytes_that_unpack_to_ten_gigabytes_are_refused_before_unpacking(tmp_path: Path) -> None:
    packed = deflated_zeros(10 * GIGABYTE)
    assert len(packed) < 11_000_000
    path = raw_zip(tmp_path / "bomb.zip", "event", packed, declared_size=10 * GIGABYTE)
    tracemalloc.start()
    with pytest.raises(ArchiveTooLarge) as refusal:
        read_archive(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refusal.value.status == 413
    assert peak < 5_000_000


@pytest.mark.parametrize("declared", [300, 900_000_000, 0xFFFFFFFF])
def test_bomb_with_a_false_size_is_refused_in_bounded_memory(tmp_path: Path, declared: int) -> None:
    path = raw_zip(tmp_path / "bomb.zip", "event", deflated_zeros(10 * GIGABYTE), declared_size=declared)
    tracemalloc.start()
    with pytest.raises((ArchiveTooLarge, MemberBroken)) as refusal:
        read_archive(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 400 <= refusal.value.status < 500
    assert peak < 20_000_000


def test_ratio_is_checked_while_reading_and_the_refusal_names_the_member(tmp_path: Path) -> None:
    size = 64 << 20
    path = raw_zip(tmp_path / "bomb.zip", "images/x.png", deflated_zeros(size), declared_size=size)
    with pytest.raises(ArchiveTooLarge, match="100 times") as refusal:
        list(open_member(path, "images/x.png"))
    assert refusal.value.errors[0].field == "images/x.png"
    # the declared size alone would pass
    loose = Limits(ratio=10**6, image_size=1 << 20)
    with opened(path, loose) as archive, pytest.raises(ArchiveTooLarge, match="1,048,576 bytes"):
        list(archive.chunks("images/x.png", loose.image_size))


def test_total_size_counts_all_members(zip_file: ZipFile) -> None:
    path = zip_file({"event": {}, "images/a.png": bytes(600), "images/b.png": bytes(600)})
    with pytest.raises(ArchiveTooLarge, match="1,000 bytes"):
        read_archive(path, Limits(total_size=1_000))


def test_packed_size_beyond_the_end_of_the_file_does_not_hide_a_ratio(tmp_path: Path) -> None:
    packed = deflated_zeros(64 << 20)
    path = raw_zip(
        tmp_path / "b.zip", "event", packed, declared_size=64 << 20, packed_size=len(packed) + 10_000_000
    )
    with pytest.raises(NotAnArchive, match="overlaps"):
        read_archive(path)


def test_entries_that_share_their_data_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("event", b"{}")
        twin = copy.copy(archive.filelist[0])
        twin.filename = "sessions"
        archive.filelist.append(twin)
    with pytest.raises(NotAnArchive, match="overlaps"):
        read_archive(path)


def test_more_entries_than_allowed_are_refused_before_they_are_parsed(zip_file: ZipFile) -> None:
    path = zip_file({f"file{number}": b"" for number in range(12)})
    with pytest.raises(ArchiveTooLarge, match="more than 10 entries"):
        read_archive(path, Limits(entries=10))
    with pytest.raises(ArchiveTooLarge):
        read_archive(path, Limits(directory_size=100))


def test_a_million_entries_cost_no_memory(tmp_path: Path) -> None:
    entry = (
        b"PK\x01\x02" + struct.pack("<HHHHHHLLLHHHHHLL", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    )
    directory = entry * 1_000_000
    path = tmp_path / "archive.zip"
    path.write_bytes(directory + b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 1, 1, len(directory), 0, 0))
    del directory
    tracemalloc.start()
    with pytest.raises(ArchiveTooLarge, match="entries"):
        read_archive(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../../etc/passwd",
            "images/../../x",
            "/etc/passwd",
            "C:\\w\\x",
            "C:/x",
            "images\\x",
            "images//x",
            "./event",
        ),
        *("a\x00b", "a\nb", "x" * 256, ".."),
    ],
)
def test_unsafe_name_is_refused_even_when_no_record_uses_it(tmp_path: Path, name: str) -> None:
    path = zip_of(tmp_path / "archive.zip", (named("event"), b"{}"), (named(name), b"x"))
    with pytest.raises(UnsafeName) as refusal:
        read_archive(path)
    field = refusal.value.errors[0].field
    assert (refusal.value.status, refusal.value.code) == (422, "unsafe-member-name")
    assert field.isprintable()
    assert field.startswith(name[0])


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    link = named("images/x.png")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(UnsafeName, match="link"):
        read_archive(zip_of(tmp_path / "archive.zip", (named("event"), b"{}"), (link, b"/etc/passwd")))


@pytest.mark.parametrize("twin", ["Sessions", "sessions"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_with_one_name_are_refused(tmp_path: Path, twin: str) -> None:
    path = zip_of(
        tmp_path / "archive.zip", (named("event"), b"{}"), (named("sessions"), b"[]"), (named(twin), b"[]")
    )
    with pytest.raises(DuplicateMember, match="Keep one"):
        read_archive(path)


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("event", b"{}")
        archive.filelist[0].flag_bits |= 1
    with pytest.raises(EncryptedMember, match="without a password"):
        read_archive(path)


def test_compression_other_than_deflate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("event", b"{}")
    with pytest.raises(MemberBroken, match="deflate"):
        read_archive(path)


def test_refusal_of_a_flipped_byte_names_the_member(zip_file: ZipFile) -> None:
    path = zip_file({"event": json.dumps({"name": "x" * 500}).encode()})
    data = bytearray(path.read_bytes())
    data[40] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(MemberBroken) as refusal:
        read_archive(path)
    assert refusal.value.errors[0].field == "event"


def test_enclosing_folder_and_files_of_file_managers_are_ignored(zip_file: ZipFile, event: Members) -> None:
    path = zip_file(
        {
            "My event/": b"",
            "My event/event": event,
            "My event/.DS_Store": b"x",
            "__MACOSX/My event/._event": b"x",
            "My event/images/logo.png": b"picture",
            "My event/sponsors": [{"id": 1, "name": "S", "logo_url": "/images/logo.png"}],
        }
    )
    found = read_archive(path)
    assert found.report == []
    assert found.images[0].member == "images/logo.png"
    assert b"".join(open_member(path, "images/logo.png")) == b"picture"


def test_unknown_member_is_refused(zip_file: ZipFile) -> None:
    with pytest.raises(MemberBroken):
        list(open_member(zip_file({"event": {}}), "images/none.png"))


def test_every_truncation_and_flipped_byte_is_read_or_refused(
    zip_file: ZipFile, event: Members, tmp_path: Path
) -> None:
    whole = zip_file(
        {"event": event, "sessions": [{"id": 1, "title": "T"}], "images/x.png": bytes(50)}
    ).read_bytes()
    refusals: list[Problem] = []
    for position in range(len(whole)):
        for damaged in (
            whole[:position],
            whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :],
        ):
            path = tmp_path / "damaged.zip"
            path.write_bytes(damaged)
            try:
                read_archive(path)
            except Problem as problem:
                refusals.append(problem)
    assert {problem.code for problem in refusals} >= {"not-a-zip", "member-broken"}
    assert all(400 <= problem.status < 500 for problem in refusals)


def test_data_before_and_after_the_zip_is_ignored(zip_file: ZipFile, event: Members) -> None:
    path = zip_file({"event": event})
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes() + b"trailing")
    assert read_archive(path).programme.event.name == "Long night"
