"""Wall times: what a clock on the venue's wall shows, and the instant that it stands for.

Python neither refuses a local time that the clock skips (a gap) nor asks which of two equal ones is meant (a
fold), and its arithmetic within one zone ignores both. So this module computes in UTC and converts back as a check.
Sources: RFC 3339, 5.8 (offsets with seconds); RFC 9557 (zones in brackets); RFC 5545, 3.3.5 (times in a gap).
"""

import difflib
import functools
import re
import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from importlib import resources
from typing import NamedTuple
from zoneinfo import ZoneInfo

from shared.problems import Problem


def _tzdata_version() -> str:
    with resources.files("tzdata").joinpath("zoneinfo", "tzdata.zi").open("r", encoding="ascii") as file:
        return file.readline().removeprefix("# version ").strip()


TZDATA_VERSION = _tzdata_version()
"""Release of the tz database that derives every instant, such as ``2026f``; stored beside what it derived."""

MAX_LENGTH = 128  # the longest valid value has about 70 characters


def use_pinned_tzdata() -> None:
    """Make the tz database of the ``tzdata`` package the only one of this process. Call it when a process starts.

    By default zoneinfo prefers ``PYTHONTZPATH`` and the system's copy, which differ between machines. Zones that
    zoneinfo has loaded before are dropped from its cache.
    """
    zoneinfo.reset_tzpath(to=())
    ZoneInfo.clear_cache()


class UnknownZone(Problem):
    status = 422
    code = "unknown-zone"
    title = "Unknown time zone"


class NonexistentTime(Problem):
    """``alternatives`` holds the existing times before and after the gap, in this sequence."""

    status = 422
    code = "time-in-gap"
    title = "Nonexistent local time"


class AmbiguousTime(Problem):
    """``alternatives`` holds the first and the second occurrence."""

    status = 422
    code = "time-in-fold"
    title = "Ambiguous local time"


class InvalidTime(Problem):
    status = 422
    code = "invalid-time"
    title = "Invalid time"


class EndsBeforeItStarts(Problem):
    status = 422
    code = "ends-before-it-starts"
    title = "End before start"


@dataclass(frozen=True, slots=True)
class WallTime:
    """A local time in a zone. Only the functions below make one, so that the four parts agree."""

    local: datetime
    """Naive: what the clock on the venue's wall shows."""
    zone: str
    """IANA name as it was given: an alias stays an alias."""
    fold: int
    """1 for the second of two equal local times, else 0."""
    instant: datetime
    """Aware, in UTC; derived from the other three with ``TZDATA_VERSION``."""

    def isoformat(self) -> str:
        """Return ``instant`` as RFC 3339 text with the zone's offset, such as ``2026-10-25T02:30:00+01:00``.

        RFC 3339 has no seconds in offsets. Where the zone's offset has some (before 1972), the text has the closest
        whole minute, and a local time that differs by up to 30 s. A ``rederived`` local time in a gap becomes the
        existing time that it stands for.
        """
        place = zone_info(self.zone)
        clock = self.instant.astimezone(place)
        offset = clock.utcoffset()
        if offset is None or offset.seconds % 60:
            clock = self.instant.astimezone(timezone(_printed_offset(self.instant, place)))
        return clock.isoformat()


@functools.cache
def known_zones() -> frozenset[str]:
    """Return every name of the pinned tz database, including backward aliases such as ``US/Pacific``.

    Raises ``RuntimeError`` before ``use_pinned_tzdata``: zones of another release would derive wrong instants.
    """
    if zoneinfo.TZPATH:
        raise RuntimeError("Call shared.walltime.use_pinned_tzdata() when the process starts.")
    # "Factory" stands for a machine whose zone was never set, not for a place.
    return frozenset(zoneinfo.available_timezones() - {"Factory"})


def zone_info(name: str, *, field: str = "timezone") -> ZoneInfo:
    """Return the rules of a zone. Raises ``UnknownZone``; only known names reach the file system."""
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
    # zoneinfo itself keeps only eight zones, and all of them are small.
    return ZoneInfo(name)


def canonical_zone(name: str, *, field: str = "timezone") -> str:
    """Return the name to store, which is the given one. Raises ``UnknownZone``.

    An alias is not replaced by its target: tzdata sometimes turns a link into a zone of its own
    (``America/Ciudad_Juarez``), and then the organizer's own word still says which place was meant.
    """
    zone_info(name, field=field)
    return name


def zone_spelled_like(name: str) -> str | None:
    """Return the zone whose name differs in case, blanks and underscores only, such as ``us / pacific``."""
    return name if name in known_zones() else _zones_by_spelling().get(_spelling(name))


def _spelling(name: str) -> str:
    # Cut to bound the work; no zone has a name of half this length.
    return "/".join("_".join(part.split()) for part in name[:MAX_LENGTH].split("/")).lower()


@functools.cache
def _zones_by_spelling() -> dict[str, str]:
    return {name.lower(): name for name in known_zones()}


