"""Role 2: publish the outbox and run the periodic tasks. The service subscribes to no messages."""

from functools import partial
from typing import Any

from exports.exports.cleanup import delete_files
from exports.imports.cleanup import delete_archives
from exports.jobs import RUN_EXPORT, RUN_IMPORT
from exports.models import Export, Import
from exports.settings import ExportsSettings
from shared.jobs.requeue import requeue_lost_jobs
from shared.jobs.rows import job_queue
from shared.messaging.inbox import Subscription
from shared.messaging.messenger import run_messenger
from shared.messaging.periodic_tasks import PeriodicTask
from shared.storage.transit import discard_forgotten, remove_unfinished_uploads

SUBSCRIPTIONS: list[Subscription[Any]] = []


def periodic_tasks(settings: ExportsSettings) -> list[PeriodicTask]:
    requeue = partial(requeue_lost_jobs, queue=job_queue(settings))
    return [
        PeriodicTask("requeue_lost_imports", 15, partial(requeue, model=Import, actor=RUN_IMPORT)),
        PeriodicTask("requeue_lost_exports", 15, partial(requeue, model=Export, actor=RUN_EXPORT)),
        PeriodicTask("delete_archives", 15, partial(delete_archives, settings=settings)),
        PeriodicTask("delete_files", 15, partial(delete_files, settings=settings)),
        PeriodicTask("discard_forgotten_uploads", 15, partial(discard_forgotten, settings=settings)),
        PeriodicTask("remove_unfinished_uploads", 3600, partial(remove_unfinished_uploads, settings=settings)),
    ]


if __name__ == "__main__":
    settings = ExportsSettings()
    run_messenger(settings, SUBSCRIPTIONS, periodic_tasks(settings))
