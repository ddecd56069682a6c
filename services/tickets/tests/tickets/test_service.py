"""Moves, arrangements, and changes of one list at the same time."""

import asyncio
import random

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
from shared.messaging.tables import OUTBOX
from testkit.plugin import Live, RecordedMessage, RecordedOutbox, TokenFactory
from tickets.models import Ticket
from tickets.tickets.rules import MAX_TICKETS

LIST = "tickets.list.arranged.v1"


def positions(message: RecordedMessage) -> dict[str, tuple[int, int]]:
    """Return position and version of each ticket in a message of the list."""
    return {item["ticket_id"]: (item["position"], item["version"]) for item in message.payload["tickets"]}


@pytest.mark.main_path
async def test_a_move_shifts_the_others_and_is_one_message_of_the_list(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    names: ListNames,
    outbox: RecordedOutbox,
) -> None:
    event_id = await receive_event()
    tickets = [await create_ticket(event_id, name) for name in "ABCD"]
    a, b, c, d = (ticket["id"] for ticket in tickets)
    assert [ticket["position"] for ticket in tickets] == [1, 2, 3, 4]
    own = tokens.organizer()
    moved = await client.patch(f"/v1/tickets/{d}", json={"position": 2}, headers=own)
    assert moved.json() == {**tickets[3], "position": 2, "version": 2}
    assert await names(event_id) == ["A", "D", "B", "C"]

    *created, message = await outbox.messages()
    assert [each.type for each in created] == ["tickets.ticket.created.v1"] * 4
    assert (message.type, message.subject) == (LIST, event_id)
    assert list(positions(message).items()) == [(a, (1, 1)), (d, (2, 2)), (b, (3, 2)), (c, (4, 2))]
    assert (message.payload["event_id"], message.payload["version"]) == (str(event_id), message.seq)
    shifted = await client.get(f"/v1/tickets/{b}", headers={"If-None-Match": '"1-open"'})
    assert (shifted.status_code, shifted.json()["position"]) == (200, 3), "its ETag is another one"

    same = await client.patch(f"/v1/tickets/{d}", json={"position": 2}, headers=own)
    assert same.json() == moved.json()
    assert len(await outbox.messages()) == 5
    beyond = await client.patch(f"/v1/tickets/{d}", json={"position": 5}, headers=own)
    assert (beyond.status_code, beyond.json()["code"]) == (422, "position-out-of-range")
    assert "1 to 4" in beyond.json()["detail"]


async def test_a_ticket_that_changes_and_moves_has_a_message_of_its_own_too(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    outbox: RecordedOutbox,
) -> None:
    event_id = await receive_event()
    a, b = [(await create_ticket(event_id, name))["id"] for name in "AB"]
    body = {"position": 1, "quantity": 7}
    await client.patch(f"/v1/tickets/{b}", json=body, headers=tokens.organizer())
    changed, arranged = (await outbox.messages())[2:]
    assert (changed.type, str(changed.subject), changed.seq) == ("tickets.ticket.changed.v1", b, 2)
    assert (changed.payload["position"], changed.payload["quantity"]) == (1, 7)
    assert positions(arranged) == {b: (1, 2), a: (2, 2)}


@pytest.mark.main_path
async def test_a_ticket_that_is_inserted_shifts_those_behind_it(
    receive_event: ReceiveEvent, create_ticket: CreateTicket, names: ListNames, outbox: RecordedOutbox
) -> None:
    event_id = await receive_event()
    a, b = [(await create_ticket(event_id, name))["id"] for name in "AB"]
    inserted = await create_ticket(event_id, "C", position=2)
    assert (inserted["position"], inserted["version"]) == (2, 1)
    assert await names(event_id) == ["A", "C", "B"]
    created, arranged = (await outbox.messages())[2:]
    assert (created.type, created.payload["position"]) == ("tickets.ticket.created.v1", 2)
    assert positions(arranged) == {a: (1, 1), inserted["id"]: (2, 1), b: (3, 2)}


@pytest.mark.main_path
async def test_an_arrangement_takes_the_etag_of_the_list_and_answers_the_new_list(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    outbox: RecordedOutbox,
) -> None:
    event_id = await receive_event()
    tickets = [await create_ticket(event_id, name, is_hidden=name == "B") for name in "ABC"]
    a, b, c = (ticket["id"] for ticket in tickets)
    own, path = tokens.organizer(), f"/v1/events/{event_id}/tickets"
    etag = (await client.get(path, headers=own)).headers["etag"]

    arranged = await client.put(
        f"{path}/positions", json={"ticket_ids": [c, b, a]}, headers={**own, "If-Match": etag}
    )
    assert arranged.status_code == 200
    assert [item["name"] for item in arranged.json()["items"]] == ["C", "B", "A"]
    listed = await client.get(path, headers=own)
    assert (listed.json(), listed.headers["etag"]) == (arranged.json(), arranged.headers["etag"])
    (message,) = (await outbox.messages())[3:]
    assert message.type == LIST
    assert list(positions(message).items()) == [(c, (1, 2)), (b, (2, 1)), (a, (3, 2))], "B stays in its place"

    again = await client.put(f"{path}/positions", json={"ticket_ids": [c, b, a]}, headers=own)
    assert (again.status_code, again.headers["etag"]) == (200, arranged.headers["etag"])
    stale = await client.put(f"{path}/positions", json={"ticket_ids": [a, b, c]}, headers={**own, "If-Match": etag})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition-failed")
    for wrong, missing, unknown in (
        ([a, b], [c], []),
        ([a, b, c, c], [], []),
        ([a, b, str(event_id)], [c], [str(event_id)]),
    ):
        refused = await client.put(f"{path}/positions", json={"ticket_ids": wrong}, headers=own)
        assert (refused.status_code, refused.json()["code"]) == (409, "ticket-set-changed")
        assert refused.json()["errors"][0]["missing"] == missing
        assert refused.json()["errors"][0]["unknown"] == unknown
    assert (await client.get(path, headers=own)).json() == listed.json()
    assert len(await outbox.messages()) == 4


