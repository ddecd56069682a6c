"""Use cases of imports."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from exports.imports import repository
from exports.imports.rules import archive_key
from exports.jobs import RUN_IMPORT
from exports.models import Import
from shared.ids import new_id
from shared.jobs.rows import enqueue, job_queue
from shared.problems import NotFound
from shared.settings import Settings
from shared.storage.files import Upload
from shared.storage.transit import FilesInTransit


async def store_archive(files: FilesInTransit, upload: Upload, *, organizer: str) -> tuple[Import, str]:
    """Store the upload; return its import, which ``add_import`` adds, and the archive's SHA-256."""
    import_id = new_id()
    key = archive_key(organizer, import_id)
    stored = await files.store(key, upload.chunks(), content_type="application/zip")
    job = Import(
        id=import_id,
        organizer=organizer,
        file_name=upload.name or "archive.zip",
        size=stored.size,
        archive_key=key,
    )
    return job, stored.sha256


async def add_import(session: AsyncSession, files: FilesInTransit, job: Import, *, settings: Settings) -> None:
    await enqueue(session, job, actor=RUN_IMPORT, queue=job_queue(settings))
    await files.keep(session, archive_key(job.organizer, job.id))


async def get_import(session: AsyncSession, import_id: UUID, organizer: str) -> Import:
    """Return the organizer's import. Raise ``NotFound``."""
    job = await repository.find(session, import_id, organizer)
    if job is None:
        raise NotFound("Import not found. It may belong to another organizer.")
    return job
