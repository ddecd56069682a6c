"""Dead letters: looked at without being taken, sent to the service's queue again, set aside, or deleted.

Every change is of one message after the other, and in the order that loses nothing: first the message is where it
goes, confirmed, then it leaves the queue it came from. A crash in between leaves a copy, which the consumer's inbox
absorbs. Whatever is not taken is given back in its order.
"""

import asyncio
import base64
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    DeliveryError,
    PublishError,
)

from shared.messaging.connection import BROKER_TIMEOUT, connect
from shared.messaging.topology import declare_kept_queue, parked_queue_name
from shared.settings import Settings

# How many bodies are in memory at most. A filter may pass over many more; the broker holds those meanwhile.
WINDOW = 500
# Nothing more comes although the queue said so: another command holds the rest, or has taken it.
QUIET_SECONDS = 5.0
RETURN_TIMEOUT = 1.0
# How many ids a line of the log holds at most.
IDS_TOLD = 100


class Stopped(Exception):
    """Why a command could not do all of its work, in one line for the one who called it."""


class QueueMissing(Exception):
    """There is no queue of this name."""


@dataclass(frozen=True)
class DeadLetter:
    """What can be told of a dead letter, as far as its headers and its body can be read."""

    id: str
    type: str | None
    subject: str | None
    seq: int | None
    failed_at: str | None
    reason: str | None
    error: str | None
    attempts: int | None
    size: int


@dataclass(frozen=True)
class Selection:
    """Which messages of a queue; without ids and types all of them. At most ``limit``, the oldest first."""

    ids: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    limit: int | None = None

    def matches(self, letter: DeadLetter) -> bool:
        return (not self.ids or letter.id in self.ids) and (not self.types or letter.type in self.types)


@dataclass
class Tally:
    """What a walk has come to. ``seen`` of ``present`` messages were looked at, ``count`` of them selected."""

    present: int = 0
    seen: int = 0
    count: int = 0
    unreachable: int = 0
    ids: list[str] = field(default_factory=list)
    types: Counter[str] = field(default_factory=Counter)

    def add(self, letter: DeadLetter) -> None:
        self.count += 1
        self.types[letter.type or "unknown"] += 1
        if len(self.ids) < IDS_TOLD:
            self.ids.append(letter.id)


Act = Callable[[AbstractIncomingMessage, DeadLetter], Awaitable[None]]


@asynccontextmanager
async def broker_of(settings: Settings) -> AsyncIterator[AbstractConnection]:
    """A connection that is not restored: when it breaks the command ends, and the broker gives back by itself."""
    connection = await connect(settings, "operator")
    try:
        yield connection
    except RuntimeError as error:
        # Said by aio-pika of a channel, or, by no type of its own, of a connection.
        if isinstance(error, ChannelInvalidStateError) or connection.is_closed:
            raise ConnectionError("the connection was closed") from error
        raise
    finally:
        with _as_far_as_possible():
            async with asyncio.timeout(BROKER_TIMEOUT):
                await connection.close()


async def publishing_channel(connection: AbstractConnection) -> AbstractChannel:
    async with asyncio.timeout(BROKER_TIMEOUT):
        return await connection.channel(publisher_confirms=True, on_return_raises=True)


async def parking_channel(connection: AbstractConnection, service: str) -> AbstractChannel:
    """A channel to publish on, and the parked queue made when it isn't there."""
    channel = await publishing_channel(connection)
    async with asyncio.timeout(BROKER_TIMEOUT):
        await declare_kept_queue(channel, parked_queue_name(service))
    return channel


async def for_each(
    connection: AbstractConnection, queue: str, selection: Selection, act: Act, *, tally: Tally
) -> None:
    """Calls ``act`` for each selected message that is in the queue now, the oldest first.

    What ``act`` acks is gone; all else is given back at the end, also when ``act`` raises. At most as many messages
    are looked at as there were at the beginning, so a message that comes back at once is not met again.
    """

    async def visit(message: AbstractIncomingMessage) -> bool:
        letter = describe(message)
        tally.seen += 1
        if selection.matches(letter):
            await act(message, letter)
            tally.add(letter)
        return selection.limit is None or tally.count < selection.limit

    async with asyncio.timeout(BROKER_TIMEOUT):
        channel = await connection.channel(publisher_confirms=False)
        try:
            declared = await channel.declare_queue(queue, passive=True)
        except ChannelNotFoundEntity:
            raise QueueMissing(queue) from None
    tally.present = declared.declaration_result.message_count or 0
    tally.unreachable = await _walk(connection, queue, tally.present, visit)


