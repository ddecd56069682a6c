"""Messages that the tickets service sends.

Messages of a ticket and of its event's list carry values of the same ticket, and no order is promised between
them. Both carry the ticket's version: a reader takes each value from the message with the highest one.
"""

from typing import ClassVar
from uuid import UUID

from pydantic import AliasChoices, AwareDatetime, BaseModel, ConfigDict, Field

from shared.contracts.envelope import Message


class TicketState(Message):
    """Carries the whole ticket. Fields that are optional here are always sent; only messages of the first release
    lack them. The sales window is `[sales_starts_at, sales_ends_at)`."""

    ticket_id: UUID = Field(description="The type of ticket. The envelope's `subject` is the same id.")
    event_id: UUID = Field(description="The event that it is for.")
    name: str = Field(description="As the organizer wrote it, in any script.")
    description: str | None = Field(default=None, description="As the organizer wrote it; may be empty.")
    type: str | None = Field(
        default=None, description="`free`, `paid` or `donation`; readers must accept other words."
    )
    price_minor: int | None = Field(default=None, description="Price of a paid ticket, in minor units.")
    min_price_minor: int | None = Field(default=None, description="Lowest amount of a donation, in minor units.")
    max_price_minor: int | None = Field(
        default=None, description="Highest amount of a donation, in minor units; null when there is no limit."
    )
    currency: str | None = Field(default=None, description="ISO 4217 code of the amounts; null for a free ticket.")
    quantity: int | None = Field(default=None, description="How many there are.")
    min_per_order: int | None = Field(default=None, description="The least that one order must have of it.")
    max_per_order: int | None = Field(default=None, description="The most that one order may have of it.")
    is_hidden: bool | None = Field(default=None, description="Whether the public list leaves it out.")
    position: int | None = Field(
        default=None,
        description="Its place in the list at this `version`, from 1. Moves are in `tickets.list.arranged.v1`.",
    )
    sales_starts_at: AwareDatetime = Field(description="The first instant at which it is on sale, sent in UTC.")
    sales_ends_at: AwareDatetime = Field(
        description="The first instant at which it is no longer on sale, sent in UTC; after `sales_starts_at`."
    )
    version: int = Field(
        description="Rises with every change of the ticket. The envelope's `aggregateseq` is the same number."
    )


class TicketCreatedV1(TicketState):
    """A type of ticket was added to an event."""

    message_type: ClassVar[str] = "tickets.ticket.created.v1"


class TicketChangedV1(TicketState):
    """The organizer changed a field of the ticket other than its position."""

    message_type: ClassVar[str] = "tickets.ticket.changed.v1"


class ListedTicket(BaseModel):
    """A ticket in a message of its list. The sales window is `[sales_starts_at, sales_ends_at)`."""

    ticket_id: UUID = Field(description="A ticket of the list.")
    position: int = Field(description="Its place in the list, from 1.")
    sales_starts_at: AwareDatetime = Field(description="The first instant at which it is on sale, sent in UTC.")
    sales_ends_at: AwareDatetime = Field(
        description="The first instant at which it is no longer on sale, sent in UTC."
    )
    version: int = Field(description="The ticket's version with this position and this window.")


class TicketListState(Message):
    """Carries positions and sales windows of the whole list and is the authority on them. Tickets that change with
    their list have no `tickets.ticket.changed.v1`."""

    event_id: UUID = Field(description="The event whose list it is. The envelope's `subject` is the same id.")
    tickets: list[ListedTicket] = Field(description="All tickets of the event by position, hidden ones too.")
    version: int = Field(
        description="Rises with every change of the list. The envelope's `aggregateseq` is the same number."
    )


class TicketListArrangedV1(TicketListState):
    """Tickets of an event have new positions: one was moved or inserted, or all were arranged."""

    message_type: ClassVar[str] = "tickets.list.arranged.v1"


class TicketListRescheduledV1(TicketListState):
    """The event has another time zone, so the sales windows of its tickets are at other instants."""

    message_type: ClassVar[str] = "tickets.list.rescheduled.v1"


class Money(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    amount_minor: int = Field(description="In the currency's smallest unit.")
    currency: str = Field(description="ISO 4217 code.")


class ExportedTicket(BaseModel):
    """A ticket as archives hold it. Fields of a later release are kept, in ``model_extra``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: UUID
    event_id: UUID
    name: str
    description: str
    type: str = Field(description="`free`, `paid` or `donation`.")
    price: Money | None
    min_price: Money | None
    max_price: Money | None
    quantity: int
    min_per_order: int = Field(validation_alias=AliasChoices("min_per_order", "min_order"))
    max_per_order: int = Field(validation_alias=AliasChoices("max_per_order", "max_order"))
    is_hidden: bool
    position: int
    sales_starts_at: str = Field(description="RFC 3339 with the offset of the event's zone.")
    sales_ends_at: str = Field(description="RFC 3339 with the offset of the event's zone.")
    sales: str = Field(description="`open`, `upcoming` or `past` at the time of the answer.")
    version: int


class EventTickets(BaseModel):
    """Answer to ``GET /internal/events/{event_id}/tickets``: all tickets, by position."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tickets: list[ExportedTicket]
