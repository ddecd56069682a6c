"""Reactions to messages about events: keeps this service's copy of what tickets need to know."""

from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Envelope
from shared.contracts.events import EventState
from tickets.events import repository
from tickets.tickets.service import move_to_zone


async def on_event(session: AsyncSession, message: EventState, envelope: Envelope) -> None:
    """Copy the facts, which each message holds whole.

    A new zone moves the sales windows in the same transaction, so that nobody sees the one without the other.
    """
    if await repository.insert_copy(session, message, seq=envelope.aggregateseq):
        return
    copy = await repository.lock_copy(session, message.event_id)
    zone_changes = copy.timezone != message.timezone
    repository.take_over(copy, message, seq=envelope.aggregateseq)
    if zone_changes:
        await move_to_zone(session, copy)
