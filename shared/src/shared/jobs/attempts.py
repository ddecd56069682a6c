import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from shared.database.engine import Sessions
from shared.ids import new_id
from shared.jobs.rows import (
    DONE,
    FAILED,
    LEASE,
    MAX_ATTEMPTS,
    QUEUED,
    RUNNING,
    SUSPECT_ATTEMPTS,
    JobColumns,
    lock_key,
)
from shared.problems import Problem, Unavailable
from shared.telemetry.logs import get_logger

log = get_logger(__name__)

outcome: ContextVar[str] = ContextVar("outcome", default="ended")
"""How ``claim`` ended the attempt of the current task, for its metrics."""


class JobLost(Exception):
    """Another attempt holds the job's lease. This one must stop and change nothing more."""


class Run:
    """One attempt that holds a job's lease. Its writes take effect only while it does."""

    def __init__(
        self, sessions: Sessions, model: type[JobColumns], job_id: UUID, lease_id: UUID, lease: timedelta = LEASE
    ) -> None:
        self._sessions = sessions
        self._model = model
        self.job_id = job_id
        self._lease_id = lease_id
        self._lease = lease

    async def start(self) -> bool:
        """Take the lease and count the attempt. Return False if the job is not queued or must wait."""
        model, now = self._model, func.clock_timestamp()
        another = aliased(model)
        is_suspect_running = (
            select(another.id).where(another.state == RUNNING, another.attempts >= SUSPECT_ATTEMPTS).exists()
        )
        async with self._sessions.begin() as session:
            # Two suspects that start at the same moment would not see each other.
            await session.execute(
                select(func.pg_advisory_xact_lock(func.hashtext("rostrum.claim"), lock_key(model)))
            )
            taken = await session.execute(
                update(model)
                .where(
                    model.id == self.job_id,
                    # A running job is never taken, even with an expired lease: requeue_lost_jobs decides on that.
                    model.state == QUEUED,
                    model.attempts < MAX_ATTEMPTS,
                    or_(model.attempts < SUSPECT_ATTEMPTS, ~is_suspect_running),
                )
                .values(
                    state=RUNNING,
                    attempts=model.attempts + 1,
                    lease_id=self._lease_id,
                    lease_until=now + self._lease,
                    started_at=func.coalesce(model.started_at, now),
                )
                .returning(model.id)
                .execution_options(synchronize_session=False)
            )
            return taken.first() is not None

    async def progress(self, step: str, done: int = 0, total: int = 0) -> None:
        """Publish how far the work is, and renew the lease. Raise ``JobLost``."""
        await self._renew(step=step, done=done, total=total)

    async def finish(self, session: AsyncSession, **values: Any) -> None:
        """End the job as done in the caller's transaction, together with its result. Raise ``JobLost``."""
        await self.update(session, state=DONE, finished_at=func.clock_timestamp(), lease_until=None, **values)

    async def end(self, **values: Any) -> None:
        """End the attempt without a result, unless the lease is lost."""
        with suppress(JobLost):
            async with self._sessions.begin() as session:
                await self.update(session, lease_until=None, **values)

    async def update(self, session: AsyncSession, **values: Any) -> None:
        """Change the job's row in the caller's transaction. Raise ``JobLost``."""
        model = self._model
        result = await session.execute(
            update(model)
            .where(model.id == self.job_id, model.state == RUNNING, model.lease_id == self._lease_id)
            .values(**values)
            .returning(model.id)
            .execution_options(synchronize_session=False)
        )
        if result.first() is None:
            raise JobLost(str(self.job_id))

    async def keep_lease(self) -> None:
        """Renew the lease until cancelled. Raise ``JobLost``."""
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 4)
            try:
                await self._renew()
            except JobLost:
                raise
            except Exception as error:
                log.warning("job.lease_not_renewed", job_id=str(self.job_id), error=str(error))

    async def _renew(self, **values: Any) -> None:
        async with self._sessions.begin() as session:
            await self.update(session, lease_until=func.clock_timestamp() + self._lease, **values)


@asynccontextmanager
async def claim(
    sessions: Sessions, model: type[JobColumns], job_id: UUID, *, lease: timedelta = LEASE
) -> AsyncIterator[Run | None]:
    """Take the job's lease and count the attempt, committed before the block begins; None if it cannot be had.

    The lease is renewed while the block runs. A ``Problem`` out of the block fails the job with its document.
    ``Unavailable`` queues it again and the attempt does not count. After any other error the job waits until
    ``requeue_lost_jobs`` finds it.
    """
    run = Run(sessions, model, job_id, new_id(), lease)
    if not await run.start():
        outcome.set("not_taken")
        log.info("job.not_taken", job_id=str(job_id))
        yield None
        return
    heartbeat = asyncio.create_task(run.keep_lease())
    try:
        yield run
        outcome.set(DONE)
    except JobLost:
        outcome.set("lost")
        log.warning("job.lost", job_id=str(job_id))
    except Unavailable as problem:
        outcome.set("postponed")
        log.warning("job.postponed", job_id=str(job_id), code=problem.code, detail=problem.detail)
        await run.end(state=QUEUED, attempts=model.attempts - 1, triggered_at=func.clock_timestamp())
    except Problem as problem:
        outcome.set(FAILED)
        log.warning("job.failed", job_id=str(job_id), code=problem.code, detail=problem.detail)
        await run.end(state=FAILED, error=problem.document(), finished_at=func.clock_timestamp())
    finally:
        heartbeat.cancel()
        with suppress(asyncio.CancelledError, JobLost):
            await heartbeat
