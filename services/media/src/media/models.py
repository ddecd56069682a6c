"""Tables of the service, without a schema name: it is in the role's search path."""

from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, SmallInteger, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column, relationship

from media.images.rules import variant_path
from shared.contracts import media as contracts
from shared.contracts.media import ImageKind
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
    """An uploaded image, and the job that makes its variants. ``size`` is the original's, in bytes."""

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
            # For the requeueing of lost jobs, which reads these every few seconds.
            Index("ix_images_unfinished", "created_at", postgresql_where=text("state IN ('queued', 'running')")),
        )


class ImageVariant(Base):
    """A stored JPEG. ``digest`` is the start of its SHA-256, which makes its path unguessable and versioned."""

    __tablename__ = "image_variants"

    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger)
    width: Mapped[int]
    height: Mapped[int]
    size: Mapped[int]
    digest: Mapped[str]
    key: Mapped[str]

    @property
    def path(self) -> str:
        return variant_path(self.image_id, self.name, self.digest)

    def published(self) -> contracts.ImageVariant:
        return contracts.ImageVariant.model_validate(self, from_attributes=True)
