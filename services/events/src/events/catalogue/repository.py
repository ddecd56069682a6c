"""SQL of an event's plain lists. Callers have checked that the event may be read."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from events.images.repository import copy_of
from events.models import Event, ImageCopy, Microlocation, SessionType, SocialLink, Sponsor, Track
from shared.database.keyset import Keyset, PageRequest

Plain = TypeVar("Plain", SocialLink, Track, Microlocation, SessionType)

_SPONSORS_BY_ID = Keyset(Sponsor.id)


class SponsorView(NamedTuple):
    """A sponsor and where the logo is served."""

    sponsor: Sponsor
    logo: ImageCopy | None


async def list_plain(
    session: AsyncSession, table: type[Plain], event_id: UUID, page: PageRequest
) -> tuple[Sequence[Plain], str | None]:
    by_id = Keyset(table.id)
    rows = (await session.scalars(by_id.apply(select(table).where(table.event_id == event_id), page))).all()
    return by_id.cut(rows, page)


async def list_sponsors(
    session: AsyncSession, event_id: UUID, page: PageRequest
) -> tuple[list[SponsorView], str | None]:
    statement = (
        select(Sponsor, ImageCopy)
        .join(Event, Event.id == Sponsor.event_id)
        .outerjoin(ImageCopy, copy_of(ImageCopy, Sponsor.logo_image_id))
        .where(Sponsor.event_id == event_id)
    )
    rows = (await session.execute(_SPONSORS_BY_ID.apply(statement, page))).all()
    sponsors, next_cursor = _SPONSORS_BY_ID.cut([row[0] for row in rows], page)
    return [SponsorView(*row) for row in rows[: len(sponsors)]], next_cursor
