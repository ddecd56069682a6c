"""Handlers of the media service's messages."""

from sqlalchemy.ext.asyncio import AsyncSession

from events.images import repository
from shared.contracts.envelope import Envelope
from shared.contracts.media import ImageProcessedV1


async def on_image_processed(session: AsyncSession, message: ImageProcessedV1, envelope: Envelope) -> None:
    await repository.keep_copy(
        session, message.image_id, message.organizer, message.variants, seq=envelope.aggregateseq
    )