async def _walk(
    connection: AbstractConnection,
    name: str,
    count: int,
    visit: Callable[[AbstractIncomingMessage], Awaitable[bool]],
) -> int:
    """Shows at most ``count`` messages to ``visit``, until it answers False; returns how many of them did not come.

    RabbitMQ hands out first what was given back before, and puts what is given back behind it. So the walk goes on,
    showing nothing, until it has met a message that was never given back: only then the order stays what it was.
    """
    held: list[tuple[AbstractChannel, int]] = []
    left, goes_on, in_order = count, True, False
    failure: Exception | None = None
    try:
        while left and not in_order:
            async with asyncio.timeout(BROKER_TIMEOUT):
                channel = await connection.channel(publisher_confirms=False)
            messages: list[AbstractIncomingMessage] = []
            try:
                await _take(channel, name, min(left, WINDOW), messages)
                for message in messages:
                    if goes_on:
                        try:
                            goes_on = await visit(message)
                        except Exception as error:
                            failure, goes_on = error, False
            finally:
                held.append((channel, sum(not message.processed for message in messages)))
            if not held[-1][1]:
                await held.pop()[0].close()
            if len(messages) < min(left, WINDOW):
                return left - len(messages) if goes_on else 0
            left -= len(messages)
            in_order = not goes_on and not messages[-1].redelivered
    finally:
        with _as_far_as_possible():
            await _give_back(connection, name, held)
        if failure is not None:
            raise failure
    return 0


async def _take(channel: AbstractChannel, name: str, count: int, messages: list[AbstractIncomingMessage]) -> None:
    """Adds the next ``count`` messages, or fewer when no more come.

    The consumer is gone before the first of them is acked. Otherwise it would get more for what is acked, and what
    is on its way to a consumer that goes away is given back at once, before all others.
    """
    arrived: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
    channel.close_callbacks.add(lambda *_: arrived.put_nowait(None))
    async with asyncio.timeout(BROKER_TIMEOUT):
        await channel.set_qos(prefetch_count=count)
        queue = await channel.get_queue(name, ensure=False)
        tag = await queue.consume(arrived.put)
    with suppress(TimeoutError):
        while len(messages) < count:
            message = await asyncio.wait_for(arrived.get(), QUIET_SECONDS)
            if message is None:
                raise ConnectionError("the connection was closed")
            messages.append(message)
    async with asyncio.timeout(BROKER_TIMEOUT):
        await queue.cancel(tag)


async def _give_back(
    connection: AbstractConnection, name: str, held: Sequence[tuple[AbstractChannel, int]]
) -> None:
    """Closes the channels, so that the queue is in the order it had.

    The end of a channel gives back what its only consumer holds, in order. A nack would not do: RabbitMQ mixes what
    one nack gives back of more than 32 messages, and what a channel gives back of several consumers. It also hears
    of the ends of several channels in any order, so the next one waits until the messages of the last are there.
    """
    async with asyncio.timeout(BROKER_TIMEOUT):
        channel = await connection.channel(publisher_confirms=False)
        queue = await channel.declare_queue(name, passive=True)
    waiting = queue.declaration_result.message_count or 0
    for holding, count in held:
        async with asyncio.timeout(BROKER_TIMEOUT):
            await holding.close()
        waiting += count
        with suppress(TimeoutError):  # somebody else takes messages from the queue
            async with asyncio.timeout(RETURN_TIMEOUT):
                while ((await queue.declare()).message_count or 0) < waiting:  # noqa: ASYNC110 - RabbitMQ's
                    await asyncio.sleep(0.002)


def _as_far_as_possible() -> AbstractContextManager[None]:
    """For giving back: when the connection is gone, the broker has given back already."""
    return suppress(*CONNECTION_EXCEPTIONS, TimeoutError)


# -------------------- what a message says of itself


def describe(message: AbstractIncomingMessage) -> DeadLetter:
    heading = _heading(message.body)
    headers = failure_headers(message.headers)
    seq = heading.get("aggregateseq")
    attempts = headers.get("failure-attempts")
    return DeadLetter(
        # A message of somebody else may have no id: then its content names it.
        id=message.message_id or _text(heading.get("id")) or f"sha256:{_digest(message.body)}",
        type=message.type or _text(heading.get("type")),
        subject=_text(heading.get("subject")),
        seq=seq if isinstance(seq, int) else None,
        failed_at=_text(headers.get("failed-at")),
        reason=_text(headers.get("failure-reason")),
        error=_text(headers.get("failure-error")),
        attempts=attempts if isinstance(attempts, int) else None,
        size=len(message.body),
    )


def _heading(body: bytes) -> dict[str, Any]:
    try:
        heading = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return heading if isinstance(heading, dict) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]


