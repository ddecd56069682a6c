"""The API's view of imports."""

from typing import Self
from uuid import UUID

from pydantic import Field

from exports.models import Import
from exports.progress.schemas import JobRead
from shared.contracts.programme import Repair


class ImportSummary(JobRead):
    """An import without the lines of its report."""

    file_name: str
    size: int = Field(description="Bytes of the uploaded archive.")
    event_id: UUID | None = Field(description="The event, as soon as it is stored.")
    event_identifier: str | None
    counts: dict[str, int] = Field(description="Records by kind, and `images`.", examples=[{"sessions": 63}])

    @classmethod
    def of(cls, job: Import) -> Self:
        return cls.model_validate(job)


class ImportRead(ImportSummary):
    repairs: list[Repair] = Field(description="What was changed or not imported, by archive member and record.")
