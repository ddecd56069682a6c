"""Role 3: convert images."""

import sys
from functools import partial

from dramatiq.brokers.rabbitmq import RabbitmqBroker

from media.images.service import CONVERT_IMAGE
from media.images.tasks import convert_image, open_resources
from media.settings import MediaSettings
from shared.jobs.rows import job_queue
from shared.jobs.worker import new_worker_broker, run_worker


def create_broker() -> RabbitmqBroker:
    settings = MediaSettings()
    return new_worker_broker(
        settings, partial(open_resources, settings), {CONVERT_IMAGE: convert_image}, queue=job_queue(settings)
    )


if __name__ == "__main__":
    # Two more threads than decoders, so that files are transferred while decoders work.
    sys.exit(run_worker("media.worker:create_broker", threads=MediaSettings().conversions_at_once + 2))
