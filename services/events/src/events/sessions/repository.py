"""SQL of sessions. Callers have checked that the event may be read; each query stays inside that event."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from events.models import Microlocation, Session, SessionSpeaker, SessionType, Speaker, Track
from events.sessions.rules import PUBLIC_STATES
from shared.database.keyset import Keyset, PageRequest

Statement = TypeVar("Statement", bound="Select[*tuple[Any, ...]]")

_BY_ID = Keyset(Session.id)


class LineupEntry(NamedTuple):
    """A speaker of a session."""

    id: UUID
    name: str


Lineups = Mapping[UUID, list[LineupEntry]]
"""Session id → its lineup, in its sequence; a session without speakers has no entry."""


class SessionView(NamedTuple):
    """A session and what it refers to."""

    session: Session
    track: Track | None
    microlocation: Microlocation | None
    session_type: SessionType | None
    lineup: list[LineupEntry]


def public_sessions() -> ColumnElement[bool]:
    """Return the condition of public sessions. Archives without states hold accepted sessions only."""
    return or_(Session.state.is_(None), func.lower(Session.state).in_(PUBLIC_STATES))


def sessions_of(columns: Statement, event_id: UUID, *, is_own: bool) -> Statement:
    """Select from the sessions of an event that the caller may read, with their track, room and type."""
    return (
        columns.select_from(Session)
        .outerjoin(Track, Track.id == Session.track_id)
        .outerjoin(Microlocation, Microlocation.id == Session.microlocation_id)
        .outerjoin(SessionType, SessionType.id == Session.session_type_id)
        .where(Session.event_id == event_id, true() if is_own else public_sessions())
    )


async def list_sessions(
    session: AsyncSession, event_id: UUID, page: PageRequest, *, is_own: bool
) -> tuple[list[SessionView], str | None]:
    rows = (await session.execute(_BY_ID.apply(_views(event_id, is_own=is_own), page))).all()
    sessions, next_cursor = _BY_ID.cut([row[0] for row in rows], page)
    lineups = await lineups_of(session, SessionSpeaker.session_id.in_([item.id for item in sessions]))
    return [SessionView(*row, lineups.get(row[0].id, [])) for row in rows[: len(sessions)]], next_cursor


async def find_session(
    session: AsyncSession, event_id: UUID, session_id: UUID, *, is_own: bool
) -> SessionView | None:
    statement = _views(event_id, is_own=is_own).where(Session.id == session_id)
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        return None
    lineups = await lineups_of(session, SessionSpeaker.session_id == session_id)
    return SessionView(*row, lineups.get(session_id, []))


async def lineups_of(session: AsyncSession, which: ColumnElement[bool]) -> Lineups:
    """``which`` is a condition on ``Session`` or ``SessionSpeaker``."""
    statement = (
        select(SessionSpeaker.session_id, Speaker.id, Speaker.name)
        .join(Speaker, Speaker.id == SessionSpeaker.speaker_id)
        .join(Session, Session.id == SessionSpeaker.session_id)
        .where(which)
        .order_by(SessionSpeaker.session_id, SessionSpeaker.position)
    )
    lineups: dict[UUID, list[LineupEntry]] = {}
    for session_id, speaker_id, name in await session.execute(statement):
        lineups.setdefault(session_id, []).append(LineupEntry(speaker_id, name))
    return lineups


async def lock_scheduled(session: AsyncSession, event_id: UUID) -> Sequence[Row[*tuple[Any, ...]]]:
    """Ids, versions and times of the sessions that have times, locked until the transaction ends."""
    columns = (
        Session.id,
        Session.version,
        Session.starts_local,
        Session.starts_fold,
        Session.starts_at,
        Session.ends_local,
        Session.ends_fold,
        Session.ends_at,
    )
    statement = select(*columns).where(Session.event_id == event_id, Session.starts_at.is_not(None))
    return (await session.execute(statement.with_for_update())).all()


async def change_sessions(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Each row is an ``id`` and the columns to change, the same ones in every row."""
    if rows:
        await session.execute(update(Session), rows)


def _views(
    event_id: UUID, *, is_own: bool
) -> Select[Session, Track | None, Microlocation | None, SessionType | None]:
    return sessions_of(select(Session, Track, Microlocation, SessionType), event_id, is_own=is_own)