def failure_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Why and when it failed, told alike whether the consumer or the broker gave it up."""
    told = {name: headers[name] for name in headers if _is_of_failure(name)}
    deaths = headers.get("x-death")
    if "failure-reason" in told or not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], dict):
        return told
    death = deaths[0]
    when = death.get("time")
    return {
        **told,
        "failure-reason": str(death.get("reason", "unknown")),
        "failed-at": when.astimezone(UTC).isoformat() if isinstance(when, datetime) else str(when),
    }


def _is_of_failure(name: str) -> bool:
    return name.startswith("failure-") or name == "failed-at"


def _is_of_broker(name: str) -> bool:
    """x-death and its like, x-delivery-count, x-acquired-count: a copy begins without them."""
    return name.startswith("x-")


def full_message(message: AbstractIncomingMessage, letter: DeadLetter) -> dict[str, Any]:
    """All of the message as JSON; ``from_full_message`` makes a message of it again."""
    try:
        body = {"body": message.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(message.body).decode()}
    properties = {name: getattr(message, name) for name in _PROPERTIES}
    return {
        "id": letter.id,
        "headers": _jsonable(message.headers),
        "properties": {name: _jsonable(value) for name, value in properties.items() if value is not None},
        **body,
    }


_PROPERTIES = (
    "message_id",
    "type",
    "content_type",
    "content_encoding",
    "timestamp",
    "correlation_id",
    "reply_to",
    "app_id",
)


def _jsonable(value: Any) -> Any:
    match value:
        case None | str() | int() | float():
            return value
        case date():
            return value.isoformat()
        case Mapping():
            return {str(name): _jsonable(item) for name, item in value.items()}
        case list() | tuple():
            return [_jsonable(item) for item in value]
        case bytes() | bytearray():
            return bytes(value).decode(errors="backslashreplace")
        case _:
            return str(value)


def from_full_message(line: str | bytes) -> aio_pika.Message:
    """Raises ``ValueError`` when the line is no message as ``full_message`` writes it."""
    try:
        told = json.loads(line)
        body = told["body"].encode() if "body" in told else base64.b64decode(told["body_base64"], validate=True)
        properties = {name: value for name, value in told["properties"].items() if name in _PROPERTIES}
        if "timestamp" in properties:
            properties["timestamp"] = datetime.fromisoformat(properties["timestamp"])
        return _new_message(body, _without_broker_headers(told["headers"]), properties)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a message: {error!r}") from error


# -------------------- sending


def to_be_handled_again(message: AbstractIncomingMessage) -> aio_pika.Message:
    """The message as it was sent at first, with the same id, and with a note that it comes from an operator."""
    headers = {
        name: value
        for name, value in message.headers.items()
        if not _is_of_failure(name) and not _is_of_broker(name) and name != "parked-at"
    }
    return _copy(message, {**headers, "replayed-at": datetime.now(UTC).isoformat(timespec="seconds")})


def to_be_parked(message: AbstractIncomingMessage) -> aio_pika.Message:
    """The message with what went wrong, as the parked queue's list shall still say why it is there."""
    headers = _without_broker_headers(message.headers)
    return _copy(message, {**headers, "parked-at": datetime.now(UTC).isoformat(timespec="seconds")})


def _without_broker_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in headers.items() if not _is_of_broker(name)}
    return {**kept, **failure_headers(headers)}


def _copy(message: AbstractIncomingMessage, headers: dict[str, Any]) -> aio_pika.Message:
    return _new_message(message.body, headers, {name: getattr(message, name) for name in _PROPERTIES})


def _new_message(body: bytes, headers: dict[str, Any], properties: dict[str, Any]) -> aio_pika.Message:
    return aio_pika.Message(body, headers=headers, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, **properties)


async def send(channel: AbstractChannel, message: aio_pika.Message, queue: str) -> None:
    """Puts the message into this queue and no other; returns when the broker has confirmed that it is kept.

    The default exchange routes by the queue's name. Through the exchange of all messages every service that listens
    to the type would get it again.
    """
    try:
        async with asyncio.timeout(BROKER_TIMEOUT):
            await channel.default_exchange.publish(message, routing_key=queue, mandatory=True)
    except PublishError:
        raise Stopped(f"the queue {queue} does not exist; the message stays where it was") from None
    except DeliveryError:
        raise Stopped(f"RabbitMQ did not accept the message for {queue}; it stays where it was") from None
    except TimeoutError:
        raise Stopped(
            f"RabbitMQ did not confirm within {BROKER_TIMEOUT:.0f} s; the message may be in {queue} as well"
        ) from None
