"""Tables of the service. The schema is the role's search path, so table names carry no schema.

A wall time is ``*_local``, ``*_fold`` and the derived ``*_at``, with the event's ``timezone`` and the release of
the tz database that derived it (see ``shared.walltime``). ``*_text`` is its RFC 3339 form: PostgreSQL writes the
public list, and cannot derive offsets, since its tz database is another one.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.database.idempotency import idempotency_table
from shared.database.tables import COLUMN_TYPES, Fold, Local, new_metadata
from shared.ids import new_id
from shared.messaging.tables import messaging_tables


class Base(DeclarativeBase):
    metadata = new_metadata()
    type_annotation_map = COLUMN_TYPES


messaging_tables(Base.metadata)
idempotency_table(Base.metadata)


class EventCopy(Base):
    """What tickets need to know of an event, from its latest message.

    Changes of an event's tickets hold the lock of this row, which keeps positions, names and the zone consistent.
    """

    __tablename__ = "event_copies"
    __table_args__ = (Index("ix_event_copies_identifier", "identifier"),)

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    organizer: Mapped[str]
    identifier: Mapped[str]
    name: Mapped[str]
    timezone: Mapped[str]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    state: Mapped[str]
    # The version of that message. Only pods of the release before read it.
    seq: Mapped[int] = mapped_column(BigInteger)
    list_version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    """Rises with every change that is visible in the list of the event's tickets."""


class Ticket(Base):
    __tablename__ = "tickets"
    __table_args__ = (
        # Deferred, so that positions can be exchanged within a transaction.
        UniqueConstraint("event_id", "position", deferrable=True, initially="DEFERRED"),
        Index("uq_tickets_event_id_lower_name", "event_id", text("lower(name)"), unique=True),
        CheckConstraint("type IN ('free', 'paid', 'donation')", name="type"),
        CheckConstraint(
            # A CHECK accepts NULL, hence ``coalesce``.
            "coalesce(CASE type"
            " WHEN 'free' THEN num_nonnulls(price_minor, min_price_minor, max_price_minor, currency) = 0"
            " WHEN 'paid' THEN price_minor > 0 AND currency IS NOT NULL"
            " AND num_nonnulls(price_minor, min_price_minor, max_price_minor) = 1"
            " ELSE price_minor IS NULL AND min_price_minor >= 0 AND currency IS NOT NULL"
            " AND (max_price_minor IS NULL OR max_price_minor >= greatest(min_price_minor, 1)) END, false)",
            name="price",
        ),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint("quantity > 0", name="quantity"),
        # On the old names, which a trigger keeps equal to the new ones.
        CheckConstraint("1 <= min_order AND min_order <= max_order AND min_order <= quantity", name="order_size"),
        CheckConstraint("position > 0", name="position"),
        CheckConstraint("sales_starts_at < sales_ends_at", name="sales_window"),
        CheckConstraint("sales_starts_fold IN (0, 1) AND sales_ends_fold IN (0, 1)", name="folds"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    event_id: Mapped[UUID] = mapped_column(ForeignKey("event_copies.event_id"))
    organizer: Mapped[str]
    name: Mapped[str]
    description: Mapped[str]
    type: Mapped[str]
    price_minor: Mapped[int | None] = mapped_column(BigInteger)
    min_price_minor: Mapped[int | None] = mapped_column(BigInteger)
    max_price_minor: Mapped[int | None] = mapped_column(BigInteger)
    currency: Mapped[str | None]
    quantity: Mapped[int]
    # Never NULL: the trigger of revision 5d1c7e0a94b3 fills each pair from the other.
    min_per_order: Mapped[int] = mapped_column(nullable=True)
    max_per_order: Mapped[int] = mapped_column(nullable=True)
    is_hidden: Mapped[bool]
    position: Mapped[int]
    sales_starts_local: Mapped[Local]
    sales_starts_fold: Mapped[Fold]
    sales_starts_at: Mapped[datetime]
    sales_starts_text: Mapped[str]
    sales_ends_local: Mapped[Local]
    sales_ends_fold: Mapped[Fold]
    sales_ends_at: Mapped[datetime]
    sales_ends_text: Mapped[str]
    tzdata_version: Mapped[str]
    version: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.clock_timestamp(), onupdate=func.clock_timestamp()
    )


# Read and written by pods of the release before; see revision 5d1c7e0a94b3. Dropped in a later release.
for _old_name in ("min_order", "max_order"):
    Base.metadata.tables["tickets"].append_column(Column(_old_name, Integer, nullable=False))
