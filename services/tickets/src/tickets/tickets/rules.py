"""Decisions about tickets that need no database."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypedDict
from uuid import UUID

from shared.problems import Conflict, FieldError, Invalid
from shared.walltime import TZDATA_VERSION, WallTime, at, rederived

MAX_TICKETS = 200
"""Of one event. Their list is one answer and their order is one transaction, so both stay small."""


class TicketInvalid(Invalid):
    code = "ticket-invalid"
    title = "The ticket breaks a rule"

    def __init__(self, broken: Sequence[FieldError]) -> None:
        super().__init__(" ".join(error.message for error in broken), errors=broken)


class PositionOutOfRange(Invalid):
    code = "position-out-of-range"
    title = "There is no such position"

    def __init__(self, last: int) -> None:
        super().__init__(f"Positions run from 1 to {last} here; choose one of them.", field="position")


class TicketSetChanged(Conflict):
    code = "ticket-set-changed"
    title = "The order does not name each ticket once"


@dataclass(frozen=True, slots=True)
class Amount:
    minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What a ticket's rules are about, whole: what was stored with what is to change in it."""

    type: str
    price: Amount | None
    min_price: Amount | None
    max_price: Amount | None
    quantity: int
    min_per_order: int
    max_per_order: int
    sales_starts: WallTime
    sales_ends: WallTime


def check_terms(terms: Terms, *, event_ends: WallTime | None) -> None:
    """Raises ``TicketInvalid`` that names every broken rule.

    Instants are compared, not readings: a clock may be set back within a window. ``event_ends`` is ``None`` when
    the window was not asked to change: an event that was moved to an earlier end does not keep its organizer from
    mending the name of a ticket, and what is on sale ends with the event anyhow.
    """
    broken = [*_broken_price_rules(terms), *_broken_size_rules(terms)]
    starts, ends = terms.sales_starts, terms.sales_ends
    if event_ends is not None and ends.instant > event_ends.instant:
        broken.append(
            FieldError(
                field="sales_ends_at",
                message=f"Sales end after the event, which ends at {event_ends.isoformat()} ({event_ends.zone}). "
                "End them then or before.",
            )
        )
    if ends.instant <= starts.instant:
        broken.append(
            FieldError(
                field="sales_ends_at",
                message=f"Sales end at {ends.isoformat()}, which is not after their start, {starts.isoformat()}. "
                "Send both times together to move the window.",
            )
        )
    if broken:
        raise TicketInvalid(broken)


def _broken_price_rules(terms: Terms) -> list[FieldError]:
    amounts = {"price": terms.price, "min_price": terms.min_price, "max_price": terms.max_price}
    wanted = {"free": (), "paid": ("price",), "donation": ("min_price", "max_price")}[terms.type]
    broken = [
        FieldError(field=name, message=f"A {terms.type} ticket has no {name}; send null or another type.")
        for name, amount in amounts.items()
        if amount is not None and name not in wanted
    ]
    if terms.type == "paid" and (terms.price is None or terms.price.minor == 0):
        broken.append(
            FieldError(field="price", message="A paid ticket has a price above zero; else its type is free.")
        )
    if terms.type == "donation":
        if terms.min_price is None:
            broken.append(
                FieldError(
                    field="min_price",
                    message="A donation has a lowest amount, with its currency; 0 leaves it to the donor.",
                )
            )
        elif terms.max_price is not None and terms.max_price.minor < max(terms.min_price.minor, 1):
            broken.append(FieldError(field="max_price", message="The highest amount is above zero and the lowest."))
    if len({amount.currency for amount in amounts.values() if amount is not None}) > 1:
        broken.append(FieldError(field="max_price", message="All amounts of a ticket are in one currency."))
    return broken


def _broken_size_rules(terms: Terms) -> list[FieldError]:
    # max_per_order may exceed the quantity, since its default is 10. min_per_order may not: nobody could order.
    broken = []
    minimum = terms.min_per_order
    if terms.max_per_order < minimum:
        message = f"max_per_order is {terms.max_per_order}. It must be at least min_per_order, which is {minimum}."
        broken.append(FieldError(field="max_per_order", message=message))
    if terms.quantity < minimum:
        message = f"quantity is {terms.quantity}. It must be at least min_per_order, which is {minimum}."
        broken.append(FieldError(field="quantity", message=message))
    return broken


