"""Dead letters: the messages a service gave up on, as rows of its ``dead_letters`` table.

1. ``keep`` commits the row; only then the message is acked.
2. ``changing`` deletes a row in a transaction that commits when the caller has passed the message on.

A crash in between leaves a copy with the same id, which the inbox absorbs. ADR 9 gives the reasons.
"""

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, PublishError
from pydantic import SecretStr
from sqlalchemy import ColumnElement, Delete, Update, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from shared.database.engine import Sessions
from shared.messaging.connection import BROKER_TIMEOUT, connect
from shared.messaging.tables import DEAD_LETTERS
from shared.messaging.topology import queue_name
from shared.settings import Settings
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import DEAD_LETTERS as DEAD_LETTERS_GAUGE
from shared.telemetry.metrics import PARKED_LETTERS as PARKED_LETTERS_GAUGE

log = get_logger(__name__)

Letter = dict[str, Any]
"""A row of ``dead_letters`` by column name."""

MOVE_BATCH = 100
MAX_NAME = 255  # more than AMQP allows, and PostgreSQL can index it
MAX_ERROR = 1000
# Columns that are headers in a file of purged letters, and in the queues of the first release.
HEADERS_OF_COLUMNS = {
    "reason": "failure-reason",
    "error": "failure-error",
    "attempts": "failure-attempts",
    "failed_at": "failed-at",
    "parked_at": "parked-at",
}
PROPERTIES = (
    *("message_id", "type", "content_type", "content_encoding"),
    *("timestamp", "correlation_id", "reply_to", "app_id"),
)

_columns = DEAD_LETTERS.c


class Stopped(Exception):
    """An operator's command could not do all of its work; says why."""


def place_of(url: SecretStr) -> str:
    """Return host and port, which may be shown."""
    parts = urlsplit(url.get_secret_value())
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


# -------------------- from message to row and back


def letter_of(message: AbstractIncomingMessage, *, parked: bool = False, **failure: object) -> Letter:
    """Return the row. Columns that ``failure`` leaves out come from headers, or from the broker's ``x-death``."""
    headers = {**message.headers, **{HEADERS_OF_COLUMNS[name]: value for name, value in failure.items()}}
    return _letter(message.body, headers, {name: getattr(message, name) for name in PROPERTIES}, parked=parked)


def _letter(body: bytes, headers: Mapping[str, Any], properties: Mapping[str, Any], *, parked: bool) -> Letter:
    envelope: Any = None
    with suppress(ValueError, RecursionError):
        envelope = json.loads(body)
    if not isinstance(envelope, dict):
        envelope = {}
    match headers.get("x-death"):
        case [dict(death), *_]:
            pass
        case _:
            death = {}
    message_id = _name(properties.get("message_id") or envelope.get("id"))
    message_id = message_id or f"sha256:{sha256(body).hexdigest()[:16]}"  # a foreign message may have no id
    return {
        # The same message is the same row, however often it arrives here.
        "id": UUID(bytes=sha256(message_id.encode() + body).digest()[:16]),
        "message_id": message_id,
        "type": _name(properties.get("type") or envelope.get("type")),
        "subject": _name(envelope.get("subject")),
        "seq": _integer(envelope.get("aggregateseq"), bits=63),
        "body": body,
        "headers": _json({name: headers[name] for name in headers if name not in HEADERS_OF_COLUMNS.values()}),
        "properties": _json({name: value for name, value in properties.items() if value is not None}),
        "reason": _name(headers.get("failure-reason") or death.get("reason")) or "unknown",
        "error": _text(headers.get("failure-error"), MAX_ERROR),
        "attempts": _integer(headers.get("failure-attempts"), bits=31),
        "traceparent": _name(envelope.get("traceparent") or headers.get("traceparent")),
        "failed_at": _instant(headers.get("failed-at") or death.get("time")) or datetime.now(UTC),
        "parked_at": (_instant(headers.get("parked-at")) or datetime.now(UTC)) if parked else None,
    }


def to_file_line(letter: Letter) -> dict[str, Any]:
    """Return all of the letter for JSON, in the form of the first release."""
    columns = {header: letter[name] for name, header in HEADERS_OF_COLUMNS.items() if letter[name] is not None}
    try:
        body = {"body": letter["body"].decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(letter["body"]).decode()}
    headers = {**letter["headers"], **_json(columns)}
    return {"id": letter["message_id"], "headers": headers, "properties": letter["properties"], **body}


def from_file_line(line: str | bytes, *, parked: bool) -> Letter:
    """Raise ``ValueError`` unless the line is one of ``to_file_line``."""
    try:
        read = json.loads(line)
        body = read["body"].encode() if "body" in read else base64.b64decode(read["body_base64"], validate=True)
        return _letter(body, dict(read["headers"]), dict(read["properties"]), parked=parked)
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a dead letter: {error!r}") from error


def _text(value: object, at_most: int) -> str | None:
    """Return what PostgreSQL can store: no NUL, no halves of surrogate pairs."""
    if value is None:
        return None
    return str(value)[:at_most].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _name(value: object) -> str | None:
    return _text(value, MAX_NAME)


def _integer(value: object, *, bits: int) -> int | None:
    return value if isinstance(value, int) and abs(value) < 1 << bits else None


def _instant(value: object) -> datetime | None:
    if isinstance(value, str):
        with suppress(ValueError):
            value = datetime.fromisoformat(value)
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def _json(value: Any) -> Any:
    match value:
        case None | int():
            return value
        case float() if math.isfinite(value):
            return value
        case Mapping():
            return {_name(name): _json(item) for name, item in value.items()}
        case list() | tuple():
            return [_json(item) for item in value]
        case date():
            return value.isoformat()
        case bytes() | bytearray():
            value = bytes(value).decode(errors="backslashreplace")
    return _text(value, len(str(value)))


