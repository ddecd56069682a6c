from pathlib import Path
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection

from services.tickets.tests import factories
from services.tickets.tests.factories import (
    CreateTicket,
    CreateTicketOn,
    ListNames,
    ReceiveEvent,
    ReceiveEventOn,
)
from shared.database.engine import Sessions
from testkit.plugin import ServiceUnderTest, TokenFactory
from tickets.api import create_app
from tickets.settings import TicketsSettings
from tickets.tickets.public_list import Connection, TicketLists


@pytest.fixture
def service() -> ServiceUnderTest:
    return ServiceUnderTest(TicketsSettings, create_app, Path(__file__).parents[1])


@pytest.fixture
async def driver(connection: AsyncConnection) -> Connection:
    """The asyncpg connection of the test's transaction."""
    driver: Connection | None = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    return driver


@pytest.fixture
async def app(app: FastAPI, driver: Connection) -> FastAPI:
    """The pool of the public list cannot see the test's transaction, so it gets the test's connection."""
    app.state.ticket_lists = TicketLists(driver)
    return app


@pytest.fixture
def receive_event(sessions: Sessions) -> ReceiveEvent:
    return factories.receive_event_on(sessions)


@pytest.fixture
def create_ticket(client: httpx.AsyncClient, tokens: TokenFactory) -> CreateTicket:
    return factories.create_ticket_on(client, tokens)


@pytest.fixture
def receive_event_on() -> ReceiveEventOn:
    return factories.receive_event_on


@pytest.fixture
def create_ticket_on(tokens: TokenFactory) -> CreateTicketOn:
    def create_ticket_on(client: httpx.AsyncClient) -> CreateTicket:
        return factories.create_ticket_on(client, tokens)

    return create_ticket_on


@pytest.fixture
def names(client: httpx.AsyncClient, tokens: TokenFactory) -> ListNames:
    async def names(event: UUID | str, org: str | None = None, **query: str) -> list[str]:
        headers = tokens.organizer(org) if org else {}
        answer = await client.get(f"/v1/events/{event}/tickets", params=query, headers=headers)
        assert answer.status_code == 200, answer.text
        return [item["name"] for item in answer.json()["items"]]

    return names
