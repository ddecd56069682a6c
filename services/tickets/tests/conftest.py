import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.contracts.envelope import Envelope
from shared.contracts.events import EventChangedV1, EventCreatedV1, EventPublishedV1, EventUnpublishedV1
from shared.database.engine import Sessions
from shared.ids import new_id
from shared.messaging.inbox import by_message_type, handle_once
from testkit.plugin import ServiceUnderTest, TokenFactory
from tickets.api import create_app
from tickets.messenger import SUBSCRIPTIONS
from tickets.settings import TicketsSettings
from tickets.tickets.lists import TicketLists

EventMessage = type[EventCreatedV1] | type[EventChangedV1] | type[EventPublishedV1] | type[EventUnpublishedV1]

# Three days round the last Sunday of October 2097, when Berlin sets its clocks back; far from now in any case.
EVENT = {
    "organizer": "acme",
    "identifier": "k3x9q0ab",
    "name": "Autumn days",
    "timezone": "Europe/Berlin",
    "starts_at": datetime(2097, 10, 26, 7, tzinfo=UTC),
    "ends_at": datetime(2097, 10, 28, 17, tzinfo=UTC),
    "state": "published",
}


SUBSCRIPTION_OF = by_message_type(SUBSCRIPTIONS)


class TellOfEvent(Protocol):
    """Handles a message about an event, twice, as every handler must bear; returns the event's id."""

    async def __call__(
        self, message: EventMessage = ..., *, event_id: UUID | None = None, seq: int = 1, **facts: Any
    ) -> UUID: ...


class CreateTicket(Protocol):
    """Creates a ticket through the API; keyword arguments override its fields."""

    async def __call__(
        self, event: UUID | str, name: str = ..., *, org: str = ..., **fields: Any
    ) -> dict[str, Any]: ...


@pytest.fixture
def service() -> ServiceUnderTest:
    return ServiceUnderTest(TicketsSettings, create_app, Path(__file__).parents[1])


@pytest.fixture
async def app(app: FastAPI, connection: AsyncConnection) -> FastAPI:
    """The list has a pool of its own, which can't see the test's transaction: it gets the test's connection."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    app.state.ticket_lists = TicketLists(driver)
    return app


def teller(sessions: Sessions) -> TellOfEvent:
    async def tell(
        message: EventMessage = EventPublishedV1, *, event_id: UUID | None = None, seq: int = 1, **facts: Any
    ) -> UUID:
        event_id = event_id or new_id()
        payload = message.model_validate({**EVENT, "event_id": event_id, "version": seq, **facts})
        for _ in range(2):
            envelope = Envelope(
                id=new_id(),
                source="/rostrum/events",
                type=message.message_type,
                subject=event_id,
                time=datetime.now(UTC),
                aggregatetype="events.event",
                aggregateseq=seq,
            )
            body = json.dumps({**envelope.model_dump(mode="json"), "data": payload.model_dump(mode="json")})
            await handle_once(sessions, body.encode(), envelope, SUBSCRIPTION_OF[message.message_type])
        return event_id

    return tell


def creator(client: httpx.AsyncClient, tokens: TokenFactory) -> CreateTicket:
    async def create(
        event: UUID | str, name: str = "Regular", *, org: str = "acme", **fields: Any
    ) -> dict[str, Any]:
        body = {"name": name, "type": "free", **fields}
        answer = await client.post(f"/v1/events/{event}/tickets", json=body, headers=tokens.organizer(org))
        assert answer.status_code == 201, answer.text
        ticket: dict[str, Any] = answer.json()
        return ticket

    return create


@pytest.fixture
def tell_of_event(sessions: Sessions) -> TellOfEvent:
    return teller(sessions)


@pytest.fixture
def create_ticket(client: httpx.AsyncClient, tokens: TokenFactory) -> CreateTicket:
    return creator(client, tokens)


@pytest.fixture
def teller_on() -> Callable[[Sessions], TellOfEvent]:
    """For tests on a database of their own."""
    return teller


@pytest.fixture
def creator_on(tokens: TokenFactory) -> Callable[[httpx.AsyncClient], CreateTicket]:
    """For tests on a database of their own."""
    return lambda client: creator(client, tokens)


@pytest.fixture
def names(client: httpx.AsyncClient, tokens: TokenFactory) -> Callable[..., Awaitable[list[str]]]:
    """Names in the list of an event's tickets, in its order; the public's list without ``org``."""

    async def names(event: UUID | str, org: str | None = None, **query: str) -> list[str]:
        headers = tokens.organizer(org) if org else {}
        answer = await client.get(f"/v1/events/{event}/tickets", params=query, headers=headers)
        assert answer.status_code == 200, answer.text
        return [item["name"] for item in answer.json()["items"]]

    return names
