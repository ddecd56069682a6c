"""Copies of events, kept by messages that may arrive twice and in any order."""

import httpx
import pytest
from sqlalchemy import select

from services.tickets.tests.factories import (
    CreateTicket,
    CreateTicketOn,
    ListNames,
    ReceiveEvent,
    ReceiveEventOn,
    copy_ticket,
    counted_statements,
)
from shared.contracts.events import EventChangedV1, EventCreatedV1, EventPublishedV1, EventUnpublishedV1
from shared.database.engine import Sessions
from shared.messaging.tables import OUTBOX
from testkit.plugin import Live, RecordedOutbox, TokenFactory
from tickets.models import EventCopy
from tickets.tickets.rules import MAX_TICKETS


@pytest.mark.main_path
async def test_the_newest_message_wins_in_any_order(receive_event: ReceiveEvent, sessions: Sessions) -> None:
    event_id = await receive_event(EventPublishedV1, seq=3, name="Third", state="published")
    await receive_event(EventCreatedV1, event_id=event_id, seq=1, name="First", state="draft")
    await receive_event(EventChangedV1, event_id=event_id, seq=2, name="Second", state="draft")
    async with sessions() as session:
        copy = (await session.scalars(select(EventCopy).where(EventCopy.event_id == event_id))).one()
        assert (copy.name, copy.state, copy.seq) == ("Third", "published", 3)


@pytest.mark.main_path
async def test_publishing_opens_the_list_and_unpublishing_closes_it(
    client: httpx.AsyncClient, receive_event: ReceiveEvent
) -> None:
    event_id = await receive_event(EventCreatedV1, state="draft")
    path = f"/v1/events/{event_id}/tickets"
    assert (await client.get(path)).status_code == 404
    await receive_event(EventPublishedV1, event_id=event_id, seq=2)
    assert (await client.get(path)).json() == {"items": [], "next_cursor": None}
    await receive_event(EventUnpublishedV1, event_id=event_id, seq=3, state="draft")
    assert (await client.get(path)).status_code == 404


@pytest.mark.main_path
async def test_an_unknown_event_is_a_404_that_says_when_to_try_again(
    client: httpx.AsyncClient, tokens: TokenFactory
) -> None:
    body = {"name": "Regular", "type": "free"}
    for reference in ("0192f0c1-2345-7abc-8def-0123456789ab", "zzzzzzzz", "no-event", "x" * 36, "%00"):
        answer = await client.post(f"/v1/events/{reference}/tickets", json=body, headers=tokens.organizer())
        assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
        assert "moment" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "1"


@pytest.mark.main_path
async def test_a_new_zone_keeps_wall_times_and_moves_instants(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    outbox: RecordedOutbox,
) -> None:
    event_id = await receive_event()
    window = {"sales_starts_at": "2097-06-01T10:00", "sales_ends_at": "2097-10-26T09:00"}
    ticket = await create_ticket(event_id, **window)
    assert ticket["sales_starts_at"] == "2097-06-01T10:00:00+02:00"
    listed = await client.get(f"/v1/events/{event_id}/tickets")

    await receive_event(EventChangedV1, event_id=event_id, seq=2, timezone="America/New_York")

    moved = (await client.get(f"/v1/tickets/{ticket['id']}")).json()
    assert moved == {
        **ticket,
        "sales_starts_at": "2097-06-01T10:00:00-04:00",
        "sales_ends_at": "2097-10-26T09:00:00-04:00",
        "version": 2,
    }
    relisted = await client.get(f"/v1/events/{event_id}/tickets", headers={"If-None-Match": listed.headers["ETag"]})
    assert relisted.json()["items"] == [moved]
    _, message = await outbox.messages()
    assert (message.type, message.subject) == ("tickets.list.rescheduled.v1", event_id)
    assert message.payload == {
        "organizer": "acme",
        "event_id": str(event_id),
        "tickets": [
            {
                "ticket_id": ticket["id"],
                "position": 1,
                "sales_starts_at": "2097-06-01T14:00:00Z",
                "sales_ends_at": "2097-10-26T13:00:00Z",
                "version": 2,
            }
        ],
        "version": message.seq,
    }

    await receive_event(EventChangedV1, event_id=event_id, seq=3, timezone="Europe/Berlin")
    back = (await client.get(f"/v1/tickets/{ticket['id']}")).json()
    assert [back[name] for name in window] == [ticket[name] for name in window]


