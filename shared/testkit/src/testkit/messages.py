"""Messages of no service, and a bus to send them on, for tests of what all messages have in common."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractQueue
from sqlalchemy.ext.asyncio import AsyncSession

from shared.contracts.envelope import Envelope, Message
from shared.ids import new_id
from shared.messaging.topology import queue_name


class Painted(Message):
    """A wall was painted. ``painted_class`` makes the message types."""

    color: str


def painted_class(service: str, verb: str = "painted", version: int = 1) -> type[Painted]:
    class PaintedOfService(Painted):
        message_type: ClassVar[str] = f"{service}.wall.{verb}.v{version}"

    return PaintedOfService


def paint(message: type[Painted], color: str) -> Painted:
    return message(organizer="acme", color=color)


def body_of(message: type[Painted], color: str = "red", subject: UUID | None = None, seq: int = 1) -> bytes:
    """Return the body of a message as a later release sends it, with a field that this one does not know."""
    envelope = Envelope.model_validate(
        {
            "id": new_id(),
            "source": "/rostrum/probe",
            "type": message.message_type,
            "subject": subject or new_id(),
            "time": "2026-01-01T00:00:00Z",
            "aggregatetype": "probe.wall",
            "aggregateseq": seq,
        }
    )
    data = {"organizer": "acme", "color": color, "new_field": 1}
    return json.dumps({**envelope.model_dump(mode="json"), "data": data}).encode()


class Recorder:
    """A handler that records the colors of its messages."""

    def __init__(self) -> None:
        self.colors: list[str] = []

    async def __call__(self, session: AsyncSession, message: Painted, envelope: Envelope) -> None:
        self.colors.append(message.color)

    def has(self, *colors: str) -> Any:
        async def is_so() -> bool:
            return set(colors) <= set(self.colors)

        return is_so


@dataclass(frozen=True)
class Queue:
    """The queue of one service, seen from the broker."""

    service: str
    channel: AbstractChannel

    async def send(self, *bodies: bytes) -> None:
        for body in bodies:
            await self.channel.default_exchange.publish(aio_pika.Message(body), queue_name(self.service))

    async def is_empty(self) -> bool:
        declared = await self.channel.declare_queue(queue_name(self.service), passive=True)
        return declared.declaration_result.message_count == 0


class Role(Protocol):
    async def run(self, stopping: asyncio.Event) -> None: ...


@asynccontextmanager
async def running(*roles: Role) -> AsyncIterator[None]:
    """Run relays and consumers during the block, which may take a minute."""
    stopping = asyncio.Event()
    tasks = [asyncio.create_task(role.run(stopping)) for role in roles]
    try:
        async with asyncio.timeout(60):
            yield
    finally:
        stopping.set()
        async with asyncio.timeout(20):
            await asyncio.gather(*tasks)


async def receive(queue: AbstractQueue, count: int) -> list[dict[str, Any]]:
    """Return the next ``count`` envelopes with their data."""
    received: list[dict[str, Any]] = []
    async with asyncio.timeout(60), queue.iterator(no_ack=True) as incoming:
        async for message in incoming:
            received.append(json.loads(message.body))
            if len(received) == count:
                break
    return received
