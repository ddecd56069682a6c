"""SQL of image copies, and the addresses of their variants."""

from uuid import UUID

from sqlalchemy import ColumnElement, and_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.orm.util import AliasedClass

from events.models import Event, ImageCopy
from shared.contracts.media import ImageVariant


async def keep_copy(
    session: AsyncSession, image_id: UUID, organizer: str, variants: list[ImageVariant], *, seq: int
) -> None:
    """Insert or replace the copy of an image's variants."""
    statement = insert(ImageCopy).values(
        image_id=image_id,
        organizer=organizer,
        variants=[variant.model_dump() for variant in variants],
        seq=seq,
    )
    await session.execute(
        statement.on_conflict_do_update(
            index_elements=[ImageCopy.image_id],
            set_={name: statement.excluded[name] for name in ("organizer", "variants", "seq")},
        )
    )


def copy_of(
    copy: type[ImageCopy] | AliasedClass[ImageCopy], image_id: InstrumentedAttribute[UUID | None]
) -> ColumnElement[bool]:
    """Return the ON clause that joins a copy, never one of another organizer's image."""
    return and_(copy.image_id == image_id, copy.organizer == Event.organizer)


def image_addresses(copy: ImageCopy | None, public_url: str) -> dict[str, str] | None:
    """Return full addresses by the variant's name; ``None`` until the image is processed."""
    if copy is None:
        return None
    return {variant["name"]: f"{public_url}{variant['path']}" for variant in copy.variants}
