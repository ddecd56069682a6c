"""Jobs that belong to no service, for tests of what all jobs share."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update

from shared.database.engine import Sessions
from shared.jobs.rows import JobColumns, enqueue
from shared.messaging.tables import OUTBOX

ACTOR = "probe.paint"
QUEUE = "probe.jobs"


async def enqueued(sessions: Sessions, job_class: type[JobColumns], *, queue: str = QUEUE) -> UUID:
    async with sessions.begin() as session:
        job = job_class()
        await enqueue(session, job, actor=ACTOR, queue=queue)
    return job.id


async def read_job(sessions: Sessions, job_class: type[JobColumns], job_id: UUID) -> JobColumns:
    async with sessions() as session:
        return await session.get_one(job_class, job_id)


async def expire(sessions: Sessions, job_class: type[JobColumns], *job_ids: UUID) -> None:
    """Move the leases and triggers of these jobs into the past, as if time had passed after a crash."""
    past = func.clock_timestamp() - timedelta(minutes=10)
    async with sessions.begin() as session:
        await session.execute(
            update(job_class).where(job_class.id.in_(job_ids)).values(lease_until=past, triggered_at=past)
        )


async def count_triggers(sessions: Sessions) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).where(OUTBOX.c.kind == "job")) or 0
