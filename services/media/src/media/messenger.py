"""Role 2: sends what the outbox holds and does the regular chores. The service reacts to no messages."""

from functools import partial
from typing import Any

from media.images.service import CONVERT_IMAGE, job_queue
from media.models import Image
from media.settings import MediaSettings
from shared.database.engine import Sessions
from shared.database.idempotency import forget_expired_keys
from shared.jobs.requeue import sweep
from shared.messaging.inbox import Subscription
from shared.messaging.messenger import run_messenger
from shared.storage.transit import discard_forgotten

SUBSCRIPTIONS: list[Subscription[Any]] = []


async def forget_keys(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await forget_expired_keys(session)


if __name__ == "__main__":
    settings = MediaSettings()
    run_messenger(
        settings,
        SUBSCRIPTIONS,
        chores=[
            partial(sweep, model=Image, actor=CONVERT_IMAGE, queue=job_queue(settings)),
            forget_keys,
            partial(discard_forgotten, settings=settings),  # last: it needs the storage, which may be down
        ],
    )
