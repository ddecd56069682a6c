"""The SQL of images."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from media.models import Image
from shared.database.keyset import Keyset, PageRequest

NEWEST_FIRST = Keyset(Image.id, descending=True)  # ids rise with time


async def find(session: AsyncSession, image_id: UUID, organizer: str) -> Image | None:
    return await session.scalar(
        select(Image)
        .where(Image.id == image_id, Image.organizer == organizer)
        .options(selectinload(Image.variants))
    )


async def find_imported(session: AsyncSession, organizer: str, import_id: UUID, name: str) -> Image | None:
    return await session.scalar(
        select(Image).where(Image.organizer == organizer, Image.import_id == import_id, Image.name == name)
    )


async def find_page(session: AsyncSession, organizer: str, page: PageRequest) -> tuple[Sequence[Image], str | None]:
    images = select(Image).where(Image.organizer == organizer).options(selectinload(Image.variants))
    rows = (await session.scalars(NEWEST_FIRST.apply(images, page))).all()
    return NEWEST_FIRST.cut(rows, page)


async def find_all(session: AsyncSession, organizer: str, image_ids: Sequence[UUID]) -> Sequence[Image]:
    images = select(Image).where(Image.organizer == organizer, Image.id.in_(image_ids))
    return (await session.scalars(images.options(selectinload(Image.variants)))).all()