@functools.cache
def _zones_by_place() -> dict[str, str]:
    return {name.rpartition("/")[2].lower(): name for name in sorted(known_zones())} | _zones_by_spelling()


def _close_zones(name: str) -> list[str]:
    same = zone_spelled_like(name)
    if same is not None:
        return [same]
    by_place = _zones_by_place()
    close = difflib.get_close_matches(_spelling(name), by_place, n=3, cutoff=0.7)
    return list(dict.fromkeys(by_place[spelling] for spelling in close))


def resolve(value: str | datetime, zone: str, *, field: str, fold: int | None = None) -> WallTime:
    """Return the wall time in ``zone`` that an input means.

    - With an offset (RFC 3339 text, aware datetime) the input is an instant.
    - Without one (local text, naive datetime) it is a local time in ``zone``. ``fold`` chooses between two equal
      ones; so does ``fold=1`` of a naive datetime, while its 0 is not a choice.
    - With a zone in brackets (RFC 9557), that zone must agree with ``zone`` for this value, as aliases always do,
      and an offset must be that zone's. ``Z`` and ``-00:00`` claim no offset (RFC 9557, 2.2). Other suffixes are
      ignored unless marked critical.

    Seconds are optional, a space may replace the ``T``, digits beyond microseconds are cut off.
    Raises ``NonexistentTime``, ``AmbiguousTime``, ``InvalidTime``, ``UnknownZone``.
    """
    place = zone_info(zone)
    if fold not in (None, 0, 1):
        raise InvalidTime(
            f"fold {fold!r} must be 0, for the first of two equal local times, or 1, for the second.", field=field
        )
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

    wall = _clock_at(_utc(given.local, given.offset), zone, field)
    if given.zone is not None:
        named = zone_info(given.zone)
        if given.claimed_offset not in (None, _printed_offset(wall.instant, named)):
            raise InvalidTime(
                f"The offset and the zone of {_quoted(value)} disagree: that instant is "
                f"{at(wall.instant, given.zone).isoformat()} in {given.zone}. Send one of the two only.",
                field=field,
            )
        if wall.instant.astimezone(named).utcoffset() != wall.instant.astimezone(place).utcoffset():
            raise _other_zone(given.zone, zone, field)
    if fold is not None and fold != wall.fold and len(_instants(wall.local, place)) == 2:
        raise InvalidTime(
            f"fold {fold} and the offset disagree: {wall.isoformat()} has fold {wall.fold}. "
            "Send one of the two only.",
            field=field,
        )
    return wall


class _Given(NamedTuple):
    local: datetime
    offset: timedelta | None
    claimed_offset: timedelta | None  # also None for "Z", which gives the instant and says nothing about the place
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
            f"{_quoted(text)} is not a time. Use 2026-10-25T14:30 (in the event's zone), "
            "2026-10-25T14:30:00+01:00 or 2026-10-25T14:30[Europe/Berlin].",
            field=field,
        )
    if form["minutes"] is None:
        raise InvalidTime(
            f"{_quoted(text)} is a date without a time; add the time, such as {form['date']}T00:00.", field=field
        )
    if form["seconds"] == "60":
        raise InvalidTime(
            f"{_quoted(text)} is a leap second, which cannot be stored; use second 59 or the next minute.",
            field=field,
        )
    if "[!" in form["tags"]:
        raise InvalidTime(
            f"{_quoted(text)} has a suffix marked as critical ('!') that is not supported; leave the suffix out.",
            field=field,
        )
    if form["zone"] is not None and form["zone"] not in known_zones():
        close = _close_zones(form["zone"])
        raise InvalidTime(
            f"The zone in the brackets of {_quoted(text)} is unknown. "
            + (f"Did you mean {' or '.join(close)}?" if close else "Use the IANA name of the event's zone."),
            field=field,
        )
    fraction = (form["fraction"] or "")[:6].ljust(6, "0")
    try:
        local = datetime.fromisoformat(f"{form['date']}T{form['minutes']}:{form['seconds'] or '00'}.{fraction}")
    except ValueError as error:
        raise InvalidTime(f"{_quoted(text)} is not a date and time: {error}.", field=field) from None
    if form["offset"] is None:
        return _Given(local, None, None, form["zone"])
    if form["offset"] in ("Z", "z", "-00:00"):
        return _Given(local, timedelta(0), None, form["zone"])
    hours, _, minutes = form["offset"][1:].partition(":")
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if form["offset"][0] == "-" else 1)
    return _Given(local, offset, offset, form["zone"])


def _other_zone(given: str, wanted: str, field: str) -> InvalidTime:
    return InvalidTime(
        f"The time is in {given}, but the event is in {wanted}, where the clock differs then. "
        f"Send it in {wanted}, or with an offset only.",
        field=field,
    )


def check_order(starts: WallTime, ends: WallTime, *, field: str) -> None:
    """Raise ``EndsBeforeItStarts`` at ``field`` unless the end is a later instant; a clock may be set back."""
    if ends.instant <= starts.instant:
        raise EndsBeforeItStarts(
            f"The end, {ends.isoformat()}, must be after the start, {starts.isoformat()}. "
            "Change the end, or send both times together.",
            field=field,
        )


