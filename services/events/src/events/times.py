"""From the time columns of an event or a session to ``WallTime``, and back."""

from datetime import datetime
from typing import Protocol, TypedDict

from shared.walltime import TZDATA_VERSION, WallTime


class TimeColumns(TypedDict):
    starts_local: datetime
    starts_fold: int
    starts_at: datetime
    ends_local: datetime
    ends_fold: int
    ends_at: datetime
    tzdata_version: str


class Timed(Protocol):
    """A row with times, an event or a scheduled session; the zone is the event's."""

    @property
    def starts_local(self) -> datetime | None: ...
    @property
    def starts_fold(self) -> int | None: ...
    @property
    def starts_at(self) -> datetime | None: ...
    @property
    def ends_local(self) -> datetime | None: ...
    @property
    def ends_fold(self) -> int | None: ...
    @property
    def ends_at(self) -> datetime | None: ...


def starts_of(row: Timed, zone: str) -> WallTime:
    return _wall(row.starts_local, zone, row.starts_fold, row.starts_at)


def ends_of(row: Timed, zone: str) -> WallTime:
    return _wall(row.ends_local, zone, row.ends_fold, row.ends_at)


def _wall(local: datetime | None, zone: str, fold: int | None, instant: datetime | None) -> WallTime:
    if local is None or fold is None or instant is None:
        raise ValueError("The session is not scheduled, so it has no times.")
    return WallTime(local, zone, fold, instant)


def time_columns(starts: WallTime, ends: WallTime) -> TimeColumns:
    return {
        "starts_local": starts.local,
        "starts_fold": starts.fold,
        "starts_at": starts.instant,
        "ends_local": ends.local,
        "ends_fold": ends.fold,
        "ends_at": ends.instant,
        "tzdata_version": TZDATA_VERSION,
    }
