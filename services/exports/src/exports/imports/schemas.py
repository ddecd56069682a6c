"""What the API shows of imports."""

from uuid import UUID

from pydantic import Field

from exports.archive.reader import Repair
from exports.progress import JobRead


class ImportSummary(JobRead):
    """An import without the lines of its report."""

    file_name: str
    size: int = Field(description="Bytes of the uploaded archive.")
    event_id: UUID | None = Field(description="The event that was made, as soon as it is stored.")
    event_identifier: str | None
    counts: dict[str, int] = Field(description="Records by kind, and `images`.", examples=[{"sessions": 63}])


class ImportRead(ImportSummary):
    repairs: list[Repair] = Field(description="What was changed or left out, by archive member and record.")
