from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.database.engine import Sessions
from shared.jobs.rows import (
    FAILED,
    MAX_ATTEMPTS,
    QUEUED,
    RUNNING,
    SUSPECT_ATTEMPTS,
    TRIGGER_PATIENCE,
    GivenUp,
    JobColumns,
    lock_key,
)
from shared.messaging import outbox
from shared.telemetry.metrics import JOBS, JOBS_GIVEN_UP, JOBS_OLDEST_SECONDS

BATCH = 100


async def requeue_lost_jobs(
    sessions: Sessions,
    model: type[JobColumns],
    *,
    actor: str,
    queue: str,
    patience: timedelta = TRIGGER_PATIENCE,
) -> None:
    """Requeue jobs whose lease expired, send triggers that may be lost, and fail jobs without attempts left.

    Of the suspects, trigger one, if none of them runs or is about to. Take a lock, so that one call at a time
    changes these jobs; any other measures them only.
    """
    now = func.clock_timestamp()
    async with sessions.begin() as session:
        await _measure(session, model, actor)
        # The lock's name is the one of earlier releases, whose messengers run beside this one during a roll-out.
        if not await session.scalar(
            select(func.pg_try_advisory_xact_lock(func.hashtext("rostrum.sweep"), lock_key(model)))
        ):
            return

        async def change(*which: ColumnElement[bool], **values: Any) -> list[tuple[UUID, int]]:
            changed = await session.execute(
                update(model)
                .where(*which)
                .values(**values)
                .returning(model.id, model.triggers)
                .execution_options(synchronize_session=False)
            )
            return [(job_id, triggers) for job_id, triggers in changed]

        is_lost = and_(model.state == RUNNING, model.lease_until < now)
        await change(is_lost, state=QUEUED, triggered_at=now - 2 * patience, lease_until=None)
        is_due = and_(model.state == QUEUED, model.triggered_at < now - patience)
        given_up = {"state": FAILED, "finished_at": now, "error": GivenUp().document()}
        failed = await change(is_due, model.attempts >= MAX_ATTEMPTS, **given_up)
        JOBS_GIVEN_UP.labels(actor).inc(len(failed))

        is_suspect = model.attempts >= SUSPECT_ATTEMPTS
        is_active = or_(model.state == RUNNING, and_(model.state == QUEUED, ~is_due))
        oldest = select(model.id).where(is_due).order_by(model.created_at)
        triggered = await change(
            or_(
                model.id.in_(oldest.where(~is_suspect).limit(BATCH)),
                and_(
                    model.id.in_(oldest.where(is_suspect).limit(1)),
                    ~select(model.id).where(is_suspect, is_active).exists(),
                ),
            ),
            triggers=model.triggers + 1,
            triggered_at=now,
        )
        for job_id, triggers in triggered:
            await outbox.add_job(session, actor, queue=queue, job_id=job_id, attempt=triggers)


async def _measure(session: AsyncSession, model: type[JobColumns], actor: str) -> None:
    """Set the gauges of the jobs that have not ended. Each table has an index of these alone."""
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
