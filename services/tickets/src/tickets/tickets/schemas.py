"""Bodies of requests and answers about tickets."""

from typing import Annotated, Literal, Self, TypeAlias
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from shared.http.fields import WallTimeInput
from shared.texts import Storable
from tickets.models import Ticket
from tickets.tickets.repository import TicketView
from tickets.tickets.rules import MAX_TICKETS, Sales

MAX_AMOUNT = 10**12

Type: TypeAlias = Literal["free", "paid", "donation"]
Name: TypeAlias = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, strip_whitespace=True),
    Storable,
    Field(examples=["Regular"]),
]
Description: TypeAlias = Annotated[str, StringConstraints(max_length=10_000), Storable]
Count: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Position: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=MAX_TICKETS)]


def _renamed_to(name: str) -> BeforeValidator:
    def refuse(_: object) -> None:
        raise PydanticCustomError("renamed", "This field was renamed. Send {name} instead.", {"name": name})

    return BeforeValidator(refuse)


class Money(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount_minor: Annotated[int, Field(strict=True, ge=0, le=MAX_AMOUNT)] = Field(
        description="In the currency's smallest unit: 1500 is 15.00 EUR, or 1500 JPY."
    )
    currency: Annotated[str, StringConstraints(pattern="^[A-Z]{3}$")] = Field(
        description="ISO 4217 code.", examples=["EUR"]
    )


class _TicketFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # The names of earlier releases: refused with the new name, and left out of the docs.
    min_order: SkipJsonSchema[Annotated[None, _renamed_to("min_per_order")]] = None
    max_order: SkipJsonSchema[Annotated[None, _renamed_to("max_per_order")]] = None
    price: Money | None = Field(default=None, description="Price of a paid ticket; must be greater than 0.")
    min_price: Money | None = Field(
        default=None, description="Lowest amount of a donation; 0 lets donors give any amount."
    )
    max_price: Money | None = Field(
        default=None, description="Highest amount of a donation; null when there is no limit."
    )


class TicketCreate(_TicketFields):
    name: Name = Field(description="Must be unique among the event's tickets, without regard to case.")
    description: Description = ""
    type: Type
    quantity: Count = Field(default=100, description="How many there are.")
    min_per_order: Count = Field(default=1, description="The least that one order must have of it.")
    max_per_order: Count = Field(default=10, description="The most that one order may have of it.")
    is_hidden: bool = Field(default=False, strict=True, description="Whether the public list leaves it out.")
    position: Position | None = Field(default=None, description="Place in the list, from 1. Default: the last.")
    sales_starts_at: WallTimeInput | None = Field(default=None, description="Default: now.")
    sales_ends_at: WallTimeInput | None = Field(
        default=None, description="The first instant at which it is no longer sold. Default: the event's end."
    )


class TicketUpdate(_TicketFields):
    """Only fields that are sent change. The ticket as a whole must keep the rules."""

    name: Name | None = None
    description: Description | None = None
    type: Type | None = None
    quantity: Count | None = None
    min_per_order: Count | None = None
    max_per_order: Count | None = None
    is_hidden: Annotated[bool, Field(strict=True)] | None = None
    position: Position | None = Field(
        default=None, description="Moves the ticket to this place; the others make room."
    )
    sales_starts_at: WallTimeInput | None = None
    sales_ends_at: WallTimeInput | None = None

    @model_validator(mode="after")
    def _only_prices_may_be_null(self) -> Self:
        for name in self.model_fields_set - _TicketFields.model_fields.keys():
            if getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null. Leave it out to keep its value.")
        return self


class TicketPositions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ticket_ids: list[UUID] = Field(
        max_length=MAX_TICKETS,
        description="All tickets of the event, hidden ones too. The first gets position 1.",
    )


# Text, since `isoformat` writes +00:00 where pydantic would write Z.
_Instant: TypeAlias = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class TicketRead(BaseModel):
    """The public list writes the same JSON without this class, see ``public_list``."""

    id: UUID
    event_id: UUID
    name: str
    description: str
    type: Type
    price: Money | None
    min_price: Money | None
    max_price: Money | None
    quantity: int
    min_per_order: int
    max_per_order: int
    is_hidden: bool
    position: int
    sales_starts_at: _Instant = Field(description="With the offset of the event's zone.")
    sales_ends_at: _Instant = Field(
        description="With the offset of the event's zone. Not sold at this instant, nor after the event's end."
    )
    sales: Sales = Field(description="By the database's clock at the time of the answer.")
    version: int = Field(description='`"<version>"` may be sent as `If-Match`, as may the `ETag`.')

    @classmethod
    def of(cls, view: TicketView) -> Self:
        ticket = view.ticket
        return cls.model_validate(
            {
                **{name: getattr(ticket, name) for name in _SAME_NAME},
                "price": _money(ticket.price_minor, ticket.currency),
                "min_price": _money(ticket.min_price_minor, ticket.currency),
                "max_price": _money(ticket.max_price_minor, ticket.currency),
                "sales_starts_at": ticket.sales_starts_text,
                "sales_ends_at": ticket.sales_ends_text,
                "sales": view.sales,
            }
        )


_SAME_NAME = (TicketRead.model_fields.keys() & Ticket.__mapper__.columns.keys()) - {
    "sales_starts_at",
    "sales_ends_at",
}


def _money(minor: int | None, currency: str | None) -> Money | None:
    return None if minor is None or currency is None else Money(amount_minor=minor, currency=currency)
