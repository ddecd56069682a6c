# ruff: noqa: DTZ001, DTZ901 - local times are the subject here
import contextlib
import json
import math
import os
import subprocess
import sys
import time
import zoneinfo
from datetime import UTC, date, datetime, timedelta, timezone
from importlib import resources
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.problems import Problem
from shared.walltime import (
    TZDATA_VERSION,
    AmbiguousTime,
    EndsBeforeItStarts,
    InvalidTime,
    NonexistentTime,
    UnknownZone,
    WallTime,
    at,
    canonical_zone,
    check_order,
    known_zones,
    moved_to,
    rederived,
    resolve,
    zone_info,
    zone_spelled_like,
)

# Computed with IANA 2026f: number, zone, local time, its offsets and its instants. Two are a fold.
UNIQUE = """
 5 Europe/Dublin         2025-01-15T12:00 +00:00 2025-01-15T12:00Z
 6 Australia/Lord_Howe   2025-01-15T12:00 +11:00 2025-01-15T01:00Z
 7 Australia/Lord_Howe   2025-07-15T12:00 +10:30 2025-07-15T01:30Z
10 Africa/Casablanca     2025-02-20T12:00 +01:00 2025-02-20T11:00Z
11 Africa/Casablanca     2025-03-10T12:00 +00:00 2025-03-10T12:00Z
14 Africa/Casablanca     2026-12-01T12:00 +00:00 2026-12-01T12:00Z
15 Pacific/Apia          2011-12-29T23:30 -10:00 2011-12-30T09:30Z
17 Pacific/Apia          2011-12-31T00:30 +14:00 2011-12-30T10:30Z
18 Pacific/Apia          2022-01-15T12:00 +13:00 2022-01-14T23:00Z
19 Asia/Kolkata          2025-07-01T12:00 +05:30 2025-07-01T06:30Z
20 Asia/Kathmandu        2025-07-01T12:00 +05:45 2025-07-01T06:15Z
21 Asia/Kathmandu        1985-06-01T12:00 +05:30 1985-06-01T06:30Z
22 Pacific/Chatham       2025-01-15T12:00 +13:45 2025-01-14T22:15Z
23 Pacific/Kiritimati    2025-01-01T12:00 +14:00 2024-12-31T22:00Z
24 Antarctica/Troll      2025-01-15T12:00 +00:00 2025-01-15T12:00Z
25 Antarctica/Troll      2025-07-15T12:00 +02:00 2025-07-15T10:00Z
28 Europe/Moscow         2010-07-01T12:00 +04:00 2010-07-01T08:00Z
29 Europe/Moscow         2014-10-25T12:00 +04:00 2014-10-25T08:00Z
31 Europe/Moscow         2014-10-26T12:00 +03:00 2014-10-26T09:00Z
32 Africa/Cairo          2022-07-15T12:00 +02:00 2022-07-15T10:00Z
34 Africa/Cairo          2023-07-15T12:00 +03:00 2023-07-15T09:00Z
36 America/Mexico_City   2022-07-15T12:00 -05:00 2022-07-15T17:00Z
38 America/Mexico_City   2023-07-15T12:00 -06:00 2023-07-15T18:00Z
39 America/Tijuana       2023-07-15T12:00 -07:00 2023-07-15T19:00Z
40 America/Ciudad_Juarez 2023-07-15T12:00 -06:00 2023-07-15T18:00Z
41 America/Nuuk          2023-01-15T12:00 -03:00 2023-01-15T15:00Z
43 America/Nuuk          2023-07-15T12:00 -02:00 2023-07-15T14:00Z
44 America/Nuuk          2024-01-15T12:00 -02:00 2024-01-15T14:00Z
45 America/Nuuk          2024-07-15T12:00 -01:00 2024-07-15T13:00Z
46 Asia/Almaty           2024-02-29T12:00 +06:00 2024-02-29T06:00Z
48 Asia/Almaty           2024-03-01T12:00 +05:00 2024-03-01T07:00Z
50 America/Sao_Paulo     2019-12-01T12:00 -03:00 2019-12-01T15:00Z
52 Asia/Tehran           2023-07-01T12:00 +03:30 2023-07-01T08:30Z
53 America/Asuncion      2025-07-15T12:00 -03:00 2025-07-15T15:00Z
54 America/Vancouver     2026-07-01T12:00 -07:00 2026-07-01T19:00Z
55 America/Vancouver     2026-12-01T12:00 -07:00 2026-12-01T19:00Z
56 America/Edmonton      2026-12-01T12:00 -06:00 2026-12-01T18:00Z
57 Europe/Chisinau       2026-03-29T02:30 +02:00 2026-03-29T00:30Z
"""
FOLDS = """
 2 America/New_York    2025-11-02T01:30 -04:00 -05:00 2025-11-02T05:30Z 2025-11-02T06:30Z
 4 Europe/London       2025-10-26T01:30 +01:00 +00:00 2025-10-26T00:30Z 2025-10-26T01:30Z
 8 Australia/Lord_Howe 2025-04-06T01:45 +11:00 +10:30 2025-04-05T14:45Z 2025-04-05T15:15Z
12 Africa/Casablanca   2026-02-15T02:30 +01:00 +00:00 2026-02-15T01:30Z 2026-02-15T02:30Z
27 Antarctica/Troll    2025-10-26T01:30 +02:00 +00:00 2025-10-25T23:30Z 2025-10-26T01:30Z
30 Europe/Moscow       2014-10-26T01:30 +04:00 +03:00 2014-10-25T21:30Z 2014-10-25T22:30Z
35 Africa/Cairo        2023-10-26T23:30 +03:00 +02:00 2023-10-26T20:30Z 2023-10-26T21:30Z
37 America/Mexico_City 2022-10-30T01:30 -05:00 -06:00 2022-10-30T06:30Z 2022-10-30T07:30Z
47 Asia/Almaty         2024-02-29T23:30 +06:00 +05:00 2024-02-29T17:30Z 2024-02-29T18:30Z
"""
# number, zone, local time, the existing times before and after (with the offset after the jump, then before it),
# the local times between which the clock jumps, and the instants of the existing times
GAPS = """
 1 America/New_York    2025-03-09T02:30 2025-03-09T01:30:00-05:00 2025-03-09T03:30:00-04:00 \
2025-03-09T02:00 2025-03-09T03:00 2025-03-09T06:30Z 2025-03-09T07:30Z
 3 Europe/London       2025-03-30T01:30 2025-03-30T00:30:00+00:00 2025-03-30T02:30:00+01:00 \
2025-03-30T01:00 2025-03-30T02:00 2025-03-30T00:30Z 2025-03-30T01:30Z
 9 Australia/Lord_Howe 2025-10-05T02:15 2025-10-05T01:45:00+10:30 2025-10-05T02:45:00+11:00 \
2025-10-05T02:00 2025-10-05T02:30 2025-10-04T15:15Z 2025-10-04T15:45Z
13 Africa/Casablanca   2026-03-22T02:30 2026-03-22T01:30:00+00:00 2026-03-22T03:30:00+01:00 \
2026-03-22T02:00 2026-03-22T03:00 2026-03-22T01:30Z 2026-03-22T02:30Z
16 Pacific/Apia        2011-12-30T12:00 2011-12-29T12:00:00-10:00 2011-12-31T12:00:00+14:00 \
2011-12-30T00:00 2011-12-31T00:00 2011-12-29T22:00Z 2011-12-30T22:00Z
26 Antarctica/Troll    2025-03-30T01:30 2025-03-29T23:30:00+00:00 2025-03-30T03:30:00+02:00 \
2025-03-30T01:00 2025-03-30T03:00 2025-03-29T23:30Z 2025-03-30T01:30Z
33 Africa/Cairo        2023-04-28T00:30 2023-04-27T23:30:00+02:00 2023-04-28T01:30:00+03:00 \
2023-04-28T00:00 2023-04-28T01:00 2023-04-27T21:30Z 2023-04-27T22:30Z
42 America/Nuuk        2023-03-25T22:30 2023-03-25T21:30:00-03:00 2023-03-25T23:30:00-02:00 \
2023-03-25T22:00 2023-03-25T23:00 2023-03-26T00:30Z 2023-03-26T01:30Z
49 America/Sao_Paulo   2018-11-04T00:30 2018-11-03T23:30:00-03:00 2018-11-04T01:30:00-02:00 \
2018-11-04T00:00 2018-11-04T01:00 2018-11-04T02:30Z 2018-11-04T03:30Z
51 America/Santiago    2025-09-07T00:30 2025-09-06T23:30:00-04:00 2025-09-07T01:30:00-03:00 \
2025-09-07T00:00 2025-09-07T01:00 2025-09-07T03:30Z 2025-09-07T04:30Z
"""


