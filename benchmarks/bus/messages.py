"""The messages to publish: as large as those of an event, of a type without other consumers."""

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import aio_pika
import asyncpg

from shared.contracts.envelope import CONTENT_TYPE, MessageEnvelope
from shared.contracts.events import EventState
from shared.ids import new_id

_COLUMNS = (
    "id", "kind", "type", "aggregate_type", "aggregate_id", "aggregate_seq", "payload", "traceparent", "created_at"
)  # fmt: skip


class MeasuredV1(EventState):
    """What an event's message holds."""

    message_type: ClassVar[str] = "bench.event.measured.v1"


def new_envelopes(count: int, *, aggregates: int) -> list[MessageEnvelope[MeasuredV1]]:
    """Return messages of ``aggregates`` in random order, each with increasing versions."""
    subjects = [new_id() for _ in range(aggregates)]
    versions: Counter[int] = Counter()
    began = datetime.now(UTC) - timedelta(microseconds=count)
    made = []
    for number in range(count):
        chosen = random.randrange(aggregates)
        versions[chosen] += 1
        subject, version = subjects[chosen], versions[chosen]
        facts = MeasuredV1(
            organizer="bench",
            event_id=subject,
            identifier=subject.hex[-8:],
            name=f"Days of autumn {number}",
            timezone="Europe/Berlin",
            starts_at=datetime(2031, 5, 1, 7, tzinfo=UTC),
            ends_at=datetime(2031, 5, 2, 16, tzinfo=UTC),
            state="published",
            version=version,
        )
        made.append(
            MessageEnvelope[MeasuredV1](
                id=new_id(),
                source="/rostrum/bench",
                type=MeasuredV1.message_type,
                subject=subject,
                time=began + timedelta(microseconds=number),
                aggregatetype="bench.event",
                aggregateseq=version,
                traceparent=f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-00",
                data=facts,
            )
        )
    return made


def amqp_message(envelope: MessageEnvelope[Any]) -> aio_pika.Message:
    """Return the message with the properties that the relay sets."""
    return aio_pika.Message(
        envelope.model_dump_json(exclude_none=True).encode(),
        content_type=CONTENT_TYPE,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=str(envelope.id),
        type=envelope.type,
        timestamp=envelope.time,
    )


async def fill_outbox(database: asyncpg.Connection, envelopes: list[MessageEnvelope[MeasuredV1]]) -> None:
    """Replace the content of the outbox."""
    await database.execute("TRUNCATE outbox")
    rows = [
        (
            envelope.id,
            "message",
            envelope.type,
            envelope.aggregatetype,
            envelope.subject,
            envelope.aggregateseq,
            json.dumps(envelope.data.model_dump(mode="json")),
            envelope.traceparent,
            envelope.time,
        )
        for envelope in envelopes
    ]
    await database.copy_records_to_table("outbox", records=rows, columns=_COLUMNS)
    await database.execute("ANALYZE outbox")
