"""The operator's tool for the bus: ``python -m shared.messaging outbox | dead-letters``, with a service's settings.

What changes something says what it would do, and does it with ``--apply``. Answers go to standard output, logs and
complaints to standard error. It ends with 0, with 1 when something kept it from its work, with 2 when it was asked
wrongly.
"""

import argparse
import asyncio
import io
import json
import logging
import os
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import structlog
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError
from pydantic import SecretStr, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from shared.database.engine import new_engine
from shared.messaging.dead_letters import (
    IDS_TOLD,
    Act,
    DeadLetter,
    QueueMissing,
    Selection,
    Stopped,
    Tally,
    broker_of,
    for_each,
    from_full_message,
    full_message,
    parking_channel,
    publishing_channel,
    send,
    to_be_handled_again,
    to_be_parked,
)
from shared.messaging.outbox_history import Period, find_replayable, outbox_status, replay
from shared.messaging.periodic_tasks import KEEP_PUBLISHED
from shared.messaging.topology import dead_letter_queue_name, parked_queue_name, queue_name
from shared.settings import Settings
from shared.telemetry.logs import configure_logs, get_logger
from shared.walltime import use_pinned_tzdata

log = get_logger("shared.messaging")

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
SHOWN = 50

Command = Callable[[argparse.Namespace, Settings], Coroutine[Any, Any, None]]


class ReaderGone(Exception):
    """Who reads standard output has had enough: ``… | head``."""


def main(argv: Sequence[str] | None = None) -> int:
    use_pinned_tzdata()
    parser = new_parser()
    arguments = parser.parse_args(argv)
    command: Command = arguments.command
    if command is replay_published and not (arguments.type or arguments.since or arguments.subject):
        parser.error("outbox replay: which messages? Give --type, --since or --subject.")
    try:
        settings = Settings()
    except ValidationError as error:
        names = ", ".join(str(item["loc"][0]).upper() for item in error.errors())
        _complain(f"these settings of the environment are missing or wrong: {names}")
        return MISUSED
    _log_to_stderr(settings)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    server, address = (
        ("the database", settings.database_url)
        if arguments.group == "outbox"
        else ("RabbitMQ", settings.rabbitmq_url)
    )
    try:
        asyncio.run(command(arguments, settings))
    except ReaderGone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED if getattr(arguments, "apply", False) else DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Stopped as error:
        _complain(str(error))
    except QueueMissing as error:
        _complain(f"there is no queue {error}: is {settings.service} the service's name, and has it run here?")
    except (
        AMQPError,
        SQLAlchemyError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        OSError,
        TimeoutError,
    ) as error:
        _complain(f"{server} at {_place(address)}: {_reason(error)}")
    else:
        return DONE
    return FAILED


def _log_to_stderr(settings: Settings) -> None:
    configure_logs(
        service=settings.service,
        role="operator",
        level="INFO",  # what was changed is told, whatever else is not
        as_json=settings.log_format == "json",
    )
    structlog.configure(logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer))
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    # What these say of a server that is away, the command says itself, in one line.
    for name in ("aio_pika", "aiormq", "asyncio"):
        logging.getLogger(name).setLevel("CRITICAL")


def _place(address: SecretStr) -> str:
    url = urlsplit(address.get_secret_value())
    return f"{url.hostname}:{url.port}" if url.port else str(url.hostname)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    wrapped = getattr(error, "orig", None)
    cause = (wrapped.__cause__ or wrapped) if wrapped else error
    return _one_line(str(cause)) or type(cause).__name__


# -------------------- outbox


async def show_status(arguments: argparse.Namespace, settings: Settings) -> None:
    engine = new_engine(settings, "operator")
    try:
        status = await outbox_status(engine, settings.service)
    finally:
        await engine.dispose()
    if arguments.json:
        _say(json.dumps(status))
        return
    unpublished, refused, published = status["unpublished"], status["refused"], status["published"]
    oldest = f", the oldest for {_duration(unpublished['oldest_seconds'])}" if unpublished["rows"] else ""
    _say(f"unpublished: {unpublished['rows']}{oldest}")
    for item in unpublished["types"]:
        _say(f"  {item['rows']:>8}  {item['kind']} {item['type']}, {_duration(item['oldest_seconds'])}")
    _say(f"refused by RabbitMQ: {refused['rows']}")
    for item in refused["oldest"]:
        _say(
            f"  {item['id']}  {item['type']}  subject {item['subject']} seq {item['seq']}: {item['attempts']} "
            f"attempts, next at {item['next_attempt_at']}: {_one_line(item['error'])}"
        )
    if refused["rows"] > len(refused["oldest"]):
        _say(f"  and {refused['rows'] - len(refused['oldest'])} more")
    _say(f"published: {published['last_hour']} in the last hour, {published['last_24_hours']} in the last 24 hours")
    _say(f"relays: {len(status['relays'])}")
    for item in status["relays"]:
        buckets = " ".join(str(bucket) for bucket in item["buckets"])
        _say(f"  {item['name']}, process {item['pid']} of PostgreSQL, since {item['since']}: buckets {buckets}")


