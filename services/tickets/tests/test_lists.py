"""The list of an event's tickets: its windows, its tags, and what it costs."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.ext.asyncio import AsyncSession

from testkit.plugin import Live, TokenFactory
from tickets.tickets import repository
from tickets.tickets.lists import ListUnavailable, TicketLists

MICROSECOND = timedelta(microseconds=1)


async def sales_at(session: AsyncSession, event_id: UUID, instant: datetime) -> str:
    """The state of the event's only ticket at an instant.

    now() can't be set, so the statement takes an instant that stands in for the clock: the same statement, with the
    same comparison, that answers requests.
    """
    shown = await repository.list_tickets(session, event_id, "acme", now=instant)
    assert shown is not None
    assert shown.json.count('"sales":') == 1
    return shown.json.partition('"sales":"')[2].partition('"')[0]


@pytest.mark.main_path
@pytest.mark.parametrize(
    "window",
    [
        pytest.param(("2097-06-01T10:00:00+02:00", "2097-10-26T09:00:00+02:00"), id="summer"),
        pytest.param(("2097-10-27T02:30:00+02:00", "2097-10-27T02:30:00+01:00"), id="the hour that happens twice"),
        pytest.param(("2097-10-27T01:59:59+02:00", "2097-10-27T03:00:00+01:00"), id="across the fold"),
        pytest.param(("2097-03-31T01:59:59+01:00", "2097-03-31T03:00:00+02:00"), id="a second before the gap"),
    ],
)
async def test_sales_are_open_from_the_start_on_and_past_at_the_end(
    session: AsyncSession, tell_of_event: Any, create_ticket: Any, window: tuple[str, str]
) -> None:
    event_id = await tell_of_event()
    ticket = await create_ticket(event_id, sales_starts_at=window[0], sales_ends_at=window[1])
    assert (ticket["sales_starts_at"], ticket["sales_ends_at"]) == window
    starts, ends = (datetime.fromisoformat(edge).astimezone(UTC) for edge in window)
    assert await sales_at(session, event_id, starts - MICROSECOND) == "upcoming"
    assert await sales_at(session, event_id, starts) == "open"
    assert await sales_at(session, event_id, ends - MICROSECOND) == "open"
    assert await sales_at(session, event_id, ends) == "past"


@pytest.mark.main_path
async def test_the_list_is_filtered_by_the_databases_clock_and_keeps_the_order(
    client: httpx.AsyncClient, tell_of_event: Any, create_ticket: Any, names: Any
) -> None:
    event_id = await tell_of_event()

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
    assert "open, upcoming, past" in answer.json()["detail"]


@pytest.mark.main_path
async def test_the_tag_of_a_list_holds_until_something_in_it_changes(
    client: httpx.AsyncClient, tokens: TokenFactory, session: AsyncSession, tell_of_event: Any, create_ticket: Any
) -> None:
    event_id = await tell_of_event()
    ticket = await create_ticket(event_id, sales_starts_at="2097-06-01T10:00", sales_ends_at="2097-07-01T10:00")
    path, own = f"/v1/events/{event_id}/tickets", tokens.organizer()
    public = await client.get(path)
    assert public.headers["vary"] == "Authorization"
    tag = public.headers["etag"]
    for headers in ({"If-None-Match": tag}, {"If-None-Match": f'W/{tag}, "x"'}):
        known = await client.get(path, headers=headers)
        assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    own_tag = (await client.get(path, headers=own)).headers["etag"]
    assert own_tag != tag, "the organizer may see more under the same address"

    await client.patch(f"/v1/tickets/{ticket['id']}", json={"quantity": 3}, headers=own)
    changed = await client.get(path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["items"][0]["quantity"]) == (200, 3)

    # The clock changes what is shown as well, at each edge of a window.
    tags = [
        shown.tag
        for month in (5, 6, 7)
        if (
            shown := await repository.list_tickets(
                session, event_id, None, now=datetime(2097, month, 15, tzinfo=UTC)
            )
        )
    ]
    assert len(set(tags)) == 3


@pytest.mark.main_path
async def test_a_list_costs_one_statement_and_no_session(
    live: Live, tokens: TokenFactory, teller_on: Any, creator_on: Any
) -> None:
    event_id = await teller_on(live.sessions)()
    create = creator_on(live.client)
    for number in range(20):
        await create(event_id, f"Ticket {number}")
    path = f"/v1/events/{event_id}/tickets?sales=open"
    pool: asyncpg.Pool = live.app.state.ticket_lists._connection
    statements: list[str] = []
    sessions: list[object] = []

    def count(record: Any) -> None:
        statements.append(record.query)

    held = [await pool.acquire() for _ in range(live.settings.database_pool_size)]
    for connection in held:
        connection.add_query_logger(count)
    for connection in held:
        await pool.release(connection)
    sqlalchemy_event.listen(live.engine.sync_engine, "checkout", lambda *found: sessions.append(found))

    for headers in ({}, tokens.organizer(), tokens.organizer("other")):
        answer = await live.client.get(path, headers=headers)
        assert len(answer.json()["items"]) == 20
    await asyncio.sleep(0)  # asyncpg calls its loggers in the next turn of the loop
    assert len(statements) == 3
    assert sessions == []


class SlowConnection:
    """Stands between the list and the database, and lets statements end one by one."""

    def __init__(self, connection: Any) -> None:
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
async def test_a_crowd_shares_statements_and_nobody_gets_what_was_true_before_the_question(
    live: Live, teller_on: Any, creator_on: Any
) -> None:
    event_id = await teller_on(live.sessions)()
    create = creator_on(live.client)
    await create(event_id, "First")
    slow = SlowConnection(live.app.state.ticket_lists._connection)
    lists = TicketLists(slow)

    early = asyncio.create_task(lists.read(event_id, None, None))
    await slow.begun.wait()
    await create(event_id, "Second")
    crowd = [asyncio.create_task(lists.read(event_id, None, None)) for _ in range(50)]
    someone_else = asyncio.create_task(lists.read(event_id, "acme", None))
    crowd[7].cancel()
    slow.may_end.release()
    slow.may_end.release()
    slow.may_end.release()
    shown = await asyncio.gather(*crowd, return_exceptions=True)

    assert isinstance(shown[7], asyncio.CancelledError), "one who leaves leaves alone"
    for found in shown[:7] + shown[8:]:
        assert isinstance(found, repository.ShownTickets)
        assert "Second" in found.json, "created before they asked"
    assert (own := await someone_else) is not None
    assert own.is_own
    assert await early is not None
    assert slow.statements == 3
    assert lists._now == lists._next == {}


@pytest.mark.main_path
async def test_a_list_that_can_not_be_read_is_a_503_and_the_next_one_is_tried_anew(
    live: Live, teller_on: Callable[..., Any]
) -> None:
    event_id = await teller_on(live.sessions)()

    class Gone:
        async def fetchrow(self, query: str, *args: object) -> Any:
            raise asyncpg.ConnectionDoesNotExistError("gone")

    working = live.app.state.ticket_lists
    live.app.state.ticket_lists = TicketLists(Gone())
    answer = await live.client.get(f"/v1/events/{event_id}/tickets")
    assert (answer.status_code, answer.json()["code"]) == (503, ListUnavailable.code)
    assert answer.headers["retry-after"]
    live.app.state.ticket_lists = working
    assert (await live.client.get(f"/v1/events/{event_id}/tickets")).status_code == 200
