"""The public list: sales windows, ETags, the same JSON as elsewhere, and its cost."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from services.tickets.tests.factories import (
    CreateTicket,
    CreateTicketOn,
    ListNames,
    ReceiveEvent,
    ReceiveEventOn,
    counted_statements,
)
from testkit.plugin import Live, TokenFactory
from tickets.tickets.public_list import (
    Connection,
    ListUnavailable,
    TicketList,
    TicketLists,
    open_pool,
    read_list,
)
from tickets.tickets.repository import view_tickets
from tickets.tickets.schemas import TicketRead

EUR_15 = {"amount_minor": 1500, "currency": "EUR"}
MICROSECOND = timedelta(microseconds=1)


async def sales_at(session: AsyncSession, driver: Connection, event_id: UUID, instant: datetime) -> set[str]:
    """Return the state of the event's only ticket at an instant, by both ways to read it.

    The instant stands in for the clock in the same statements that answer requests.
    """
    found = await read_list(driver, event_id, "acme", now=instant)
    assert found is not None
    (view,) = await view_tickets(session, event_id, "acme", now=instant)
    return {json.loads(found.json)["sales"], view.sales}


@pytest.mark.main_path
@pytest.mark.parametrize(
    "window",
    [
        pytest.param(("2097-06-01T10:00:00+02:00", "2097-10-26T09:00:00+02:00"), id="summer"),
        pytest.param(("2097-10-27T02:30:00+02:00", "2097-10-27T02:30:00+01:00"), id="fold"),
        pytest.param(("2097-10-27T01:59:59+02:00", "2097-10-27T03:00:00+01:00"), id="across the fold"),
        pytest.param(("2097-03-31T01:59:59+01:00", "2097-03-31T03:00:00+02:00"), id="before the gap"),
    ],
)
async def test_sales_are_open_at_the_start_and_past_at_the_end(
    session: AsyncSession,
    driver: Connection,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    window: tuple[str, str],
) -> None:
    event_id = await receive_event()
    ticket = await create_ticket(event_id, sales_starts_at=window[0], sales_ends_at=window[1])
    assert (ticket["sales_starts_at"], ticket["sales_ends_at"]) == window
    starts, ends = (datetime.fromisoformat(edge).astimezone(UTC) for edge in window)
    assert await sales_at(session, driver, event_id, starts - MICROSECOND) == {"upcoming"}
    assert await sales_at(session, driver, event_id, starts) == {"open"}
    assert await sales_at(session, driver, event_id, ends - MICROSECOND) == {"open"}
    assert await sales_at(session, driver, event_id, ends) == {"past"}


@pytest.mark.main_path
async def test_the_list_is_filtered_by_the_databases_clock_and_keeps_positions(
    client: httpx.AsyncClient, receive_event: ReceiveEvent, create_ticket: CreateTicket, names: ListNames
) -> None:
    event_id = await receive_event()

    def window(starts: int, ends: int) -> dict[str, str]:
        now = datetime.now(UTC)
        return {
            "sales_starts_at": (now + timedelta(hours=starts)).isoformat(),
            "sales_ends_at": (now + timedelta(hours=ends)).isoformat(),
        }

    await create_ticket(event_id, "Early", **window(-48, -24))
    await create_ticket(event_id, "Regular", **window(-1, 24))
    await create_ticket(event_id, "Late", **window(24, 48))
    await create_ticket(event_id, "Students", position=1, **window(-1, 24))
    assert await names(event_id) == ["Students", "Early", "Regular", "Late"]
    assert await names(event_id, sales="open") == ["Students", "Regular"]
    assert await names(event_id, sales="upcoming") == ["Late"]
    assert await names(event_id, sales="past") == ["Early"]
    answer = await client.get(f"/v1/events/{event_id}/tickets", params={"sales": "closed"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "query.sales")
    assert "'closed'" in answer.json()["detail"]
    assert "open, upcoming, past" in answer.json()["detail"]


@pytest.mark.main_path
async def test_the_json_of_postgresql_is_that_of_ticket_read(
    client: httpx.AsyncClient, receive_event: ReceiveEvent, create_ticket: CreateTicket
) -> None:
    event_id = await receive_event()
    await create_ticket(event_id, "Free")
    await create_ticket(event_id, "Paid", type="paid", price={"amount_minor": 10**12, "currency": "JPY"})
    zero = {"amount_minor": 0, "currency": "EUR"}
    await create_ticket(
        event_id, "Donation", type="donation", min_price=zero, max_price=EUR_15, description="\x7f\t"
    )
    items = (await client.get(f"/v1/events/{event_id}/tickets")).json()["items"]
    assert len(items) == 3
    for item in items:
        TicketRead.model_validate(item, strict=False, extra="forbid")
        assert list(item) == list(TicketRead.model_fields)
        assert item == (await client.get(f"/v1/tickets/{item['id']}")).json()


@pytest.mark.main_path
async def test_the_etag_of_a_list_holds_until_something_in_it_changes(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    driver: Connection,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
) -> None:
    event_id = await receive_event()
    ticket = await create_ticket(event_id, sales_starts_at="2097-06-01T10:00", sales_ends_at="2097-07-01T10:00")
    path, own = f"/v1/events/{event_id}/tickets", tokens.organizer()
    public = await client.get(path)
    assert public.headers["vary"] == "Authorization"
    etag = public.headers["etag"]
    for headers in ({"If-None-Match": etag}, {"If-None-Match": f'W/{etag}, "x"'}):
        known = await client.get(path, headers=headers)
        assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)
    own_etag = (await client.get(path, headers=own)).headers["etag"]
    assert own_etag != etag, "the organizer may see more under the same address"

    await client.patch(f"/v1/tickets/{ticket['id']}", json={"quantity": 3}, headers=own)
    changed = await client.get(path, headers={"If-None-Match": etag})
    assert (changed.status_code, changed.json()["items"][0]["quantity"]) == (200, 3)

    # The clock changes the list too, at each edge of a window.
    etags = [
        found.etag
        for month in (5, 6, 7)
        if (found := await read_list(driver, event_id, now=datetime(2097, month, 15, tzinfo=UTC)))
    ]
    assert len(set(etags)) == 3


@pytest.mark.main_path
async def test_a_list_costs_one_statement_and_no_session(
    live: Live, tokens: TokenFactory, receive_event_on: ReceiveEventOn, create_ticket_on: CreateTicketOn
) -> None:
    event_id = await receive_event_on(live.sessions)()
    create = create_ticket_on(live.client)
    for number in range(20):
        await create(event_id, f"Ticket {number}")
    path = f"/v1/events/{event_id}/tickets?sales=open"
    statements: list[str] = []

    def count(record: Any) -> None:
        statements.append(record.query)

    async with open_pool(live.settings) as pool:
        held = [await pool.acquire() for _ in range(live.settings.database_pool_size)]
        for connection in held:
            connection.add_query_logger(count)
        for connection in held:
            await pool.release(connection)
        live.app.state.ticket_lists = TicketLists(pool)
        with counted_statements(live.engine) as of_sessions:
            for headers in ({}, tokens.organizer(), tokens.organizer("other")):
                answer = await live.client.get(path, headers=headers)
                assert len(answer.json()["items"]) == 20
        await asyncio.sleep(0)  # asyncpg calls its loggers in the next turn of the loop
    assert len(statements) == 3
    assert of_sessions == []


class SlowConnection:
    """Ends statements one by one, each when it may."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.statements = 0
        self.begun = asyncio.Event()
        self.may_end = asyncio.Semaphore(0)

    async def fetchrow(self, query: str, *args: object) -> Any:
        self.statements += 1
        self.begun.set()
        row = await self._connection.fetchrow(query, *args)
        await self.may_end.acquire()
        return row


