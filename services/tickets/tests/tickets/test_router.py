"""Creating, reading and changing tickets."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from services.tickets.tests.factories import CreateTicket, ListNames, ReceiveEvent, copy_ticket
from testkit.plugin import RecordedOutbox, TokenFactory
from tickets.tickets.rules import MAX_TICKETS

EUR_15 = {"amount_minor": 1500, "currency": "EUR"}


@pytest.mark.main_path
async def test_a_created_ticket_is_answered_published_and_readable(
    client: httpx.AsyncClient, tokens: TokenFactory, receive_event: ReceiveEvent, outbox: RecordedOutbox
) -> None:
    event_id = await receive_event()
    body = {
        "name": " Regular ",
        "description": 'Three days, "all" included\n— Überraschung \\o/ 🎉',
        "type": "paid",
        "price": EUR_15,
        "quantity": 50,
        "sales_starts_at": "2097-06-01T10:00",
        "sales_ends_at": "2097-10-26T09:00[Europe/Berlin]",
    }
    created = await client.post(f"/v1/events/{event_id}/tickets", json=body, headers=tokens.organizer())
    assert created.status_code == 201
    ticket = created.json()
    assert ticket == {
        "id": ticket["id"],
        "event_id": str(event_id),
        "name": "Regular",
        "description": body["description"],
        "type": "paid",
        "price": EUR_15,
        "min_price": None,
        "max_price": None,
        "quantity": 50,
        "min_per_order": 1,
        "max_per_order": 10,
        "is_hidden": False,
        "position": 1,
        "sales_starts_at": "2097-06-01T10:00:00+02:00",
        "sales_ends_at": "2097-10-26T09:00:00+02:00",
        "sales": "upcoming",
        "version": 1,
    }
    assert created.headers["location"] == f"/v1/tickets/{ticket['id']}"
    assert created.headers["etag"] == '"1-upcoming"'
    read = await client.get(created.headers["location"])
    assert (read.json(), read.headers["etag"]) == (ticket, created.headers["etag"])
    again = await client.get(created.headers["location"], headers={"If-None-Match": read.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")

    (message,) = await outbox.messages()
    assert (message.type, str(message.subject), message.seq) == ("tickets.ticket.created.v1", ticket["id"], 1)
    assert message.payload == {
        "organizer": "acme",
        "ticket_id": ticket["id"],
        "event_id": str(event_id),
        "name": "Regular",
        "description": body["description"],
        "type": "paid",
        "price_minor": 1500,
        "min_price_minor": None,
        "max_price_minor": None,
        "currency": "EUR",
        "quantity": 50,
        "min_per_order": 1,
        "max_per_order": 10,
        "is_hidden": False,
        "position": 1,
        "sales_starts_at": "2097-06-01T08:00:00Z",
        "sales_ends_at": "2097-10-26T07:00:00Z",
        "version": 1,
    }


@pytest.mark.main_path
async def test_sales_run_from_now_to_the_end_of_the_event_by_default(
    receive_event: ReceiveEvent, create_ticket: CreateTicket
) -> None:
    event_id = await receive_event(timezone="Asia/Kathmandu")
    before = datetime.now(UTC)
    ticket = await create_ticket(event_id)
    starts = datetime.fromisoformat(ticket["sales_starts_at"])
    assert starts.utcoffset() == timedelta(hours=5, minutes=45)
    assert abs(starts - before) < timedelta(minutes=1)
    assert ticket["sales_ends_at"] == "2097-10-28T22:45:00+05:45"
    assert ticket["sales"] == "open"


@pytest.mark.parametrize(
    ("fields", "code", "field", "text"),
    [
        ({"sales_ends_at": "2097-10-28T18:01"}, "ticket-invalid", "sales_ends_at", "2097-10-28T18:00:00+01:00"),
        ({"sales_starts_at": "2097-10-28T18:00"}, "ticket-invalid", "sales_ends_at", "must end after their start"),
        ({"sales_starts_at": "2097-03-31T02:30"}, "time-in-gap", "sales_starts_at", "2097-03-31T03:30:00+02:00"),
        ({"sales_ends_at": "2097-10-27T02:30"}, "time-in-fold", "sales_ends_at", "2097-10-27T02:30:00+01:00"),
        ({"sales_starts_at": "tomorrow"}, "invalid-time", "sales_starts_at", "is not a time"),
        ({"type": "paid"}, "ticket-invalid", "price", "greater than 0"),
        ({"price": EUR_15}, "ticket-invalid", "price", "free"),
        ({"position": 2}, "position-out-of-range", "position", "1 to 1"),
        ({"type": "paid", "price": {"amount_minor": 1, "currency": "eur"}}, "invalid", "body.price.currency", ""),
        (
            {"type": "paid", "price": {"amount_minor": 1.5, "currency": "EUR"}},
            "invalid",
            "body.price.amount_minor",
            "",
        ),
        ({"quantity": 0}, "invalid", "body.quantity", ""),
        ({"quantity": True}, "invalid", "body.quantity", ""),
        ({"quantity": 10**30}, "invalid", "body.quantity", ""),
        ({"name": "  "}, "invalid", "body.name", ""),
        ({"name": "a\x00b"}, "invalid", "body.name", "NUL"),
        ({"description": "\ud800"}, "invalid", "body.description", "unicode"),
        ({"name": None}, "invalid", "body.name", ""),
        ({"colour": "red"}, "invalid", "body.colour", ""),
        ({"min_order": 1}, "invalid", "body.min_order", "Send min_per_order instead"),
        ({"max_order": 5}, "invalid", "body.max_order", "Send max_per_order instead"),
    ],
)
async def test_invalid_input_names_the_field_and_leaves_nothing_behind(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    names: ListNames,
    outbox: RecordedOutbox,
    fields: dict[str, Any],
    code: str,
    field: str,
    text: str,
) -> None:
    event_id = await receive_event()
    body = json.dumps({"name": "Regular", "type": "free", **fields})  # httpx itself refuses half a surrogate pair
    headers = {**tokens.organizer(), "Content-Type": "application/json"}
    answer = await client.post(f"/v1/events/{event_id}/tickets", content=body, headers=headers)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == code
    assert field in {error["field"] for error in problem["errors"]}
    assert text in answer.text
    assert await names(event_id, "acme") == []
    assert await outbox.messages() == []


@pytest.mark.main_path
async def test_a_time_in_a_fold_is_accepted_with_its_offset(
    receive_event: ReceiveEvent, create_ticket: CreateTicket
) -> None:
    event_id = await receive_event()
    first = await create_ticket(event_id, "First", sales_ends_at="2097-10-27T02:30:00+02:00")
    second = await create_ticket(event_id, "Second", sales_ends_at="2097-10-27T02:30:00+01:00")
    assert first["sales_ends_at"] == "2097-10-27T02:30:00+02:00"
    assert second["sales_ends_at"] == "2097-10-27T02:30:00+01:00"


@pytest.mark.main_path
async def test_names_are_unique_in_an_event_without_regard_to_case(
    client: httpx.AsyncClient, tokens: TokenFactory, receive_event: ReceiveEvent, create_ticket: CreateTicket
) -> None:
    event_id, other_id = await receive_event(), await receive_event(identifier="otherone")
    await create_ticket(event_id, "Frühbucher")
    ticket = await create_ticket(event_id, "Regular")
    await create_ticket(other_id, "Regular")
    own = tokens.organizer()
    body = {"name": "FRÜHBUCHER", "type": "free"}
    created = await client.post(f"/v1/events/{event_id}/tickets", json=body, headers=own)
    renamed = await client.patch(f"/v1/tickets/{ticket['id']}", json={"name": "frühbucher"}, headers=own)
    for answer in (created, renamed):
        assert (answer.status_code, answer.json()["code"]) == (409, "ticket-name-taken")
    recased = await client.patch(f"/v1/tickets/{ticket['id']}", json={"name": "REGULAR"}, headers=own)
    assert (recased.status_code, recased.json()["name"]) == (200, "REGULAR")


@pytest.mark.main_path
async def test_the_same_creation_sent_twice_happens_once(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    names: ListNames,
    outbox: RecordedOutbox,
) -> None:
    event_id = await receive_event()
    headers = {**tokens.organizer(), "Idempotency-Key": "one"}
    path, body = f"/v1/events/{event_id}/tickets", {"name": "Regular", "type": "free"}
    first = await client.post(path, json=body, headers=headers)
    second = await client.post(path, json=body, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert (second.content, second.headers["etag"]) == (first.content, first.headers["etag"])
    assert second.headers["idempotent-replayed"] == "true"
    assert await names(event_id) == ["Regular"]
    assert len(await outbox.messages()) == 1


@pytest.mark.main_path
async def test_a_change_keeps_other_fields_and_is_checked_as_a_whole(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    outbox: RecordedOutbox,
) -> None:
    event_id = await receive_event()
    ticket = await create_ticket(event_id, type="paid", price=EUR_15, max_per_order=5)
    path, own = f"/v1/tickets/{ticket['id']}", tokens.organizer()

    for body, field in (
        ({"min_per_order": 6}, "max_per_order"),
        ({"type": "free"}, "price"),
        ({"price": None}, "price"),
        ({"sales_starts_at": ticket["sales_ends_at"]}, "sales_ends_at"),
        ({"quantity": None}, "body"),
        ({"max_order": 5}, "body.max_order"),
    ):
        refused = await client.patch(path, json=body, headers=own)
        assert refused.status_code == 422, body
        assert {error["field"] for error in refused.json()["errors"]} == {field}, body
    assert (await client.get(path)).json() == ticket

    changed = await client.patch(path, json={"type": "free", "price": None, "is_hidden": True}, headers=own)
    assert changed.json() == {**ticket, "type": "free", "price": None, "is_hidden": True, "version": 2}
    assert changed.headers["etag"] == '"2-open"'
    same = await client.patch(path, json={"type": "free", "max_per_order": 5, "position": 1}, headers=own)
    assert same.json()["version"] == 2, "nothing changed"
    assert [message.seq for message in await outbox.messages()] == [1, 2]


async def test_a_change_of_an_outdated_version_is_refused(
    client: httpx.AsyncClient, tokens: TokenFactory, receive_event: ReceiveEvent, create_ticket: CreateTicket
) -> None:
    event_id = await receive_event()
    ticket = await create_ticket(event_id, sales_ends_at="2097-01-01T00:00")
    path, own = f"/v1/tickets/{ticket['id']}", tokens.organizer()
    etag = (await client.get(path)).headers["etag"]
    first = await client.patch(path, json={"quantity": 7}, headers={**own, "If-Match": etag})
    assert first.status_code == 200
    second = await client.patch(path, json={"quantity": 8}, headers={**own, "If-Match": etag})
    assert (second.status_code, second.json()["code"]) == (412, "precondition-failed")
    assert (await client.get(path)).json()["quantity"] == 7
    # Sales that have begun or ended since are not a change by a person.
    for tag in ('"2-upcoming"', '"2"', second.headers["etag"]):
        assert (await client.patch(path, json={"quantity": 7}, headers={**own, "If-Match": tag})).status_code == 200


@pytest.mark.main_path
async def test_hidden_tickets_are_visible_to_their_organizer_only(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    names: ListNames,
) -> None:
    event_id = await receive_event()
    await create_ticket(event_id, "Open")
    hidden = await create_ticket(event_id, "Hidden", is_hidden=True)
    for event in (event_id, "k3x9q0ab"):
        assert await names(event) == ["Open"]
        assert await names(event, "other") == ["Open"]
        assert await names(event, "acme") == ["Open", "Hidden"]
    assert (await client.get(f"/v1/tickets/{hidden['id']}")).status_code == 404
    assert (await client.get(f"/v1/tickets/{hidden['id']}", headers=tokens.organizer())).status_code == 200


@pytest.mark.main_path
async def test_other_services_get_all_tickets_of_an_organizers_event(
    client: httpx.AsyncClient, tokens: TokenFactory, receive_event: ReceiveEvent, create_ticket: CreateTicket
) -> None:
    event_id = await receive_event()
    visible = await create_ticket(event_id, "Visible")
    hidden = await create_ticket(event_id, "Hidden", is_hidden=True)
    path, service = f"/internal/events/{event_id}/tickets", tokens.service("exports")
    answer = await client.get(path, params={"organizer": "acme"}, headers=service)
    assert answer.json() == {"tickets": [visible, hidden]}
    assert (await client.get(path, params={"organizer": "other"}, headers=service)).status_code == 404
    assert (await client.get(path, headers=service)).status_code == 422


async def test_an_event_has_a_limited_number_of_tickets(
    client: httpx.AsyncClient,
    tokens: TokenFactory,
    receive_event: ReceiveEvent,
    create_ticket: CreateTicket,
    session: AsyncSession,
) -> None:
    event_id = await receive_event()
    await create_ticket(event_id, "Ticket 1")
    await copy_ticket(session, until=MAX_TICKETS)
    body = {"name": "One more", "type": "free"}
    answer = await client.post(f"/v1/events/{event_id}/tickets", json=body, headers=tokens.organizer())
    assert (answer.status_code, answer.json()["code"]) == (409, "too-many-tickets")
    assert len((await client.get(f"/v1/events/{event_id}/tickets")).json()["items"]) == MAX_TICKETS


async def test_the_largest_ticket_fits_into_its_message(
    receive_event: ReceiveEvent, create_ticket: CreateTicket, outbox: RecordedOutbox
) -> None:
    event_id = await receive_event()
    longest = "\x01"  # JSON writes six characters for it, the most for any
    await create_ticket(event_id, longest * 200, description=longest * 10_000)
    (message,) = await outbox.messages()
    assert message.payload["description"] == longest * 10_000
