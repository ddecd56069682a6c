"""The public Open Event samples: real conferences, in all dialects, with everything that is wrong in them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from exports.archive.container import MemberBroken, opened
from exports.archive.limits import LIMITS
from exports.archive.reader import ReadArchive, read_archive
from exports.archive.writer import archive_parts, check_archive

SAMPLES = Path(__file__).parents[5] / "shared" / "samples"

pytestmark = pytest.mark.skipif(not SAMPLES.is_dir(), reason="samples are not beside this checkout")

# sessions, of those with times, speakers, tracks, rooms, types, sponsors, social links, lineup entries, images
COUNTS = {
    "Droidcon17": (37, 37, 33, 2, 3, 5, 11, 4, 34, 44),
    "EhealthAfrica": (0, 0, 0, 0, 0, 0, 0, 3, 0, 2),
    "FBF817": (63, 62, 112, 17, 8, 9, 9, 4, 120, 119),
    "FOSSASIASummit2016": (491, 491, 187, 18, 17, 32, 11, 8, 299, 187),
    "FOSSASIASummit2018": (371, 362, 341, 14, 17, 6, 0, 8, 458, 0),
    "MozillaAllHands16": (32, 31, 23, 10, 26, 8, 5, 8, 34, 14),
    "OTS16": (82, 81, 77, 7, 8, 29, 7, 7, 103, 74),
}


def rewritten(source: Path, found: ReadArchive) -> Iterator[bytes]:
    with opened(source) as archive:
        images = ((image.member, archive.chunks(image.member, LIMITS.image_size)) for image in found.images)
        yield from archive_parts(
            found.programme, images, root_url="https://rostrum.example", created_at="2027-01-01T00:00:00Z"
        )


@pytest.mark.parametrize("name", COUNTS)
def test_sample_is_read_whole(name: str) -> None:
    found = read_archive(SAMPLES / f"{name}.zip")
    programme = found.programme
    assert (
        len(programme.sessions),
        len([session for session in programme.sessions if session.starts_at]),
        len(programme.speakers),
        len(programme.tracks),
        len(programme.microlocations),
        len(programme.session_types),
        len(programme.sponsors),
        len(programme.social_links),
        sum(len(session.speakers) for session in programme.sessions),
        len(found.images),
    ) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_sample_survives_writing_and_reading_without_loss(name: str, tmp_path: Path) -> None:
    source, copy = SAMPLES / f"{name}.zip", tmp_path / "copy.zip"
    found = read_archive(source)
    with copy.open("wb") as file:
        file.writelines(rewritten(source, found))
    again = read_archive(copy)
    assert again.programme == found.programme
    assert again.images == found.images
    assert check_archive(copy) == []
    digest = hashlib.sha256()
    for part in rewritten(copy, again):
        digest.update(part)
    assert digest.hexdigest() == hashlib.sha256(copy.read_bytes()).hexdigest()


def test_sample_with_broken_json_is_refused_by_line() -> None:
    with pytest.raises(MemberBroken) as refusal:
        read_archive(SAMPLES / "FOSSASIASummit2011.zip")
    error = refusal.value.errors[0].as_json()
    assert (error["field"], error["line"], error["column"]) == ("session_types", 12, 5)


@pytest.mark.parametrize(
    ("name", "zone", "starts_at"),
    [
        ("FBF817", "US/Pacific", "2017-04-18T10:00:00-07:00"),
        ("MozillaAllHands16", "Pacific/Honolulu", "2016-12-05T13:00:00-10:00"),
        ("EhealthAfrica", "UTC", "2016-06-30T19:00:00+00:00"),
    ],
)
def test_broken_zones_and_local_times_of_samples_are_repaired(name: str, zone: str, starts_at: str) -> None:
    event = read_archive(SAMPLES / f"{name}.zip").programme.event
    assert (event.timezone, event.starts_at) == (zone, starts_at)