@pytest.mark.main_path
async def test_concurrent_callers_share_statements_and_get_no_answer_older_than_their_question(
    live: Live, receive_event_on: ReceiveEventOn, create_ticket_on: CreateTicketOn
) -> None:
    event_id = await receive_event_on(live.sessions)()
    create = create_ticket_on(live.client)
    await create(event_id, "First")
    async with open_pool(live.settings) as pool:
        slow = SlowConnection(pool)
        lists = TicketLists(slow)

        early = asyncio.create_task(lists.read(event_id, None, None))
        await slow.begun.wait()
        await create(event_id, "Second")
        callers = [asyncio.create_task(lists.read(event_id, None, None)) for _ in range(50)]
        organizer = asyncio.create_task(lists.read(event_id, "acme", None))
        callers[7].cancel()
        for _ in range(3):
            slow.may_end.release()
        lists_of_callers = await asyncio.gather(*callers, return_exceptions=True)
        of_organizer = await organizer
        assert await early is not None

    assert isinstance(lists_of_callers[7], asyncio.CancelledError), "and no other"
    for found in lists_of_callers[:7] + lists_of_callers[8:]:
        assert isinstance(found, TicketList)
        assert "Second" in found.json, "created before they asked"
        assert of_organizer is not None
        assert of_organizer.etag != found.etag
    assert slow.statements == 3
    assert lists.is_idle()


@pytest.mark.main_path
async def test_a_list_that_cannot_be_read_is_a_503_and_the_next_read_is_tried_again(
    live: Live, receive_event_on: ReceiveEventOn
) -> None:
    event_id = await receive_event_on(live.sessions)()

    class Lost:
        async def fetchrow(self, query: str, *args: object) -> Any:
            raise asyncpg.ConnectionDoesNotExistError("lost")

    working = live.app.state.ticket_lists
    live.app.state.ticket_lists = TicketLists(Lost())
    answer = await live.client.get(f"/v1/events/{event_id}/tickets")
    assert (answer.status_code, answer.json()["code"]) == (503, ListUnavailable.code)
    assert answer.headers["retry-after"]
    live.app.state.ticket_lists = working
    assert (await live.client.get(f"/v1/events/{event_id}/tickets")).status_code == 200
