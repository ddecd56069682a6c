"""What tests make: events, as messages about them arrive, and tickets, through the API."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

import httpx
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from shared.contracts.envelope import Envelope
from shared.contracts.events import EventChangedV1, EventCreatedV1, EventPublishedV1, EventUnpublishedV1
from shared.database.engine import Sessions
from shared.ids import new_id
from shared.messaging.inbox import handle_once
from testkit.plugin import TokenFactory
from tickets.messenger import SUBSCRIPTIONS
from tickets.models import Ticket

EventMessage = type[EventCreatedV1] | type[EventChangedV1] | type[EventPublishedV1] | type[EventUnpublishedV1]
Json = dict[str, Any]

# Three days around the last Sunday of October 2097, when Berlin sets its clocks back; far from now in any case.
EVENT: Json = {
    "organizer": "acme",
    "identifier": "k3x9q0ab",
    "name": "Autumn days",
    "timezone": "Europe/Berlin",
    "starts_at": datetime(2097, 10, 26, 7, tzinfo=UTC),
    "ends_at": datetime(2097, 10, 28, 17, tzinfo=UTC),
    "state": "published",
}


@contextmanager
def counted_statements(engine: AsyncEngine) -> Iterator[list[str]]:
    """Collect what the engine sends. A statement for many rows counts once."""
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", count)
    yield statements
    event.remove(engine.sync_engine, "before_cursor_execute", count)


class ReceiveEvent(Protocol):
    """Receive a message about an event twice and return the event's id. Keyword arguments override ``EVENT``."""

    async def __call__(
        self, message: EventMessage = ..., *, event_id: UUID | None = None, seq: int = 1, **facts: Any
    ) -> UUID: ...


class CreateTicket(Protocol):
    """Create a ticket through the API and return its JSON. Keyword arguments override its fields."""

    async def __call__(self, event: UUID | str, name: str = ..., *, org: str = ..., **fields: Any) -> Json: ...


class ListNames(Protocol):
    """Return the names in the list of an event's tickets, by position; the public's list without ``org``."""

    async def __call__(self, event: UUID | str, org: str | None = None, **query: str) -> list[str]: ...


class ReceiveEventOn(Protocol):
    """Make a ``ReceiveEvent`` for a database of its own."""

    def __call__(self, sessions: Sessions) -> ReceiveEvent: ...


class CreateTicketOn(Protocol):
    """Make a ``CreateTicket`` for a service of its own."""

    def __call__(self, client: httpx.AsyncClient) -> CreateTicket: ...


def event_message(message: EventMessage, event_id: UUID, seq: int, **facts: Any) -> tuple[bytes, Envelope]:
    """Return a message's body, as it is on the bus, and its envelope."""
    payload = message.model_validate({**EVENT, "event_id": event_id, "version": seq, **facts})
    envelope = Envelope(
        id=new_id(),
        source="/rostrum/events",
        type=message.message_type,
        subject=event_id,
        time=datetime.now(UTC),
        aggregatetype="events.event",
        aggregateseq=seq,
    )
    body = {**envelope.model_dump(mode="json"), "data": payload.model_dump(mode="json")}
    return json.dumps(body).encode(), envelope


async def receive(sessions: Sessions, body: bytes, envelope: Envelope) -> str:
    """Handle a message as the consumer does, and return the outcome."""
    [subscription] = [item for item in SUBSCRIPTIONS if item.message.message_type == envelope.type]
    return await handle_once(sessions, body, envelope, subscription)


def receive_event_on(sessions: Sessions) -> ReceiveEvent:
    async def receive_event(
        message: EventMessage = EventPublishedV1, *, event_id: UUID | None = None, seq: int = 1, **facts: Any
    ) -> UUID:
        event_id = event_id or new_id()
        for _ in range(2):  # with two ids, so that the handler runs twice and not the inbox makes it one
            await receive(sessions, *event_message(message, event_id, seq, **facts))
        return event_id

    return receive_event


def create_ticket_on(client: httpx.AsyncClient, tokens: TokenFactory) -> CreateTicket:
    async def create_ticket(event: UUID | str, name: str = "Regular", *, org: str = "acme", **fields: Any) -> Json:
        body = {"name": name, "type": "free", **fields}
        answer = await client.post(f"/v1/events/{event}/tickets", json=body, headers=tokens.organizer(org))
        assert answer.status_code == 201, answer.text
        ticket: Json = answer.json()
        return ticket

    return create_ticket


async def copy_ticket(session: AsyncSession, *, until: int) -> Sequence[UUID]:
    """Copy the only ticket to positions 2 to ``until`` and return all ids by position."""
    same = ", ".join(
        column.name for column in Ticket.__table__.columns if column.name not in ("id", "name", "position")
    )
    await session.execute(
        text(
            f"INSERT INTO tickets (id, name, position, {same}) "
            f"SELECT gen_random_uuid(), 'Ticket ' || n, n, {same} FROM tickets, generate_series(2, {until}) n"
        )
    )
    await session.commit()
    return (await session.scalars(text("SELECT id FROM tickets ORDER BY position"))).all()
