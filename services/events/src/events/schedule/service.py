"""Use cases of the schedule."""

from datetime import date, datetime, time, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from events.schedule import repository
from events.sessions.repository import Lineups
from shared.problems import Invalid
from shared.walltime import rederived, zone_info

FIRST: Literal["first"] = "first"


class NoSuchDay(Invalid):
    code = "no-such-day"
    title = "Invalid day"


async def read_schedule(
    session: AsyncSession, event_id: UUID, *, is_own: bool, zone: str, day: str | None
) -> tuple[list[tuple[date, list[Row[*tuple[Any, ...]]]]], Lineups]:
    """Days as the clocks of ``zone`` count them, each with its sessions in the order in which they happen.

    ``day`` is a date, ``first`` for the first that has a session, ``None`` for all. Raises ``UnknownZone``,
    ``NoSuchDay``.
    """
    place = zone_info(zone)
    since: datetime | None = None
    until: datetime | None = None
    if day is not None:
        wanted = await _wanted_day(session, event_id, is_own=is_own, zone=zone, day=day)
        if wanted is None:
            return [], {}
        since, until = _start_of(wanted, zone), _start_of(wanted + timedelta(days=1), zone)
    rows, lineups = await repository.scheduled(session, event_id, is_own=is_own, since=since, until=until)
    days: dict[date, list[Row[*tuple[Any, ...]]]] = {}
    for row in rows:
        days.setdefault(row.starts_at.astimezone(place).date(), []).append(row)
    return list(days.items()), lineups


async def _wanted_day(session: AsyncSession, event_id: UUID, *, is_own: bool, zone: str, day: str) -> date | None:
    if day == FIRST:
        first = await repository.first_start(session, event_id, is_own=is_own)
        return None if first is None else first.astimezone(zone_info(zone)).date()
    try:
        wanted = date.fromisoformat(day)
    except ValueError:
        wanted = None
    if wanted is None or len(day) != len("YYYY-MM-DD") or not 1900 <= wanted.year <= 9000:
        raise NoSuchDay("Write the day as 2027-10-30, or `first`, or leave it out for all days.", field="query.day")
    return wanted


def _start_of(day: date, zone: str) -> datetime:
    # Some clocks skip midnight: the day then starts at the instant of the jump, or within an hour of it, when
    # nothing has happened yet under that date.
    return rederived(datetime.combine(day, time.min), zone, 0).instant
