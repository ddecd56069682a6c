"""SQL of programmes. Callers have made sure that the event may be seen; each query stays inside that event."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Select, and_, exists, func, insert, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from events.images.repository import copy_of
from events.models import (
    Event,
    ImageCopy,
    Microlocation,
    Session,
    SessionSpeaker,
    SessionType,
    SocialLink,
    Speaker,
    Sponsor,
    Track,
)
from events.programme.rules import LISTS, Rows, shown
from shared.database.keyset import Keyset, PageRequest

Plain = TypeVar("Plain", SocialLink, Track, Microlocation, SessionType)

_SPEAKERS_BY_ID = Keyset(Speaker.id)
_SPONSORS_BY_ID = Keyset(Sponsor.id)
_SESSIONS_BY_ID = Keyset(Session.id)


class NamedRow(NamedTuple):
    """A speaker in a session's billing."""

    id: UUID
    name: str


Billing = Mapping[UUID, list[NamedRow]]
"""Session id → its speakers in order."""


async def add_programme(session: AsyncSession, event_id: UUID, rows: Rows) -> None:
    """In a dozen statements whatever the number of rows."""
    for name, (table, _) in LISTS.items():
        if rows.lists[name]:
            await session.execute(insert(table), [{**row, "event_id": event_id} for row in rows.lists[name]])
    if rows.billing:
        await session.execute(insert(SessionSpeaker), rows.billing)


async def all_rows(session: AsyncSession, event_id: UUID) -> dict[str, Sequence[Any]]:
    """Every list of the programme in the order of its import."""
    lists: dict[str, Sequence[Any]] = {}
    for name, (table, _) in LISTS.items():
        columns = table.__table__.c
        statement = select(table).where(columns.event_id == event_id).order_by(columns.id)
        lists[name] = (await session.scalars(statement)).all()
    return lists


async def all_billing(session: AsyncSession, event_id: UUID) -> Sequence[SessionSpeaker]:
    statement = select(SessionSpeaker).join(Session, Session.id == SessionSpeaker.session_id)
    in_order = statement.where(Session.event_id == event_id).order_by(Session.id, SessionSpeaker.position)
    return (await session.scalars(in_order)).all()


async def list_plain(
    session: AsyncSession, table: type[Plain], event_id: UUID, page: PageRequest
) -> tuple[Sequence[Plain], str | None]:
    by_id = Keyset(table.id)
    rows = (await session.scalars(by_id.apply(select(table).where(table.event_id == event_id), page))).all()
    return by_id.cut(rows, page)


async def list_sponsors(
    session: AsyncSession, event_id: UUID, page: PageRequest
) -> tuple[list[tuple[Sponsor, ImageCopy | None]], str | None]:
    statement = (
        select(Sponsor, ImageCopy)
        .join(Event, Event.id == Sponsor.event_id)
        .outerjoin(ImageCopy, copy_of(ImageCopy, Sponsor.logo_image_id))
        .where(Sponsor.event_id == event_id)
    )
    rows = (await session.execute(_SPONSORS_BY_ID.apply(statement, page))).all()
    sponsors, next_cursor = _SPONSORS_BY_ID.cut([row[0] for row in rows], page)
    return [(row[0], row[1]) for row in rows[: len(sponsors)]], next_cursor


async def list_speakers(
    session: AsyncSession, event_id: UUID, page: PageRequest, *, is_own: bool
) -> tuple[list[tuple[Speaker, ImageCopy | None]], str | None]:
    rows = (await session.execute(_SPEAKERS_BY_ID.apply(_speakers(event_id, is_own=is_own), page))).all()
    speakers, next_cursor = _SPEAKERS_BY_ID.cut([row[0] for row in rows], page)
    return [(row[0], row[1]) for row in rows[: len(speakers)]], next_cursor


async def find_speaker(
    session: AsyncSession, event_id: UUID, speaker_id: UUID, *, is_own: bool
) -> tuple[Speaker, ImageCopy | None] | None:
    statement = _speakers(event_id, is_own=is_own).where(Speaker.id == speaker_id)
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else (row[0], row[1])


