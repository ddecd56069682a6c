"""Reactions to messages about events: keeps this service's copy of what tickets need to know."""

from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Envelope
from shared.contracts.events import EventChangedV1, EventCreatedV1, EventFacts, EventPublishedV1, EventUnpublishedV1
from shared.messaging.consumer import Subscription
from tickets.events import repository
from tickets.tickets.service import move_to_zone


async def on_event(session: AsyncSession, message: EventFacts, envelope: Envelope) -> None:
    """Takes over the facts, which each message holds whole, unless a younger message did so before.

    A new zone moves the sales windows in the same transaction, so that nobody sees the one without the other.
    """
    if await repository.insert_copy(session, message, seq=envelope.aggregateseq):
        return
    copy = await repository.lock_copy(session, message.event_id)
    if copy.seq >= envelope.aggregateseq:
        return
    zone_changes = copy.timezone != message.timezone
    repository.take_over(copy, message, seq=envelope.aggregateseq)
    if zone_changes:
        await move_to_zone(session, copy)


SUBSCRIPTIONS = [
    Subscription(message, on_event)
    for message in (EventCreatedV1, EventChangedV1, EventPublishedV1, EventUnpublishedV1)
]
