"""How far a job is: what the API shows of it, and the stream of its changes."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal
from uuid import UUID

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from shared.contracts.problem import ProblemDocument
from shared.database.engine import Sessions
from shared.jobs.attempts import Run
from shared.jobs.rows import DONE, FAILED, JobColumns

POLL_SECONDS = 0.25
STREAM_SECONDS = 600.0
WRITE_SECONDS = 0.25


class JobProgress(BaseModel):
    """``done`` of ``total`` things of the present step; ``total`` is 0 while it is unknown."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    state: Literal["queued", "running", "done", "failed"]
    step: str = Field(description="What is being done, in words.", examples=["uploading pictures"])
    done: int
    total: int
    attempts: int = Field(description="How often the work was begun; more than once after an interruption.")
    error: ProblemDocument | None = Field(description="Why it failed, and the way out.")


class JobRead(JobProgress):
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Pace:
    """Counts the things of one step and writes the count a few times a second, not for each thing."""

    def __init__(self, run: Run, step: str, total: int) -> None:
        self._run = run
        self._step = step
        self._total = total
        self._written_at = time.monotonic()

    async def start(self) -> None:
        await self.reached(0)

    async def reached(self, done: int) -> None:
        """Raises ``JobLost``."""
        if 0 < done < self._total and time.monotonic() - self._written_at < WRITE_SECONDS:
            return
        self._written_at = time.monotonic()
        await self._run.progress(self._step, done, self._total)


async def follow(
    request: Request, sessions: Sessions, model: type[JobColumns], job_id: UUID
) -> AsyncIterator[JobProgress]:
    """Where the job is now, then each change, until it has ended, the caller has left, or ten minutes are over.

    It ends as well when the process is to stop: the caller, who asks again then, finds another.

    Looks by a short session of its own each time, so a follower holds no connection to the database.
    """
    shown: JobProgress | None = None
    ends_at = time.monotonic() + STREAM_SECONDS
    while True:
        now = await _read(sessions, model, job_id)
        if now is None:
            return
        if now != shown:
            yield now
            shown = now
        if now.state in (DONE, FAILED) or time.monotonic() > ends_at or await request.is_disconnected():
            return
        if request.app.state.stopping.is_set():
            return
        await asyncio.sleep(POLL_SECONDS)


async def _read(sessions: Sessions, model: type[JobColumns], job_id: UUID) -> JobProgress | None:
    columns = [getattr(model, name) for name in JobProgress.model_fields]
    async with sessions() as session:
        row = (await session.execute(select(*columns).where(model.id == job_id))).one_or_none()
    return None if row is None else JobProgress.model_validate(row)
