"""Use case: follow a job until it ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

from exports.progress import repository
from exports.progress.schemas import JobProgress
from shared.database.engine import Sessions
from shared.jobs.rows import DONE, FAILED, JobColumns

POLL_SECONDS = 0.25
STREAM_SECONDS = 600.0

IsOver = Callable[[], Awaitable[bool]]


async def follow(
    sessions: Sessions, model: type[JobColumns], job_id: UUID, is_over: IsOver
) -> AsyncIterator[JobProgress]:
    """Yield the job's progress now and after each change, until it ends, ``is_over`` or ten minutes have passed.

    Each look uses a short session of its own, so a follower holds no connection to the database.
    """
    sent: JobProgress | None = None
    ends_at = time.monotonic() + STREAM_SECONDS
    while True:
        async with sessions() as session:
            row = await repository.find(session, model, job_id, JobProgress.model_fields)
        if row is None:
            return
        current = JobProgress.model_validate(row)
        if current != sent:
            yield current
            sent = current
        if current.state in (DONE, FAILED) or time.monotonic() > ends_at or await is_over():
            return
        await asyncio.sleep(POLL_SECONDS)
