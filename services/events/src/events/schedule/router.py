"""HTTP of an event's schedule."""

from typing import Annotated

from fastapi import APIRouter, Query

from events.access import EventDep, IsOwn
from events.fields import Line
from events.schedule import service
from events.schedule.schemas import ScheduleDay, ScheduledSession, ScheduleRead
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
            description="`first` for the first day that has a session; all days when left out.",
            examples=["2027-10-30", "first"],
        ),
    ] = None,
    timezone: Annotated[
        Line | None,
        Query(description="IANA zone to show days and times in; the event's own when left out."),
    ] = None,
) -> ScheduleRead:
    """Sessions that have times, in the order in which they happen. A session stands under the day on which it
    starts, as the clocks of the shown zone count days."""
    zone = event.timezone if timezone is None else timezone
    days, lineups = await service.read_schedule(session, event.id, is_own=is_own, zone=zone, day=day)
    return ScheduleRead(
        event_id=event.id,
        timezone=zone,
        days=[
            ScheduleDay(date=date, sessions=[ScheduledSession.of(row, lineups, zone) for row in rows])
            for date, rows in days
        ],
    )
