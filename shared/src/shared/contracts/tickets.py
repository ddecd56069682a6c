"""Messages that the tickets service sends."""

from typing import ClassVar
from uuid import UUID

from pydantic import AwareDatetime

from shared.contracts.envelope import Message


class TicketFacts(Message):
    """A type of ticket, whole in every message. The sales window is ``[sales_starts_at, sales_ends_at)``."""

    ticket_id: UUID
    event_id: UUID
    name: str
    sales_starts_at: AwareDatetime
    sales_ends_at: AwareDatetime
    version: int


class TicketCreatedV1(TicketFacts):
    """A type of ticket was added to an event."""

    message_type: ClassVar[str] = "tickets.ticket.created.v1"


class TicketChangedV1(TicketFacts):
    """Something of the ticket changed, its sales window or its position included."""

    message_type: ClassVar[str] = "tickets.ticket.changed.v1"
