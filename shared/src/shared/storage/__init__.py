"""Files: one interface, three places, chosen by ``STORAGE_PLACE``: a local folder, S3, Google Cloud Storage.

Nothing is public: users get files through a service, or by links that are signed and expire.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.settings import StorageSettings
from shared.storage.interface import FileNotStored, Storage, StorageKeyInvalid, StorageUnavailable, StoredFile
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
]


@asynccontextmanager
async def open_storage(settings: StorageSettings) -> AsyncIterator[Storage]:
    """Once per process, for its life. ``ValueError`` when the settings can't work; S3 is not contacted yet."""
    if settings.storage_place == "local":
        keys = SigningKeys.parse(settings.storage_signing_key.get_secret_value())
        local = LocalStorage(settings.storage_folder.absolute(), keys)
        await local.prepare()
        watch_folder("storage", settings.storage_folder.absolute())
        yield local
    else:
        from shared.storage.s3 import open_s3  # noqa: PLC0415 - services without files don't install aioboto3

        async with open_s3(settings) as storage:
            yield storage
