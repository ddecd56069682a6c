"""Use cases of sessions."""

from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from events.sessions import repository
from events.sessions.repository import SessionView
from events.times import ends_of, starts_of, time_columns
from shared.problems import FieldError, Invalid, NotFound, Problem
from shared.walltime import check_order, moved_to

MAX_ERRORS = 20


class SessionsCannotMove(Invalid):
    """``errors`` names the sessions, at most ``MAX_ERRORS`` of them."""

    code = "sessions-cannot-move"
    title = "Invalid session times"


async def read_session(session: AsyncSession, event_id: UUID, session_id: UUID, *, is_own: bool) -> SessionView:
    view = await repository.find_session(session, event_id, session_id, is_own=is_own)
    if view is None:
        raise NotFound("The event has no such session, or the session is not accepted.")
    return view


async def move_sessions(session: AsyncSession, event_id: UUID, *, from_zone: str, to_zone: str) -> None:
    """Keep the wall times of the event's sessions in another zone, so that their instants move.

    Raises ``SessionsCannotMove`` when the clocks of the new zone skip a time or show it twice.
    """
    moved: list[dict[str, Any]] = []
    errors: list[FieldError] = []
    for row in await repository.lock_scheduled(session, event_id):
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
    await repository.change_sessions(session, moved)
