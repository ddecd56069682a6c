"""Wall times: what a clock on the venue's wall shows, and the instant it stands for.

A wall time is kept as four things: the local reading, the IANA zone, the fold that was chosen and the instant
derived from them. Python neither refuses a reading that a jump of the clock leaves out (a gap) nor asks which of
two equal readings is meant (a fold), and its arithmetic inside one zone ignores both; so everything here is
worked out in UTC and checked by the way back.

Sources: RFC 3339 (section 5.8 for offsets with seconds), RFC 9557 (names in brackets), RFC 5545 3.3.5 (how a
reading inside a gap is understood where it can't be refused).
"""

import difflib
import functools
import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple
from zoneinfo import ZoneInfo

import tzdata  # type: ignore[import-untyped]  # a package of data files

from shared.problems import Problem

# The system's copy of the tz database comes first by default, and is another one on every machine: Debian's
# 2025b still has Vancouver an hour off in the winter of 2026. With no path only the pinned wheel is left, whatever
# PYTHONTZPATH says; zones that somebody loaded before this line are forgotten.
zoneinfo.reset_tzpath(to=())
ZoneInfo.clear_cache()

TZDATA_VERSION: str = tzdata.IANA_VERSION
"""Release of the tz database that derives every instant, such as ``2026f``; stored beside what it derived."""

MAX_LENGTH = 128  # the longest legal value is some 70 characters


class UnknownZone(Problem):
    status = 422
    code = "unknown-zone"
    title = "The time zone is not known"


class NonexistentTime(Problem):
    """``alternatives`` holds the real times before and after the gap, in that order."""

    status = 422
    code = "time-in-gap"
    title = "The clock skips this time"


class AmbiguousTime(Problem):
    """``alternatives`` holds the first and the second occurrence."""

    status = 422
    code = "time-in-fold"
    title = "The clock shows this time twice"


class InvalidTime(Problem):
    status = 422
    code = "invalid-time"
    title = "The time can't be read"


@dataclass(frozen=True, slots=True)
class WallTime:
    """A reading of the clock in a zone. Made by the functions below, which keep the four parts in step."""

    local: datetime
    """Naive: what the clock on the venue's wall shows."""
    zone: str
    """IANA name, as it was given (an alias stays an alias)."""
    fold: int
    """0 for the first of two equal readings and for all that are unique, 1 for the second."""
    instant: datetime
    """Aware, in UTC; derived from the other three with ``TZDATA_VERSION``."""

    def isoformat(self) -> str:
        """RFC 3339 with the zone's offset, such as ``2026-10-25T02:30:00+01:00``.

        It always stands for exactly ``instant``. RFC 3339 has no seconds in offsets, so where the zone's offset
        has some (none is younger than 1972) the closest whole minute is printed and the reading moves with it by
        up to 30 s. A ``rederived`` reading inside a gap is printed as the real time that it stands for.
        """
        place = zone_info(self.zone)
        clock = self.instant.astimezone(place)
        offset = clock.utcoffset()
        if offset is None or offset.seconds % 60:
            clock = self.instant.astimezone(timezone(_printed_offset(self.instant, place)))
        return clock.isoformat()


@functools.cache
def known_zones() -> frozenset[str]:
    """Every name of the pinned tz database, backward aliases such as ``US/Pacific`` included."""
    # "Factory" is what a machine shows whose zone was never set; it is the zone of no place.
    return frozenset(zoneinfo.available_timezones() - {"Factory"})


def zone_info(name: str, *, field: str = "timezone") -> ZoneInfo:
    """The rules of a zone. Raises ``UnknownZone``; only names of the list ever reach the file system."""
    if name not in known_zones():
        close = _close_zones(name)
        way_out = (
            f"Did you mean {' or '.join(close)}?"
            if close
            else "Use an IANA name such as Europe/Berlin; /v1/timezones lists them."
        )
        raise UnknownZone(
            f"{_quoted(name)} is not a zone of the tz database ({TZDATA_VERSION}). {way_out}",
            field=field,
            alternatives=close,
        )
    return _rules(name)


@functools.cache
def _rules(name: str) -> ZoneInfo:
    # zoneinfo itself keeps eight zones and takes half a millisecond to read one from the wheel; all fit in 2 MB.
    return ZoneInfo(name)