# Sales windows


class WindowColumns(TypedDict):
    sales_starts_local: datetime
    sales_starts_fold: int
    sales_starts_at: datetime
    sales_starts_text: str
    sales_ends_local: datetime
    sales_ends_fold: int
    sales_ends_at: datetime
    sales_ends_text: str
    tzdata_version: str


class HasWindow(Protocol):
    """A row with a sales window; the zone is the event's."""

    @property
    def sales_starts_local(self) -> datetime: ...
    @property
    def sales_starts_fold(self) -> int: ...
    @property
    def sales_starts_at(self) -> datetime: ...
    @property
    def sales_ends_local(self) -> datetime: ...
    @property
    def sales_ends_fold(self) -> int: ...
    @property
    def sales_ends_at(self) -> datetime: ...


def window_of(row: HasWindow, zone: str) -> tuple[WallTime, WallTime]:
    return (
        WallTime(row.sales_starts_local, zone, row.sales_starts_fold, row.sales_starts_at),
        WallTime(row.sales_ends_local, zone, row.sales_ends_fold, row.sales_ends_at),
    )


def window_columns(starts: WallTime, ends: WallTime) -> WindowColumns:
    return {
        "sales_starts_local": starts.local,
        "sales_starts_fold": starts.fold,
        "sales_starts_at": starts.instant,
        "sales_starts_text": starts.isoformat(),
        "sales_ends_local": ends.local,
        "sales_ends_fold": ends.fold,
        "sales_ends_at": ends.instant,
        "sales_ends_text": ends.isoformat(),
        "tzdata_version": TZDATA_VERSION,
    }


def window_in_zone(row: HasWindow, zone: str) -> tuple[WallTime, WallTime]:
    """The same readings in another zone: what the clocks show stays, the instants move. Never refuses.

    Nobody is there to choose another time, so a reading in a gap of the new zone is understood as
    ``walltime.rederived`` does it. In a night in which a clock is set the end may come out before the start (02:45
    to 02:15, where both happened twice); then the start keeps its reading and the window its length.
    """
    starts = rederived(row.sales_starts_local, zone, row.sales_starts_fold)
    ends = rederived(row.sales_ends_local, zone, row.sales_ends_fold)
    if ends.instant <= starts.instant:
        length: timedelta = row.sales_ends_at - row.sales_starts_at
        ends = at(starts.instant + length, zone)
    return starts, ends


# Order


def moved(ticket_ids: Sequence[UUID], ticket_id: UUID, position: int) -> list[UUID]:
    """The order after ``ticket_id`` has gone to ``position`` (from 1). Raises ``PositionOutOfRange``."""
    others = [other for other in ticket_ids if other != ticket_id]
    if not 1 <= position <= len(others) + 1:
        raise PositionOutOfRange(len(others) + 1)
    return [*others[: position - 1], ticket_id, *others[position - 1 :]]


def check_complete(given: Sequence[UUID], present: Sequence[UUID]) -> None:
    """Raises ``TicketSetChanged`` unless ``given`` names each ticket exactly once."""
    if sorted(given) == sorted(present):
        return
    missing = [str(ticket_id) for ticket_id in present if ticket_id not in set(given)]
    unknown = [str(ticket_id) for ticket_id in dict.fromkeys(given) if ticket_id not in set(present)]
    raise TicketSetChanged(
        f"The event has {len(present)} tickets; {len(missing)} of them are missing, {len(unknown)} named are not "
        "its own, and none may come twice. Read the list again and send all of its ids.",
        field="ticket_ids",
        missing=missing,
        unknown=unknown,
    )


# Tags

_CLOCK_PART = re.compile(r'-(?:upcoming|open|past|[0-9]+[po])(?=")')


def without_clock(if_match: str | None) -> str | None:
    """An ``If-Match`` by versions alone.

    Tags of tickets are ``"<version>-<what the clock says>"``, because a ticket reads differently once its sales
    have begun. Who changes it must have seen all that people did to it, and need not outrun the clock.
    """
    return if_match if if_match is None else _CLOCK_PART.sub("", if_match)
