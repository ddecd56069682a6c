"""The service whose jobs a drill disturbs. Each job works for a moment and leaves one result, or kills its worker.

It is made of the parts that every service is made of, and waits less long for what was lost. `python -m` runs its
messenger; its worker is `workshop_worker`. ``DRILL_WITHOUT`` names a mechanism that is switched off.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Identity
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.database.engine import Sessions
from shared.database.idempotency import idempotency_table
from shared.database.tables import COLUMN_TYPES, new_metadata
from shared.ids import new_id
from shared.jobs.attempts import Run, claim
from shared.jobs.requeue import requeue_lost_jobs
from shared.jobs.rows import JobColumns
from shared.messaging.messenger import run_messenger
from shared.messaging.periodic_tasks import PeriodicTask
from shared.messaging.tables import messaging_tables
from shared.settings import Settings
from tests.drills.scale import FULL, scale_of_this_run

SERVICE = "workshop"
ACTOR = "workshop.work"
QUEUE = f"{SERVICE}.jobs"
LEASE = 10.0 if scale_of_this_run() is FULL else 2.0
STEPS = 10
STEP_SECONDS = 0.1


class Base(DeclarativeBase):
    metadata = new_metadata()
    type_annotation_map = COLUMN_TYPES


class Job(Base, JobColumns):
    __tablename__ = "jobs"

    kills: Mapped[bool] = mapped_column(default=False)


class Result(Base):
    """The effect of a job, which there must be one of."""

    __tablename__ = "results"

    serial: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[UUID]


messaging_tables(Base.metadata)
idempotency_table(Base.metadata)


class WorkshopSettings(Settings):
    service: str = SERVICE


@asynccontextmanager
async def open_resources(sessions: Sessions) -> AsyncIterator[Sessions]:
    yield sessions


async def work(sessions: Sessions, job_id: UUID) -> None:
    async with _take(sessions, job_id) as run:
        if run is None:
            return
        async with sessions() as session:
            job = await session.get_one(Job, job_id)
        if job.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        for step in range(STEPS):
            await asyncio.sleep(STEP_SECONDS)
            await run.progress("working", step + 1, STEPS)
        async with sessions.begin() as session:
            session.add(Result(job_id=job_id))
            await run.finish(session)


@asynccontextmanager
async def _take(sessions: Sessions, job_id: UUID) -> AsyncIterator[Run | None]:
    if os.environ.get("DRILL_WITHOUT") == "claim":
        yield Run(sessions, Job, job_id, new_id())
        return
    async with claim(sessions, Job, job_id, lease=timedelta(seconds=LEASE)) as run:
        yield run


async def _update_without_lease(self: Run, session: AsyncSession, **values: Any) -> None:
    """``Run.update`` that lets an attempt write which has lost its lease."""
    job = await session.get_one(Job, self.job_id)
    for name, value in values.items():
        setattr(job, name, value)


def set_up() -> None:
    if os.environ.get("DRILL_WITHOUT") in ("claim", "lease"):
        Run.update = _update_without_lease  # type: ignore[method-assign]


if __name__ == "__main__":
    set_up()
    requeue = partial(requeue_lost_jobs, model=Job, actor=ACTOR, queue=QUEUE, patience=timedelta(seconds=LEASE / 4))
    task = PeriodicTask("requeue_lost_jobs", 0.25, requeue)
    run_messenger(WorkshopSettings(), periodic_tasks=[] if os.environ.get("DRILL_WITHOUT") == "requeue" else [task])
