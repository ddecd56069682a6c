"""Role 2: publish the outbox and run the periodic tasks. The service subscribes to no messages."""

import time
from functools import partial
from typing import Any

from exports.exports.cleanup import delete_files
from exports.imports.cleanup import delete_archives
from exports.jobs import RUN_EXPORT, RUN_IMPORT, job_queue
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
    """Return a task that works once an hour, since with S3 each look is a request that costs money."""
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
        partial(sweep, model=Import, actor=RUN_IMPORT, queue=job_queue(settings)),
        partial(sweep, model=Export, actor=RUN_EXPORT, queue=job_queue(settings)),
        partial(delete_archives, settings=settings),
        partial(delete_files, settings=settings),
        partial(discard_forgotten, settings=settings),
        forget_keys,
        sweep_partial_uploads(settings),
    ]


if __name__ == "__main__":
    settings = ExportsSettings()
    run_messenger(settings, SUBSCRIPTIONS, chores(settings))
