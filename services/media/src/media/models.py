"""Tables of the service. The schema is the role's search path, so names stand without it."""

from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, SmallInteger, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column, relationship

from media.images.sizes import ImageKind
from shared.database.idempotency import idempotency_table
from shared.database.tables import COLUMN_TYPES, new_metadata
from shared.jobs.rows import JobColumns
from shared.messaging.tables import messaging_tables
from shared.storage.transit import transit_table


class Base(DeclarativeBase):
    metadata = new_metadata()
    type_annotation_map = COLUMN_TYPES


messaging_tables(Base.metadata)
idempotency_table(Base.metadata)
transit_table(Base.metadata)


class Image(Base, JobColumns):
    """An uploaded picture, and the job that makes its variants. Sizes are bytes, of the original."""

    __tablename__ = "images"

    organizer: Mapped[str]
    kind: Mapped[ImageKind] = mapped_column(Text)
    name: Mapped[str]
    format: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]
    size: Mapped[int]
    sha256: Mapped[str]
    original_key: Mapped[str]
    import_id: Mapped[UUID | None]
    version: Mapped[int] = mapped_column(default=1, server_default=text("1"))

    variants: Mapped[list["ImageVariant"]] = relationship(lazy="raise", order_by="ImageVariant.position")

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (
            *super().__table_args__,
            CheckConstraint("kind IN ('event', 'speaker', 'sponsor', 'other')", name="kind"),
            Index("ix_images_organizer_id", "organizer", "id"),
            Index(
                "uq_images_organizer_import_id_name",
                "organizer",
                "import_id",
                "name",
                unique=True,
                postgresql_where=text("import_id IS NOT NULL"),
            ),
            # What the sweep looks through every few seconds: not all images that there ever were.
            Index("ix_images_unfinished", "created_at", postgresql_where=text("state IN ('queued', 'running')")),
        )


class ImageVariant(Base):
    """A stored JPEG. ``digest`` is the start of its SHA-256, which makes its address a secret and a version."""

    __tablename__ = "image_variants"

    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger)
    width: Mapped[int]
    height: Mapped[int]
    size: Mapped[int]
    digest: Mapped[str]
    key: Mapped[str]
