"""Operate a service's messages: ``python -m shared.messaging outbox | dead-letters``, with the service's settings.

Commands that change something are dry runs without ``--apply``. Results go to standard output, logs and errors to
standard error. Exit codes: 0 done, 1 failed, 2 wrong usage or settings.
"""

import argparse
import asyncio
import io
import json
import logging
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import UUID

import asyncpg
from pydantic import ValidationError
from sqlalchemy import ColumnElement, Delete, Update, func
from sqlalchemy.exc import SQLAlchemyError

from shared.database.engine import Sessions, new_engine, new_sessions
from shared.messaging.dead_letters import (
    PARK,
    TAKE,
    Letter,
    Stopped,
    changing,
    count,
    find,
    from_file_line,
    is_parked,
    keep,
    place_of,
    replaying,
    to_file_line,
)
from shared.messaging.outbox_history import count_and_span, outbox_status, published, replay
from shared.messaging.periodic_tasks import KEEP_PUBLISHED
from shared.messaging.tables import DEAD_LETTERS
from shared.settings import Settings
from shared.telemetry.logs import configure_logs, get_logger
from shared.walltime import use_pinned_tzdata

log = get_logger("shared.messaging")

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
# How many ids a line of the log holds at most.
IDS_LOGGED = 100

Command = Callable[[argparse.Namespace, Settings, Sessions], Coroutine[Any, Any, None]]


def main(argv: Sequence[str] | None = None) -> int:
    use_pinned_tzdata()
    parser = new_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is replay_published and not (arguments.types or arguments.since or arguments.subject):
        parser.error("outbox replay needs --type, --since or --subject")
    try:
        settings = Settings()
    except ValidationError as error:
        names = ", ".join(str(item["loc"][0]).upper() for item in error.errors())
        _complain(f"these settings are missing or invalid: {names}; set them in the environment")
        return MISUSED
    # What was changed is logged whatever the service's own level is. What libraries log of a server that is
    # unavailable is an error of the command, in one line.
    configure_logs(settings.model_copy(update={"log_level": "INFO"}), "operator", sys.stderr)
    for name in ("aio_pika", "aiormq", "asyncio"):
        logging.getLogger(name).setLevel("CRITICAL")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        asyncio.run(run(arguments, settings))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Stopped as error:
        _complain(" ".join(str(error).split()))
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        _complain(f"the database at {place_of(settings.database_url)}: {_reason(error)}")
    else:
        return DONE
    return FAILED


async def run(arguments: argparse.Namespace, settings: Settings) -> None:
    engine = new_engine(settings, "operator")
    try:
        command: Command = arguments.command
        await command(arguments, settings, new_sessions(engine))
    finally:
        await engine.dispose()


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    wrapped = getattr(error, "orig", None)
    cause = (wrapped.__cause__ or wrapped) if wrapped else error
    return _one_line(str(cause)) or type(cause).__name__


# -------------------- outbox


async def show_status(arguments: argparse.Namespace, settings: Settings, sessions: Sessions) -> None:
    status = await outbox_status(sessions, settings.service)
    if arguments.json:
        _say(_to_json(status))
        return
    unpublished, refused, published = status["unpublished"], status["refused"], status["published"]
    oldest = f", the oldest for {_age(unpublished)}" if unpublished["rows"] else ""
    _say(f"unpublished: {unpublished['rows']}{oldest}")
    for item in unpublished["types"]:
        _say(f"  {item['rows']:>8}  {item['kind']} {item['type']}, {_age(item)}")
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
        buckets = " ".join(map(str, item["buckets"]))
        _say(f"  {item['name']}, process {item['pid']}, since {item['since']}: buckets {buckets}")


def _age(item: Mapping[str, Any]) -> str:
    return str(timedelta(seconds=round(item["oldest_seconds"])))