def vectors(table: str) -> list[Any]:
    rows = [line.split() for line in table.strip().splitlines()]
    return [pytest.param(*cells, id=f"{number}-{cells[0]}") for number, *cells in rows]


def refusal(problem: Problem) -> dict[str, Any]:
    """The one field error of a problem document, as a client gets it."""
    document = json.loads(json.dumps(problem.document()))
    assert document["status"] == 422
    (error,) = document["errors"]
    return dict(error)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_no_vector_is_missing() -> None:
    numbers = [int(line.split()[0]) for table in (UNIQUE, FOLDS, GAPS) for line in table.strip().splitlines()]
    assert sorted(numbers) == list(range(1, 58))


@pytest.mark.parametrize(("zone", "text", "offset", "instant"), vectors(UNIQUE))
def test_unique_local_time_has_one_instant(zone: str, text: str, offset: str, instant: str) -> None:
    wall = resolve(text, zone, field="starts_at")
    assert wall == WallTime(datetime.fromisoformat(text), zone, 0, utc(instant))
    assert wall.isoformat() == f"{text}:00{offset}"
    assert wall.instant.tzinfo is UTC
    assert wall.local.tzinfo is None
    # every other way to say the same time
    assert resolve(wall.isoformat(), zone, field="starts_at") == wall
    assert resolve(instant, zone, field="starts_at") == wall
    assert resolve(f"{text}[{zone}]", zone, field="starts_at") == wall
    assert resolve(f"{text}{offset}[{zone}]", zone, field="starts_at") == wall
    assert resolve(text, zone, field="starts_at", fold=1) == wall
    assert at(utc(instant), zone) == wall


