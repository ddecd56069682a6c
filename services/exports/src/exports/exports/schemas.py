"""The API's view of exports."""

from datetime import datetime
from typing import NamedTuple, Self
from uuid import UUID

from pydantic import Field

from exports.models import Export
from exports.progress.schemas import JobRead
from shared.jobs.rows import DONE


class DownloadLink(NamedTuple):
    url: str
    expires_at: datetime


class ExportRead(JobRead):
    event_id: UUID
    size: int | None = Field(description="Bytes, once it is done.")
    sha256: str | None
    counts: dict[str, int] = Field(description="Records by kind, and `images`.", examples=[{"sessions": 63}])
    download_url: str | None = Field(
        description="Needs no token: the link alone fetches the file until `download_url_expires_at`. Read "
        "the export again for a new one. Null unless the export is done and not expired."
    )
    download_url_expires_at: datetime | None
    expires_at: datetime | None = Field(description="When the file is deleted.")
    expired: bool

    @classmethod
    def of(cls, export: Export, link: DownloadLink | None) -> Self:
        """Return the view of an export. A finished export without a ``link`` has expired."""
        return cls.model_validate(
            {
                **JobRead.model_validate(export).model_dump(),
                "event_id": export.event_id,
                "size": export.size,
                "sha256": export.sha256,
                "counts": export.counts,
                "download_url": link and link.url,
                "download_url_expires_at": link and link.expires_at,
                "expires_at": export.expires_at,
                "expired": export.state == DONE and link is None,
            }
        )
