"""The worker of the drills' workshop."""

import sys

from dramatiq.brokers.rabbitmq import RabbitmqBroker

from shared.jobs.master import run_worker
from shared.jobs.worker import new_worker_broker
from tests.drills.workshop import ACTOR, QUEUE, WorkshopSettings, open_resources, set_up, work


def create_broker() -> RabbitmqBroker:
    set_up()
    settings = WorkshopSettings()
    return new_worker_broker(settings, open_resources, {ACTOR: work}, queue=QUEUE)


if __name__ == "__main__":
    sys.exit(run_worker("tests.drills.workshop_worker:create_broker", threads=4))