@pytest.mark.parametrize(("zone", "text", "offset_1", "offset_2", "first", "second"), vectors(FOLDS))
def test_ambiguous_time_is_refused_with_both_occurrences_unless_one_is_chosen(
    zone: str, text: str, offset_1: str, offset_2: str, first: str, second: str
) -> None:
    with pytest.raises(AmbiguousTime) as caught:
        resolve(text, zone, field="sessions.3.starts_at")
    error = refusal(caught.value)
    assert error["field"] == "sessions.3.starts_at"
    assert error["alternatives"] == [f"{text}:00{offset_1}", f"{text}:00{offset_2}"]
    with pytest.raises(AmbiguousTime):
        resolve(f"{text}[{zone}]", zone, field="starts_at")

    local = datetime.fromisoformat(text)
    for fold, (instant, offset) in enumerate([(first, offset_1), (second, offset_2)]):
        wall = WallTime(local, zone, fold, utc(instant))
        assert wall.isoformat() == error["alternatives"][fold]
        assert resolve(error["alternatives"][fold], zone, field="starts_at") == wall
        assert resolve(text, zone, field="starts_at", fold=fold) == wall
        assert resolve(instant, zone, field="starts_at") == wall
        assert resolve(f"{text}{offset}[{zone}]", zone, field="starts_at") == wall
        assert at(utc(instant), zone) == wall
        assert rederived(local, zone, fold) == wall


@pytest.mark.parametrize(
    ("zone", "text", "before", "after", "jump_from", "jump_to", "instant_before", "instant_after"), vectors(GAPS)
)
def test_nonexistent_time_is_refused_with_the_times_around_the_gap(
    zone: str,
    text: str,
    before: str,
    after: str,
    jump_from: str,
    jump_to: str,
    instant_before: str,
    instant_after: str,
) -> None:
    for value in (text, f"{text}[{zone}]", f"{text}:00.000001"):
        with pytest.raises(NonexistentTime) as caught:
            resolve(value, zone, field="starts_at", fold=1)  # a fold chooses nothing here
        assert f"jumps from {jump_from}:00 to {jump_to}:00" in caught.value.detail
    with pytest.raises(NonexistentTime) as caught:
        resolve(text, zone, field="starts_at")
    error = refusal(caught.value)
    assert error["alternatives"] == [before, after]
    for alternative, instant in zip(error["alternatives"], (instant_before, instant_after), strict=True):
        wall = resolve(alternative, zone, field="starts_at")
        assert wall.instant == utc(instant)
        assert wall.isoformat() == alternative


def test_tz_database_is_the_pinned_release() -> None:
    assert TZDATA_VERSION == "2026f"
    assert zoneinfo.TZPATH == ()
    noon = datetime(2026, 12, 1, 12)
    assert rederived(noon, "Africa/Casablanca", 0).isoformat() == "2026-12-01T12:00:00+00:00"
    assert rederived(noon, "America/Vancouver", 0).isoformat() == "2026-12-01T12:00:00-07:00"
    assert rederived(noon, "America/Edmonton", 0).isoformat() == "2026-12-01T12:00:00-06:00"
    assert resolve("2026-03-29T02:30", "Europe/Chisinau", field="starts_at").fold == 0  # was a gap


