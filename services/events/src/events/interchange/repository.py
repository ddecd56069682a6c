"""SQL of whole programmes. Callers have checked whose event it is."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from events.interchange.rules import LISTS, Rows
from events.models import (
    Base,
    Microlocation,
    Session,
    SessionSpeaker,
    SessionType,
    SocialLink,
    Speaker,
    Sponsor,
    Track,
)

TABLES: dict[str, type[Base]] = {
    "social_links": SocialLink,
    "tracks": Track,
    "microlocations": Microlocation,
    "session_types": SessionType,
    "speakers": Speaker,
    "sponsors": Sponsor,
    "sessions": Session,
}


async def add_programme(session: AsyncSession, event_id: UUID, rows: Rows) -> None:
    """Insert all rows, with one statement per list."""
    for name in LISTS:
        if rows.lists[name]:
            await session.execute(insert(TABLES[name]), [{**row, "event_id": event_id} for row in rows.lists[name]])
    if rows.lineups:
        await session.execute(insert(SessionSpeaker), rows.lineups)


async def all_rows(session: AsyncSession, event_id: UUID) -> dict[str, Sequence[Any]]:
    """Return every list of the programme in the sequence of its import."""
    lists: dict[str, Sequence[Any]] = {}
    for name, table in TABLES.items():
        columns = table.__table__.c
        statement = select(table).where(columns.event_id == event_id).order_by(columns.id)
        lists[name] = (await session.scalars(statement)).all()
    return lists


async def all_lineups(session: AsyncSession, event_id: UUID) -> Sequence[SessionSpeaker]:
    statement = select(SessionSpeaker).join(Session, Session.id == SessionSpeaker.session_id)
    in_order = statement.where(Session.event_id == event_id).order_by(Session.id, SessionSpeaker.position)
    return (await session.scalars(in_order)).all()