def at(instant: datetime, zone: str) -> WallTime:
    """Return what the clock in ``zone`` shows at an aware ``instant``. Raises ``UnknownZone``, ``InvalidTime``."""
    return _clock_at(instant, zone, None)


def moved_to(wall: WallTime, zone: str, *, field: str) -> WallTime:
    """Return the same local time in another zone, so that the instant moves.

    The fold that was chosen stays chosen if the local time is ambiguous in the new zone too.
    Raises ``NonexistentTime`` and ``AmbiguousTime`` with the alternatives of the new zone, ``UnknownZone``.
    """
    zone_info(zone)
    _refuse_far_years(wall.local, field)
    was_chosen = len(_instants(wall.local, zone_info(wall.zone))) == 2
    return _strictly(wall.local, zone, wall.fold if was_chosen else None, field)


def rederived(local: datetime, zone: str, fold: int) -> WallTime:
    """Return the wall time of stored columns by the current tz database: only ``instant`` may differ.

    Never refuses a gap or a fold, because a newer tz database may put a stored local time into one. In a gap the
    offset before the jump counts, as in RFC 5545: 02:30 happens when the clock shows 03:30. ``local`` and ``fold``
    are returned as stored even where they do not matter now, since a later release may revert the change.
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
            f"{local.isoformat()} does not exist in {zone}, where the clock jumps from {jump_from.isoformat()} to "
            f"{jump_to.isoformat()}. Use another time, such as {before} or {after}.",
            field=field,
            alternatives=[before, after],
        )
    if len(instants) == 2 and fold is None:
        first, second = (at(instant, zone).isoformat() for instant in instants)
        raise AmbiguousTime(
            f"{local.isoformat()} happens twice in {zone}, where the clock is set back. "
            f"Choose one by its offset: {first} or {second}.",
            field=field,
            alternatives=[first, second],
        )
    chosen = (fold or 0) if len(instants) == 2 else 0
    return WallTime(local, zone, chosen, instants[chosen])


def _clock_at(instant: datetime, zone: str, field: str | None) -> WallTime:
    if instant.tzinfo is None:
        raise ValueError("An instant must have an offset; this datetime is naive.")
    _refuse_far_years(instant, field)
    place = zone_info(zone)
    instant = instant.astimezone(UTC)
    clock = instant.astimezone(place)
    local = clock.replace(tzinfo=None, fold=0)
    # Python's own fold is not enough, see _instants.
    fold = 1 if clock.fold and len(_instants(local, place)) == 2 else 0
    return WallTime(local, zone, fold, instant)


def _candidates(local: datetime, place: ZoneInfo) -> list[datetime]:
    """Return the instants that the offsets around a local time give, earlier first; in a gap, none shows it."""
    aware = (local.replace(tzinfo=place, fold=fold) for fold in (0, 1))
    return sorted({moment.astimezone(UTC) for moment in aware})


def _instants(local: datetime, place: ZoneInfo) -> list[datetime]:
    """Return the instants at which the clock shows a local time: none in a gap, two in a fold.

    Only converting back proves it. Comparing the offsets of both folds does not: zoneinfo applies the rule for the
    future up to an hour too early, and so sees a fold in America/Nuuk on 2023-10-28 where the clock never moved.
    """
    return [
        instant
        for instant in _candidates(local, place)
        if instant.astimezone(place).replace(tzinfo=None, fold=0) == local
    ]


def _jump(local: datetime, place: ZoneInfo) -> tuple[datetime, datetime]:
    """Return the local times between which the clock jumps over ``local``."""
    # Clocks jump on whole seconds.
    before, after = (instant.replace(microsecond=0) for instant in _candidates(local, place))
    offset = before.astimezone(place).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) // timedelta(seconds=2) * timedelta(seconds=1)
        if middle.astimezone(place).utcoffset() == offset:
            before = middle
        else:
            after = middle
    last = before.astimezone(place).replace(tzinfo=None)
    return last + timedelta(seconds=1), after.astimezone(place).replace(tzinfo=None)


def _utc(local: datetime, offset: timedelta) -> datetime:
    return (local - offset).replace(tzinfo=UTC)


def _printed_offset(instant: datetime, place: ZoneInfo) -> timedelta:
    offset = instant.astimezone(place).utcoffset() or timedelta(0)
    return timedelta(minutes=round(offset / timedelta(minutes=1)))


def _refuse_far_years(moment: datetime, field: str | None) -> None:
    # One year less than datetime has at each end, so that a time accepted in one zone exists in every zone.
    if not 2 <= moment.year <= 9998:
        raise InvalidTime(
            f"The year {moment.year:04} is out of range; it must be between 0002 and 9998. "
            "Leave the time out if it means 'always'.",
            field=field,
        )


def _quoted(value: object) -> str:
    # repr also escapes lone surrogates and control characters, which break JSON and logs.
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= MAX_LENGTH else text[:MAX_LENGTH] + "…")
