"""Reactions to messages about events: keep the copies of events up to date."""

from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Envelope
from shared.contracts.events import EventState
from tickets.event_copies import repository
from tickets.tickets.service import reschedule_tickets


async def on_event(session: AsyncSession, message: EventState, envelope: Envelope) -> None:
    """Copy the state, which each message holds whole.

    A new zone moves the sales windows in the same transaction, so no request reads one without the other.
    """
    if await repository.insert_copy(session, message, seq=envelope.aggregateseq):
        return
    copy = await repository.lock_copy(session, message.event_id)
    has_new_zone = copy.timezone != message.timezone
    repository.update_copy(copy, message, seq=envelope.aggregateseq)
    if has_new_zone:
        await reschedule_tickets(session, copy)
