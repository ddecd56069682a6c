"""Files: one interface, three places, chosen by ``STORAGE_PLACE``: a local folder, S3, Google Cloud Storage.

Nothing is public: users get files through a service, or by links that are signed and expire.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.settings import StorageSettings
from shared.storage.interface import FileNotStored, Storage, StorageUnavailable, StoredFile
from shared.storage.keys import StorageKeyInvalid, organizer_folder
from shared.storage.links import LinkExpired, LinkInvalid, SigningKeys
from shared.storage.local import LocalStorage
from shared.telemetry.metrics import watch_folder

__all__ = [
    "FileNotStored",
    "LinkExpired",
    "LinkInvalid",
    "Storage",
    "StorageKeyInvalid",
    "StorageUnavailable",
    "StoredFile",
    "open_storage",
    "organizer_folder",
]


@asynccontextmanager
async def open_storage(settings: StorageSettings) -> AsyncIterator[Storage]:
    """Open the storage once for the life of a process. S3 is not contacted yet.

    Raises ``ValueError`` when the settings cannot work.
    """
    if settings.storage_place == "local":
        folder = settings.storage_folder.absolute()
        local = LocalStorage(folder, SigningKeys.parse(settings.storage_signing_key.get_secret_value()))
        await local.prepare()
        watch_folder("storage", folder)
        yield local
    else:
        from shared.storage.s3 import open_s3  # noqa: PLC0415 - services without files don't install aioboto3

        async with open_s3(settings) as storage:
            yield storage
