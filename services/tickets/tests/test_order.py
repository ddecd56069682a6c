"""The order of tickets: moves, whole orders, and several people doing it at once."""

import asyncio
import random
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from shared.messaging.tables import OUTBOX
from testkit.plugin import Live, RecordedOutbox, TokenFactory
from tickets.models import Ticket


@pytest.mark.main_path
async def test_a_move_shifts_the_others_and_tells_of_all_that_moved(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    tell_of_event: Any,
    create_ticket: Any,
    names: Any,
    outbox: RecordedOutbox,
) -> None:
    event_id = await tell_of_event()
    tickets = [await create_ticket(event_id, name) for name in "ABCD"]
    assert [ticket["position"] for ticket in tickets] == [1, 2, 3, 4]
    own = tokens.organizer()
    moved = await client.patch(f"/v1/tickets/{tickets[3]['id']}", json={"position": 2}, headers=own)
    assert (moved.json()["position"], moved.json()["version"]) == (2, 2)
    assert await names(event_id) == ["A", "D", "B", "C"]
    changed = await outbox.messages("tickets.ticket.changed.v1")
    assert {message.payload["name"] for message in changed} == {"B", "C", "D"}

    inserted = await create_ticket(event_id, "E", position=1)
    assert inserted["position"] == 1
    assert await names(event_id) == ["E", "A", "D", "B", "C"]
    beyond = await client.patch(f"/v1/tickets/{inserted['id']}", json={"position": 6}, headers=own)
    assert (beyond.status_code, beyond.json()["code"]) == (422, "position-out-of-range")


@pytest.mark.main_path
async def test_a_whole_order_takes_the_lists_tag_and_answers_the_new_list(
    client: httpx.AsyncClient, tokens: TokenFactory, tell_of_event: Any, create_ticket: Any, outbox: RecordedOutbox
) -> None:
    event_id = await tell_of_event()
    tickets = [await create_ticket(event_id, name, is_hidden=name == "B") for name in "ABC"]
    a, b, c = (ticket["id"] for ticket in tickets)
    own, path = tokens.organizer(), f"/v1/events/{event_id}/tickets"
    seen = (await client.get(path, headers=own)).headers["etag"]

    ordered = await client.put(f"{path}/order", json={"ticket_ids": [c, b, a]}, headers={**own, "If-Match": seen})
    assert ordered.status_code == 200
    assert [item["name"] for item in ordered.json()["items"]] == ["C", "B", "A"]
    listed = await client.get(path, headers=own)
    assert (listed.json(), listed.headers["etag"]) == (ordered.json(), ordered.headers["etag"])
    changed = await outbox.messages("tickets.ticket.changed.v1")
    assert {message.payload["name"] for message in changed} == {"A", "C"}, "B stays where it was"

    stale = await client.put(f"{path}/order", json={"ticket_ids": [a, b, c]}, headers={**own, "If-Match": seen})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition-failed")
    for wrong, missing, unknown in (
        ([a, b], [c], []),
        ([a, b, c, c], [], []),
        ([a, b, str(event_id)], [c], [str(event_id)]),
    ):
        refused = await client.put(f"{path}/order", json={"ticket_ids": wrong}, headers=own)
        assert (refused.status_code, refused.json()["code"]) == (409, "ticket-set-changed")
        assert refused.json()["errors"][0]["missing"] == missing
        assert refused.json()["errors"][0]["unknown"] == unknown
    assert (await client.get(path, headers=own)).json() == listed.json()


@pytest.mark.main_path
async def test_moves_at_the_same_time_keep_positions_whole(
    live: Live, tokens: TokenFactory, teller_on: Any, creator_on: Any
) -> None:
    event_id = await teller_on(live.sessions)()
    create, own = creator_on(live.client), tokens.organizer()
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
        for ticket in tickets:
            told = await session.scalars(
                select(OUTBOX.c.aggregate_seq)
                .where(OUTBOX.c.aggregate_id == ticket.id)
                .order_by(OUTBOX.c.created_at)
            )
            assert told.all() == list(range(1, ticket.version + 1)), "each version was told of, in order"


async def test_of_two_orders_at_the_same_time_one_is_refused(
    live: Live, tokens: TokenFactory, teller_on: Any, creator_on: Any
) -> None:
    event_id = await teller_on(live.sessions)()
    create, own = creator_on(live.client), tokens.organizer()
    a, b, c = [(await create(event_id, name))["id"] for name in "ABC"]
    path = f"/v1/events/{event_id}/tickets"
    seen = (await live.client.get(path, headers=own)).headers["etag"]
    orders = ([c, b, a], [b, c, a])
    answers = await asyncio.gather(
        *(
            live.client.put(f"{path}/order", json={"ticket_ids": order}, headers={**own, "If-Match": seen})
            for order in orders
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    winner = next(order for order, answer in zip(orders, answers, strict=True) if answer.status_code == 200)
    listed = (await live.client.get(path)).json()["items"]
    assert [item["id"] for item in listed] == winner


async def test_of_two_tickets_of_one_name_at_the_same_time_one_is_refused(
    live: Live, tokens: TokenFactory, teller_on: Any
) -> None:
    event_id = await teller_on(live.sessions)()
    answers = await asyncio.gather(
        *(
            live.client.post(
                f"/v1/events/{event_id}/tickets", json={"name": name, "type": "free"}, headers=tokens.organizer()
            )
            for name in ("Regular", "regular")
        )
    )
    assert sorted(answer.status_code for answer in answers) == [201, 409]
