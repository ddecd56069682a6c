"""When an event moves to another zone, its sessions keep what the clock on the wall shows."""

from typing import Any
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from events.models import Session
from events.times import check_order, ends_of, starts_of, time_columns
from shared.problems import FieldError, Invalid, Problem
from shared.walltime import moved_to

MAX_ERRORS = 20


class SessionsCannotMove(Invalid):
    """``errors`` names the sessions, at most ``MAX_ERRORS`` of them."""

    code = "sessions-cannot-move"
    title = "Some sessions have no such time in the new zone"


async def move_sessions(session: AsyncSession, event_id: UUID, *, from_zone: str, to_zone: str) -> None:
    """Raises ``SessionsCannotMove`` when the clocks of the new zone skip a time or show it twice."""
    columns = (
        Session.id,
        Session.version,
        Session.starts_local,
        Session.starts_fold,
        Session.starts_at,
        Session.ends_local,
        Session.ends_fold,
        Session.ends_at,
    )
    rows = await session.execute(
        select(*columns).where(Session.event_id == event_id, Session.starts_at.is_not(None)).with_for_update()
    )
    moved: list[dict[str, Any]] = []
    errors: list[FieldError] = []
    for row in rows:
        field = f"sessions.{row.id}"
        try:
            starts = moved_to(starts_of(row, from_zone), to_zone, field=f"{field}.starts_at")
            ends = moved_to(ends_of(row, from_zone), to_zone, field=f"{field}.ends_at")
            check_order(starts, ends, field=f"{field}.ends_at")
        except Problem as problem:
            errors.extend(problem.errors)
            if len(errors) >= MAX_ERRORS:
                break
        else:
            moved.append({"id": row.id, "version": row.version + 1, **time_columns(starts, ends)})
    if errors:
        raise SessionsCannotMove(
            f"In {to_zone} not every session can keep its time. {errors[0].message} Then change the zone.",
            errors=errors,
        )
    if moved:
        await session.execute(update(Session), moved)