def run_with_stale_tzdata(code: str, folder: Path) -> str:
    """Run code in a new process, in which Vancouver has the rules of UTC by ``PYTHONTZPATH``; return its output."""
    stale = folder / "America" / "Vancouver"
    stale.parent.mkdir()
    stale.write_bytes(resources.files("tzdata").joinpath("zoneinfo", "Etc", "UTC").read_bytes())
    environment = {**os.environ, "PYTHONTZPATH": str(folder)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_pinned_tzdata_wins_over_the_system_even_for_zones_loaded_before(tmp_path: Path) -> None:
    printed = run_with_stale_tzdata(
        """
from datetime import datetime
from zoneinfo import ZoneInfo
from shared.walltime import resolve, use_pinned_tzdata

noon = datetime(2026, 12, 1, 12)
loaded_before = ZoneInfo("America/Vancouver")
print(noon.replace(tzinfo=loaded_before).isoformat())
use_pinned_tzdata()
print(noon.replace(tzinfo=ZoneInfo("America/Vancouver")).isoformat())
print(resolve("2026-12-01T12:00", "America/Vancouver", field="x").isoformat())
""",
        tmp_path,
    )
    assert printed.split() == [
        "2026-12-01T12:00:00+00:00",
        "2026-12-01T12:00:00-07:00",
        "2026-12-01T12:00:00-07:00",
    ]


def test_process_that_did_not_choose_the_pinned_tzdata_computes_nothing(tmp_path: Path) -> None:
    printed = run_with_stale_tzdata(
        """
from shared.walltime import resolve

try:
    resolve("2026-12-01T12:00", "America/Vancouver", field="x")
except RuntimeError as error:
    print(error)
""",
        tmp_path,
    )
    assert "use_pinned_tzdata" in printed


@pytest.mark.parametrize(
    "start",
    [
        "from shared.http.app import new_app; new_app(settings, [], title='x', description='x')",
        "from shared.jobs.worker import new_worker_broker; new_worker_broker(settings, open_, {}, queue='x.jobs')",
        "from shared.messaging.__main__ import main; main(['--help'])",
    ],
    ids=["api", "worker", "operator"],
)
def test_processes_choose_the_pinned_tzdata_when_they_start(start: str, tmp_path: Path) -> None:
    printed = run_with_stale_tzdata(
        f"""
import atexit, zoneinfo
from contextlib import asynccontextmanager
from shared.settings import Settings

@asynccontextmanager
async def open_(_):
    yield None

atexit.register(lambda: print(zoneinfo.TZPATH))
settings = Settings(service="x")
{start}
""",
        tmp_path,
    )
    assert printed.splitlines()[-1] == "()"


# Conversion and back


INSTANTS = st.one_of(
    st.datetimes(datetime(1850, 1, 1), datetime(2150, 1, 1)),
    st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)),
).map(lambda moment: moment.replace(tzinfo=UTC))


@settings(max_examples=15, deadline=None)
@given(instant=INSTANTS)
def test_every_instant_survives_conversion_to_every_zone(instant: datetime) -> None:
    for zone in known_zones():
        wall = at(instant, zone)
        assert wall.instant == instant
        assert rederived(wall.local, zone, wall.fold).instant == instant


@settings(max_examples=120, deadline=None)
@given(instant=INSTANTS, zone=st.sampled_from(sorted(known_zones())))
def test_printed_time_resolves_to_the_same_time(instant: datetime, zone: str) -> None:
    wall = at(instant, zone)
    try:
        assert resolve(wall.isoformat(), zone, field="x") == wall
        assert resolve(wall.local, zone, field="x", fold=wall.fold) == wall
        assert resolve(wall.local.isoformat(), zone, field="x", fold=wall.fold) == wall
        assert resolve(f"{wall.isoformat()}[{zone}]", zone, field="x") == wall
    except InvalidTime:
        assert wall.local.year in (1, 9999)


@settings(max_examples=120, deadline=None)
@given(local=st.datetimes(datetime(1850, 1, 1), datetime(2150, 1, 1)), zone=st.sampled_from(sorted(known_zones())))
def test_every_local_time_survives_conversion_unless_it_does_not_exist(local: datetime, zone: str) -> None:
    try:
        wall = resolve(local, zone, field="x", fold=0)
    except NonexistentTime as gap:
        before, after = (resolve(text, zone, field="x") for text in gap.errors[0].as_json()["alternatives"])
        assert before.local < local < after.local
    else:
        assert at(wall.instant, zone) == wall
        assert wall.local == local


def transitions(zone: str, first: datetime, last: datetime) -> list[tuple[datetime, timedelta, timedelta]]:
    """Instants at which the offset of a zone changes, with the offsets on both sides."""
    rules = ZoneInfo(zone)

    def offset(moment: datetime) -> timedelta:
        found = moment.astimezone(rules).utcoffset()
        assert found is not None
        return found

    found, week = [], timedelta(days=7)
    while first < last:
        before, after = first, first + week
        if offset(before) != offset(after):
            while after - before > timedelta(seconds=1):
                middle = (before + (after - before) / 2).replace(microsecond=0)
                if offset(middle) == offset(first):
                    before = middle
                else:
                    after = middle
            found.append((after, offset(first), offset(after)))
        first += week
    return found


