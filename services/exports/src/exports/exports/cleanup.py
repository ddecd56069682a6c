"""Periodic task: delete the files of exports that cannot be downloaded any more."""

from exports.exports import repository
from exports.settings import ExportsSettings
from shared.database.engine import Sessions
from shared.storage import open_storage


async def delete_files(sessions: Sessions, *, settings: ExportsSettings) -> None:
    """Delete the files of expired and failed exports.

    The file goes first, then its key in the row: an interruption between the two is repaired by the next run.
    """
    async with sessions.begin() as session:
        unneeded = await repository.lock_unneeded(session)
        if not unneeded:
            return
        async with open_storage(settings) as storage:
            for export in unneeded:
                if export.file_key is not None:
                    await storage.delete(export.file_key)
                    export.file_key = None
