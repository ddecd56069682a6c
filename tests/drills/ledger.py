"""The consuming service of a drill: it records every message that it handles as one row.

It uses the same parts as every service, so a duplicate or a wrong sequence in its rows is a fault of those parts.
"""

from typing import Any

from sqlalchemy import BigInteger, Column, Identity, Table, Text, Uuid, insert
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Envelope
from shared.contracts.events import EventChangedV1, EventCreatedV1, EventPublishedV1, EventState, EventUnpublishedV1
from shared.database.idempotency import idempotency_table
from shared.database.tables import new_metadata
from shared.messaging.inbox import Subscription
from shared.messaging.messenger import run_messenger
from shared.messaging.tables import messaging_tables
from shared.settings import Settings

SERVICE = "ledger"
POISON = "poison"

METADATA = new_metadata()
messaging_tables(METADATA)
idempotency_table(METADATA)

EFFECTS = Table(
    "effects",
    METADATA,
    # Reflects the sequence of effects within an aggregate, because its messages are handled one at a time.
    Column("serial", BigInteger, Identity(), primary_key=True),
    Column("message_id", Uuid, nullable=False),
    Column("subject", Uuid, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
)


class LedgerSettings(Settings):
    service: str = SERVICE


class Poisoned(Exception):
    """A message that fails at every attempt."""


async def record(session: AsyncSession, message: EventState, envelope: Envelope) -> None:
    if POISON in message.name:
        raise Poisoned(message.name)
    row = {
        "message_id": envelope.id,
        "subject": envelope.subject,
        "seq": envelope.aggregateseq,
        "name": message.name,
    }
    await session.execute(insert(EFFECTS).values(row))


SUBSCRIPTIONS: list[Subscription[Any]] = [
    Subscription(kind, record, keep="latest")
    for kind in (EventCreatedV1, EventChangedV1, EventPublishedV1, EventUnpublishedV1)
]


if __name__ == "__main__":
    run_messenger(LedgerSettings(), SUBSCRIPTIONS)
