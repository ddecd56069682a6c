"""SQL of events. Each query restricts whose events it reads."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Select, false, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from events.events.rules import IDENTIFIER_LENGTH, new_identifier
from events.images.repository import copy_of
from events.models import Event, ImageCopy
from shared.database.keyset import Keyset, PageRequest

PUBLISHED = "published"
DRAFT = "draft"

BY_START = Keyset(Event.starts_at, Event.id)

_IMAGE = aliased(ImageCopy)
_LOGO = aliased(ImageCopy)


class EventView(NamedTuple):
    """An event and where its images are served."""

    event: Event
    image: ImageCopy | None
    logo: ImageCopy | None


class EventHead(NamedTuple):
    """What the reads of an event's programme need of the event."""

    id: UUID
    organizer: str
    timezone: str


def visible_to(reader: str | None) -> ColumnElement[bool]:
    """Published events, and all of the reader's own."""
    published = Event.state == PUBLISHED
    return published if reader is None else or_(published, Event.organizer == reader)


def referred_to(reference: str) -> ColumnElement[bool]:
    """Match by id or identifier; text that can be neither matches nothing."""
    if len(reference) == IDENTIFIER_LENGTH and reference.isascii() and reference.isalnum():
        return Event.identifier == reference
    try:
        return Event.id == UUID(reference)
    except ValueError:
        return false()


async def find_view(session: AsyncSession, reference: str, reader: str | None) -> EventView | None:
    row = (await session.execute(_views().where(referred_to(reference), visible_to(reader)))).one_or_none()
    return None if row is None else EventView(*row)


async def list_views(
    session: AsyncSession, reader: str | None, state: str | None, page: PageRequest
) -> tuple[list[EventView], str | None]:
    """List the reader's own events in any state; for the public, the published public ones."""
    if reader is None:
        statement = _views().where(Event.state == PUBLISHED, Event.privacy == "public")
    else:
        statement = _views().where(Event.organizer == reader)
    if state is not None:
        statement = statement.where(Event.state == state)
    rows = (await session.execute(BY_START.apply(statement, page))).all()
    events, next_cursor = BY_START.cut([row[0] for row in rows], page)
    return [EventView(*row) for row in rows[: len(events)]], next_cursor


async def find_head(session: AsyncSession, reference: str, reader: str | None) -> EventHead | None:
    statement = select(Event.id, Event.organizer, Event.timezone)
    row = (await session.execute(statement.where(referred_to(reference), visible_to(reader)))).one_or_none()
    return None if row is None else EventHead(*row)


async def find_own(session: AsyncSession, reference: str, organizer: str) -> Event | None:
    return await session.scalar(select(Event).where(referred_to(reference), Event.organizer == organizer))


async def lock_own(session: AsyncSession, reference: str, organizer: str) -> EventView | None:
    """Lock the organizer's event until the transaction ends."""
    statement = _views().where(referred_to(reference), Event.organizer == organizer)
    row = (await session.execute(statement.with_for_update(of=Event))).one_or_none()
    return None if row is None else EventView(*row)


async def view_of(session: AsyncSession, event: Event) -> EventView:
    """Return the event as it is in memory, with its images."""
    wanted = [image_id for image_id in (event.image_id, event.logo_image_id) if image_id is not None]
    copies: dict[UUID | None, ImageCopy] = {}
    if wanted:
        mine = select(ImageCopy).where(ImageCopy.image_id.in_(wanted), ImageCopy.organizer == event.organizer)
        copies = {copy.image_id: copy for copy in await session.scalars(mine)}
    return EventView(event, copies.get(event.image_id), copies.get(event.logo_image_id))


async def add(session: AsyncSession, values: Mapping[str, Any]) -> Event:
    """Insert an event under a new identifier."""
    while (event := await _insert(session, values)) is None:
        pass
    return event


async def add_imported(session: AsyncSession, import_id: UUID, values: Mapping[str, Any]) -> Event | None:
    """Insert an event under a new identifier; return ``None`` if its ``import_id`` exists.

    Waits for another transaction that inserts the same ``import_id``.
    """
    while (event := await _insert(session, {**values, "import_id": import_id})) is None:
        if await find_imported(session, import_id):
            return None
    return event


async def find_imported(session: AsyncSession, import_id: UUID) -> Event | None:
    return await session.scalar(select(Event).where(Event.import_id == import_id))


async def database_clock(session: AsyncSession) -> Any:
    return await session.scalar(select(func.clock_timestamp()))


async def _insert(session: AsyncSession, values: Mapping[str, Any]) -> Event | None:
    """Return ``None`` on a conflict, of the identifier or of another unique column."""
    statement = insert(Event).values(**values, identifier=new_identifier())
    return await session.scalar(statement.on_conflict_do_nothing().returning(Event))


def _views() -> Select[Event, ImageCopy | None, ImageCopy | None]:
    return (
        select(Event, _IMAGE, _LOGO)
        .outerjoin(_IMAGE, copy_of(_IMAGE, Event.image_id))
        .outerjoin(_LOGO, copy_of(_LOGO, Event.logo_image_id))
    )
