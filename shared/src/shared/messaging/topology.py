"""Names and declarations on RabbitMQ. They hold for RabbitMQ 3.10 and 4."""

from collections.abc import Iterable

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue

EXCHANGE = "rostrum.messages"
DELIVERY_LIMIT = 10


def queue_name(service: str) -> str:
    return f"{service}.messages"


def dead_letter_queue_name(service: str) -> str:
    return f"{service}.messages.dead"


def parked_queue_name(service: str) -> str:
    """Where an operator puts dead letters that are to be neither replayed nor lost."""
    return f"{service}.messages.parked"


async def declare_exchange(channel: AbstractChannel) -> AbstractExchange:
    return await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)


async def declare_kept_queue(channel: AbstractChannel, name: str) -> AbstractQueue:
    """Declares a queue for messages that wait for an operator, who may look at them any number of times.

    Every look counts as a delivery. Without a limit of our own RabbitMQ 4 drops a message at its 21st, and 3.10
    puts what is given back at the queue's end. ``-1``, unlimited in version 4, makes 3.10 drop at the first.
    """
    return await channel.declare_queue(
        name, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
    )


async def declare_queue(channel: AbstractChannel, service: str, message_types: Iterable[str]) -> AbstractQueue:
    """Declares the service's queue with its dead-letter queue and binds one key per message type."""
    exchange = await declare_exchange(channel)
    await declare_kept_queue(channel, dead_letter_queue_name(service))
    queue = await channel.declare_queue(
        queue_name(service),
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead_letter_queue_name(service),
            # Without these two a message may get lost on its way to the dead letters.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    for message_type in message_types:
        await queue.bind(exchange, routing_key=message_type)
    return queue
