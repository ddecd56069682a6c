"""What a worker process works with."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sqlalchemy.ext.asyncio import AsyncEngine

from exports.clients.calls import Neighbours, open_neighbours
from exports.settings import ExportsSettings
from shared.database.engine import Sessions
from shared.jobs.worker import open_database
from shared.storage import Storage, open_storage


@dataclass(frozen=True)
class Resources:
    """``reading`` lets one archive at a time take the memory that reading takes."""

    settings: ExportsSettings
    engine: AsyncEngine
    sessions: Sessions
    storage: Storage
    neighbours: Neighbours
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


@asynccontextmanager
async def open_resources(settings: ExportsSettings) -> AsyncIterator[Resources]:
    async with (
        open_database(settings) as (engine, sessions),
        open_storage(settings) as storage,
        open_neighbours(settings) as neighbours,
    ):
        yield Resources(settings, engine, sessions, storage, neighbours)
