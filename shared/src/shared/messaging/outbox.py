"""Outbox: messages and job hints that are committed together with the state they tell of.

``add`` and ``add_job`` only insert a row in the caller's transaction; the messenger publishes it after the
commit. Every service has the table in its own schema (see ``messaging_tables``).
"""

import json
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Message
from shared.ids import new_id
from shared.telemetry.logs import get_logger
from shared.telemetry.traces import current_traceparent

log = get_logger(__name__)

# What CloudEvents asks every intermediary to forward. A larger row could never leave and would block those
# behind it, so it is refused when it is written.
MAX_PAYLOAD_SIZE = 64 * 1024

_metadata = MetaData()

OUTBOX = Table(
    "outbox",
    _metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("aggregate_type", Text, nullable=False),
    Column("aggregate_id", Uuid, nullable=False),
    Column("aggregate_seq", BigInteger, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("traceparent", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_attempt_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("last_error", Text),
    Column("published_at", DateTime(timezone=True)),
    CheckConstraint("kind IN ('message', 'job')", name="kind"),
    UniqueConstraint("aggregate_type", "aggregate_id", "aggregate_seq", "kind", "type"),
    Index("ix_outbox_unpublished", "created_at", postgresql_where=text("published_at IS NULL")),
    Index("ix_outbox_published_at", "published_at", postgresql_where=text("published_at IS NOT NULL")),
)

INBOX = Table(
    "inbox",
    _metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("type", Text, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Index("ix_inbox_received_at", "received_at"),
)

# The newest message of each aggregate that was handled here. It outlives the inbox, whose rows are pruned.
INBOX_POSITIONS = Table(
    "inbox_positions",
    _metadata,
    Column("aggregate_type", Text, primary_key=True),
    Column("aggregate_id", Uuid, primary_key=True),
    Column("seq", BigInteger, nullable=False),
)


class MessageTooLarge(ValueError):
    """The payload can't travel; send a reference in place of the content."""


def messaging_tables(metadata: MetaData) -> None:
    """Puts the tables of outbox and inbox among the tables that a service migrates."""
    OUTBOX.to_metadata(metadata)
    INBOX.to_metadata(metadata)
    INBOX_POSITIONS.to_metadata(metadata)


async def add(session: AsyncSession, message: Message, *, subject: UUID, seq: int) -> UUID:
    """Records that ``message`` is to be sent when the caller's transaction commits; returns the message's id.

    ``subject`` is the aggregate's id and ``seq`` its version after the change. The caller holds the aggregate's
    row lock, or has just created the row: that is what makes ``seq`` rise in commit order.
    """
    service, aggregate, *_ = message.message_type.split(".")
    payload = message.model_dump_json()
    size = len(payload.encode())
    if size > MAX_PAYLOAD_SIZE:
        raise MessageTooLarge(f"{message.message_type}: {size} bytes, at most {MAX_PAYLOAD_SIZE}")
    return await _insert(
        session,
        kind="message",
        type=message.message_type,
        aggregate_type=f"{service}.{aggregate}",
        aggregate_id=subject,
        aggregate_seq=seq,
        payload=payload,
    )


async def add_job(session: AsyncSession, actor: str, *, queue: str, job_id: UUID, attempt: int = 0) -> UUID:
    """Records a hint that the job is to be started. The job's own row is the truth; the hint may come twice."""
    return await _insert(
        session,
        kind="job",
        type=actor,
        aggregate_type=f"job.{actor}",
        aggregate_id=job_id,
        aggregate_seq=attempt,
        payload=json.dumps({"queue": queue, "job_id": str(job_id)}),
    )


# As text: building this statement anew took most of the time of a write's outbox row.
_INSERT = text("""
    INSERT INTO outbox (id, kind, type, aggregate_type, aggregate_id, aggregate_seq, payload, traceparent)
    VALUES (:id, :kind, :type, :aggregate_type, :aggregate_id, :aggregate_seq,
            CAST(CAST(:payload AS text) AS jsonb), :traceparent)
""")


async def _insert(session: AsyncSession, **values: Any) -> UUID:
    row_id = new_id()
    await session.execute(_INSERT, {"id": row_id, "traceparent": current_traceparent(), **values})
    session.info["outbox_written"] = True
    return row_id
