"""The internal call, answered by its contract."""

import httpx

from services.tickets.tests.factories import CreateTicket, ReceiveEvent
from shared.contracts.tickets import EventTickets
from testkit.calls import newest_call, read_whole
from testkit.plugin import TokenFactory


async def test_all_tickets_of_an_event_are_answered_by_the_contract(
    client: httpx.AsyncClient, tokens: TokenFactory, receive_event: ReceiveEvent, create_ticket: CreateTicket
) -> None:
    event_id = await receive_event()
    price = {"amount_minor": 1900, "currency": "EUR"}
    created = [
        await create_ticket(event_id, "Regular", type="paid", price=price),
        await create_ticket(event_id, "Supporter", type="donation", min_price=price, is_hidden=True),
    ]
    call = newest_call("tickets.event_tickets.read")
    url = call.url(event_id=event_id)
    answer = await client.get(url, params=call.query, headers=tokens.service("exports"))
    assert answer.status_code == call.status
    found = read_whole(EventTickets, answer)
    assert answer.json() == {"tickets": created}
    assert [ticket.model_extra for ticket in found.tickets] == [{}, {}]
    assert [ticket.keys() for ticket in answer.json()["tickets"]] == [
        ticket.keys() for ticket in call.answer["tickets"]
    ]


async def test_unknown_part_of_the_query_is_refused_by_name(
    client: httpx.AsyncClient, tokens: TokenFactory, receive_event: ReceiveEvent
) -> None:
    call = newest_call("tickets.event_tickets.read")
    url = call.url(event_id=await receive_event())
    answer = await client.get(url, params={**call.query, "trash": "true"}, headers=tokens.service("exports"))
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "query.trash")
