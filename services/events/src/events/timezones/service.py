"""The zones an event can be in, with their offsets of the present hour."""

import asyncio
import functools
from datetime import UTC, datetime

from events.timezones.schemas import TimezoneList, TimezoneRead
from shared.walltime import TZDATA_VERSION, known_zones, zone_info


async def list_timezones() -> bytes:
    """A ``TimezoneList`` as JSON. Made once an hour per process: it reads 600 files the first time."""
    hour = _present_hour()
    return await asyncio.to_thread(_timezones_at, hour)


def timezone(name: str) -> TimezoneRead:
    """Raises ``UnknownZone`` with what may have been meant."""
    return _timezone_at(name, _present_hour())


def _present_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


@functools.lru_cache(maxsize=1)
def _timezones_at(hour: datetime) -> bytes:
    zones = [_timezone_at(name, hour) for name in sorted(known_zones())]
    return TimezoneList(items=zones, tzdata_version=TZDATA_VERSION).model_dump_json().encode()


def _timezone_at(name: str, hour: datetime) -> TimezoneRead:
    return TimezoneRead(name=name, utc_offset=hour.astimezone(zone_info(name)).isoformat()[19:25])
