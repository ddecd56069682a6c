"""The table of idempotency keys, apart from HTTP because every messenger prunes it."""

from sqlalchemy import (
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    delete,
    func,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

IDEMPOTENCY_KEYS = Table(
    "idempotency_keys",
    MetaData(),
    Column("org", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("operation", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    Column("status", Integer),
    Column("body", LargeBinary),
    Column("headers", JSONB),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Index("ix_idempotency_keys_expires_at", "expires_at"),
)


def idempotency_table(metadata: MetaData) -> None:
    """Add the table to those that a service migrates."""
    IDEMPOTENCY_KEYS.to_metadata(metadata)


async def forget_expired_keys(session: AsyncSession, *, at_most: int = 1000) -> int:
    """Delete expired keys and return how many; at most ``at_most`` in one transaction."""
    keys = IDEMPOTENCY_KEYS
    expired = (
        select(*keys.primary_key).where(keys.c.expires_at <= func.clock_timestamp()).limit(at_most)
    ).with_for_update(skip_locked=True)
    deleted = await session.execute(
        delete(keys).where(tuple_(*keys.primary_key).in_(expired)).returning(keys.c.expires_at)
    )
    return len(deleted.all())