def test_gaps_and_folds_of_two_years_are_found_to_the_second() -> None:
    gaps = folds = 0
    for zone in known_zones():
        for jump, old, new in transitions(zone, datetime(2025, 6, 1, tzinfo=UTC), datetime(2027, 6, 1, tzinfo=UTC)):
            earlier, later = sorted((jump + old, jump + new))
            first, last = (moment.replace(tzinfo=None) for moment in (earlier, later - timedelta(microseconds=1)))
            outside = (first - timedelta(microseconds=1), later.replace(tzinfo=None))
            if new > old:
                gaps += 1
                for local in (first, last):
                    with pytest.raises(NonexistentTime, match=f"from {first.isoformat()} to "):
                        resolve(local, zone, field="x")
            else:
                folds += 1
                for local in (first, last):
                    instants = [resolve(local, zone, field="x", fold=fold).instant for fold in (0, 1)]
                    assert instants[1] - instants[0] == old - new
                    with pytest.raises(AmbiguousTime):
                        resolve(local, zone, field="x")
            for local in outside:
                assert resolve(local, zone, field="x").fold == 0
    assert gaps > 200
    assert folds > 200


def test_local_time_that_python_wrongly_sees_as_ambiguous_is_unique() -> None:
    # Nuuk stayed at -02:00 that night; zoneinfo applies the rule of the following years one hour too early.
    wall = resolve("2023-10-28T23:30", "America/Nuuk", field="x")
    assert wall.isoformat() == "2023-10-28T23:30:00-02:00"
    assert at(wall.instant, "America/Nuuk") == wall


# Zones


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../etc/passwd",
        "Europe/../Europe/Berlin",
        "/usr/share/zoneinfo/Europe/Berlin",
        "Europe",
        "Europe/",
        "Europe//Berlin",
        "Europe/Berlin\0",
        "Europe/Berlin\n",
        "\0",
        "Europe\\Berlin",
        "C:\\zone",
        "tzdata.zi",
        "zone.tab",
        "posixrules",
        "localtime",
        "Factory",
        "CET-1CEST",
        "+01:00",
        "\ud800",
        "europe/berlin",
        " Europe/Berlin",
        "Europe/Berlin" * 100_000,
        "a" * 1_000_000,
        " " * 1_000_000,
        "/" * 1_000_000,
    ],
    ids=lambda name: repr(name[:24]),
)
def test_unknown_zone_is_refused(name: str) -> None:
    began = time.process_time()
    with pytest.raises(UnknownZone) as caught:
        zone_info(name, field="event.timezone")
    assert time.process_time() - began < 1
    error = refusal(caught.value)
    assert error["field"] == "event.timezone"
    assert len(error["message"]) < 1000
    caught.value.detail.encode()  # a lone surrogate could not be sent
    for function in (canonical_zone, lambda zone: resolve("2026-10-25T12:00", zone, field="x")):
        with pytest.raises(UnknownZone):
            function(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("New York", "America/New_York"),
        ("America/New York", "America/New_York"),
        ("US / Pacific", "US/Pacific"),
        ("Asia/Calcuta", "Asia/Calcutta"),
    ],
)
def test_misspelled_zone_is_refused_with_the_likely_name(name: str, meant: str) -> None:
    with pytest.raises(UnknownZone) as caught:
        zone_info(name)
    assert refusal(caught.value)["alternatives"][0] == meant
    assert meant in caught.value.detail


@pytest.mark.parametrize("alias", ["Asia/Calcutta", "US/Pacific", "Europe/Kiev", "UTC", "Etc/GMT+5", "EST5EDT"])
def test_alias_is_accepted_and_kept_as_given(alias: str) -> None:
    assert canonical_zone(alias) == alias
    assert alias in known_zones()
    assert resolve("2026-07-01T12:00", alias, field="x").zone == alias