# -------------------- the table

_insert = insert(DEAD_LETTERS)
_KEEP = _insert.on_conflict_do_update(
    index_elements=["id"],
    set_={name: _insert.excluded[name] for name in ("reason", "error", "attempts", "failed_at")},
    where=_columns.failed_at < _insert.excluded.failed_at,
)


async def keep(sessions: Sessions, letters: Sequence[Letter]) -> None:
    """Commit the rows. One that exists gets the later failure, and stays parked if it was."""
    async with sessions.begin() as session:
        await session.execute(_KEEP, letters)


def is_parked(parked: bool) -> ColumnElement[bool]:
    return _columns.parked_at.is_not(None) if parked else _columns.parked_at.is_(None)


async def count(sessions: Sessions, *, parked: bool) -> int:
    async with sessions() as session:
        return (await session.scalar(select(func.count(_columns.failed_at)).where(is_parked(parked)))) or 0


async def measure_dead_letters(sessions: Sessions) -> None:
    DEAD_LETTERS_GAUGE.set(await count(sessions, parked=False))
    PARKED_LETTERS_GAUGE.set(await count(sessions, parked=True))


async def find(
    sessions: Sessions, columns: Sequence[ColumnElement[Any]], *conditions: ColumnElement[bool], limit: int | None
) -> Sequence[Any]:
    """Return these columns of the letters, the oldest first, and those of one moment in their aggregate's order."""
    order = (_columns.failed_at, _columns.seq, _columns.id)
    async with sessions() as session:
        return (await session.execute(select(*columns).where(*conditions).order_by(*order).limit(limit))).all()


TAKE = delete(DEAD_LETTERS)
PARK = update(DEAD_LETTERS).values(parked_at=func.clock_timestamp())


@asynccontextmanager
async def changing(
    sessions: Sessions, change: Delete | Update, ids: Sequence[UUID], *, parked: bool
) -> AsyncIterator[list[Letter]]:
    """Take or park letters and yield those that still exist, in the order given; commit unless the block raises.

    A consumer that gives up on one of the messages meanwhile waits with its row for the end of the block.
    """
    statement = change.where(_columns.id == func.any(ids), is_parked(parked)).returning(*_columns)
    async with sessions.begin() as session:
        letters = {row["id"]: dict(row) for row in (await session.execute(statement)).mappings()}
        yield [letters[letter_id] for letter_id in ids if letter_id in letters]


# -------------------- the broker


async def move_from_broker(
    channel: AbstractChannel, name: str, keep: Callable[[Sequence[Letter]], Awaitable[bool]], *, parked: bool
) -> None:
    """Move what the queue holds into the table: ack after ``keep``, and stop when that returns False.

    Raise ``ChannelNotFoundEntity`` if there is no such queue. What is not acked returns when the channel closes.
    """
    async with asyncio.timeout(BROKER_TIMEOUT):
        queue = await channel.declare_queue(name, passive=True)
    while True:
        messages: list[AbstractIncomingMessage] = []
        async with asyncio.timeout(BROKER_TIMEOUT):
            # A timeout of aio-pika's own may swallow a cancellation.
            while len(messages) < MOVE_BATCH and (message := await queue.get(fail=False, timeout=None)) is not None:
                messages.append(message)
        if not messages or not await keep([letter_of(message, parked=parked) for message in messages]):
            return
        await messages[-1].ack(multiple=True)
        log.info("dead_letters.moved", queue=name, count=len(messages))


@asynccontextmanager
async def replaying(settings: Settings) -> AsyncIterator[Callable[[Letter], Awaitable[None]]]:
    """Yield a function that returns when the service's own queue has the letter. Both raise ``Stopped``.

    The default exchange routes by the queue's name: the other one would send to all services that listen.
    """

    async def replay(letter: Letter) -> None:
        with _broker_errors(settings):
            async with asyncio.timeout(BROKER_TIMEOUT):
                await channel.default_exchange.publish(_message(letter), routing_key=queue_name(settings.service))

    with _broker_errors(settings):
        connection = await connect(settings, "operator")
    try:
        with _broker_errors(settings):
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        yield replay
    finally:
        with suppress(Stopped), _broker_errors(settings):
            await connection.close()


def _message(letter: Letter) -> aio_pika.Message:
    """Return the message as it was first sent, with the same id; headers with ``x-`` are the broker's own."""
    headers = {name: value for name, value in letter["headers"].items() if not name.startswith("x-")}
    properties = {name: value for name, value in letter["properties"].items() if name in PROPERTIES}
    return aio_pika.Message(
        letter["body"],
        headers={**headers, "replayed-at": datetime.now(UTC).isoformat(timespec="seconds")},
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        **{**properties, "timestamp": _instant(properties.get("timestamp"))},
    )


@contextmanager
def _broker_errors(settings: Settings) -> Iterator[None]:
    broker = f"RabbitMQ at {place_of(settings.rabbitmq_url)}"
    try:
        yield
    except PublishError:
        queue = queue_name(settings.service)
        raise Stopped(f"{broker}: the queue {queue} does not exist; start the service's messenger first") from None
    except (AMQPError, OSError, TimeoutError, RuntimeError) as error:  # RuntimeError: aio-pika, of what is closed
        raise Stopped(f"{broker}: {str(error) or 'no answer in time'}") from error
