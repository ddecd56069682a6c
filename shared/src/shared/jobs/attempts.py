"""Jobs: long work as a row with a status that is the truth, and a dramatiq message that is only a hint to start.

The hint goes through the outbox, so a committed job is never forgotten; ``sweep`` sends it again when it, or the
worker that took it, got lost. A job may therefore be hinted at twice: ``claim`` lets one start win. Each attempt is
counted before its work begins, so that work which kills its process can't do so for ever. Whose work it was nobody
knows, as all jobs of the process die with it; so jobs that lost two attempts are tried again one at a time, and the
others don't use up their attempts beside the one that kills.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
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

verdict: ContextVar[str] = ContextVar("verdict", default="ended")
"""How the attempt of the present task went, for its metrics: what ``claim`` made of it."""


class JobLost(Exception):
    """Another attempt has taken the job over; this one must stop and change nothing more."""


class Run:
    """One attempt that holds a job's lease. Every write is guarded by it, so a lost attempt has no say."""

    def __init__(self, sessions: Sessions, model: type[JobColumns], job_id: UUID, lease_id: UUID) -> None:
        self._sessions = sessions
        self._model = model
        self.job_id = job_id
        self._lease_id = lease_id

    async def progress(self, step: str, done: int = 0, total: int = 0) -> None:
        """Shows how far the work is, and renews the lease. Raises ``JobLost``."""
        await self._write(step=step, done=done, total=total)

    async def renew(self) -> None:
        await self._write()

    async def _write(self, **values: Any) -> None:
        async with self._sessions.begin() as session:
            await self.guarded(session, lease_until=func.clock_timestamp() + LEASE, **values)

    async def finish(self, session: AsyncSession, **values: Any) -> None:
        """Ends the job well, in the caller's transaction, together with its result."""
        await self.guarded(session, state=DONE, finished_at=func.clock_timestamp(), lease_until=None, **values)

    async def guarded(self, session: AsyncSession, **values: Any) -> None:
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


@asynccontextmanager
async def claim(sessions: Sessions, model: type[JobColumns], job_id: UUID) -> AsyncIterator[Run | None]:
    """Takes the job's lease and counts the attempt, committed before the block begins; None when it isn't ours.

    The lease is renewed while the block runs. A ``Problem`` out of the block fails the job with that document.
    ``Unavailable`` is no verdict on the work: the job is queued again and the attempt does not count. Any other
    error leaves it to the sweep, which tries again until ``MAX_ATTEMPTS``.
    """
    lease_id = new_id()
    now = func.clock_timestamp()
    another = aliased(model)
    async with sessions.begin() as session:
        # Two suspects that start at the same moment would not see each other.
        await session.execute(select(func.pg_advisory_xact_lock(func.hashtext("rostrum.claim"), lock_key(model))))
        taken = await session.execute(
            update(model)
            .where(
                model.id == job_id,
                # Not a running one whose lease is over, either: the sweep decides when that is tried again.
                model.state == QUEUED,
                model.attempts < MAX_ATTEMPTS,
                or_(
                    model.attempts < SUSPECT_ATTEMPTS,
                    ~select(another.id)
                    .where(another.state == RUNNING, another.attempts >= SUSPECT_ATTEMPTS)
                    .exists(),
                ),
            )
            .values(
                state=RUNNING,
                attempts=model.attempts + 1,
                lease_id=lease_id,
                lease_until=now + LEASE,
                started_at=func.coalesce(model.started_at, now),
            )
            .returning(model.id)
            .execution_options(synchronize_session=False)
        )
        is_ours = taken.first() is not None
    if not is_ours:
        verdict.set("not_taken")
        log.info("job.not_taken", job_id=str(job_id))
        yield None
        return
    run = Run(sessions, model, job_id, lease_id)
    heartbeat = asyncio.create_task(_keep_lease(run))
    try:
        yield run
        verdict.set(DONE)
    except JobLost:
        verdict.set("lost")
        log.warning("job.lost", job_id=str(job_id))
    except Unavailable as problem:
        verdict.set("postponed")
        log.warning("job.postponed", job_id=str(job_id), code=problem.code, detail=problem.detail)
        await _queue_again(run, sessions, model)
    except Problem as problem:
        verdict.set(FAILED)
        log.warning("job.failed", job_id=str(job_id), code=problem.code, detail=problem.detail)
        await _fail(run, sessions, problem.document())
    finally:
        heartbeat.cancel()
        with suppress(asyncio.CancelledError, JobLost):
            await heartbeat


async def _keep_lease(run: Run) -> None:
    while True:
        await asyncio.sleep(LEASE.total_seconds() / 4)
        try:
            await run.renew()
        except JobLost:
            raise
        except Exception as error:
            log.warning("job.lease_not_renewed", job_id=str(run.job_id), error=str(error))


async def _fail(run: Run, sessions: Sessions, document: dict[str, Any]) -> None:
    with suppress(JobLost):
        async with sessions.begin() as session:
            await run.guarded(
                session, state=FAILED, error=document, finished_at=func.clock_timestamp(), lease_until=None
            )


async def _queue_again(run: Run, sessions: Sessions, model: type[JobColumns]) -> None:
    """As if the hint had only now been sent: the sweep sends the next one after ``HINT_PATIENCE``."""
    with suppress(JobLost):
        async with sessions.begin() as session:
            await run.guarded(
                session,
                state=QUEUED,
                attempts=model.attempts - 1,
                hinted_at=func.clock_timestamp(),
                lease_until=None,
            )
