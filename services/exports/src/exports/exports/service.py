"""Use cases of exports."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from exports.clients import events
from exports.clients.calls import PeerFailed, PeerServices, PeerUnavailable
from exports.exports import repository
from exports.exports.rules import FILES_PATH, ZIP, file_key, file_name, link_lifetime
from exports.exports.schemas import DownloadLink, ExportRead
from exports.jobs import RUN_EXPORT
from exports.models import Export
from exports.settings import ExportsSettings
from shared.contracts.events import EventState
from shared.ids import new_id
from shared.jobs.rows import DONE, enqueue, job_queue
from shared.problems import Conflict, NotFound, Problem
from shared.storage import Storage


class ExportNotReady(Conflict):
    code = "export-not-ready"
    title = "Export not ready"

    def __init__(self, state: str) -> None:
        super().__init__(
            f"The export is {state}; only a finished export has a file. Read it for its progress or its error."
        )


class ExportExpired(Problem):
    status = 410
    code = "export-expired"
    title = "Export expired"

    def __init__(self) -> None:
        super().__init__("The export has expired and its file is deleted. Request a new export.")


async def find_event(peers: PeerServices, reference: str, organizer: str) -> EventState:
    """Return the organizer's event with this id or identifier.

    Raises the 404 of the events service for another organizer's, ``PeerUnavailable`` when that service fails.
    """
    try:
        return await events.find_event(peers, reference, organizer)
    except PeerFailed as error:
        raise PeerUnavailable("The event cannot be looked up at the moment. Try again.") from error


async def add_export(
    session: AsyncSession, event: EventState, *, organizer: str, settings: ExportsSettings
) -> Export:
    export_id = new_id()
    export = Export(
        id=export_id,
        organizer=organizer,
        event_id=event.event_id,
        event_name=event.name,
        file_key=file_key(organizer, export_id),
    )
    await enqueue(session, export, actor=RUN_EXPORT, queue=job_queue(settings))
    return export


async def get_export(session: AsyncSession, export_id: UUID, organizer: str) -> Export:
    """Return the organizer's export. Raise ``NotFound``."""
    export = await repository.find(session, export_id, organizer)
    if export is None:
        raise NotFound("Export not found. It may belong to another organizer.")
    return export


async def view(export: Export, storage: Storage, settings: ExportsSettings) -> ExportRead:
    return ExportRead.of(export, await _link(export, storage, settings) if export.state == DONE else None)


async def download_link(export: Export, storage: Storage, settings: ExportsSettings) -> str:
    """Return a new link to the file. Raise ``ExportNotReady`` or ``ExportExpired``."""
    if export.state != DONE:
        raise ExportNotReady(export.state)
    link = await _link(export, storage, settings)
    if link is None:
        raise ExportExpired
    return link.url


async def _link(export: Export, storage: Storage, settings: ExportsSettings) -> DownloadLink | None:
    now = datetime.now(UTC)
    lifetime = link_lifetime(export.expires_at, now, settings.download_link_lifetime)
    if lifetime <= 0:
        return None
    url = await storage.download_url(
        file_key(export.organizer, export.id),
        expires_in=lifetime,
        filename=file_name(export.event_name, export.created_at),
        content_type=ZIP,
        files_url=settings.public_url + FILES_PATH,
    )
    return DownloadLink(url, (now + timedelta(seconds=lifetime)).replace(microsecond=0))