def test_etc_zones_have_the_sign_of_posix() -> None:
    assert resolve("2026-07-01T12:00", "Etc/GMT+5", field="x").isoformat() == "2026-07-01T12:00:00-05:00"


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("US / Pacific", "US/Pacific"),
        ("US / Eastern", "US/Eastern"),
        ("Europe/Berlin", "Europe/Berlin"),
        ("europe/BERLIN", "Europe/Berlin"),
        ("America/New York", "America/New_York"),
        ("america / argentina / buenos  aires", "America/Argentina/Buenos_Aires"),
        ("utc", "UTC"),
        ("", None),
        ("/", None),
        ("Berlin", None),
        ("../etc/passwd", None),
        ("Europe/Berlin\0", None),
        ("factory", None),
        ("a" * 1_000_000, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_zone_is_found_whatever_its_case_blanks_and_underscores(name: str, zone: str | None) -> None:
    assert zone_spelled_like(name) == zone


def test_every_known_zone_loads() -> None:
    assert len(known_zones()) > 590
    for name in known_zones():
        assert zone_info(name).key == name
        assert zone_spelled_like(name.lower()) == name


# Input


@pytest.mark.parametrize(
    "value",
    [
        "2026-07-01T12:00",
        "2026-07-01 12:00",
        "2026-07-01t12:00:00",
        "2026-07-01T12:00:00.000",
        "2026-07-01T12:00:00.000000999999",
        "2026-07-01T12:00:00+02:00",
        "2026-07-01 12:00:00+02:00",
        "2026-07-01T10:00Z",
        "2026-07-01t10:00:00z",
        "2026-07-01T10:00:00-00:00",
        "2026-07-01T05:30:00-04:30",
        "2026-07-01T12:00[Europe/Berlin]",
        "2026-07-01T12:00[!Europe/Berlin]",
        "2026-07-01T12:00+02:00[Europe/Berlin]",
        "2026-07-01T12:00:00+02:00[!Europe/Berlin][u-ca=gregory]",
        "2026-07-01T12:00[u-ca=hebrew][_private=a-b2]",
        "2026-07-01T10:00Z[Europe/Berlin]",
        "2026-07-01T10:00:00-00:00[Europe/Berlin]",
        "2026-07-01T12:00[Europe/Vienna]",
        datetime(2026, 7, 1, 12),
        datetime(2026, 7, 1, 10, tzinfo=UTC),
        datetime(2026, 7, 1, 19, tzinfo=ZoneInfo("Asia/Tokyo")),
        datetime(2026, 7, 1, 10, 0, 30, tzinfo=timezone(timedelta(seconds=30))),
    ],
    ids=str,
)
def test_every_form_of_noon_in_berlin_is_the_same_time(value: str | datetime) -> None:
    wall = resolve(value, "Europe/Berlin", field="x")
    assert wall == WallTime(datetime(2026, 7, 1, 12), "Europe/Berlin", 0, datetime(2026, 7, 1, 10, tzinfo=UTC))
    assert wall.isoformat() == "2026-07-01T12:00:00+02:00"


GARBAGE: list[Any] = [
    "",
    " ",
    "NaN",
    "nan",
    "null",
    "Infinity",
    "-1",
    "0",
    "1e999",
    "now",
    "12:00",
    "20260701T120000",
    "2026-07-01",
    "2026-07-01T",
    "2026-07-01T12",
    "2026-07-01T12:00 ",
    " 2026-07-01T12:00",
    "2026-07-01  12:00",
    "2026-07-01T12:00\n",
    "2026-07-01T12:00\0",
    "2026-07-01T12:00:00,5",
    "2026-07-01T12:00:00.",
    "2026-7-1T12:00",
    "2026-07-01T9:00",
    "2010-03-01T115:30",
    "2026-13-01T12:00",
    "2026-02-29T12:00",
    "2026-02-30T12:00Z",
    "2026-07-01T24:00",
    "2026-07-01T12:60",
    "2026-07-01T12:00:61",
    "+2026-07-01T12:00",
    "12026-07-01T12:00",
    "2026-W27-3T12:00",
    "2026-182T12:00",
    "2026-07-01T12:00+1",
    "2026-07-01T12:00+0200",
    "2026-07-01T12:00+02:00:30",
    "2026-07-01T12:00+24:00",
    "2026-07-01T12:00+02:60",
    "2026-07-01T12:00\u221202:00",
    "2026-07-01T12:00 CEST",
    "\u0662\u0660\u0662\u0666-07-01T12:00",
    "\ud800",
    "2026-07-01T12:00" + "[a=b]" * 100_000,
    "9" * 1_000_000,
    "2026-07-01T12:00:00." + "0" * 1_000_000,
    None,
    math.nan,
    0,
    True,
    b"2026-07-01T12:00",
    date(2026, 7, 1),
    [],
]


@pytest.mark.parametrize("value", GARBAGE, ids=lambda value: repr(value)[:30])
def test_invalid_time_is_refused_and_quoted(value: Any) -> None:
    with pytest.raises(InvalidTime) as caught:
        resolve(value, "Europe/Berlin", field="ends_at")
    error = refusal(caught.value)
    assert error["field"] == "ends_at"
    assert len(error["message"]) < 1000
    caught.value.detail.encode()


@settings(max_examples=120, deadline=None)
@given(
    valid=st.sampled_from(["2026-09-06T00:30:00.5-04:00[America/Santiago][u-ca=iso8601]", "2026-04-05 23:30"]),
    start=st.integers(0, 60),
    length=st.integers(0, 8),
    other=st.text("0123456789:-+[]!=TZ \0/azé٣", max_size=8),
)
def test_any_text_is_a_time_or_a_problem(valid: str, start: int, length: int, other: str) -> None:
    value = valid[:start] + other + valid[start + length :]
    with contextlib.suppress(Problem):
        resolve(value, "America/Santiago", field="x").isoformat()


@pytest.mark.parametrize(
    "value", ["2016-12-31T23:59:60Z", "2016-12-31T23:59:60", "2017-01-01T00:59:60.5+01:00[Europe/Berlin]"]
)
def test_leap_second_is_refused_with_an_alternative(value: str) -> None:
    with pytest.raises(InvalidTime, match=r"leap second.*second 59"):
        resolve(value, "Europe/Berlin", field="x")


def test_date_without_time_is_refused_with_an_alternative() -> None:
    with pytest.raises(InvalidTime, match="add the time"):
        resolve("2026-07-01", "Europe/Berlin", field="x")


@pytest.mark.parametrize(
    "zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago", "Africa/Monrovia", "Asia/Manila"]
)
@pytest.mark.parametrize(
    "value",
    [
        "0000-01-01T00:00Z",
        "0001-01-01T00:00",
        "0001-01-01T00:00:00+23:59",
        "0001-12-31T23:59:00-23:59",
        "9999-12-31T23:59:59.999999",
        "9999-12-31T23:59:59-23:59",
        "9998-12-31T23:59:59-23:59",
        "0001-01-01T00:00[Asia/Tokyo]",
        datetime.min,
        datetime.max,
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=ZoneInfo("Asia/Tokyo")),
        datetime.max.replace(tzinfo=ZoneInfo("Pacific/Pago_Pago")),
    ],
    ids=str,
)
def test_first_and_last_year_are_refused(value: str | datetime, zone: str) -> None:
    with pytest.raises(InvalidTime):
        resolve(value, zone, field="x")