@pytest.mark.parametrize(
    ("from_zone", "window", "to_zone", "moved"),
    [
        pytest.param(
            "America/New_York",
            ("2097-03-31T02:30", "2097-03-31T12:00"),
            "Europe/Berlin",
            ("2097-03-31T03:30:00+02:00", "2097-03-31T12:00:00+02:00"),
            id="a start in a gap of the new zone happens after the gap",
        ),
        pytest.param(
            "America/New_York",
            ("2097-03-31T02:30", "2097-03-31T03:15"),
            "Europe/Berlin",
            ("2097-03-31T03:30:00+02:00", "2097-03-31T04:15:00+02:00"),
            id="an end that the gap puts before the start keeps the window's length",
        ),
        pytest.param(
            "America/New_York",
            ("2097-06-01T10:00", "2097-10-27T02:30"),
            "Europe/Berlin",
            ("2097-06-01T10:00:00+02:00", "2097-10-27T02:30:00+02:00"),
            id="a wall time in a fold of the new zone is its first occurrence",
        ),
        pytest.param(
            "Europe/Berlin",
            ("2097-10-27T02:45:00+02:00", "2097-10-27T02:15:00+01:00"),
            "America/New_York",
            ("2097-10-27T02:45:00-04:00", "2097-10-27T03:15:00-04:00"),
            id="a window within the fold stays half an hour",
        ),
    ],
)
async def test_a_new_zone_accepts_gaps_and_folds(
    client: httpx.AsyncClient,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    from_zone: str,
    window: tuple[str, str],
    to_zone: str,
    moved: tuple[str, str],
) -> None:
    event_id = await receive_event(timezone=from_zone)
    ticket = await create_ticket(event_id, sales_starts_at=window[0], sales_ends_at=window[1])
    await receive_event(EventChangedV1, event_id=event_id, seq=2, timezone=to_zone)
    read = (await client.get(f"/v1/tickets/{ticket['id']}")).json()
    assert (read["sales_starts_at"], read["sales_ends_at"]) == moved


async def test_a_new_zone_of_a_full_list_is_one_message_and_few_statements(
    live: Live,
    receive_event_on: ReceiveEventOn,
    create_ticket_on: CreateTicketOn,
) -> None:
    receive_event = receive_event_on(live.sessions)
    event_id = await receive_event()
    await create_ticket_on(live.client)(event_id)
    async with live.sessions() as session:
        ids = await copy_ticket(session, until=MAX_TICKETS)
    with counted_statements(live.engine) as statements:
        await receive_event(EventChangedV1, event_id=event_id, seq=2, timezone="America/New_York")
    assert len(statements) < 20
    async with live.sessions() as session:
        changed = select(OUTBOX).where(OUTBOX.c.type != "tickets.ticket.created.v1")
        (message,) = (await session.execute(changed)).all()
    assert message.type == "tickets.list.rescheduled.v1"
    assert [item["ticket_id"] for item in message.payload["tickets"]] == [str(ticket_id) for ticket_id in ids]
    assert {item["version"] for item in message.payload["tickets"]} == {2}


async def test_a_new_zone_with_the_same_offsets_changes_nothing(
    client: httpx.AsyncClient, receive_event: ReceiveEvent, create_ticket: CreateTicket, outbox: RecordedOutbox
) -> None:
    event_id = await receive_event()
    ticket = await create_ticket(event_id)
    await receive_event(EventChangedV1, event_id=event_id, seq=2, timezone="Europe/Paris")
    assert (await client.get(f"/v1/tickets/{ticket['id']}")).json() == ticket
    assert [message.type for message in await outbox.messages()] == ["tickets.ticket.created.v1"]


@pytest.mark.main_path
async def test_sales_end_with_an_event_that_was_moved_to_an_earlier_end(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    names: ListNames,
) -> None:
    event_id = await receive_event()
    ticket = await create_ticket(event_id)
    assert await names(event_id, sales="open") == ["Regular"]
    over = {"starts_at": "2020-01-01T00:00:00Z", "ends_at": "2020-01-02T00:00:00Z"}
    await receive_event(EventChangedV1, event_id=event_id, seq=2, **over)
    assert await names(event_id, sales="open") == []
    assert await names(event_id, sales="past") == ["Regular"]
    # Its window now ends after the event. Its other fields may be changed all the same.
    path = f"/v1/tickets/{ticket['id']}"
    renamed = await client.patch(path, json={"name": "Late"}, headers=tokens.organizer())
    assert (renamed.status_code, renamed.json()["sales"]) == (200, "past")
