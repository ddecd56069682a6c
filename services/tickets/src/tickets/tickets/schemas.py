"""What the API takes and gives for tickets."""

from typing import Annotated, Literal, Self, TypeAlias
from uuid import UUID

from pydantic import (
    AwareDatetime,
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
from tickets.tickets.rules import MAX_TICKETS

MAX_AMOUNT = 10**12

Type: TypeAlias = Literal["free", "paid", "donation"]
Sales: TypeAlias = Literal["open", "upcoming", "past"]
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
        description="ISO 4217.", examples=["EUR"]
    )


class _TicketFields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # The names of earlier releases: refused with the new name, and left out of the docs.
    min_order: SkipJsonSchema[Annotated[None, _renamed_to("min_per_order")]] = None
    max_order: SkipJsonSchema[Annotated[None, _renamed_to("max_per_order")]] = None

    price: Money | None = Field(default=None, description="Of a paid ticket, above zero.")
    min_price: Money | None = Field(default=None, description="Of a donation; 0 leaves it to the donor.")
    max_price: Money | None = Field(default=None, description="Of a donation, if there is a highest amount.")


class TicketCreate(_TicketFields):
    name: Name = Field(description="Unique among the event's tickets; case does not count.")
    description: Description = ""
    type: Type
    quantity: Count = Field(default=100, description="How many there are.")
    min_per_order: Count = Field(default=1, description="The least that one order must have of it.")
    max_per_order: Count = Field(default=10, description="The most that one order may have of it.")
    is_hidden: bool = Field(default=False, strict=True, description="Not in the public list.")
    position: Position | None = Field(default=None, description="From 1; the last place unless given.")
    sales_starts_at: WallTimeInput | None = Field(default=None, description="Now, unless given.")
    sales_ends_at: WallTimeInput | None = Field(
        default=None, description="The first moment at which it is no longer sold. The event's end, unless given."
    )


class TicketUpdate(_TicketFields):
    """Only what is sent changes; the ticket as a whole must keep the rules."""

    name: Name | None = None
    description: Description | None = None
    type: Type | None = None
    quantity: Count | None = None
    min_per_order: Count | None = None
    max_per_order: Count | None = None
    is_hidden: Annotated[bool, Field(strict=True)] | None = None
    position: Position | None = Field(default=None, description="Where it goes; the others make room.")
    sales_starts_at: WallTimeInput | None = None
    sales_ends_at: WallTimeInput | None = None

    @model_validator(mode="after")
    def _only_prices_can_be_emptied(self) -> Self:
        for name in self.model_fields_set - _TicketFields.model_fields.keys():
            if getattr(self, name) is None:
                raise ValueError(f"{name} can't be null; leave it out to keep it as it is")
        return self


class TicketOrder(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ticket_ids: list[UUID] = Field(
        max_length=MAX_TICKETS, description="All tickets of the event, hidden ones too, in their new order."
    )


class TicketRead(BaseModel):
    """Describes what ``repository`` puts together."""

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
    sales_starts_at: AwareDatetime = Field(description="With the offset of the event's zone.")
    sales_ends_at: AwareDatetime = Field(
        description="With the offset of the event's zone. No longer sold at this moment, nor after the event's end."
    )
    sales: Sales = Field(description="By the database's clock at the time of the answer.")
    version: int = Field(description='`"<version>"` is good for `If-Match`, as is the `ETag`.')


class TicketsOfEvent(BaseModel):
    """All of them, for other services."""

    tickets: list[TicketRead]
