"""What the tasks of a worker process use."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from exports.clients.calls import PeerServices, open_peers
from exports.settings import ExportsSettings
from shared.database.engine import Sessions
from shared.storage import Storage, open_storage


@dataclass(frozen=True)
class Resources:
    """``reading`` is held while an archive is read, so that one at a time uses the memory that this takes.

    ``conversion_patience``: seconds without progress after which an import stops waiting for its images.
    """

    settings: ExportsSettings
    sessions: Sessions
    storage: Storage
    peers: PeerServices
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    conversion_patience: float = 180.0


@asynccontextmanager
async def open_resources(sessions: Sessions, *, settings: ExportsSettings) -> AsyncIterator[Resources]:
    async with open_storage(settings) as storage, open_peers(settings) as peers:
        yield Resources(settings, sessions, storage, peers)
