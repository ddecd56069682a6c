from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from shared.walltime import resolve
from tickets.tickets.rules import (
    Amount,
    PositionOutOfRange,
    Terms,
    TicketInvalid,
    TicketSetChanged,
    check_complete,
    check_terms,
    moved,
    without_clock,
)

ZONE = "Europe/Berlin"
EVENT_ENDS = resolve("2097-10-28T18:00", ZONE, field="ends_at")
FREE = Terms(
    type="free",
    price=None,
    min_price=None,
    max_price=None,
    quantity=100,
    min_per_order=1,
    max_per_order=10,
    sales_starts=resolve("2097-06-01T10:00", ZONE, field="sales_starts_at"),
    sales_ends=EVENT_ENDS,
)
FIVE, TEN = Amount(500, "EUR"), Amount(1000, "EUR")
A, B, C = (UUID(int=number) for number in (1, 2, 3))


@pytest.mark.parametrize(
    "terms",
    [
        FREE,
        replace(FREE, type="paid", price=TEN),
        replace(FREE, type="donation", min_price=Amount(0, "EUR")),
        replace(FREE, type="donation", min_price=FIVE, max_price=TEN),
        replace(FREE, type="donation", min_price=FIVE, max_price=FIVE),
        replace(FREE, quantity=5),
        replace(FREE, quantity=3, min_per_order=3, max_per_order=3),
    ],
)
def test_valid_terms_are_accepted(terms: Terms) -> None:
    check_terms(terms, event_ends=EVENT_ENDS)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"price": TEN}, {"price"}),
        ({"min_price": FIVE, "max_price": TEN}, {"min_price", "max_price"}),
        ({"type": "paid"}, {"price"}),
        ({"type": "paid", "price": Amount(0, "EUR")}, {"price"}),
        ({"type": "paid", "price": TEN, "min_price": FIVE}, {"min_price"}),
        ({"type": "donation"}, {"min_price"}),
        ({"type": "donation", "max_price": TEN}, {"min_price"}),
        ({"type": "donation", "min_price": FIVE, "price": TEN}, {"price"}),
        ({"type": "donation", "min_price": TEN, "max_price": FIVE}, {"max_price"}),
        ({"type": "donation", "min_price": Amount(0, "EUR"), "max_price": Amount(0, "EUR")}, {"max_price"}),
        ({"type": "donation", "min_price": FIVE, "max_price": Amount(1000, "USD")}, {"max_price"}),
        ({"min_per_order": 5, "max_per_order": 4}, {"max_per_order"}),
        ({"quantity": 4, "min_per_order": 5}, {"quantity"}),
        ({"sales_starts": EVENT_ENDS}, {"sales_ends_at"}),
        ({"price": TEN, "quantity": 1, "min_per_order": 20}, {"price", "quantity", "max_per_order"}),
    ],
)
def test_each_broken_rule_is_reported_with_its_field(changes: dict[str, Any], fields: set[str]) -> None:
    with pytest.raises(TicketInvalid) as refused:
        check_terms(replace(FREE, **changes), event_ends=EVENT_ENDS)
    assert {error.field for error in refused.value.errors} == fields


def test_a_window_in_a_fold_is_compared_by_instants() -> None:
    starts = resolve("2097-10-27T02:45:00+02:00", ZONE, field="sales_starts_at")
    ends = resolve("2097-10-27T02:15:00+01:00", ZONE, field="sales_ends_at")
    assert ends.local < starts.local
    check_terms(replace(FREE, sales_starts=starts, sales_ends=ends), event_ends=EVENT_ENDS)
    with pytest.raises(TicketInvalid, match="must end after their start"):
        check_terms(replace(FREE, sales_starts=ends, sales_ends=starts), event_ends=EVENT_ENDS)


def test_sales_may_end_with_the_event_and_not_later() -> None:
    later = resolve("2097-10-28T18:00:00.000001", ZONE, field="sales_ends_at")
    with pytest.raises(TicketInvalid, match=r"2097-10-28T18:00:00\+01:00 \(Europe/Berlin\)"):
        check_terms(replace(FREE, sales_ends=later), event_ends=EVENT_ENDS)
    check_terms(replace(FREE, sales_ends=later), event_ends=None)


@pytest.mark.parametrize(
    ("ticket_id", "position", "sequence"),
    [
        (A, 1, [A, B, C]),
        (A, 2, [B, A, C]),
        (A, 3, [B, C, A]),
        (C, 1, [C, A, B]),
        (C, 2, [A, C, B]),
        (B, 3, [A, C, B]),
    ],
)
def test_a_move_shifts_the_others(ticket_id: UUID, position: int, sequence: list[UUID]) -> None:
    assert moved([A, B, C], ticket_id, position) == sequence


@pytest.mark.parametrize("position", [0, 4, -1])
def test_a_position_outside_the_list_is_refused_with_the_range(position: int) -> None:
    with pytest.raises(PositionOutOfRange, match="from 1 to 3"):
        moved([A, B, C], B, position)


@pytest.mark.parametrize("given", [[A, B], [A, B, B], [A, B, C, C], [A, B, UUID(int=9)], []])
def test_an_arrangement_must_name_each_ticket_once(given: list[UUID]) -> None:
    with pytest.raises(TicketSetChanged):
        check_complete(given, [A, B, C])
    check_complete([C, A, B], [A, B, C])


@pytest.mark.parametrize(
    ("if_match", "by_version"),
    [
        (None, None),
        ('"3-open"', '"3"'),
        ('"3"', '"3"'),
        ('"2-past", "3-upcoming"', '"2", "3"'),
        ('"17-40o"', '"17"'),
        ('"3-openly"', '"3-openly"'),
        ('W/"3-open"', 'W/"3"'),
    ],
)
def test_an_if_match_is_compared_without_the_clock(if_match: str | None, by_version: str | None) -> None:
    assert without_clock(if_match) == by_version