async def replay_published(arguments: argparse.Namespace, settings: Settings) -> None:
    period = Period(frozenset(arguments.type), arguments.since, arguments.until, arguments.subject)
    marked: list[UUID] = []
    count = 0

    def mark(ids: list[UUID]) -> None:
        nonlocal count
        count += len(ids)
        marked.extend(ids[: IDS_TOLD - len(marked)])

    engine = new_engine(settings, "operator")
    try:
        found = await find_replayable(engine, period)
        span = f", written from {_instant(found.oldest)} to {_instant(found.newest)}" if found.count else ""
        if arguments.apply:
            try:
                await replay(engine, period, mark)
            finally:
                if count:
                    ids = [str(message_id) for message_id in marked]
                    filters = {"types": sorted(period.types), "since": _instant(period.since)}
                    filters |= {"until": _instant(period.until), "subject": str(period.subject or "")}
                    log.info("outbox.replayed", count=count, ids=ids, **filters)
            _say(f"{count} messages go out again{span}")
        else:
            _say(f"would send {found.count} messages again{span}; --apply does it")
        hours = KEEP_PUBLISHED // timedelta(hours=1)
        kept = f"; the oldest here is of {_instant(found.kept_since)}" if found.kept_since else ""
        _say(f"Published messages are deleted after {hours} hours and can't be sent again then{kept}.")
    finally:
        await engine.dispose()


# -------------------- dead letters


async def list_letters(arguments: argparse.Namespace, settings: Settings) -> None:
    source = _source(arguments, settings)
    tally = Tally()

    async def show(_: AbstractIncomingMessage, letter: DeadLetter) -> None:
        if arguments.json:
            _say(json.dumps(asdict(letter)))
            return
        if not tally.count:
            _say(_row("id", "type", "subject", "seq", "when", "reason", "attempts", "size", "error"))
        _say(
            _row(
                letter.id,
                letter.type,
                letter.subject,
                letter.seq,
                letter.failed_at,
                letter.reason,
                letter.attempts,
                letter.size,
                _one_line(letter.error),
            )
        )

    async with broker_of(settings) as connection:
        await _for_each(connection, source, _selection(arguments), show, tally)
    if not arguments.json:
        _say(f"{tally.count} shown, {tally.present} in {source}")


def _row(*cells: object) -> str:
    widths = (36, 34, 36, 5, 25, 15, 8, 6, 0)
    texts = ("-" if cell is None else str(cell) for cell in cells)
    return "  ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()


