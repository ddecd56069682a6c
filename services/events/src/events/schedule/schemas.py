"""What the API returns of a schedule."""

import datetime
from collections.abc import Iterable
from typing import Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

from events.schedule.repository import ScheduleEntry
from events.sessions.schemas import Ref, TrackRef
from shared.walltime import at


class ScheduledSession(BaseModel):
    id: UUID
    title: str
    starts_at: AwareDatetime
    ends_at: AwareDatetime
    track: TrackRef | None
    microlocation: Ref | None
    session_type: Ref | None
    speakers: list[Ref]

    @classmethod
    def of(cls, row: ScheduleEntry, zone: str) -> Self:
        track = {"id": row.track_id, "name": row.track_name, "color": row.track_color}
        microlocation = {"id": row.microlocation_id, "name": row.microlocation_name}
        session_type = {"id": row.session_type_id, "name": row.session_type_name}
        return cls.model_validate(
            {
                "id": row.id,
                "title": row.title,
                "starts_at": at(row.starts_at, zone).isoformat(),
                "ends_at": at(row.ends_at, zone).isoformat(),
                "track": track if row.track_id else None,
                "microlocation": microlocation if row.microlocation_id else None,
                "session_type": session_type if row.session_type_id else None,
                "speakers": row.lineup,
            }
        )


class ScheduleDay(BaseModel):
    date: datetime.date
    sessions: list[ScheduledSession]


class ScheduleRead(BaseModel):
    event_id: UUID
    timezone: str = Field(description="The zone of the days and times.")
    days: list[ScheduleDay]

    @classmethod
    def of(cls, event_id: UUID, zone: str, days: Iterable[tuple[datetime.date, list[ScheduleEntry]]]) -> Self:
        return cls(
            event_id=event_id,
            timezone=zone,
            days=[
                ScheduleDay(date=date, sessions=[ScheduledSession.of(entry, zone) for entry in entries])
                for date, entries in days
            ],
        )
