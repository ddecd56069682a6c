"""Decisions about events that need no database."""

import secrets
import string
from datetime import timedelta
from typing import Protocol

from events.times import Timed, ends_of, starts_of
from shared.problems import Invalid
from shared.walltime import WallTime, canonical_zone, check_order, moved_to, resolve

MAX_DURATION = timedelta(days=366)
IDENTIFIER_LENGTH = 8

_LETTERS_AND_DIGITS = string.ascii_lowercase + string.digits


class LastsTooLong(Invalid):
    code = "lasts-too-long"
    title = "Event too long"


class GivenTimes(Protocol):
    """The fields of a request that decide when an event is; ``None`` for a field that was not sent."""

    @property
    def timezone(self) -> str | None: ...
    @property
    def starts_at(self) -> str | None: ...
    @property
    def ends_at(self) -> str | None: ...
    @property
    def starts_fold(self) -> int | None: ...
    @property
    def ends_fold(self) -> int | None: ...


def new_identifier() -> str:
    """Return eight characters for links, at least one of them a letter, so that it is never read as a number."""
    while True:
        identifier = "".join(secrets.choice(_LETTERS_AND_DIGITS) for _ in range(IDENTIFIER_LENGTH))
        if not identifier.isdigit():
            return identifier


def times_of_new_event(zone: str, starts_at: str, ends_at: str, folds: GivenTimes) -> tuple[WallTime, WallTime]:
    """Return start and end. Raises the problems of ``shared.walltime``, ``LastsTooLong``."""
    canonical_zone(zone)
    starts = resolve(starts_at, zone, field="starts_at", fold=folds.starts_fold)
    ends = resolve(ends_at, zone, field="ends_at", fold=folds.ends_fold)
    _check_duration(starts, ends)
    return starts, ends


def times_after_change(stored: Timed, stored_zone: str, given: GivenTimes) -> tuple[str, WallTime, WallTime]:
    """Return zone, start and end after a change. A new zone keeps the local times; a new fold chooses again.

    Raises the problems of ``shared.walltime``, ``LastsTooLong``.
    """
    zone = canonical_zone(given.timezone or stored_zone)
    starts = _after_change(starts_of(stored, stored_zone), zone, given.starts_at, given.starts_fold, "starts_at")
    ends = _after_change(ends_of(stored, stored_zone), zone, given.ends_at, given.ends_fold, "ends_at")
    _check_duration(starts, ends)
    return zone, starts, ends


def _after_change(wall: WallTime, zone: str, text: str | None, fold: int | None, field: str) -> WallTime:
    if text is not None:
        return resolve(text, zone, field=field, fold=fold)
    if fold is not None:
        return resolve(wall.local, zone, field=field, fold=fold)
    return wall if zone == wall.zone else moved_to(wall, zone, field=field)


def _check_duration(starts: WallTime, ends: WallTime) -> None:
    check_order(starts, ends, field="ends_at")
    if ends.instant - starts.instant > MAX_DURATION:
        raise LastsTooLong(
            f"From {starts.isoformat()} to {ends.isoformat()} is too long: an event must not be longer than "
            f"{MAX_DURATION.days} days. Split it into several events.",
            field="ends_at",
        )
