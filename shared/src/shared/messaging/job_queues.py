from dramatiq.brokers.rabbitmq import RabbitmqBroker

from shared.settings import Settings


def new_job_broker(settings: Settings) -> RabbitmqBroker:
    """Make the dramatiq broker of a service. It waits for a confirm of each message that it sends."""
    return RabbitmqBroker(url=settings.rabbitmq_url.get_secret_value(), confirm_delivery=True, middleware=[])


def declare_job_queue(settings: Settings, queue: str) -> None:
    """Declare the queue as dramatiq does. Blocks."""
    broker = new_job_broker(settings)
    try:
        broker.declare_queue(queue, ensure=True)
    finally:
        broker.close()
