"""The jobs of the worker."""

from functools import partial

from dramatiq.brokers.rabbitmq import RabbitmqBroker

from media.images.service import CONVERT_IMAGE
from media.images.tasks import convert_image, open_resources
from media.settings import MediaSettings
from shared.jobs.rows import job_queue
from shared.jobs.worker import new_worker_broker


def create_broker() -> RabbitmqBroker:
    settings = MediaSettings()
    return new_worker_broker(
        settings,
        partial(open_resources, settings=settings),
        {CONVERT_IMAGE: convert_image},
        queue=job_queue(settings),
    )
