"""Use cases of imports."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from exports.imports import repository
from exports.imports.rules import archive_key
from exports.models import Import
from exports.settings import ExportsSettings
from shared.database.engine import Sessions
from shared.ids import new_id
from shared.jobs.rows import enqueue
from shared.problems import NotFound
from shared.storage import open_storage
from shared.storage.files import Upload
from shared.storage.transit import FilesInTransit

RUN_IMPORT = "exports.run_import"
JOB_QUEUE = "exports.jobs"


async def store_archive(files: FilesInTransit, upload: Upload, *, organizer: str) -> tuple[Import, str]:
    """The upload's import, whose archive is stored, and the archive's SHA-256; ``add_import`` makes it one."""
    import_id = new_id()
    key = archive_key(organizer, import_id)
    stored = await files.store(key, upload.chunks(), content_type="application/zip")
    job = Import(
        id=import_id,
        organizer=organizer,
        file_name=upload.name or "archive.zip",
        size=stored.size,
        archive_key=stored.key,
    )
    return job, stored.sha256


async def add_import(session: AsyncSession, files: FilesInTransit, job: Import) -> None:
    await enqueue(session, job, actor=RUN_IMPORT, queue=JOB_QUEUE)
    assert job.archive_key is not None  # noqa: S101 - a new one has its archive
    await files.keep(session, job.archive_key)


async def get_import(session: AsyncSession, import_id: UUID, organizer: str) -> Import:
    """Raises ``NotFound``."""
    job = await repository.find(session, import_id, organizer)
    if job is None:
        raise NotFound("There is no such import.")
    return job


async def discard_archives(sessions: Sessions, *, settings: ExportsSettings) -> None:
    """The messenger's chore: deletes the archives of imports that have ended, well or not."""
    async with sessions.begin() as session:
        ended = await repository.take_ended_with_archive(session)
        if not ended:
            return
        async with open_storage(settings) as storage:
            for job in ended:
                if job.archive_key is not None:
                    await storage.delete(job.archive_key)
                    job.archive_key = None