def canonical_zone(name: str, *, field: str = "timezone") -> str:
    """The name to store. Raises ``UnknownZone``.

    Exact and case-sensitive, but any name tzdata knows: an alias is kept as given and not replaced by the zone it
    points to, because tzdata's links are sometimes cut later (``America/Ciudad_Juarez``) and what the organizer
    wrote then still says which place was meant.
    """
    zone_info(name, field=field)
    return name


_ZONE_NAMES_OF_ARCHIVES = {"hawaii-aleutian": "Pacific/Honolulu"}


def repaired_zone(name: str) -> str | None:
    """The zone that an archive most likely means, ``None`` when there is no telling. For readers of archives only.

    Beyond exact names: other case, spaces for underscores, spaces round the slash (``US / Pacific``), and names
    that Open Event wrote and tzdata never had.
    """
    if name in known_zones():
        return name
    key = _spelling(name)
    return _ZONE_NAMES_OF_ARCHIVES.get(key) or _zones_by_spelling().get(key)


def _spelling(name: str) -> str:
    # Cut, so that the work stays small; no zone has a name of half this length.
    return "/".join("_".join(part.split()) for part in name[:MAX_LENGTH].split("/")).lower()


@functools.cache
def _zones_by_spelling() -> dict[str, str]:
    return {name.lower(): name for name in known_zones()}


@functools.cache
def _zones_by_place() -> dict[str, str]:
    return {name.rpartition("/")[2].lower(): name for name in sorted(known_zones())} | _zones_by_spelling()


def _close_zones(name: str) -> list[str]:
    repaired = repaired_zone(name)
    if repaired is not None:
        return [repaired]
    by_place = _zones_by_place()
    close = difflib.get_close_matches(_spelling(name), by_place, n=3, cutoff=0.7)
    return list(dict.fromkeys(by_place[spelling] for spelling in close))


def resolve(value: str | datetime, zone: str, *, field: str, fold: int | None = None) -> WallTime:
    """The wall time in ``zone`` that an input means.

    - With an offset (RFC 3339 text, aware datetime) the instant is kept exactly and shown in ``zone``.
    - Without one (local text, naive datetime) it is a reading in ``zone``. ``fold`` chooses among two equal
      readings; so does ``fold=1`` of a naive datetime, while its 0 is taken as no choice.
    - With a zone in brackets (RFC 9557) that zone must read the same as ``zone`` for this value, which aliases
      always do, and an offset beside it must be that zone's. ``Z`` and ``-00:00`` claim no offset (RFC 9557, 2.2).
      Other suffixes are ignored unless marked critical.

    Seconds may be left out, a space may stand for the ``T``, digits beyond microseconds are cut off.
    Raises ``NonexistentTime``, ``AmbiguousTime``, ``InvalidTime``, ``UnknownZone``.
    """
    place = zone_info(zone)
    if fold not in (None, 0, 1):
        raise InvalidTime("fold is 0 for the first of two equal readings, 1 for the second.", field=field)
    if isinstance(value, datetime):
        given = _Given(value.replace(tzinfo=None, fold=0), value.utcoffset(), None, None)
        if fold is None and given.offset is None:
            fold = value.fold or None
    else:
        given = _read(value, field)
    _refuse_far_years(given.local, field)

    if given.offset is None:
        if given.zone is not None and _instants(given.local, zone_info(given.zone)) != _instants(
            given.local, place
        ):
            raise _other_zone(given.zone, zone, field)
        return _strictly(given.local, zone, fold, field)

    wall = _shown(_utc(given.local, given.offset), zone, field)
    if given.zone is not None:
        named = zone_info(given.zone)
        if given.claimed_offset not in (None, _printed_offset(wall.instant, named)):
            raise InvalidTime(
                f"The offset and the zone of {_quoted(value)} disagree: that instant is "
                f"{at(wall.instant, given.zone).isoformat()} in {given.zone}. Leave one of the two out.",
                field=field,
            )
        if wall.instant.astimezone(named).utcoffset() != wall.instant.astimezone(place).utcoffset():
            raise _other_zone(given.zone, zone, field)
    if fold is not None and fold != wall.fold and len(_instants(wall.local, place)) == 2:
        raise InvalidTime(
            f"fold {fold} and the offset disagree: {wall.isoformat()} has fold {wall.fold}. "
            "Leave one of the two out.",
            field=field,
        )
    return wall