def test_first_and_last_year_are_refused_in_conversions_too() -> None:
    for edge in (datetime.min, datetime.max):
        with pytest.raises(InvalidTime):
            at(edge.replace(tzinfo=UTC), "Asia/Tokyo")
        with pytest.raises(InvalidTime):
            rederived(edge, "Asia/Tokyo", 0)
        with pytest.raises(InvalidTime):
            moved_to(WallTime(edge, "UTC", 0, edge.replace(tzinfo=UTC)), "Asia/Tokyo", field="x")


@pytest.mark.parametrize("value", ["0002-01-01T00:00Z", "9998-12-31T23:59:59.999999Z"])
def test_times_at_the_limits_exist_in_every_zone(value: str) -> None:
    wall = resolve(value, "UTC", field="x")
    for zone in known_zones():
        assert utc(at(wall.instant, zone).isoformat()) == wall.instant


def test_offset_with_seconds_is_printed_as_the_closest_minute_of_the_same_instant() -> None:
    wall = resolve("1971-06-01T12:00", "Africa/Monrovia", field="x")  # -00:44:30
    assert wall.instant == datetime(1971, 6, 1, 12, 44, 30, tzinfo=UTC)
    assert wall.isoformat() == "1971-06-01T12:00:30-00:44"
    assert resolve(wall.isoformat(), "Africa/Monrovia", field="x") == wall
    assert resolve(wall.isoformat() + "[Africa/Monrovia]", "Africa/Monrovia", field="x") == wall


def test_naive_datetime_is_not_an_instant() -> None:
    with pytest.raises(ValueError, match="naive"):
        at(datetime(2026, 7, 1), "Europe/Berlin")


# RFC 9557


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2026-07-01T12:00[Europe/London]", "Send it in Europe/Berlin"),
        ("2026-07-01T12:00+01:00[Europe/London]", "Send it in Europe/Berlin"),
        ("2026-07-01T12:00Z[America/New_York]", "Send it in Europe/Berlin"),
        ("2026-07-01T12:00[UTC]", "Send it in Europe/Berlin"),
        ("2026-07-01T12:00+01:00[Europe/Berlin]", "2026-07-01T13:00:00+02:00"),
        ("2026-07-01T12:00+00:00[Europe/Berlin]", "disagree"),
        ("2026-03-29T02:30+01:00[Europe/Berlin]", "disagree"),
        ("2026-10-25T02:30+03:00[Europe/Berlin]", "disagree"),
        ("2026-07-01T12:00[Europe/Berln]", "Did you mean Europe/Berlin"),
        ("2026-07-01T12:00[../etc/passwd]", "brackets"),
        ("2026-07-01T12:00[+02:00]", "not a time"),
        ("2026-07-01T12:00[]", "not a time"),
        ("2026-07-01T12:00[!]", "not a time"),
        ("2026-07-01T12:00[Europe/Berlin", "not a time"),
        ("2026-07-01T12:00[Europe/Berlin][Europe/Berlin]", "not a time"),
        ("2026-07-01T12:00[u-ca=gregory][Europe/Berlin]", "not a time"),
        ("2026-07-01T12:00[Europe/Berlin][!u-ca=hebrew]", "leave the suffix out"),
        ("2026-07-01T12:00[U-CA=gregory]", "not a time"),
        ("2026-07-01[Europe/Berlin]", "not a time"),
    ],
)
def test_contradictory_or_unsupported_suffix_is_refused(value: str, words: str) -> None:
    with pytest.raises(InvalidTime) as caught:
        resolve(value, "Europe/Berlin", field="x")
    assert words in caught.value.detail
    assert refusal(caught.value)["field"] == "x"


