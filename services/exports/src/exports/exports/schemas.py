"""What the API shows of exports."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from exports.progress import JobRead


class ExportRead(JobRead):
    event_id: UUID
    size: int | None = Field(description="Bytes, once it is done.")
    sha256: str | None
    counts: dict[str, int] = Field(description="Records by kind, and `images`.", examples=[{"sessions": 63}])
    download_url: str | None = Field(
        description="Needs no token: whoever has it can fetch the file, until `download_url_expires_at`. Read the "
        "export again for a new one. Only while it is done and not expired."
    )
    download_url_expires_at: datetime | None
    expires_at: datetime | None = Field(description="When the file is deleted.")
    expired: bool
