"""HTTP of an event's schedule."""

from typing import Annotated

from fastapi import APIRouter, Query

from events.access import EventDep, IsOwn
from events.fields import Line
from events.schedule import service
from events.schedule.schemas import ScheduleRead
from shared.http.dependencies import SessionDep

router = APIRouter(prefix="/v1/events/{event_ref}", tags=["programme"])


@router.get("/schedule", summary="Read the schedule")
async def read_schedule(
    event: EventDep,
    is_own: IsOwn,
    session: SessionDep,
    day: Annotated[
        str | None,
        Query(
            max_length=10,
            description="`first` for the first day that has a session; all days if omitted.",
            examples=["2027-10-30", "first"],
        ),
    ] = None,
    timezone: Annotated[
        Line | None,
        Query(description="IANA zone of the days and times; the event's own if omitted."),
    ] = None,
) -> ScheduleRead:
    """Return the sessions that have times, by start. A session belongs to the day on which it starts in the zone of
    the response."""
    zone = event.timezone if timezone is None else timezone
    days = await service.read_schedule(session, event.id, is_own=is_own, zone=zone, day=day)
    return ScheduleRead.of(event.id, zone, days)
