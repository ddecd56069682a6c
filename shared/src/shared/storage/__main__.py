"""``python -m shared.storage``: make the folder or bucket of the settings, a set-up step before the services."""

import asyncio

from shared.settings import Settings, StorageSettings
from shared.storage import open_storage
from shared.telemetry.logs import configure_logs


async def prepare() -> None:
    async with open_storage(StorageSettings()) as storage:
        await storage.prepare()


if __name__ == "__main__":
    configure_logs(Settings(service="storage"), "prepare")
    asyncio.run(prepare())