async def replay_published(arguments: argparse.Namespace, settings: Settings, sessions: Sessions) -> None:
    filters = {name: getattr(arguments, name) for name in ("types", "since", "until", "subject")}
    condition = published(**filters)
    found, first, last = await count_and_span(sessions, condition)
    span = f", written from {_shown(first)} to {_shown(last)}" if found else ""
    if arguments.apply:
        ids = await replay(sessions, condition)
        if ids:
            told = {name: _shown(value) for name, value in filters.items() if value}
            log.info("outbox.replayed", count=len(ids), ids=list(map(str, ids[:IDS_LOGGED])), **told)
        _say(f"{len(ids)} messages will be published again{span}")
    else:
        _say(f"would publish {found} messages again{span}; --apply does it")
    _, kept_since, _ = await count_and_span(sessions, published())
    kept = f"; the oldest was written at {_shown(kept_since)}" if kept_since else ""
    hours = KEEP_PUBLISHED // timedelta(hours=1)
    _say(f"Published messages are deleted after {hours} hours and cannot be published again then{kept}.")


# -------------------- dead letters

_columns = DEAD_LETTERS.c
_LISTED = [
    _columns.message_id.label("id"),
    *(_columns[name] for name in ("type", "subject", "seq", "failed_at", "reason", "attempts")),
    func.octet_length(_columns.body).label("size"),
    _columns.error,
]
_WIDTHS = (36, 34, 36, 5, 25, 15, 8, 6, 0)


async def list_letters(arguments: argparse.Namespace, _: Settings, sessions: Sessions) -> None:
    rows = [row._mapping for row in await _find(arguments, sessions, *_LISTED)]
    if arguments.json:
        for row in rows:
            _say(_to_json(dict(row)))
        return
    cells = [[_one_line(_shown(value)) for value in row.values()] for row in rows]
    for line in [[column.key for column in _LISTED], *cells] if rows else []:
        _say("  ".join(cell.ljust(width) for cell, width in zip(line, _WIDTHS, strict=True)).rstrip())
    _say(f"{len(rows)} of {await count(sessions, parked=arguments.parked)} {_kind(arguments)}")


