"""Names and declarations on RabbitMQ. They hold for RabbitMQ 3.10 and 4."""

from collections.abc import Iterable

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue

EXCHANGE = "rostrum.messages"
DELIVERY_LIMIT = 10


def queue_name(service: str) -> str:
    return f"{service}.messages"


def dead_letter_queue_name(service: str) -> str:
    """Return the queue for messages over the delivery limit; the messenger moves them into ``dead_letters``."""
    return f"{service}.messages.dead"


def parked_queue_name(service: str) -> str:
    """Return the queue in which the first release kept parked letters; it is emptied, and never declared."""
    return f"{service}.messages.parked"


async def declare_exchange(channel: AbstractChannel) -> AbstractExchange:
    return await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)


async def declare_queue(channel: AbstractChannel, service: str, message_types: Iterable[str]) -> AbstractQueue:
    """Declare the service's queue with its dead-letter queue, and bind one key per message type."""
    exchange = await declare_exchange(channel)
    await channel.declare_queue(
        dead_letter_queue_name(service),
        durable=True,
        # Arguments of a queue cannot change, and "unlimited" (-1) in RabbitMQ 4 drops at the first return in 3.10.
        arguments={"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000},
    )
    queue = await channel.declare_queue(
        queue_name(service),
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": dead_letter_queue_name(service),
            # Without these two a message may get lost on its way to the dead-letter queue.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    for message_type in message_types:
        await queue.bind(exchange, routing_key=message_type)
    return queue