class _Given(NamedTuple):
    local: datetime
    offset: timedelta | None
    claimed_offset: timedelta | None  # None too for "Z": it gives the instant and says nothing of the place
    zone: str | None


_FORM = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ](?P<minutes>[0-9]{2}:[0-9]{2})(?::(?P<seconds>[0-9]{2})(?:\.(?P<fraction>[0-9]+))?)?"
    r"(?P<offset>[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])?"
    r"(?:\[!?(?P<zone>[A-Za-z0-9_+./-]+)\])?"
    r"(?P<tags>(?:\[!?[a-z_][a-z0-9_-]*=[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\])*))?"
)


def _read(text: object, field: str) -> _Given:
    form = _FORM.fullmatch(text) if isinstance(text, str) and len(text) <= MAX_LENGTH else None
    if form is None:
        raise InvalidTime(
            f"{_quoted(text)} is not a time. Write 2026-10-25T14:30 (the event's zone is taken), "
            "2026-10-25T14:30:00+01:00 or 2026-10-25T14:30[Europe/Berlin].",
            field=field,
        )
    if form["minutes"] is None:
        raise InvalidTime(
            f"{_quoted(text)} is a date alone; add the time, such as {form['date']}T00:00.", field=field
        )
    if form["seconds"] == "60":
        raise InvalidTime(
            f"{_quoted(text)} names a leap second, which clocks here don't show; "
            "write second 59 or the next minute.",
            field=field,
        )
    if "[!" in form["tags"]:
        raise InvalidTime(
            f"{_quoted(text)} demands a reading (a suffix marked with '!') that is not known here; leave it out.",
            field=field,
        )
    if form["zone"] is not None and form["zone"] not in known_zones():
        close = _close_zones(form["zone"])
        raise InvalidTime(
            f"The zone in the brackets of {_quoted(text)} is not known. "
            + (f"Did you mean {' or '.join(close)}?" if close else "Use the IANA name of the event's zone."),
            field=field,
        )
    fraction = (form["fraction"] or "")[:6].ljust(6, "0")
    try:
        local = datetime.fromisoformat(f"{form['date']}T{form['minutes']}:{form['seconds'] or '00'}.{fraction}")
    except ValueError as error:
        raise InvalidTime(f"{_quoted(text)} is in no calendar or on no clock: {error}.", field=field) from None
    if form["offset"] is None:
        return _Given(local, None, None, form["zone"])
    if form["offset"] in ("Z", "z", "-00:00"):
        return _Given(local, timedelta(0), None, form["zone"])
    hours, _, minutes = form["offset"][1:].partition(":")
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if form["offset"][0] == "-" else 1)
    return _Given(local, offset, offset, form["zone"])


def _other_zone(given: str, wanted: str, field: str) -> InvalidTime:
    return InvalidTime(
        f"The time is given in {given}, but the event's zone is {wanted}, where the clock differs then. "
        f"Give it in {wanted} or with an offset alone.",
        field=field,
    )


def at(instant: datetime, zone: str) -> WallTime:
    """What the clock in ``zone`` shows at an aware ``instant``. Raises ``UnknownZone``, ``InvalidTime``."""
    return _shown(instant, zone, None)


def moved_to(wall: WallTime, zone: str, *, field: str) -> WallTime:
    """The same reading in another zone: the instant moves.

    A choice made for a reading that was shown twice is taken along when the new zone shows it twice as well.
    Raises ``NonexistentTime`` and ``AmbiguousTime`` with the alternatives of the new zone, ``UnknownZone``.
    """
    zone_info(zone)
    _refuse_far_years(wall.local, field)
    was_chosen = len(_instants(wall.local, zone_info(wall.zone))) == 2
    return _strictly(wall.local, zone, wall.fold if was_chosen else None, field)


def rederived(local: datetime, zone: str, fold: int) -> WallTime:
    """The wall time of stored columns by today's tz database; only ``instant`` can be news.

    Never refuses a gap or a fold, since a newer tz database may put a stored reading into one. Inside a gap the
    offset before the jump counts, as in RFC 5545: 02:30 happens when the clock shows 03:30. ``local`` and ``fold``
    come back as stored even where they don't matter now, so nothing is lost when the next release takes the
    change back.
    """
    place = zone_info(zone)
    _refuse_far_years(local, None)
    instants = _instants(local, place)
    instant = instants[min(fold, len(instants) - 1)] if instants else _candidates(local, place)[-1]
    return WallTime(local, zone, fold, instant)


