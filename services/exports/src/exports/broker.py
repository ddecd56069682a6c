"""The jobs of the worker."""

from functools import partial

from dramatiq.brokers.rabbitmq import RabbitmqBroker

from exports.exports.tasks import run_export
from exports.imports.tasks import run_import
from exports.jobs import RUN_EXPORT, RUN_IMPORT
from exports.resources import open_resources
from exports.settings import ExportsSettings
from shared.jobs.rows import job_queue
from shared.jobs.worker import new_worker_broker


def create_broker() -> RabbitmqBroker:
    settings = ExportsSettings()
    return new_worker_broker(
        settings,
        partial(open_resources, settings=settings),
        {RUN_IMPORT: run_import, RUN_EXPORT: run_export},
        queue=job_queue(settings),
    )