def test_alias_in_brackets_agrees_with_its_zone() -> None:
    for value in ("2026-11-01T01:30-07:00[US/Pacific]", "2026-07-01T12:00[US/Pacific]"):
        assert resolve(value, "America/Los_Angeles", field="x").zone == "America/Los_Angeles"
    with pytest.raises(AmbiguousTime):
        resolve("2026-11-01T01:30[US/Pacific]", "America/Los_Angeles", field="x")


# Folds


def test_fold_that_contradicts_the_offset_is_refused() -> None:
    first = "2026-10-25T02:30:00+02:00"
    assert resolve(first, "Europe/Berlin", field="x", fold=0).fold == 0
    with pytest.raises(InvalidTime, match="disagree"):
        resolve(first, "Europe/Berlin", field="x", fold=1)
    with pytest.raises(InvalidTime, match="fold 2 must be 0"):
        resolve(first, "Europe/Berlin", field="x", fold=2)


def test_fold_of_a_datetime_counts_only_if_it_is_1() -> None:
    twice = datetime(2026, 10, 25, 2, 30)
    with pytest.raises(AmbiguousTime):
        resolve(twice, "Europe/Berlin", field="x")
    assert resolve(twice.replace(fold=1), "Europe/Berlin", field="x").fold == 1
    assert resolve(twice.replace(fold=1), "Europe/Berlin", field="x", fold=0).fold == 0
    berlin = ZoneInfo("Europe/Berlin")
    assert resolve(twice.replace(tzinfo=berlin), "Europe/Berlin", field="x").fold == 0
    assert resolve(twice.replace(tzinfo=berlin, fold=1), "Europe/Berlin", field="x").fold == 1


# Zone changes and new releases


def test_local_time_stays_when_the_zone_changes() -> None:
    wall = resolve("2026-07-01T19:00", "UTC", field="x")
    moved = moved_to(wall, "Europe/Berlin", field="x")
    assert (moved.local, moved.zone) == (wall.local, "Europe/Berlin")
    assert moved.instant == datetime(2026, 7, 1, 17, tzinfo=UTC)
    assert moved_to(moved, "UTC", field="x") == wall


def test_zone_change_into_a_gap_or_fold_is_refused_with_alternatives() -> None:
    with pytest.raises(NonexistentTime) as gap:
        moved_to(resolve("2026-03-29T02:30", "UTC", field="x"), "Europe/Berlin", field="starts_at")
    assert refusal(gap.value)["alternatives"] == ["2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"]
    with pytest.raises(AmbiguousTime) as fold:
        moved_to(resolve("2026-10-25T02:30", "UTC", field="x"), "Europe/Berlin", field="starts_at")
    assert refusal(fold.value)["alternatives"] == ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"]


def test_chosen_fold_is_kept_in_a_zone_with_the_same_fold() -> None:
    for fold in (0, 1):
        wall = resolve("2026-10-25T02:30", "Europe/Berlin", field="x", fold=fold)
        moved = moved_to(wall, "Europe/Paris", field="x")
        assert (moved.zone, moved.fold, moved.instant) == ("Europe/Paris", fold, wall.instant)
        assert moved_to(wall, "UTC", field="x").fold == 0


def test_stored_time_in_a_new_gap_happens_after_the_jump_and_stays_as_stored() -> None:
    stored = datetime(2026, 3, 29, 2, 30)
    for fold in (0, 1):
        wall = rederived(stored, "Europe/Berlin", fold)
        assert (wall.local, wall.fold) == (stored, fold)
        assert wall.instant == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
        assert wall.isoformat() == "2026-03-29T03:30:00+02:00"


def test_stored_fold_is_kept_where_it_does_not_matter() -> None:
    wall = rederived(datetime(2026, 7, 1, 12), "Europe/Berlin", 1)
    assert wall.fold == 1
    assert wall.isoformat() == "2026-07-01T12:00:00+02:00"


# Two times


def test_end_must_be_a_later_instant_than_the_start() -> None:
    first, second = (resolve("2026-10-25T02:30", "Europe/Berlin", field="x", fold=fold) for fold in (0, 1))
    later_on_the_clock = resolve("2026-10-25T02:45", "Europe/Berlin", field="x", fold=0)
    check_order(later_on_the_clock, second, field="ends_at")
    for starts, ends in ((second, later_on_the_clock), (first, first)):
        with pytest.raises(EndsBeforeItStarts) as caught:
            check_order(starts, ends, field="ends_at")
        assert refusal(caught.value)["field"] == "ends_at"
