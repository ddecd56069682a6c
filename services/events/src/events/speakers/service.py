"""Use cases of speakers."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from events.speakers import repository
from events.speakers.repository import SpeakerView
from shared.problems import NotFound


async def read_speaker(session: AsyncSession, event_id: UUID, speaker_id: UUID, *, is_own: bool) -> SpeakerView:
    view = await repository.find_speaker(session, event_id, speaker_id, is_own=is_own)
    if view is None:
        raise NotFound("The event has no such speaker, or none of the speaker's sessions is accepted.")
    return view
