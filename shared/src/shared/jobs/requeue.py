from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.database.engine import Sessions
from shared.jobs.rows import (
    FAILED,
    HINT_PATIENCE,
    MAX_ATTEMPTS,
    QUEUED,
    RUNNING,
    SUSPECT_ATTEMPTS,
    GivenUp,
    JobColumns,
    lock_key,
)
from shared.messaging import outbox
from shared.telemetry.metrics import JOBS, JOBS_GIVEN_UP, JOBS_OLDEST_SECONDS

SWEEP_BATCH = 100


async def requeue_lost_jobs(sessions: Sessions, model: type[JobColumns], *, actor: str, queue: str) -> None:
    """Puts back what nobody works on any more, sends hints that may be lost, fails what used up its attempts.

    Of the jobs with ``SUSPECT_ATTEMPTS`` lost attempts it hints at one, when none of them runs or is about to.
    Takes a lock, so that one sweep of these jobs runs at a time; a second one measures and does nothing else.
    """
    now = func.clock_timestamp()
    async with sessions.begin() as session:
        await _measure(session, model, actor)
        if not await session.scalar(
            select(func.pg_try_advisory_xact_lock(func.hashtext("rostrum.sweep"), lock_key(model)))
        ):
            return

        async def change(*which: ColumnElement[bool], **values: Any) -> list[tuple[UUID, int]]:
            changed = await session.execute(
                update(model)
                .where(*which)
                .values(**values)
                .returning(model.id, model.hints)
                .execution_options(synchronize_session=False)
            )
            return [(job_id, hints) for job_id, hints in changed]

        is_left = and_(model.state == RUNNING, model.lease_until < now)
        await change(is_left, state=QUEUED, hinted_at=now - 2 * HINT_PATIENCE, lease_until=None)
        is_due = and_(model.state == QUEUED, model.hinted_at < now - HINT_PATIENCE)
        given_up = {"state": FAILED, "finished_at": now, "error": GivenUp().document()}
        ended = await change(is_due, model.attempts >= MAX_ATTEMPTS, **given_up)
        JOBS_GIVEN_UP.labels(actor).inc(len(ended))

        is_suspect = model.attempts >= SUSPECT_ATTEMPTS
        is_active = or_(model.state == RUNNING, and_(model.state == QUEUED, ~is_due))
        oldest = select(model.id).where(is_due).order_by(model.created_at)
        hinted = await change(
            or_(
                model.id.in_(oldest.where(~is_suspect).limit(SWEEP_BATCH)),
                and_(
                    model.id.in_(oldest.where(is_suspect).limit(1)),
                    ~select(model.id).where(is_suspect, is_active).exists(),
                ),
            ),
            hints=model.hints + 1,
            hinted_at=now,
        )
        for job_id, hints in hinted:
            await outbox.add_job(session, actor, queue=queue, job_id=job_id, attempt=hints)


async def _measure(session: AsyncSession, model: type[JobColumns], actor: str) -> None:
    """Sets the gauges of the jobs that have not ended. Each table has an index of these alone."""
    since = func.min(func.coalesce(model.started_at, model.created_at))
    waiting_since = func.min(model.created_at)
    found = await session.execute(
        select(
            model.state,
            func.count(),
            func.extract("epoch", func.clock_timestamp() - waiting_since),
            func.extract("epoch", func.clock_timestamp() - since),
        )
        .where(model.state.in_([QUEUED, RUNNING]))
        .group_by(model.state)
    )
    by_state = {state: (count, float(queued), float(running)) for state, count, queued, running in found}
    for state, age in ((QUEUED, 1), (RUNNING, 2)):
        values = by_state.get(state, (0, 0.0, 0.0))
        JOBS.labels(actor, state).set(values[0])
        JOBS_OLDEST_SECONDS.labels(actor, state).set(values[age])
