"""SQL of schedules. Callers have checked that the event may be read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from events.models import Microlocation, Session, SessionType, Track
from events.sessions.repository import LineupEntry, lineups_of, sessions_of


class ScheduleEntry(NamedTuple):
    """What a schedule says of a session."""

    lineup: list[LineupEntry]
    id: UUID
    title: str
    starts_at: datetime
    ends_at: datetime
    track_id: UUID | None
    track_name: str | None
    track_color: str | None
    microlocation_id: UUID | None
    microlocation_name: str | None
    session_type_id: UUID | None
    session_type_name: str | None


async def list_entries(
    session: AsyncSession, event_id: UUID, *, is_own: bool, since: datetime | None, until: datetime | None
) -> list[ScheduleEntry]:
    """Return the sessions that start within ``[since, until)``, by start."""
    columns = select(
        Session.id,
        Session.title,
        Session.starts_at,
        Session.ends_at,
        Track.id,
        Track.name,
        Track.color,
        Microlocation.id,
        Microlocation.name,
        SessionType.id,
        SessionType.name,
    )
    within = _within(since, until)
    statement = sessions_of(columns, event_id, is_own=is_own).where(within)
    in_order = statement.order_by(Session.starts_at, Session.ends_at, Session.id)
    rows: Sequence[Any] = (await session.execute(in_order)).all()
    lineups = await lineups_of(session, and_(Session.event_id == event_id, within)) if rows else {}
    return [ScheduleEntry(lineups.get(row[0], []), *row) for row in rows]


async def first_start(session: AsyncSession, event_id: UUID, *, is_own: bool) -> datetime | None:
    return await session.scalar(sessions_of(select(func.min(Session.starts_at)), event_id, is_own=is_own))


def _within(since: datetime | None, until: datetime | None) -> ColumnElement[bool]:
    clauses: list[ColumnElement[bool]] = [Session.starts_at.is_not(None)]
    if since is not None:
        clauses.append(Session.starts_at >= since)
    if until is not None:
        clauses.append(Session.starts_at < until)
    return and_(*clauses)
