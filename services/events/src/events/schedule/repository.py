"""SQL of schedules. Callers have checked that the event may be read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from events.models import Microlocation, Session, SessionType, Track
from events.sessions.repository import Lineups, lineups_of, sessions_of


async def scheduled(
    session: AsyncSession, event_id: UUID, *, is_own: bool, since: datetime | None, until: datetime | None
) -> tuple[Sequence[Row[*tuple[Any, ...]]], Lineups]:
    """Sessions with times that start within ``[since, until)``, by start."""
    columns = select(
        Session.id,
        Session.title,
        Session.starts_at,
        Session.ends_at,
        Track.id.label("track_id"),
        Track.name.label("track_name"),
        Track.color.label("track_color"),
        Microlocation.id.label("microlocation_id"),
        Microlocation.name.label("microlocation_name"),
        SessionType.id.label("session_type_id"),
        SessionType.name.label("session_type_name"),
    )
    within = _within(since, until)
    statement = sessions_of(columns, event_id, is_own=is_own).where(within)
    rows = (await session.execute(statement.order_by(Session.starts_at, Session.ends_at, Session.id))).all()
    lineups = await lineups_of(session, and_(Session.event_id == event_id, within)) if rows else {}
    return rows, lineups


async def first_start(session: AsyncSession, event_id: UUID, *, is_own: bool) -> datetime | None:
    first: datetime | None = await session.scalar(
        sessions_of(select(func.min(Session.starts_at)), event_id, is_own=is_own)
    )
    return first


def _within(since: datetime | None, until: datetime | None) -> ColumnElement[bool]:
    clauses: list[ColumnElement[bool]] = [Session.starts_at.is_not(None)]
    if since is not None:
        clauses.append(Session.starts_at >= since)
    if until is not None:
        clauses.append(Session.starts_at < until)
    return and_(*clauses)
