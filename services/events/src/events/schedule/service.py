"""Use cases of the schedule."""

from datetime import date, datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from events.schedule import repository
from events.schedule.repository import ScheduleEntry
from events.schedule.rules import FIRST, day_of, start_of
from shared.walltime import zone_info


async def read_schedule(
    session: AsyncSession, event_id: UUID, *, is_own: bool, zone: str, day: str | None
) -> list[tuple[date, list[ScheduleEntry]]]:
    """Return the days in ``zone``, each with its sessions by start.

    ``day`` is a date, ``first`` for the first that has a session, ``None`` for all. Raises ``UnknownZone``,
    ``NoSuchDay``.
    """
    place = zone_info(zone)
    since: datetime | None = None
    until: datetime | None = None
    if day is not None:
        wanted = day_of(day) if day != FIRST else await _first_day(session, event_id, is_own=is_own, zone=zone)
        if wanted is None:
            return []
        since, until = start_of(wanted, zone), start_of(wanted + timedelta(days=1), zone)
    days: dict[date, list[ScheduleEntry]] = {}
    for entry in await repository.list_entries(session, event_id, is_own=is_own, since=since, until=until):
        days.setdefault(entry.starts_at.astimezone(place).date(), []).append(entry)
    return list(days.items())


async def _first_day(session: AsyncSession, event_id: UUID, *, is_own: bool, zone: str) -> date | None:
    first = await repository.first_start(session, event_id, is_own=is_own)
    return None if first is None else first.astimezone(zone_info(zone)).date()