async def show_letter(arguments: argparse.Namespace, settings: Settings) -> None:
    source = _source(arguments, settings)
    tally = Tally()

    async def show(message: AbstractIncomingMessage, letter: DeadLetter) -> None:
        full = full_message(message, letter)
        if arguments.json:
            _say(json.dumps(full))
            return
        for name, value in {**full["properties"], **full["headers"]}.items():
            _say(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
        _say("")
        if "body" not in full:
            _say(f"{letter.size} bytes that are no text, as base64:\n{full['body_base64']}")
            return
        try:
            _say(json.dumps(json.loads(full["body"]), indent=2, ensure_ascii=False))
        except (ValueError, RecursionError):
            _say(full["body"])

    async with broker_of(settings) as connection:
        await _for_each(connection, source, Selection(ids=frozenset([arguments.id]), limit=1), show, tally)
    if not tally.count:
        raise Stopped(f"no message {arguments.id} is in {source}")


async def replay_letters(arguments: argparse.Namespace, settings: Settings) -> None:
    target = queue_name(settings.service)
    loop = asyncio.get_running_loop()
    next_at = loop.time()

    async def act(connection: AbstractConnection) -> Act:
        channel = await publishing_channel(connection)

        async def replay_one(message: AbstractIncomingMessage, _: DeadLetter) -> None:
            nonlocal next_at
            if arguments.rate:
                await asyncio.sleep(next_at - loop.time())
                next_at = loop.time() + 1 / arguments.rate
            await send(channel, to_be_handled_again(message), target)
            await message.ack()

        return replay_one

    await _change(arguments, settings, act, ("replay", "replayed"), to=target)


async def park_letters(arguments: argparse.Namespace, settings: Settings) -> None:
    target = parked_queue_name(settings.service)

    async def act(connection: AbstractConnection) -> Act:
        channel = await parking_channel(connection, settings.service)

        async def park_one(message: AbstractIncomingMessage, _: DeadLetter) -> None:
            await send(channel, to_be_parked(message), target)
            await message.ack()

        return park_one

    await _change(arguments, settings, act, ("park", "parked"), to=target)


async def purge_letters(arguments: argparse.Namespace, settings: Settings) -> None:
    output = _open(arguments.to, "ab") if arguments.to and arguments.apply else None

    async def act(_: AbstractConnection) -> Act:
        async def purge_one(message: AbstractIncomingMessage, letter: DeadLetter) -> None:
            line = json.dumps(full_message(message, letter))
            if output is None:
                _say(line)
            else:
                _write(output, line)
            await message.ack()

        return purge_one

    try:
        await _change(arguments, settings, act, ("purge", "purged"), say=_tell)
    finally:
        if output is not None:
            with suppress(OSError):  # what was deleted is written
                output.close()


async def restore_letters(arguments: argparse.Namespace, settings: Settings) -> None:
    target = _source(arguments, settings)
    count = 0
    with _open(arguments.file, "rb") as lines:
        if not arguments.apply:
            for number, line in enumerate(lines, 1):
                _parse(line, arguments.file, number)
                count += 1
            _say(f"would put {count} messages back into {target}; --apply does it")
            return
        async with broker_of(settings) as connection:
            channel = await publishing_channel(connection)
            try:
                for number, line in enumerate(lines, 1):
                    await send(channel, _parse(line, arguments.file, number), target)
                    count += 1
            finally:
                if count:
                    log.info("dead_letters.restored", queue=target, count=count, file=str(arguments.file))
                    _say(f"{count} messages put back into {target}")


async def _change(
    arguments: argparse.Namespace,
    settings: Settings,
    act: Callable[[AbstractConnection], Awaitable[Act]],
    deed: tuple[str, str],
    *,
    to: str | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Does the deed to each selected message, or only says which it would be; logs what was done, whole or not."""
    say = say or _say
    do, done = deed
    source, selection, tally = _source(arguments, settings), _selection(arguments), Tally()

    def summary(verb: str) -> str:
        return f"{verb} {tally.count} of {tally.present} messages of {source}" + (f" to {to}" if to else "")

    async with broker_of(settings) as connection:
        if not arguments.apply:
            await _for_each(connection, source, selection, _leave, tally)
            say(f"would {summary(do)}; --apply does it")
        else:
            try:
                await _for_each(connection, source, selection, await act(connection), tally)
            finally:
                if tally.count:
                    types = dict(tally.types)
                    log.info(
                        f"dead_letters.{done}", queue=source, to=to, count=tally.count, types=types, ids=tally.ids
                    )
                say(summary(done))
    for name, count in tally.types.most_common():
        say(f"  {count:>8}  {name}")


async def _leave(_: AbstractIncomingMessage, __: DeadLetter) -> None:
    """What a dry run does to a message."""


async def _for_each(
    connection: AbstractConnection, source: str, selection: Selection, act: Act, tally: Tally
) -> None:
    try:
        await for_each(connection, source, selection, act, tally=tally)
    except QueueMissing:
        if source.endswith(".parked"):
            return  # nothing was ever parked
        raise
    if tally.unreachable:
        _tell(f"{tally.unreachable} messages did not come: another command holds them, or has taken them")


def _source(arguments: argparse.Namespace, settings: Settings) -> str:
    named = parked_queue_name if getattr(arguments, "parked", False) else dead_letter_queue_name
    return named(settings.service)


def _selection(arguments: argparse.Namespace) -> Selection:
    return Selection(
        ids=frozenset(getattr(arguments, "id", None) or ()),
        types=frozenset(arguments.type or ()),
        limit=getattr(arguments, "limit", None),
    )


def _open(path: Path, mode: str) -> BinaryIO:
    try:
        return path.open(mode)  # type: ignore[return-value]
    except OSError as error:
        raise Stopped(f"{path}: {error.strerror}") from error


def _parse(line: bytes, path: Path, number: int) -> Any:
    try:
        return from_full_message(line)
    except ValueError as error:
        raise Stopped(f"{path}, line {number}: {error}") from None


# -------------------- saying


# What others wrote must not steer the operator's terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _say(line: str) -> None:
    try:
        sys.stdout.write(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGone from None


def _write(output: BinaryIO, line: str) -> None:
    """On the disk before it returns: what follows deletes the only other copy."""
    try:
        output.write(f"{line}\n".encode())
        output.flush()
        os.fsync(output.fileno())
    except OSError as error:
        raise Stopped(f"{output.name}: {error.strerror}; the message stays where it was") from error


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _complain(line: str) -> None:
    _tell(f"messages: {line}")


def _one_line(text: str | None, at_most: int = 100) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= at_most else f"{line[: at_most - 1]}…"


def _instant(moment: datetime | None) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds") if moment else ""


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


# -------------------- arguments


def new_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shared.messaging", description=__doc__)
    groups = parser.add_subparsers(dest="group", required=True)
    _outbox_parser(groups.add_parser("outbox", help="what this service sends"))
    _dead_letters_parser(groups.add_parser("dead-letters", help="what this service could not handle"))
    return parser


def _outbox_parser(group: argparse.ArgumentParser) -> None:
    verbs = group.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("status", help="what waits, what was refused, what went out, and who sends")
    verb.add_argument("--json", action="store_true")
    verb.set_defaults(command=show_status)

    verb = verbs.add_parser("replay", help="send published messages again, with the same ids; jobs never")
    verb.add_argument("--type", action="append", default=[], help="only messages of this type; may be repeated")
    verb.add_argument(
        "--since", type=_moment, metavar="TIME", help="written then or later: RFC 3339, or 90m, 2h ago"
    )
    verb.add_argument("--until", type=_moment, metavar="TIME", help="written before")
    verb.add_argument("--subject", type=UUID, help="only of this aggregate")
    verb.add_argument("--apply", action="store_true", help="do it; without, only say how many")
    verb.set_defaults(command=replay_published)


def _dead_letters_parser(group: argparse.ArgumentParser) -> None:
    verbs = group.add_subparsers(dest="verb", required=True)

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text)
        verb.set_defaults(command=command)
        if command is not park_letters:
            verb.add_argument("--parked", action="store_true", help="of the parked queue")
        return verb

    verb = add("list", list_letters, "one line for each, the oldest first; takes nothing")
    verb.add_argument("--type", action="append", help="only messages of this type; may be repeated")
    verb.add_argument("--limit", type=_positive, default=SHOWN, help=f"at most so many, {SHOWN} unless told")
    verb.add_argument("--json", action="store_true", help="one object a line")

    verb = add("show", show_letter, "headers and body of one")
    verb.add_argument("id")
    verb.add_argument("--json", action="store_true")

    for name, command, text in (
        ("replay", replay_letters, "put them into the service's own queue again"),
        ("park", park_letters, "set them aside, where nothing counts or replays them"),
        ("purge", purge_letters, "print them as JSON, one a line, and delete them"),
    ):
        verb = add(name, command, text)
        which = verb.add_mutually_exclusive_group(required=True)
        which.add_argument("--id", action="append", help="this message; may be repeated")
        which.add_argument("--type", action="append", help="all messages of this type; may be repeated")
        which.add_argument("--all", action="store_true")
        verb.add_argument("--limit", type=_positive, help="at most so many, the oldest first")
        verb.add_argument("--apply", action="store_true", help="do it; without, only say how many")
        if name == "replay":
            verb.add_argument("--rate", type=_rate, metavar="PER_SECOND", help="no faster than this")
        if name == "purge":
            verb.add_argument("--to", type=Path, metavar="FILE", help="add the lines to this file")

    verb = add("restore", restore_letters, "put back what purge has printed")
    verb.add_argument("file", type=Path)
    verb.add_argument("--apply", action="store_true", help="do it; without, only check the file")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _rate(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("more than 0")
    return number


_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _moment(text: str) -> datetime:
    if text[:-1].isdecimal() and text[-1] in _UNITS:
        return datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return moment
    raise argparse.ArgumentTypeError(
        f"{text} is neither like 2026-11-23T08:00Z, with an offset, nor like 90m or 2h"
    )


if __name__ == "__main__":
    sys.exit(main())
