"""Zips made to harm or simply broken: refused by name, in bounded memory, and never as a failure of ours."""

import copy
import json
import stat
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from shared.problems import Problem

Zipped = Callable[[dict[str, Any]], Path]
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
    """A raw deflate stream of zeros: one block, made once and repeated."""
    block_size = 1 << 24
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(block_size)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (size // block_size) + zlib.compressobj(9, zlib.DEFLATED, -15).flush()


def raw_zip(path: Path, name: str, packed: bytes, *, declared_size: int, packed_size: int | None = None) -> Path:
    """A zip with one deflated member that declares what it likes; with zip64 fields when they are needed."""
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
def test_what_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "archive.zip"
    path.write_bytes(content)
    with pytest.raises(NotAnArchive) as refusal:
        read_archive(path)
    assert (refusal.value.status, refusal.value.code) == (422, "not-a-zip")


def test_a_zip_without_an_event_says_what_it_found(zipped: Zipped) -> None:
    with pytest.raises(EventMissing, match=r"found: holiday\.txt"):
        read_archive(zipped({"holiday.txt": b"sun"}))
    with pytest.raises(EventMissing, match="nothing"):
        read_archive(zipped({}))


def test_ten_megabytes_that_unpack_to_ten_gigabytes_are_refused_at_once(tmp_path: Path) -> None:
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
def test_a_bomb_that_lies_about_its_size_is_refused_in_little_memory(tmp_path: Path, declared: int) -> None:
    path = raw_zip(tmp_path / "bomb.zip", "event", deflated_zeros(10 * GIGABYTE), declared_size=declared)
    tracemalloc.start()
    with pytest.raises((ArchiveTooLarge, MemberBroken)) as refusal:
        read_archive(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 400 <= refusal.value.status < 500
    assert peak < 20_000_000


def test_the_ratio_counts_while_reading_and_names_the_member(tmp_path: Path) -> None:
    size = 64 << 20
    path = raw_zip(tmp_path / "bomb.zip", "images/x.png", deflated_zeros(size), declared_size=size)
    with pytest.raises(ArchiveTooLarge, match="100 times") as refusal:
        list(open_member(path, "images/x.png"))
    assert refusal.value.errors[0].field == "images/x.png"
    # the declared size would pass, were it believed
    loose = Limits(ratio=10**6, image_size=1 << 20)
    with opened(path, loose) as archive, pytest.raises(ArchiveTooLarge, match="1,048,576 bytes"):
        list(archive.chunks("images/x.png", loose.image_size))


def test_the_total_counts_over_all_members(zipped: Zipped) -> None:
    path = zipped({"event": {}, "images/a.png": bytes(600), "images/b.png": bytes(600)})
    with pytest.raises(ArchiveTooLarge, match="1,000 bytes"):
        read_archive(path, Limits(total_size=1_000))


def test_a_packed_size_beyond_the_file_does_not_hide_a_ratio(tmp_path: Path) -> None:
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


def test_more_entries_than_allowed_are_refused_before_they_are_parsed(zipped: Zipped) -> None:
    path = zipped({f"file{number}": b"" for number in range(12)})
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
def test_an_unsafe_name_is_refused_even_when_nothing_uses_it(tmp_path: Path, name: str) -> None:
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
def test_two_members_of_one_name_are_refused(tmp_path: Path, twin: str) -> None:
    path = zip_of(
        tmp_path / "archive.zip", (named("event"), b"{}"), (named("sessions"), b"[]"), (named(twin), b"[]")
    )
    with pytest.raises(DuplicateMember, match="Keep one"):
        read_archive(path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("event", b"{}")
        archive.filelist[0].flag_bits |= 1
    with pytest.raises(EncryptedMember, match="without a password"):
        read_archive(path)


def test_rare_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("event", b"{}")
    with pytest.raises(MemberBroken, match="deflate"):
        read_archive(path)


def test_a_flipped_byte_is_damage_and_named(zipped: Zipped) -> None:
    path = zipped({"event": json.dumps({"name": "x" * 500}).encode()})
    data = bytearray(path.read_bytes())
    data[40] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(MemberBroken) as refusal:
        read_archive(path)
    assert refusal.value.errors[0].field == "event"


def test_a_folder_round_everything_and_junk_of_file_managers_are_ignored(
    zipped: Zipped, event: dict[str, Any]
) -> None:
    path = zipped(
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


def test_a_member_that_is_not_there_is_a_refusal(zipped: Zipped) -> None:
    with pytest.raises(MemberBroken):
        list(open_member(zipped({"event": {}}), "images/none.png"))


def test_no_truncation_and_no_flipped_byte_makes_us_fail(
    zipped: Zipped, event: dict[str, Any], tmp_path: Path
) -> None:
    whole = zipped({"event": event, "sessions": [{"id": 1, "title": "T"}], "images/x.png": bytes(50)}).read_bytes()
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


def test_data_before_and_after_the_zip_does_no_harm(zipped: Zipped, event: dict[str, Any]) -> None:
    path = zipped({"event": event})
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes() + b"trailing")
    assert read_archive(path).programme.event.name == "Long night"