def _strictly(local: datetime, zone: str, fold: int | None, field: str) -> WallTime:
    place = zone_info(zone)
    instants = _instants(local, place)
    if not instants:
        before, after = (at(instant, zone).isoformat() for instant in _candidates(local, place))
        jump_from, jump_to = _jump(local, place)
        raise NonexistentTime(
            f"In {zone} the clock jumps from {jump_from.isoformat()} to {jump_to.isoformat()}, so it never shows "
            f"{local.isoformat()}. Choose another time, such as {before} or {after}.",
            field=field,
            alternatives=[before, after],
        )
    if len(instants) == 2 and fold is None:
        first, second = (at(instant, zone).isoformat() for instant in instants)
        raise AmbiguousTime(
            f"In {zone} the clock shows {local.isoformat()} twice, because it is set back. "
            f"Say which one with the offset: {first} or {second}.",
            field=field,
            alternatives=[first, second],
        )
    chosen = (fold or 0) if len(instants) == 2 else 0
    return WallTime(local, zone, chosen, instants[chosen])


def _shown(instant: datetime, zone: str, field: str | None) -> WallTime:
    if instant.tzinfo is None:
        raise ValueError("an instant carries its offset; a naive datetime is none")
    _refuse_far_years(instant, field)
    place = zone_info(zone)
    instant = instant.astimezone(UTC)
    clock = instant.astimezone(place)
    local = clock.replace(tzinfo=None, fold=0)
    # Python's fold alone is not enough, see _instants.
    fold = 1 if clock.fold and len(_instants(local, place)) == 2 else 0
    return WallTime(local, zone, fold, instant)


def _candidates(local: datetime, place: ZoneInfo) -> list[datetime]:
    """The instants that the offsets round a reading give, earlier first; in a gap none of them shows it."""
    aware = (local.replace(tzinfo=place, fold=fold) for fold in (0, 1))
    return sorted({moment.astimezone(UTC) for moment in aware})


def _instants(local: datetime, place: ZoneInfo) -> list[datetime]:
    """The instants at which the clock shows a reading: none in a gap, two in a fold.

    The way back is the proof. Comparing the offsets of both folds is not: zoneinfo applies the rule for the
    future up to an hour too early, and so sees a fold in America/Nuuk on 2023-10-28 where the clock never moved.
    """
    return [
        instant
        for instant in _candidates(local, place)
        if instant.astimezone(place).replace(tzinfo=None, fold=0) == local
    ]


def _jump(local: datetime, place: ZoneInfo) -> tuple[datetime, datetime]:
    """The readings between which the clock jumps over ``local``."""
    # Jumps happen on whole seconds, so the search needs no finer step.
    before, after = (instant.replace(microsecond=0) for instant in _candidates(local, place))
    offset = before.astimezone(place).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // timedelta(seconds=2) * timedelta(seconds=1)
        if middle.astimezone(place).utcoffset() == offset:
            before = middle
        else:
            after = middle
    last_shown = before.astimezone(place).replace(tzinfo=None)
    return last_shown + timedelta(seconds=1), after.astimezone(place).replace(tzinfo=None)


def _utc(local: datetime, offset: timedelta) -> datetime:
    return (local - offset).replace(tzinfo=UTC)


def _printed_offset(instant: datetime, place: ZoneInfo) -> timedelta:
    offset = instant.astimezone(place).utcoffset() or timedelta(0)
    return timedelta(minutes=round(offset / timedelta(minutes=1)))


def _refuse_far_years(moment: datetime, field: str | None) -> None:
    # One year less than datetime has at each end, so that every zone can show what one zone took.
    if not 2 <= moment.year <= 9998:
        raise InvalidTime(
            f"The year {moment.year:04} is out of range; years run from 0002 to 9998. "
            "Leave the time out if it means 'always'.",
            field=field,
        )


def _quoted(value: object) -> str:
    # repr also makes lone surrogates and control characters harmless, which JSON or a log could not take.
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= MAX_LENGTH else text[:MAX_LENGTH] + "…")