async def test_a_move_or_an_arrangement_of_a_full_list_is_few_statements_and_one_message(
    live: Live, tokens: TokenFactory, receive_event_on: ReceiveEventOn, create_ticket_on: CreateTicketOn
) -> None:
    event_id = await receive_event_on(live.sessions)()
    await create_ticket_on(live.client)(event_id)
    async with live.sessions() as session:
        ids = [str(ticket_id) for ticket_id in await copy_ticket(session, until=MAX_TICKETS)]
    own = tokens.organizer()
    with counted_statements(live.engine) as statements:
        moved = await live.client.patch(f"/v1/tickets/{ids[-1]}", json={"position": 1}, headers=own)
    assert (moved.status_code, moved.json()["position"]) == (200, 1)
    assert len(statements) < 12
    with counted_statements(live.engine) as statements:
        path = f"/v1/events/{event_id}/tickets/positions"
        arranged = await live.client.put(path, json={"ticket_ids": ids[::-1]}, headers=own)
    assert [item["id"] for item in arranged.json()["items"]] == ids[::-1]
    assert len(statements) < 12
    async with live.sessions() as session:
        sent = (await session.scalars(select(OUTBOX.c.type).order_by(OUTBOX.c.created_at))).all()
    assert sent == ["tickets.ticket.created.v1", LIST, LIST]


@pytest.mark.main_path
async def test_concurrent_moves_keep_positions_without_gaps(
    live: Live, tokens: TokenFactory, receive_event_on: ReceiveEventOn, create_ticket_on: CreateTicketOn
) -> None:
    event_id = await receive_event_on(live.sessions)()
    create, own = create_ticket_on(live.client), tokens.organizer()
    count, moves = 8, 24
    created = await asyncio.gather(*(create(event_id, f"Ticket {number}") for number in range(count)))
    assert sorted(ticket["position"] for ticket in created) == list(range(1, count + 1))

    chance = random.Random(7)
    answers = await asyncio.gather(
        *(
            live.client.patch(
                f"/v1/tickets/{chance.choice(created)['id']}",
                json={"position": chance.randint(1, count)},
                headers=own,
            )
            for _ in range(moves)
        )
    )
    assert [answer.status_code for answer in answers] == [200] * moves
    async with live.sessions() as session:
        tickets = (await session.scalars(select(Ticket).order_by(Ticket.position))).all()
        assert [ticket.position for ticket in tickets] == list(range(1, count + 1))
        sent = await session.execute(
            select(OUTBOX.c.aggregate_seq, OUTBOX.c.payload)
            .where(OUTBOX.c.aggregate_type == "tickets.list")
            .order_by(OUTBOX.c.created_at)
        )
        versions, lists = zip(*sent, strict=True)
    assert list(versions) == sorted(set(versions)), "in the sequence of the commits"
    latest = [(item["ticket_id"], item["position"], item["version"]) for item in lists[-1]["tickets"]]
    assert latest == [(str(ticket.id), ticket.position, ticket.version) for ticket in tickets]


async def test_of_two_concurrent_arrangements_one_is_refused(
    live: Live, tokens: TokenFactory, receive_event_on: ReceiveEventOn, create_ticket_on: CreateTicketOn
) -> None:
    event_id = await receive_event_on(live.sessions)()
    create, own = create_ticket_on(live.client), tokens.organizer()
    a, b, c = [(await create(event_id, name))["id"] for name in "ABC"]
    path = f"/v1/events/{event_id}/tickets"
    etag = (await live.client.get(path, headers=own)).headers["etag"]
    arrangements = ([c, b, a], [b, c, a])
    answers = await asyncio.gather(
        *(
            live.client.put(f"{path}/positions", json={"ticket_ids": ticket_ids}, headers={**own, "If-Match": etag})
            for ticket_ids in arrangements
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    (winner,) = (
        ticket_ids for ticket_ids, answer in zip(arrangements, answers, strict=True) if answer.status_code == 200
    )
    listed = (await live.client.get(path)).json()["items"]
    assert [item["id"] for item in listed] == winner


async def test_of_two_concurrent_tickets_of_one_name_one_is_refused(
    live: Live, tokens: TokenFactory, receive_event_on: ReceiveEventOn
) -> None:
    event_id = await receive_event_on(live.sessions)()
    answers = await asyncio.gather(
        *(
            live.client.post(
                f"/v1/events/{event_id}/tickets", json={"name": name, "type": "free"}, headers=tokens.organizer()
            )
            for name in ("Regular", "regular")
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409]
