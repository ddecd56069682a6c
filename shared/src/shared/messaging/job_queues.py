from dramatiq.brokers.rabbitmq import RabbitmqBroker

from shared.settings import Settings


def new_job_broker(settings: Settings) -> RabbitmqBroker:
    """The dramatiq broker of a service. Every enqueue waits for the broker's confirm."""
    return RabbitmqBroker(url=settings.rabbitmq_url.get_secret_value(), confirm_delivery=True, middleware=[])


def declare_job_queue(settings: Settings, queue: str) -> None:
    """Makes the queue as dramatiq itself would. Blocks."""
    broker = new_job_broker(settings)
    try:
        broker.declare_queue(queue, ensure=True)
    finally:
        broker.close()
