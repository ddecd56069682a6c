"""Decisions about tickets that need no database."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, Protocol, TypeAlias, TypedDict
from uuid import UUID

from shared.http.etags import etag_of
from shared.problems import Conflict, FieldError, Invalid
from shared.walltime import TZDATA_VERSION, WallTime, at, rederived

MAX_TICKETS = 200
"""Of one event: their list is one answer and one message, and an arrangement is one transaction."""

Sales: TypeAlias = Literal["open", "upcoming", "past"]


class TicketInvalid(Invalid):
    code = "ticket-invalid"
    title = "Invalid ticket"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__(" ".join(error.message for error in errors), errors=errors)


class PositionOutOfRange(Invalid):
    code = "position-out-of-range"
    title = "Position out of range"

    def __init__(self, position: int, last: int) -> None:
        super().__init__(f"position is {position}. It must be from 1 to {last} here.", field="position")


class TicketSetChanged(Conflict):
    code = "ticket-set-changed"
    title = "Incomplete ticket list"


@dataclass(frozen=True, slots=True)
class Amount:
    minor: int
    currency: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What the rules decide on: the stored values, with those that change in their place."""

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
    """Raise ``TicketInvalid`` that names every broken rule.

    Instants are compared, not wall times: a clock may be set back within a window. ``event_ends`` is ``None`` when
    the window is not to change: an event that was moved to an earlier end must not keep its organizer from fixing
    the name of a ticket, and sales end with the event anyhow.
    """
    errors = [*_price_errors(terms), *_size_errors(terms)]
    starts, ends = terms.sales_starts, terms.sales_ends
    if event_ends is not None and ends.instant > event_ends.instant:
        errors.append(
            FieldError(
                field="sales_ends_at",
                message=f"Sales end at {ends.isoformat()}. They must end with the event at the latest, "
                f"at {event_ends.isoformat()} ({event_ends.zone}).",
            )
        )
    if ends.instant <= starts.instant:
        errors.append(
            FieldError(
                field="sales_ends_at",
                message=f"Sales end at {ends.isoformat()}. They must end after their start, {starts.isoformat()}. "
                "Send both times together to move the window.",
            )
        )
    if errors:
        raise TicketInvalid(errors)


_PRICES_OF_TYPE: dict[str, tuple[str, ...]] = {
    "free": (),
    "paid": ("price",),
    "donation": ("min_price", "max_price"),
}


def _price_errors(terms: Terms) -> list[FieldError]:
    amounts = {"price": terms.price, "min_price": terms.min_price, "max_price": terms.max_price}
    errors = [
        FieldError(field=name, message=f"A {terms.type} ticket cannot have a {name}. Send null or another type.")
        for name, amount in amounts.items()
        if amount is not None and name not in _PRICES_OF_TYPE[terms.type]
    ]
    if terms.type == "paid" and (terms.price is None or terms.price.minor == 0):
        message = "A paid ticket must have a price greater than 0. Send one, or send the type free."
        errors.append(FieldError(field="price", message=message))
    if terms.type == "donation":
        if terms.min_price is None:
            message = "A donation must have a min_price with its currency. Send 0 to let donors give any amount."
            errors.append(FieldError(field="min_price", message=message))
        elif terms.max_price is not None and terms.max_price.minor < max(terms.min_price.minor, 1):
            message = (
                f"max_price is {terms.max_price.minor}. It must be greater than 0 and at least min_price, "
                f"which is {terms.min_price.minor}."
            )
            errors.append(FieldError(field="max_price", message=message))
    if len({amount.currency for amount in amounts.values() if amount is not None}) > 1:
        message = "All amounts of a ticket must be in one currency. Send them together to change it."
        errors.append(FieldError(field="max_price", message=message))
    return errors


def _size_errors(terms: Terms) -> list[FieldError]:
    # max_per_order may exceed the quantity, since its default is 10. min_per_order may not: no order would fit.
    errors = []
    minimum = terms.min_per_order
    if terms.max_per_order < minimum:
        message = f"max_per_order is {terms.max_per_order}. It must be at least min_per_order, which is {minimum}."
        errors.append(FieldError(field="max_per_order", message=message))
    if terms.quantity < minimum:
        message = f"quantity is {terms.quantity}. It must be at least min_per_order, which is {minimum}."
        errors.append(FieldError(field="quantity", message=message))
    return errors


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
    """Return the same wall times in another zone: the instants move. Never refuses.

    Nobody can choose another time here, so a wall time in a gap of the new zone is read as ``walltime.rederived``
    reads it. In a night in which a clock is set the end may come before the start (02:45 to 02:15, where both
    happened twice); then the start keeps its wall time and the window its length.
    """
    starts = rederived(row.sales_starts_local, zone, row.sales_starts_fold)
    ends = rederived(row.sales_ends_local, zone, row.sales_ends_fold)
    if ends.instant <= starts.instant:
        length: timedelta = row.sales_ends_at - row.sales_starts_at
        ends = at(starts.instant + length, zone)
    return starts, ends


# Positions


def moved(ticket_ids: Sequence[UUID], ticket_id: UUID, position: int) -> list[UUID]:
    """Return the sequence after ``ticket_id`` has moved to ``position`` (from 1). Raises ``PositionOutOfRange``."""
    others = [other for other in ticket_ids if other != ticket_id]
    last = len(others) + 1
    if not 1 <= position <= last:
        raise PositionOutOfRange(position, last)
    return [*others[: position - 1], ticket_id, *others[position - 1 :]]


def check_complete(given: Sequence[UUID], current: Sequence[UUID]) -> None:
    """Raise ``TicketSetChanged`` unless ``given`` names each ticket exactly once."""
    if sorted(given) == sorted(current):
        return
    known, named = set(current), dict.fromkeys(given)
    missing = [str(ticket_id) for ticket_id in current if ticket_id not in named]
    unknown = [str(ticket_id) for ticket_id in named if ticket_id not in known]
    raise TicketSetChanged(
        f"{len(given)} ids were sent; {len(missing)} are missing and {len(unknown)} are not of this event. Each of "
        f"its {len(current)} tickets must be named once. Read the list again and send all of its ids.",
        field="ticket_ids",
        missing=missing,
        unknown=unknown,
    )


# Tags. A ticket reads differently once its sales have begun, so what the clock says is a part of its tag.


def ticket_etag(version: int, sales: str) -> str:
    return etag_of(f"{version}-{sales}")


def list_etag(version: int, edges: int, *, is_own: bool) -> str:
    """``edges`` counts the starts and ends of windows that have passed: with the version they determine the list.
    The organizer may see more than the public at the same address."""
    return etag_of(f"{version}-{edges}{'o' if is_own else 'p'}")


_CLOCK_PART = re.compile(r'-(?:upcoming|open|past|[0-9]+[po])(?=")')


def without_clock(if_match: str | None) -> str | None:
    """Return an ``If-Match`` by versions alone.

    Callers must have seen all changes that people made. They need not outrun the clock.
    """
    return if_match if if_match is None else _CLOCK_PART.sub("", if_match)
