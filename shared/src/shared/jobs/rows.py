from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ColumnElement, func, inspect, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from shared.ids import new_id
from shared.messaging import outbox
from shared.problems import Problem
from shared.settings import Settings

LEASE = timedelta(seconds=60)
TRIGGER_PATIENCE = timedelta(seconds=60)
MAX_ATTEMPTS = 5
SUSPECT_ATTEMPTS = 2

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"


class JobColumns:
    """Columns of a job's table. ``total`` is 0 while unknown. ``error`` is a problem document."""

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)
    state: Mapped[str] = mapped_column(default=QUEUED, server_default=QUEUED)
    step: Mapped[str] = mapped_column(default="", server_default="")
    done: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    total: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    attempts: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    triggers: Mapped[int] = mapped_column("hints", default=0, server_default=text("0"))
    triggered_at: Mapped[datetime] = mapped_column("hinted_at", server_default=func.clock_timestamp())
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
    title = "Job failed repeatedly"

    def __init__(self) -> None:
        super().__init__(f"All {MAX_ATTEMPTS} attempts failed. Start it again. If that fails, report this id.")


async def enqueue(session: AsyncSession, job: JobColumns, *, actor: str, queue: str) -> None:
    """Add the row and its first trigger to the transaction. The trigger is sent after the commit."""
    session.add(job)
    await session.flush()  # fills the id by its default
    await outbox.add_job(session, actor, queue=queue, job_id=job.id)


def lock_key(model: type[JobColumns]) -> ColumnElement[int]:
    return func.hashtext(inspect(model).local_table.description)


def job_queue(settings: Settings) -> str:
    return f"{settings.service}.jobs"
