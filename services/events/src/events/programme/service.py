"""Use cases of an event's programme: import and export whole, read in parts, show as a schedule."""

from datetime import date, datetime, time, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from events.events import repository as events
from events.events.repository import EventHead
from events.events.service import event_not_found, tell
from events.models import ImageCopy, Speaker
from events.programme import repository
from events.programme.repository import Billing
from events.programme.rules import programme_of, rows_of
from events.programme.schemas import ProgrammeImport, ProgrammeImported
from shared.contracts.events import EventCreatedV1
from shared.contracts.programme import Programme
from shared.problems import Conflict, Invalid, NotFound
from shared.walltime import rederived, zone_info

FIRST: Literal["first"] = "first"


class ImportIdTaken(Conflict):
    code = "import-id-taken"
    title = "The import belongs to somebody else"


class NoSuchDay(Invalid):
    code = "no-such-day"
    title = "The day can't be read"


async def import_programme(session: AsyncSession, body: ProgrammeImport) -> tuple[ProgrammeImported, bool]:
    """Stores an event with everything it has; ``False`` beside it when this import was here before.

    Raises the problems of the event's times, ``ProgrammeBroken``, ``ImportIdTaken``.
    """
    rows = rows_of(body.programme)
    published_at = await events.database_clock(session) if rows.event["state"] == events.PUBLISHED else None
    event = await events.add(
        session,
        {
            **rows.event,
            "organizer": body.organizer,
            "import_id": body.import_id,
            "published_at": published_at,
        },
    )
    is_new = event is not None
    if event is None:
        event = await events.find_imported(session, body.import_id)
        if event is None or event.organizer != body.organizer:
            raise ImportIdTaken("This import_id was used by another organizer. Take a new one.", field="import_id")
    else:
        await repository.add_programme(session, event.id, rows)
        await tell(session, EventCreatedV1, event)
    return (
        ProgrammeImported(
            event_id=event.id,
            identifier=event.identifier,
            counts={name: len(records) for name, records in rows.lists.items()},
            repairs=rows.repairs,
        ),
        is_new,
    )


async def export_programme(session: AsyncSession, event_id: UUID, organizer: str) -> Programme:
    """Raises ``NotFound`` when it is not this organizer's."""
    event = await events.find_own(session, event_id, organizer)
    if event is None:
        raise event_not_found()
    lists = await repository.all_rows(session, event.id)
    return programme_of(event, lists, await repository.all_billing(session, event.id))


async def read_session(
    session: AsyncSession, event: EventHead, session_id: UUID, *, is_own: bool
) -> tuple[Row[*tuple[Any, ...]], Billing]:
    found = await repository.find_session(session, event.id, session_id, is_own=is_own)
    if found is None:
        raise NotFound("The event has no such session, or it is not accepted.")
    return found


async def read_speaker(
    session: AsyncSession, event: EventHead, speaker_id: UUID, *, is_own: bool
) -> tuple[Speaker, ImageCopy | None]:
    found = await repository.find_speaker(session, event.id, speaker_id, is_own=is_own)
    if found is None:
        raise NotFound("The event has no such speaker, or none of their sessions is accepted.")
    return found


async def read_schedule(
    session: AsyncSession, event: EventHead, *, is_own: bool, zone: str, day: str | None
) -> tuple[list[tuple[date, list[Row[*tuple[Any, ...]]]]], Billing]:
    """Days as the clocks of ``zone`` count them, each with its sessions in the order in which they happen.

    ``day`` is a date, ``first`` for the first that has a session, ``None`` for all. Raises ``UnknownZone``,
    ``NoSuchDay``.
    """
    place = zone_info(zone)
    since: datetime | None = None
    until: datetime | None = None
    if day is not None:
        wanted = await _wanted_day(session, event, is_own=is_own, zone=zone, day=day)
        if wanted is None:
            return [], {}
        since, until = _start_of(wanted, zone), _start_of(wanted + timedelta(days=1), zone)
    rows, billing = await repository.scheduled(session, event.id, is_own=is_own, since=since, until=until)
    days: dict[date, list[Row[*tuple[Any, ...]]]] = {}
    for row in rows:
        days.setdefault(row.starts_at.astimezone(place).date(), []).append(row)
    return list(days.items()), billing


async def _wanted_day(session: AsyncSession, event: EventHead, *, is_own: bool, zone: str, day: str) -> date | None:
    if day == FIRST:
        first = await repository.first_start(session, event.id, is_own=is_own)
        return None if first is None else first.astimezone(zone_info(zone)).date()
    try:
        wanted = date.fromisoformat(day)
    except ValueError:
        wanted = None
    if wanted is None or len(day) != len("YYYY-MM-DD") or not 1900 <= wanted.year <= 9000:
        raise NoSuchDay("Write the day as 2027-10-30, or `first`, or leave it out for all days.", field="query.day")
    return wanted


def _start_of(day: date, zone: str) -> datetime:
    # Some clocks skip midnight: the day then starts at the instant of the jump, or within an hour of it, when
    # nothing has happened yet under that date.
    return rederived(datetime.combine(day, time.min), zone, 0).instant
