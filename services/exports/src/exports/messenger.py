"""Role 2: sends what the outbox holds and does the regular chores. The service reacts to no messages."""

import time
from functools import partial
from typing import Any

from exports.exports.service import RUN_EXPORT, discard_files
from exports.imports.service import JOB_QUEUE, RUN_IMPORT, discard_archives
from exports.models import Export, Import
from exports.settings import ExportsSettings
from shared.database.engine import Sessions
from shared.database.idempotency import forget_expired_keys
from shared.jobs.requeue import sweep
from shared.messaging.inbox import Subscription
from shared.messaging.messenger import Chore, run_messenger
from shared.storage import open_storage
from shared.storage.transit import discard_forgotten

SUBSCRIPTIONS: list[Subscription[Any]] = []
PARTIAL_SWEEP_SECONDS = 3600.0


async def forget_keys(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await forget_expired_keys(session)


def sweep_partial_uploads(settings: ExportsSettings) -> Chore:
    """Once an hour: with S3 each look is a request that costs money."""
    swept_at = -PARTIAL_SWEEP_SECONDS

    async def chore(_: Sessions) -> None:
        nonlocal swept_at
        if time.monotonic() - swept_at < PARTIAL_SWEEP_SECONDS:
            return
        swept_at = time.monotonic()
        async with open_storage(settings) as storage:
            await storage.remove_unfinished()

    return chore


def chores(settings: ExportsSettings) -> list[Chore]:
    return [
        partial(sweep, model=Import, actor=RUN_IMPORT, queue=JOB_QUEUE),
        partial(sweep, model=Export, actor=RUN_EXPORT, queue=JOB_QUEUE),
        partial(discard_archives, settings=settings),
        partial(discard_files, settings=settings),
        partial(discard_forgotten, settings=settings),
        forget_keys,
        sweep_partial_uploads(settings),
    ]


if __name__ == "__main__":
    settings = ExportsSettings()
    run_messenger(settings, SUBSCRIPTIONS, chores(settings))
