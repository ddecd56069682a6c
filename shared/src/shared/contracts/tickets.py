"""Messages that the tickets service sends."""

from typing import ClassVar
from uuid import UUID

from pydantic import AwareDatetime, Field

from shared.contracts.envelope import Message


class TicketFacts(Message):
    """A type of ticket, whole in every message. The sales window is ``[sales_starts_at, sales_ends_at)``."""

    ticket_id: UUID = Field(description="The type of ticket. The envelope's `subject` is the same id.")
    event_id: UUID = Field(description="The event that it is for.")
    name: str = Field(description="As the organizer wrote it, in any script.")
    sales_starts_at: AwareDatetime = Field(description="The first instant at which it is on sale, sent in UTC.")
    sales_ends_at: AwareDatetime = Field(
        description="The first instant at which it is no longer on sale, sent in UTC; after `sales_starts_at`."
    )
    version: int = Field(
        description="Rises with every change of the ticket. The envelope's `aggregateseq` is the same number."
    )


class TicketCreatedV1(TicketFacts):
    """A type of ticket was added to an event."""

    message_type: ClassVar[str] = "tickets.ticket.created.v1"


class TicketChangedV1(TicketFacts):
    """Something of the ticket changed, its sales window or its position included."""

    message_type: ClassVar[str] = "tickets.ticket.changed.v1"
