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
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from dramatiq.brokers.rabbitmq import RabbitmqBroker
from sqlalchemy import CheckConstraint, ColumnElement, and_, func, inspect, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, aliased, declared_attr, mapped_column

from shared.database import Sessions
from shared.ids import new_id
from shared.logs import get_logger
from shared.messaging import outbox
from shared.metrics import JOBS, JOBS_GIVEN_UP, JOBS_OLDEST_SECONDS
from shared.problems import Problem, Unavailable
from shared.settings import Settings

log = get_logger(__name__)

LEASE = timedelta(seconds=60)
HINT_PATIENCE = timedelta(seconds=60)
MAX_ATTEMPTS = 5
SUSPECT_ATTEMPTS = 2
SWEEP_BATCH = 100

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"

verdict: ContextVar[str] = ContextVar("verdict", default="ended")
"""How the attempt of the present task went, for its metrics: what ``claim`` made of it."""


class JobColumns:
    """Columns of a job's table. ``total`` is 0 while it is unknown; ``error`` is a problem document."""

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    state: Mapped[str] = mapped_column(default=QUEUED, server_default=QUEUED)
    step: Mapped[str] = mapped_column(default="", server_default="")
    done: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    total: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    attempts: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    hints: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    hinted_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    lease_id: Mapped[UUID | None]
    lease_until: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (CheckConstraint("state IN ('queued', 'running', 'done', 'failed')", name="state"),)


class GivenUp(Problem):
    status = 500
    code = "job-given-up"
    title = "The work failed again and again"

    def __init__(self) -> None:
        super().__init__(f"{MAX_ATTEMPTS} attempts ended without a result. Ask for it again, quoting this id.")


class JobLost(Exception):
    """Another attempt has taken the job over; this one must stop and change nothing more."""


async def enqueue(session: AsyncSession, job: JobColumns, *, actor: str, queue: str) -> None:
    """Adds the row and its first hint to the transaction. The hint leaves after the commit."""
    session.add(job)
    await session.flush()  # the hint's row names the job's id, which the default fills at flush
    await outbox.add_job(session, actor, queue=queue, job_id=job.id)


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
        await session.execute(select(func.pg_advisory_xact_lock(func.hashtext("rostrum.claim"), _lock_key(model))))
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


async def sweep(sessions: Sessions, model: type[JobColumns], *, actor: str, queue: str) -> None:
    """Puts back what nobody works on any more, sends hints that may be lost, fails what used up its attempts.

    Of the jobs with ``SUSPECT_ATTEMPTS`` lost attempts it hints at one, when none of them runs or is about to.
    Takes a lock, so that one sweep of these jobs runs at a time; a second one measures and does nothing else.
    """
    now = func.clock_timestamp()
    async with sessions.begin() as session:
        await _measure(session, model, actor)
        if not await session.scalar(
            select(func.pg_try_advisory_xact_lock(func.hashtext("rostrum.sweep"), _lock_key(model)))
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


def _lock_key(model: type[JobColumns]) -> ColumnElement[int]:
    return func.hashtext(inspect(model).local_table.description)


def new_job_broker(settings: Settings) -> RabbitmqBroker:
    """The dramatiq broker of a service. Every enqueue waits for the broker's confirm."""
    return RabbitmqBroker(url=settings.rabbitmq_url.get_secret_value(), confirm_delivery=True, middleware=[])


def declare_job_queue(settings: Settings, queue: str) -> None:
    """Makes the queue as dramatiq itself would. Blocks."""
    broker = new_job_broker(settings)
    try:
        broker.declare_queue(queue, ensure=True)
    finally:
        broker.close()
