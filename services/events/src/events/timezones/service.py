"""Use cases of time zones, with their offsets in the current hour."""

import asyncio
import functools
from datetime import UTC, datetime

from events.timezones.schemas import TimezoneList, TimezoneRead
from shared.walltime import TZDATA_VERSION, known_zones, zone_info


async def list_timezones() -> bytes:
    """Return a ``TimezoneList`` as JSON. It is computed once an hour per process, because it reads 600 files."""
    hour = _current_hour()
    return await asyncio.to_thread(_timezones_at, hour)


def timezone(name: str) -> TimezoneRead:
    """Return a zone. Raises ``UnknownZone`` with the likely names."""
    return _timezone_at(name, _current_hour())


def _current_hour() -> datetime:
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


@functools.lru_cache(maxsize=1)
def _timezones_at(hour: datetime) -> bytes:
    zones = [_timezone_at(name, hour) for name in sorted(known_zones())]
    return TimezoneList(items=zones, tzdata_version=TZDATA_VERSION).model_dump_json().encode()


def _timezone_at(name: str, hour: datetime) -> TimezoneRead:
    return TimezoneRead(name=name, utc_offset=hour.astimezone(zone_info(name)).isoformat()[19:25])