async def list_sessions(
    session: AsyncSession, event_id: UUID, page: PageRequest, *, is_own: bool
) -> tuple[Sequence[Row[*tuple[Any, ...]]], Billing, str | None]:
    """Rows of ``Session``, ``Track``, ``Microlocation``, ``SessionType``, the latter three or ``None``."""
    statement = _joined(select(Session, Track, Microlocation, SessionType), event_id, is_own=is_own)
    rows = (await session.execute(_SESSIONS_BY_ID.apply(statement, page))).all()
    sessions, next_cursor = _SESSIONS_BY_ID.cut([row[0] for row in rows], page)
    billing = await _billing(session, SessionSpeaker.session_id.in_([item.id for item in sessions]))
    return rows[: len(sessions)], billing, next_cursor


async def find_session(
    session: AsyncSession, event_id: UUID, session_id: UUID, *, is_own: bool
) -> tuple[Row[*tuple[Any, ...]], Billing] | None:
    statement = _joined(select(Session, Track, Microlocation, SessionType), event_id, is_own=is_own)
    row = (await session.execute(statement.where(Session.id == session_id))).one_or_none()
    return None if row is None else (row, await _billing(session, SessionSpeaker.session_id == session_id))


async def scheduled(
    session: AsyncSession, event_id: UUID, *, is_own: bool, since: datetime | None, until: datetime | None
) -> tuple[Sequence[Row[*tuple[Any, ...]]], Billing]:
    """Sessions with times that start within ``[since, until)``, in the order in which they happen."""
    statement = _joined(
        select(
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
        ),
        event_id,
        is_own=is_own,
    )
    within = _within(since, until)
    rows = (
        await session.execute(statement.where(within).order_by(Session.starts_at, Session.ends_at, Session.id))
    ).all()
    billing = await _billing(session, and_(Session.event_id == event_id, within)) if rows else {}
    return rows, billing


async def first_start(session: AsyncSession, event_id: UUID, *, is_own: bool) -> datetime | None:
    statement = select(func.min(Session.starts_at)).where(Session.event_id == event_id, _shown(is_own=is_own))
    return await session.scalar(statement)


def _within(since: datetime | None, until: datetime | None) -> ColumnElement[bool]:
    clauses: list[ColumnElement[bool]] = [Session.starts_at.is_not(None)]
    if since is not None:
        clauses.append(Session.starts_at >= since)
    if until is not None:
        clauses.append(Session.starts_at < until)
    return and_(*clauses)


def _joined(statement: Select[*tuple[Any, ...]], event_id: UUID, *, is_own: bool) -> Select[*tuple[Any, ...]]:
    return (
        statement.select_from(Session)
        .outerjoin(Track, Track.id == Session.track_id)
        .outerjoin(Microlocation, Microlocation.id == Session.microlocation_id)
        .outerjoin(SessionType, SessionType.id == Session.session_type_id)
        .where(Session.event_id == event_id, _shown(is_own=is_own))
    )


async def _billing(session: AsyncSession, of: ColumnElement[bool]) -> Billing:
    statement = (
        select(SessionSpeaker.session_id, Speaker.id, Speaker.name)
        .join(Speaker, Speaker.id == SessionSpeaker.speaker_id)
        .join(Session, Session.id == SessionSpeaker.session_id)
        .where(of)
        .order_by(SessionSpeaker.session_id, SessionSpeaker.position)
    )
    billing: dict[UUID, list[NamedRow]] = {}
    for session_id, speaker_id, name in await session.execute(statement):
        billing.setdefault(session_id, []).append(NamedRow(speaker_id, name))
    return billing


def _speakers(event_id: UUID, *, is_own: bool) -> Select[Speaker, ImageCopy | None]:
    statement = (
        select(Speaker, ImageCopy)
        .join(Event, Event.id == Speaker.event_id)
        .outerjoin(ImageCopy, copy_of(ImageCopy, Speaker.photo_image_id))
        .where(Speaker.event_id == event_id)
    )
    if is_own:
        return statement
    # Who only proposed sessions that were not accepted is nobody's business.
    speaks = exists().where(SessionSpeaker.speaker_id == Speaker.id)
    speaks_publicly = exists().where(
        SessionSpeaker.speaker_id == Speaker.id, Session.id == SessionSpeaker.session_id, shown(Session.state)
    )
    return statement.where(or_(~speaks, speaks_publicly))


def _shown(*, is_own: bool) -> ColumnElement[bool]:
    return true() if is_own else shown(Session.state)
