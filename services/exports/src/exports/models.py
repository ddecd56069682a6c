"""Tables of the service. Names have no schema: it is the role's search path."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

from shared.database.idempotency import idempotency_table
from shared.database.tables import COLUMN_TYPES, new_metadata
from shared.jobs.rows import JobColumns
from shared.messaging.tables import messaging_tables
from shared.storage.transit import transit_table

# Keeps the periodic requeue from reading jobs that have ended.
_UNFINISHED = text("state IN ('queued', 'running')")


class Base(DeclarativeBase):
    metadata = new_metadata()
    type_annotation_map = COLUMN_TYPES


messaging_tables(Base.metadata)
idempotency_table(Base.metadata)
transit_table(Base.metadata)


class Import(Base, JobColumns):
    """An uploaded archive, and the job that imports it. ``archive_key`` is null once the archive is deleted."""

    __tablename__ = "imports"

    organizer: Mapped[str]
    file_name: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    archive_key: Mapped[str | None]
    event_id: Mapped[UUID | None]
    event_identifier: Mapped[str | None]
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))
    repairs: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list, server_default=text("'[]'"))

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (
            *super().__table_args__,
            Index("ix_imports_organizer_id", "organizer", "id"),
            Index("ix_imports_unfinished", "created_at", postgresql_where=_UNFINISHED),
            Index("ix_imports_archive_key", "finished_at", postgresql_where=text("archive_key IS NOT NULL")),
        )


class Export(Base, JobColumns):
    """An event's requested archive, and the job that writes it. ``file_key`` is null once the file is deleted."""

    __tablename__ = "exports"

    organizer: Mapped[str]
    event_id: Mapped[UUID]
    event_name: Mapped[str]
    file_key: Mapped[str | None]
    size: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None]
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default=text("'{}'"))
    expires_at: Mapped[datetime | None]

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (
            *super().__table_args__,
            Index("ix_exports_organizer_event_id_id", "organizer", "event_id", "id"),
            Index("ix_exports_unfinished", "created_at", postgresql_where=_UNFINISHED),
            Index("ix_exports_file_key", "expires_at", postgresql_where=text("file_key IS NOT NULL")),
        )
