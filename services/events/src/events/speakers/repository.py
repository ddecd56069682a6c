"""SQL of speakers. Callers have checked that the event may be read; each query stays inside that event."""

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Select, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from events.images.repository import copy_of
from events.models import Event, ImageCopy, Session, SessionSpeaker, Speaker
from events.sessions.repository import public_sessions
from shared.database.keyset import Keyset, PageRequest

_BY_ID = Keyset(Speaker.id)


class SpeakerView(NamedTuple):
    """A speaker and where the photo is served."""

    speaker: Speaker
    photo: ImageCopy | None


async def list_speakers(
    session: AsyncSession, event_id: UUID, page: PageRequest, *, is_own: bool
) -> tuple[list[SpeakerView], str | None]:
    rows = (await session.execute(_BY_ID.apply(_views(event_id, is_own=is_own), page))).all()
    speakers, next_cursor = _BY_ID.cut([row[0] for row in rows], page)
    return [SpeakerView(*row) for row in rows[: len(speakers)]], next_cursor


async def find_speaker(
    session: AsyncSession, event_id: UUID, speaker_id: UUID, *, is_own: bool
) -> SpeakerView | None:
    statement = _views(event_id, is_own=is_own).where(Speaker.id == speaker_id)
    row = (await session.execute(statement)).one_or_none()
    return None if row is None else SpeakerView(*row)


def _views(event_id: UUID, *, is_own: bool) -> Select[Speaker, ImageCopy | None]:
    statement = (
        select(Speaker, ImageCopy)
        .join(Event, Event.id == Speaker.event_id)
        .outerjoin(ImageCopy, copy_of(ImageCopy, Speaker.photo_image_id))
        .where(Speaker.event_id == event_id)
    )
    if is_own:
        return statement
    # That somebody proposed a session which was not accepted is for the organizer only.
    speaks = exists().where(SessionSpeaker.speaker_id == Speaker.id)
    speaks_publicly = exists().where(
        SessionSpeaker.speaker_id == Speaker.id, Session.id == SessionSpeaker.session_id, public_sessions()
    )
    return statement.where(or_(~speaks, speaks_publicly))
