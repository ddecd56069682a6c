"""What the tables themselves keep, whatever the code does."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from services.tickets.tests.factories import CreateTicket, ReceiveEvent
from tickets.models import Ticket


async def test_limits_per_order_stay_equal_under_their_old_names(
    session: AsyncSession, receive_event: ReceiveEvent, create_ticket: CreateTicket
) -> None:
    async def limits() -> tuple[int, ...]:
        names = "min_per_order, max_per_order, min_order, max_order"
        return tuple((await session.execute(text(f"SELECT {names} FROM tickets"))).one())

    await create_ticket(await receive_event(), min_per_order=2, max_per_order=6)
    assert await limits() == (2, 6, 2, 6)
    # Pods of the release before write the old names alone: an UPDATE, then an INSERT.
    await session.execute(text("UPDATE tickets SET min_order = 3, max_order = 7"))
    assert await limits() == (3, 7, 3, 7)
    others = [
        column.name for column in Ticket.__table__.columns if column.name not in ("min_per_order", "max_per_order")
    ]
    row = (await session.execute(text(f"SELECT {', '.join(others)} FROM tickets"))).mappings().one()
    await session.execute(text("DELETE FROM tickets"))
    values = ", ".join(f":{name}" for name in others)
    await session.execute(text(f"INSERT INTO tickets ({', '.join(others)}) VALUES ({values})"), dict(row))
    assert await limits() == (3, 7, 3, 7)
    await session.execute(text("UPDATE tickets SET max_per_order = 9"))
    assert await limits() == (3, 9, 3, 9)


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "paid"},
        {"type": "paid", "min_price_minor": 5, "currency": "EUR"},
        {"type": "donation", "currency": "EUR"},
        {"type": "donation", "min_price_minor": 5},
        {"type": "donation", "min_price_minor": 5, "max_price_minor": 4, "currency": "EUR"},
        {"type": "gift"},
        {"price_minor": 5, "currency": "EUR"},
        {"quantity": 0},
        {"max_per_order": 0},
        {"position": 0},
        {"sales_ends_at": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
async def test_the_database_refuses_invalid_tickets(
    session: AsyncSession, receive_event: ReceiveEvent, create_ticket: CreateTicket, broken: dict[str, Any]
) -> None:
    await create_ticket(await receive_event())
    ticket = (await session.scalars(select(Ticket))).one()
    for name, value in broken.items():
        setattr(ticket, name, value)
    with pytest.raises(IntegrityError):
        await session.flush()
    await session.rollback()
