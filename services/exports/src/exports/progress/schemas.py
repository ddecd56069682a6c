"""The API's view of a job."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.problem import ProblemDocument


class JobProgress(BaseModel):
    """``done`` of ``total`` items of the current step; ``total`` is 0 while it is unknown."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    state: Literal["queued", "running", "done", "failed"]
    step: str = Field(description="The current step, in words.", examples=["uploading images"])
    done: int
    total: int
    attempts: int = Field(description="How often the work was started; more than once after an interruption.")
    error: ProblemDocument | None = Field(description="Why it failed, and the way out.")


class JobRead(JobProgress):
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
