"""The tables of messaging, which every service has in its own schema."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

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

# The newest state message handled of each aggregate. It outlives the inbox, whose rows are pruned.
INBOX_POSITIONS = Table(
    "inbox_positions",
    _metadata,
    Column("aggregate_type", Text, primary_key=True),
    Column("aggregate_id", Uuid, primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

# The messages this service gave up on; see shared.messaging.dead_letters.
DEAD_LETTERS = Table(
    "dead_letters",
    _metadata,
    Column("id", Uuid, primary_key=True),
    Column("message_id", Text, nullable=False),
    Column("type", Text),
    Column("subject", Text),
    Column("seq", BigInteger),
    Column("body", LargeBinary, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("properties", JSONB, nullable=False),
    Column("reason", Text, nullable=False),
    Column("error", Text),
    Column("attempts", Integer),
    Column("traceparent", Text),
    Column("failed_at", DateTime(timezone=True), nullable=False),
    Column("parked_at", DateTime(timezone=True)),
    Index("ix_dead_letters_message_id", "message_id"),
    Index("ix_dead_letters_waiting", "failed_at", postgresql_where=text("parked_at IS NULL")),
    Index("ix_dead_letters_parked", "failed_at", postgresql_where=text("parked_at IS NOT NULL")),
)


def messaging_tables(metadata: MetaData) -> None:
    """Add the tables to those that a service migrates."""
    for table in (OUTBOX, INBOX, INBOX_POSITIONS, DEAD_LETTERS):
        table.to_metadata(metadata)
