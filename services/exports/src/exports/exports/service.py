"""Use cases of exports."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from exports.clients import events
from exports.clients.calls import NeighbourFailed, Neighbours, NeighbourUnavailable
from exports.clients.events import EventFacts
from exports.exports import repository
from exports.exports.rules import FILES_PATH, ZIP, file_key, file_name, is_expired, link_lifetime
from exports.exports.schemas import ExportRead
from exports.models import Export
from exports.progress import JobRead
from exports.settings import ExportsSettings
from shared.database.engine import Sessions
from shared.database.keyset import PageRequest
from shared.ids import new_id
from shared.jobs.rows import DONE, enqueue
from shared.problems import Conflict, NotFound, Problem
from shared.storage import Storage, open_storage

RUN_EXPORT = "exports.run_export"
JOB_QUEUE = "exports.jobs"


class ExportNotReady(Conflict):
    code = "export-not-ready"
    title = "The export has no file"


class ExportExpired(Problem):
    status = 410
    code = "export-expired"
    title = "The export's file is deleted"

    def __init__(self) -> None:
        super().__init__("The export was kept for its time and its file is deleted. Request a new export.")


async def own_event(neighbours: Neighbours, event_id: UUID, organizer: str) -> EventFacts:
    """Raises the 404 of events when it is not this organizer's, ``NeighbourUnavailable`` when it can't be asked."""
    try:
        return await events.find_event(neighbours, event_id, organizer)
    except NeighbourFailed as error:
        raise NeighbourUnavailable("The event can't be looked up at the moment. Try again.") from error


async def add_export(session: AsyncSession, event: EventFacts, organizer: str) -> Export:
    export_id = new_id()
    export = Export(
        id=export_id,
        organizer=organizer,
        event_id=event.event_id,
        event_name=event.name,
        file_key=file_key(organizer, export_id),
    )
    await enqueue(session, export, actor=RUN_EXPORT, queue=JOB_QUEUE)
    return export


async def get_export(session: AsyncSession, export_id: UUID, organizer: str) -> Export:
    """Raises ``NotFound``."""
    export = await repository.find(session, export_id, organizer)
    if export is None:
        raise NotFound("There is no such export.")
    return export


async def list_exports(
    session: AsyncSession, neighbours: Neighbours, event_id: UUID, organizer: str, page: PageRequest
) -> tuple[Sequence[Export], str | None]:
    """Raises the 404 of events when nothing is listed and the event is not this organizer's."""
    exports, next_cursor = await repository.find_page(session, event_id, organizer, page)
    if not exports:
        await session.rollback()  # so that no connection is held during the call
        await own_event(neighbours, event_id, organizer)
    return exports, next_cursor


async def shown(export: Export, storage: Storage, settings: ExportsSettings) -> ExportRead:
    now = datetime.now(UTC)
    lifetime = link_lifetime(export, now, settings.download_link_lifetime)
    has_link = export.state == DONE and lifetime > 0
    return ExportRead.model_validate(
        {
            **JobRead.model_validate(export).model_dump(),
            "event_id": export.event_id,
            "size": export.size,
            "sha256": export.sha256,
            "counts": export.counts,
            "download_url": await _link(export, storage, settings, lifetime) if has_link else None,
            "download_url_expires_at": _whole_seconds(now, lifetime) if has_link else None,
            "expires_at": export.expires_at,
            "expired": is_expired(export, now),
        }
    )


def _whole_seconds(now: datetime, lifetime: int) -> datetime:
    return (now + timedelta(seconds=lifetime)).replace(microsecond=0)


async def download_link(export: Export, storage: Storage, settings: ExportsSettings) -> str:
    """Raises ``ExportNotReady``, ``ExportExpired``."""
    if export.state != DONE:
        raise ExportNotReady(f"The export is {export.state}. Read it for its progress, or for why it failed.")
    lifetime = link_lifetime(export, datetime.now(UTC), settings.download_link_lifetime)
    if lifetime <= 0:
        raise ExportExpired
    return await _link(export, storage, settings, lifetime)


async def _link(export: Export, storage: Storage, settings: ExportsSettings, lifetime: int) -> str:
    return await storage.download_url(
        file_key(export.organizer, export.id),
        expires_in=lifetime,
        filename=file_name(export),
        content_type=ZIP,
        files_url=settings.public_url + FILES_PATH,
    )


async def discard_files(sessions: Sessions, *, settings: ExportsSettings) -> None:
    """The messenger's chore: deletes the files of exports whose time is over, and of those that failed.

    First the file, then its key in the row: what is interrupted between is simply done again.
    """
    async with sessions.begin() as session:
        over = await repository.take_over(session)
        if not over:
            return
        async with open_storage(settings) as storage:
            for export in over:
                if export.file_key is not None:
                    await storage.delete(export.file_key)
                    export.file_key = None
