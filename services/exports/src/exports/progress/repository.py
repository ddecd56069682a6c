"""SQL of a job's progress."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from shared.jobs.rows import JobColumns


async def find(
    session: AsyncSession, model: type[JobColumns], job_id: UUID, columns: Iterable[str]
) -> Row[*tuple[Any, ...]] | None:
    statement = select(*(getattr(model, name) for name in columns)).where(model.id == job_id)
    return (await session.execute(statement)).one_or_none()
