"""Use cases of events. Every change increments the version and adds one message to the outbox."""

from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from events.events import repository
from events.events.repository import DRAFT, PUBLISHED, EventHead, EventView
from events.events.rules import times_after_change, times_of_new_event
from events.events.schemas import EventCreate, EventUpdate
from events.models import Event
from events.sessions.service import move_sessions
from events.times import time_columns
from shared.contracts.events import EventChangedV1, EventCreatedV1, EventPublishedV1, EventState, EventUnpublishedV1
from shared.http.etags import check_if_match, etag_of
from shared.messaging import outbox
from shared.problems import NotFound

_TIMES = {"timezone", "starts_at", "ends_at", "starts_fold", "ends_fold"}


def event_not_found() -> NotFound:
    """Return the same problem for a missing event, another organizer's event and a draft."""
    return NotFound("The event does not exist, or it is not published and not yours.")


def tag_of(view: EventView) -> str:
    """Return a tag that changes with the event's version and with its images, which are processed later."""
    images = [copy.seq for copy in (view.image, view.logo) if copy is not None]
    return etag_of(".".join(map(str, [view.event.version, *images])))


async def read_event(session: AsyncSession, reference: str, reader: str | None) -> EventView:
    view = await repository.find_view(session, reference, reader)
    if view is None:
        raise event_not_found()
    return view


async def read_head(session: AsyncSession, reference: str, reader: str | None) -> EventHead:
    """Raise ``NotFound`` unless the reader may see the event, and so its programme."""
    head = await repository.find_head(session, reference, reader)
    if head is None:
        raise event_not_found()
    return head


async def create_event(session: AsyncSession, organizer: str, body: EventCreate) -> EventView:
    """Create a draft. Raises the problems of its times."""
    starts, ends = times_of_new_event(body.timezone, body.starts_at, body.ends_at, body)
    values = _columns(body.model_dump(exclude=_TIMES))
    event = await repository.add(
        session, {**values, "organizer": organizer, "timezone": body.timezone, **time_columns(starts, ends)}
    )
    await add_message(session, EventCreatedV1, event)
    return await repository.view_of(session, event)


async def change_event(
    session: AsyncSession, organizer: str, reference: str, body: EventUpdate, *, if_match: str | None
) -> EventView:
    """Change what was sent; without a difference the version stays and no message is added.

    Raises ``PreconditionFailed``, and the problems of the times; with a new zone also those of the sessions.
    """
    event = await _own_event(session, organizer, reference, if_match)
    values = _columns(body.model_dump(exclude=_TIMES, exclude_unset=True))
    if body.model_fields_set & _TIMES:
        zone, starts, ends = times_after_change(event, event.timezone, body)
        if zone != event.timezone:
            await move_sessions(session, event.id, from_zone=event.timezone, to_zone=zone)
        values |= {"timezone": zone, **time_columns(starts, ends)}
    changed = {name: value for name, value in values.items() if getattr(event, name) != value}
    if changed:
        await _change(session, event, EventChangedV1, changed)
    return await repository.view_of(session, event)


async def publish_event(
    session: AsyncSession, organizer: str, reference: str, *, if_match: str | None
) -> EventView:
    event = await _own_event(session, organizer, reference, if_match)
    if event.state != PUBLISHED:
        now = await repository.database_clock(session)
        await _change(session, event, EventPublishedV1, {"state": PUBLISHED, "published_at": now})
    return await repository.view_of(session, event)


async def unpublish_event(
    session: AsyncSession, organizer: str, reference: str, *, if_match: str | None
) -> EventView:
    event = await _own_event(session, organizer, reference, if_match)
    if event.state != DRAFT:
        await _change(session, event, EventUnpublishedV1, {"state": DRAFT, "published_at": None})
    return await repository.view_of(session, event)


async def read_state(session: AsyncSession, reference: str, organizer: str) -> EventState:
    """Return the state of an event of this organizer. Raises ``NotFound``."""
    event = await repository.find_own(session, reference, organizer)
    if event is None:
        raise event_not_found()
    return EventState.model_validate(facts(event))


async def add_message(session: AsyncSession, kind: type[EventState], event: Event) -> None:
    """Add the message of the event's current version to the outbox."""
    await outbox.add(session, kind.model_validate(facts(event)), subject=event.id, seq=event.version)


def facts(event: Event) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "identifier": event.identifier,
        "organizer": event.organizer,
        "name": event.name,
        "timezone": event.timezone,
        "starts_at": event.starts_at,
        "ends_at": event.ends_at,
        "state": event.state,
        "version": event.version,
    }


async def _own_event(session: AsyncSession, organizer: str, reference: str, if_match: str | None) -> Event:
    view = await repository.lock_own(session, reference, organizer)
    if view is None:
        raise event_not_found()
    check_if_match(if_match, tag_of(view))
    return view.event


async def _change(session: AsyncSession, event: Event, kind: type[EventState], changed: dict[str, Any]) -> None:
    now: datetime = await repository.database_clock(session)
    for name, value in {**changed, "version": event.version + 1, "updated_at": now}.items():
        setattr(event, name, value)
    await session.flush()
    await add_message(session, kind, event)


def _columns(values: dict[str, Any]) -> dict[str, Any]:
    if "original_image_url" in values:
        values["image_url"] = values.pop("original_image_url")
    return values
