"""Periodic task: delete the archives of imports that have ended."""

from exports.imports import repository
from exports.settings import ExportsSettings
from shared.database.engine import Sessions
from shared.storage import open_storage


async def delete_archives(sessions: Sessions, *, settings: ExportsSettings) -> None:
    """Delete the archives of imports that are done or have failed.

    The file goes first, then its key in the row: an interruption between the two is repaired by the next run.
    """
    async with sessions.begin() as session:
        unneeded = await repository.lock_unneeded(session)
        if not unneeded:
            return
        async with open_storage(settings) as storage:
            for job in unneeded:
                if job.archive_key is not None:
                    await storage.delete(job.archive_key)
                    job.archive_key = None
