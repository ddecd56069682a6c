"""Role 2: publish the outbox and run the periodic tasks. The service subscribes to no messages."""

from functools import partial
from typing import Any

from media.images.service import CONVERT_IMAGE
from media.models import Image
from media.settings import MediaSettings
from shared.jobs.requeue import requeue_lost_jobs
from shared.jobs.rows import job_queue
from shared.messaging.inbox import Subscription
from shared.messaging.messenger import run_messenger
from shared.messaging.periodic_tasks import PeriodicTask
from shared.storage.transit import discard_forgotten, remove_unfinished_uploads

SUBSCRIPTIONS: list[Subscription[Any]] = []


def periodic_tasks(settings: MediaSettings) -> list[PeriodicTask]:
    requeue = partial(requeue_lost_jobs, model=Image, actor=CONVERT_IMAGE, queue=job_queue(settings))
    return [
        PeriodicTask("requeue_lost_conversions", 15, requeue),
        PeriodicTask("discard_forgotten_uploads", 15, partial(discard_forgotten, settings=settings)),
        PeriodicTask("remove_unfinished_uploads", 3600, partial(remove_unfinished_uploads, settings=settings)),
    ]


if __name__ == "__main__":
    settings = MediaSettings()
    run_messenger(settings, SUBSCRIPTIONS, periodic_tasks(settings))