async def show_letter(arguments: argparse.Namespace, _: Settings, sessions: Sessions) -> None:
    arguments.limit = 1
    rows = await _find(arguments, sessions, *_columns)
    if not rows:
        raise Stopped(f"{arguments.id[0]} is not among the {_kind(arguments)}; `list` shows their ids")
    line = to_file_line(dict(rows[0]._mapping))
    if arguments.json:
        _say(json.dumps(line))
        return
    for name, value in {**line["properties"], **line["headers"]}.items():
        _say(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    body = line.get("body", line.get("body_base64", ""))
    with suppress(ValueError, RecursionError):
        body = json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    _say(f"\n{body}" if "body" in line else f"\nbase64, as it is not UTF-8:\n{body}")


async def replay_letters(arguments: argparse.Namespace, settings: Settings, sessions: Sessions) -> None:
    loop = asyncio.get_running_loop()
    next_at = loop.time()
    async with replaying(settings) if arguments.apply else nullcontext(_nothing) as send:

        async def act(letters: Sequence[Letter]) -> None:
            nonlocal next_at
            if arguments.rate:
                await asyncio.sleep(next_at - loop.time())
                next_at = loop.time() + 1 / arguments.rate
            for letter in letters:
                await send(letter)

        # One after the other, so that a crash leaves one copy.
        await _change(arguments, sessions, TAKE, ("replay", "replayed"), act, batch=1)


async def park_letters(arguments: argparse.Namespace, _: Settings, sessions: Sessions) -> None:
    await _change(arguments, sessions, PARK, ("park", "parked"), _nothing)


async def _nothing(_: object) -> None: ...


async def purge_letters(arguments: argparse.Namespace, _: Settings, sessions: Sessions) -> None:
    output = _open(arguments.to, "ab") if arguments.to and arguments.apply else None

    async def act(letters: Sequence[Letter]) -> None:
        lines = [json.dumps(to_file_line(letter)) for letter in letters]
        if output is not None:
            _write(output, lines)
        else:
            for line in lines:
                _say(line)

    try:
        await _change(arguments, sessions, TAKE, ("purge", "purged"), act, say=_tell)
    finally:
        if output is not None:
            with suppress(OSError):  # the lines of deleted letters are on the disk
                output.close()


async def _change(
    arguments: argparse.Namespace,
    sessions: Sessions,
    change: Update | Delete,
    verbs: tuple[str, str],
    act: Callable[[Sequence[Letter]], Awaitable[None]],
    *,
    batch: int = 100,
    say: Callable[[str], None] | None = None,
) -> None:
    """Change the selected letters, a batch a commit, or only count them; log what was done, even on an error."""
    (verb, done), say = verbs, say or _say
    rows = await _find(arguments, sessions, _columns.id, _columns.message_id, _columns.type)
    selected = {row.id: row for row in rows}
    order = list(selected) if arguments.apply else []
    kind = f"{await count(sessions, parked=arguments.parked)} {_kind(arguments)}"
    changed: list[UUID] = []
    try:
        for first in range(0, len(order), batch):
            ids = order[first : first + batch]
            async with changing(sessions, change, ids, parked=arguments.parked) as letters:
                await act(letters)
            changed += [letter["id"] for letter in letters]
    finally:
        types = Counter(selected[letter_id].type or "unknown" for letter_id in changed or selected)
        if changed:
            names = [selected[letter_id].message_id for letter_id in changed[:IDS_LOGGED]]
            log.info(f"dead_letters.{done}", count=len(changed), parked=arguments.parked, types=types, ids=names)
        if arguments.apply:
            say(f"{done} {len(changed)} of {kind}")
        else:
            say(f"would {verb} {len(selected)} of {kind}; --apply does it")
    for name, number in types.most_common():
        say(f"  {number:>8}  {name}")


async def restore_letters(arguments: argparse.Namespace, _: Settings, sessions: Sessions) -> None:
    restored = 0
    with _open(arguments.file, "rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                try:
                    letter = from_file_line(line, parked=arguments.parked)
                except ValueError as error:
                    raise Stopped(f"{arguments.file}, line {number}: {error}") from None
                if arguments.apply:
                    await keep(sessions, [letter])
                restored += 1
        finally:
            if restored and arguments.apply:
                log.info("dead_letters.restored", count=restored, parked=arguments.parked, file=str(arguments.file))
    done = f"put {restored} messages back among the {_kind(arguments)}"
    _say(done if arguments.apply else f"would {done}; --apply does it")


async def _find(arguments: argparse.Namespace, sessions: Sessions, *columns: ColumnElement[Any]) -> Sequence[Any]:
    conditions = [is_parked(arguments.parked)]
    if arguments.id:
        conditions.append(_columns.message_id.in_(arguments.id))
    if arguments.types:
        conditions.append(_columns.type.in_(arguments.types))
    return await find(sessions, columns, *conditions, limit=arguments.limit)


def _kind(arguments: argparse.Namespace) -> str:
    return "parked letters" if arguments.parked else "dead letters"


# -------------------- input and output


def _open(path: Path, mode: Literal["ab", "rb"]) -> BinaryIO:
    try:
        return path.open(mode)
    except OSError as error:
        raise Stopped(f"{path}: {error.strerror}") from error


# What others wrote must not control the operator's terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _say(line: str) -> None:
    try:
        sys.stdout.write(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # ``… | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None


def _write(output: BinaryIO, lines: Sequence[str]) -> None:
    """Return when the lines are on the disk: what follows deletes the only other copy."""
    try:
        output.writelines(f"{line}\n".encode() for line in lines)
        output.flush()
        os.fsync(output.fileno())
    except OSError as error:
        raise Stopped(f"{output.name}: {error.strerror}; what was not written stays") from error


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _complain(line: str) -> None:
    _tell(f"messages: {line}")


def _one_line(text: str | None, at_most: int = 100) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= at_most else f"{line[: at_most - 1]}…"


def _shown(value: object) -> str:
    match value:
        case None:
            return "-"
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="seconds")
        case _:
            return str(value)


def _to_json(value: object) -> str:
    return json.dumps(value, default=lambda item: item.isoformat() if isinstance(item, datetime) else str(item))


# -------------------- arguments


def new_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m shared.messaging", description=__doc__)
    groups = parser.add_subparsers(dest="group", required=True)
    verbs = {
        name: groups.add_parser(name, help=text).add_subparsers(required=True) for name, text in _GROUPS.items()
    }
    for group, name, command, options, text in _COMMANDS:
        verb = verbs[group].add_parser(name, help=text)
        limit = 50 if command is list_letters else None
        verb.set_defaults(command=command, parked=False, id=None, types=None, limit=limit)
        selection = verb.add_mutually_exclusive_group(required=True) if "--all" in options else verb
        for option in options.split():
            place = selection if option in ("--id", "--type", "--all") else verb
            place.add_argument(option, **_OPTIONS[option])
    return parser


_GROUPS = {"outbox": "the messages this service sends", "dead-letters": "the messages it gave up on"}
_COMMANDS: tuple[tuple[str, str, Command, str, str], ...] = (
    ("outbox", "status", show_status, "--json", "show what waits, was refused, was published, and the relays"),
    (
        *("outbox", "replay", replay_published, "--type --since --until --subject --apply"),
        "publish messages again, with the same ids; jobs never",
    ),
    (
        "dead-letters",
        "list",
        list_letters,
        "--parked --type --limit --json",
        "show one line for each, the oldest first",
    ),
    ("dead-letters", "show", show_letter, "--parked --json id", "show headers and body of one"),
    (
        *("dead-letters", "replay", replay_letters, "--parked --id --type --all --limit --rate --apply"),
        "send them to the service's own queue again",
    ),
    (
        *("dead-letters", "park", park_letters, "--id --type --all --limit --apply"),
        "set them aside: `replay --all` and the alert leave them out",
    ),
    (
        *("dead-letters", "purge", purge_letters, "--parked --id --type --all --limit --to --apply"),
        "print them as JSON, one a line, and delete them",
    ),
    ("dead-letters", "restore", restore_letters, "--parked --apply file", "put back what purge printed"),
)


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: must be greater than 0")
        return value

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
        f"{text}: must be a time with an offset like 2026-11-23T08:00Z, or 90m, 2h, 1d"
    )


_OPTIONS: dict[str, dict[str, Any]] = {
    "--all": {"action": "store_true"},
    "--apply": {"action": "store_true", "help": "change; without it, only count"},
    "--id": {"action": "append", "help": "this message; may be repeated"},
    "--json": {"action": "store_true", "help": "print JSON, of a list one object a line"},
    "--limit": {"type": _positive(int), "help": "at most this many, the oldest first; of a list 50 by default"},
    "--parked": {"action": "store_true", "help": "parked letters instead of dead letters"},
    "--rate": {"type": _positive(float), "metavar": "PER_SECOND", "help": "at most this many a second"},
    "--since": {"type": _moment, "metavar": "TIME", "help": "written at or after: RFC 3339, or 90m, 2h, 1d ago"},
    "--subject": {"type": UUID, "help": "only messages of this aggregate"},
    "--to": {"type": Path, "metavar": "FILE", "help": "append the lines to this file instead"},
    "--type": {"action": "append", "dest": "types", "help": "only messages of this type; may be repeated"},
    "--until": {"type": _moment, "metavar": "TIME", "help": "written before"},
    "file": {"type": Path},
    "id": {"nargs": 1},
}


if __name__ == "__main__":
    sys.exit(main())
