"""``python -m shared.messaging dead-letters``."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from shared.contracts.envelope import Envelope, Message
from shared.database.engine import Sessions
from shared.ids import new_id
from shared.messaging.__main__ import main, new_parser, run
from shared.messaging.consumer import Consumer, Retries
from shared.messaging.dead_letters import Stopped, from_file_line, keep
from shared.messaging.inbox import Subscription
from shared.messaging.tables import DEAD_LETTERS
from shared.messaging.topology import EXCHANGE, declare_queue, queue_name
from shared.settings import Settings
from testkit.messages import running
from testkit.processes import until

SOON = Retries(first_delay=0.001)


class Painted(Message):
    message_type: ClassVar[str] = "events.wall.painted.v1"
    color: str


def envelope(message_id: str, seq: int = 1, subject: UUID | None = None, message_type: str = "") -> str:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": message_id,
            "source": "/rostrum/events",
            "type": message_type or Painted.message_type,
            "subject": str(subject or new_id()),
            "time": "2031-05-01T09:00:00Z",
            "aggregatetype": "events.wall",
            "aggregateseq": seq,
            "data": {"organizer": "acme", "color": "žluťoučký"},
        },
        ensure_ascii=False,
    )


def file_line(message_id: str, body: str, message_type: str = Painted.message_type) -> dict[str, Any]:
    """A line as the first release prints it."""
    return {
        "id": message_id,
        "headers": {
            "tracestate": "a=b",
            "failure-reason": "handler",
            "failure-error": "RuntimeError: the wall\nis wet",
            "failure-attempts": 8,
            "failed-at": "2031-05-01T09:00:00+00:00",
        },
        "properties": {
            "message_id": message_id,
            "type": message_type,
            "content_type": "application/cloudevents+json",
            "timestamp": "2031-05-01T08:00:00+00:00",
        },
        "body": body,
    }


def painted(_: int) -> str:
    return Painted.message_type


def one_in_two(seq: int) -> str:
    return f"events.wall.painted.v{seq % 2 + 1}"


async def bury(
    sessions: Sessions, count: int, type_of: Callable[[int], str] = painted, *, parked: bool = False
) -> list[str]:
    """Dead letters of one moment, numbered by their sequence. Return their ids."""
    ids = [str(new_id()) for _ in range(count)]
    for seq, message_id in enumerate(ids):
        line = file_line(message_id, envelope(message_id, seq, message_type=type_of(seq)), type_of(seq))
        await keep(sessions, [from_file_line(json.dumps(line), parked=parked)])
    return ids


async def ids_of(engine: AsyncEngine, *, parked: bool = False) -> list[str]:
    place = DEAD_LETTERS.c.parked_at.is_not(None) if parked else DEAD_LETTERS.c.parked_at.is_(None)
    async with engine.connect() as connection:
        rows = select(DEAD_LETTERS.c.message_id).where(place).order_by(DEAD_LETTERS.c.seq)
        return list((await connection.scalars(rows)).all())


@dataclass(frozen=True)
class Bus:
    """The service's own queue."""

    name: str
    channel: AbstractChannel

    async def count(self) -> int:
        return (await self.channel.declare_queue(self.name, passive=True)).declaration_result.message_count or 0

    async def take(self) -> list[AbstractIncomingMessage]:
        """Return all messages of the queue, and empty it."""
        queue = await self.channel.get_queue(self.name, ensure=False)
        taken: list[AbstractIncomingMessage] = []
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            taken.append(message)
        return taken

    async def ids(self) -> list[str]:
        return [str(message.message_id) for message in await self.take()]


@pytest.fixture
async def bus(settings: Settings, connection: AbstractConnection) -> Bus:
    channel = await connection.channel(on_return_raises=True)
    await declare_queue(channel, settings.service, [Painted.message_type])
    return Bus(queue_name(settings.service), channel)


async def command(settings: Settings, *argv: str) -> None:
    await run(new_parser().parse_args(["dead-letters", *argv]), settings)


@dataclass(frozen=True)
class Exit:
    code: int
    out: str
    err: str


async def start(
    settings: Settings, *argv: str, launch: tuple[str, ...] = ("-m", "shared.messaging")
) -> asyncio.subprocess.Process:
    environment = {
        "SERVICE": settings.service,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "RABBITMQ_URL": settings.rabbitmq_url.get_secret_value(),
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *launch,
        "dead-letters",
        *argv,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def end_of(process: asyncio.subprocess.Process) -> Exit:
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Exit(process.returncode, out.decode(), err.decode())


# -------------------- list and show


async def test_list_shows_what_failed_and_why(
    settings: Settings, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    (message_id,) = await bury(sessions, 1)
    await command(settings, "list", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("size") == len(envelope(message_id, 0).encode())
    UUID(shown.pop("subject"))
    assert shown == {
        "id": message_id,
        "type": Painted.message_type,
        "seq": 0,
        "failed_at": "2031-05-01T09:00:00+00:00",
        "reason": "handler",
        "error": "RuntimeError: the wall\nis wet",
        "attempts": 8,
    }
    await command(settings, "list")
    head, row, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "type", "subject", "seq", "failed_at", "reason", "attempts", "size", "error"]
    assert row.startswith(message_id)
    assert row.endswith("RuntimeError: the wall is wet")
    assert total == "1 of 1 dead letters"


async def test_list_shows_the_oldest_first_and_can_be_limited_and_filtered(
    settings: Settings, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = await bury(sessions, 60, one_in_two)

    async def listed(*argv: str) -> list[str]:
        await command(settings, "list", "--json", *argv)
        return [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]

    assert await listed() == ids[:50]
    assert await listed("--limit", "3") == ids[:3]
    assert await listed("--type", "events.wall.painted.v2") == ids[1::2]
    assert await listed("--parked") == []
    await command(settings, "list", "--limit", "1")
    assert capsys.readouterr().out.endswith("1 of 60 dead letters\n")


async def test_show_prints_headers_and_body(
    settings: Settings, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = await bury(sessions, 3)
    await command(settings, "show", ids[1])
    shown = capsys.readouterr().out
    assert f"message_id: {ids[1]}" in shown
    assert "failure-attempts: 8" in shown
    assert '    "color": "žluťoučký"' in shown
    await command(settings, "show", ids[1], "--json")
    assert json.loads(json.loads(capsys.readouterr().out)["body"])["aggregateseq"] == 1
    with pytest.raises(Stopped, match=f"{ids[1][:-1]}x is not among the dead letters"):
        await command(settings, "show", f"{ids[1][:-1]}x")


async def test_foreign_bodies_are_shown_without_harm(
    settings: Settings, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    for body in ({"body_base64": "/wAg"}, {"body": "[" * 50_000}, {"body": "\x1b[2Jtext"}, {"body": ""}):
        line = {"headers": {}, "properties": {}, **body}
        await keep(sessions, [from_file_line(json.dumps(line), parked=False)])
    await command(settings, "list", "--json")
    ids = {json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()}
    assert len(ids) == 4
    for message_id in ids:
        await command(settings, "show", message_id)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\N{REPLACEMENT CHARACTER}[2Jtext" in shown
    assert "base64, as it is not UTF-8:\n/wAg" in shown


# -------------------- replay


async def test_a_replayed_message_is_handled_and_has_one_effect(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    is_fixed = False
    effects: list[UUID] = []

    async def on_painted(_: AsyncSession, __: Painted, envelope: Envelope) -> None:
        if not is_fixed:
            raise RuntimeError("not yet")
        effects.append(envelope.id)

    message_id = new_id()
    body = envelope(str(message_id))

    async def is_dead() -> bool:
        return bool(await ids_of(engine))

    async def is_handled() -> bool:
        return bool(effects)

    async def is_drained() -> bool:
        return await bus.count() == 0

    async with running(
        Consumer(settings, sessions, [Subscription(Painted, on_painted, keep="every")], retries=SOON)
    ):
        message = aio_pika.Message(body.encode(), message_id=str(message_id))
        await bus.channel.default_exchange.publish(message, bus.name)
        for _ in range(2):  # a message that fails again after a replay is a dead letter again
            await until(is_dead)
            await command(settings, "replay", "--all", "--apply")
        await until(is_dead)
        is_fixed = True
        await command(settings, "replay", "--id", str(message_id), "--apply")
        await until(is_handled)
        # As after a crash between confirm and commit.
        await keep(sessions, [from_file_line(json.dumps(file_line(str(message_id), body)), parked=False)])
        await command(settings, "replay", "--all", "--apply")
        await until(is_drained)
    assert effects == [message_id]
    assert await ids_of(engine) == []


@pytest.mark.parametrize(("kept", "expected"), [("latest", [2]), ("every", [2, 1])])
async def test_a_replayed_state_that_is_older_than_its_aggregate_is_stale_and_a_fact_is_not(
    settings: Settings, sessions: Sessions, bus: Bus, kept: Any, expected: list[int]
) -> None:
    effects: list[int] = []
    wall, (older, newer) = new_id(), (str(new_id()), str(new_id()))

    async def on_painted(_: AsyncSession, __: Painted, envelope: Envelope) -> None:
        effects.append(envelope.aggregateseq)

    async def is_handled() -> bool:
        return effects == [2]

    async def is_drained() -> bool:
        return await bus.count() == 0

    async with running(Consumer(settings, sessions, [Subscription(Painted, on_painted, keep=kept)], retries=SOON)):
        body = envelope(newer, 2, wall)
        await bus.channel.default_exchange.publish(aio_pika.Message(body.encode()), bus.name)
        await until(is_handled)
        line = file_line(older, envelope(older, 1, wall))
        await keep(sessions, [from_file_line(json.dumps(line), parked=False)])
        await command(settings, "replay", "--all", "--apply")
        await until(is_drained)
    assert effects == expected


async def test_a_replay_reaches_the_services_own_queue_and_no_other(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus, connection: AbstractConnection
) -> None:
    other = await (await connection.channel()).declare_queue(exclusive=True)
    await other.bind(EXCHANGE, Painted.message_type)
    ids = await bury(sessions, 3)
    await command(settings, "replay", "--all", "--apply")
    replayed = await bus.take()
    assert [message.message_id for message in replayed] == ids
    assert await other.get(fail=False) is None
    assert await ids_of(engine) == []
    first = replayed[0]
    assert (first.type, first.content_type) == (Painted.message_type, "application/cloudevents+json")
    assert first.timestamp is not None
    assert first.timestamp.isoformat() == "2031-05-01T08:00:00+00:00"
    assert first.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert json.loads(first.body)["id"] == ids[0]
    assert (
        {"replayed-at", "tracestate"} <= first.headers.keys() <= {"replayed-at", "tracestate", "x-delivery-count"}
    )


async def test_a_replay_is_no_faster_than_its_rate(settings: Settings, sessions: Sessions, bus: Bus) -> None:
    await bury(sessions, 5)
    began_at = asyncio.get_running_loop().time()
    await command(settings, "replay", "--all", "--rate", "20", "--apply")
    assert asyncio.get_running_loop().time() - began_at >= 4 / 20
    assert await bus.count() == 5


async def test_a_replay_to_a_missing_queue_loses_nothing(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    ids = await bury(sessions, 3)
    await bus.channel.queue_delete(bus.name)
    with pytest.raises(Stopped, match=f"{bus.name} does not exist"):
        await command(settings, "replay", "--all", "--apply")
    assert await ids_of(engine) == ids


# The command as it is, but killed between the broker's confirm and the commit.
KILLED_AT_COMMIT = """
import os, signal, sys
from typing import Any
from aio_pika import Exchange
from shared.messaging.__main__ import main

publish = Exchange.publish

async def publish_and_die(*arguments: Any, **options: Any) -> None:
    await publish(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

Exchange.publish = publish_and_die
sys.exit(main(sys.argv[1:]))
"""


async def test_a_kill_between_confirm_and_commit_leaves_a_copy_and_loses_nothing(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    ids = await bury(sessions, 3)
    killed = await end_of(await start(settings, "replay", "--all", "--apply", launch=("-c", KILLED_AT_COMMIT)))
    assert killed.code == -signal.SIGKILL, killed.err
    assert await ids_of(engine) == ids
    finished = await end_of(await start(settings, "replay", "--all", "--apply"))
    assert finished.code == 0, finished.err
    assert await ids_of(engine) == []
    # The copy has the same id, so the inbox absorbs it.
    assert await bus.ids() == [ids[0], *ids]


# -------------------- selection, park, purge, restore


async def test_without_apply_nothing_changes(
    settings: Settings,
    engine: AsyncEngine,
    sessions: Sessions,
    bus: Bus,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = await bury(sessions, 3, one_in_two)
    lines = tmp_path / "purged.jsonl"
    for verb, *more in (["replay"], ["park"], ["purge"], ["purge", "--to", str(lines)]):
        await command(settings, verb, "--type", "events.wall.painted.v1", *more)
        shown = "".join(capsys.readouterr())
        assert f"would {verb} 2 of 3 dead letters; --apply does it" in shown
        assert "2  events.wall.painted.v1" in shown
    assert not lines.exists()
    assert await bus.count() == 0
    assert await ids_of(engine) == ids


async def test_letters_are_selected_by_id_by_type_and_by_number(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = await bury(sessions, 8, one_in_two)
    await command(settings, "replay", "--id", ids[6], "--id", ids[1], "--apply")
    await command(settings, "replay", "--type", "events.wall.painted.v1", "--limit", "2", "--apply")
    await command(settings, "replay", "--all", "--limit", "1", "--apply")
    assert await bus.ids() == [ids[1], ids[6], ids[0], ids[2], ids[3]]
    assert "replayed 2 of 6 dead letters" in capsys.readouterr().out
    assert await ids_of(engine) == [ids[4], ids[5], ids[7]]


async def test_parked_letters_are_shown_and_changed_apart(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    await command(settings, "list", "--parked")
    assert capsys.readouterr().out == "0 of 0 parked letters\n"
    ids = await bury(sessions, 4)
    await command(settings, "park", "--id", ids[0], "--id", ids[2], "--id", ids[3], "--apply")
    assert "parked 3 of 4 dead letters" in capsys.readouterr().out
    await command(settings, "list", "--parked", "--json")
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["id"], line["reason"]) for line in shown] == [(each, "handler") for each in (ids[0], *ids[2:])]
    await command(settings, "show", "--parked", ids[2])
    assert "parked-at: " in capsys.readouterr().out
    await command(settings, "replay", "--parked", "--id", ids[2], "--apply")
    await command(settings, "purge", "--parked", "--id", ids[3], "--apply")
    await command(settings, "replay", "--all", "--apply")
    replayed = await bus.take()
    assert [message.message_id for message in replayed] == [ids[2], ids[1]]
    assert "parked-at" not in replayed[0].headers
    assert await ids_of(engine, parked=True) == [ids[0]]
    assert await ids_of(engine) == []


async def test_purge_prints_what_it_deletes_and_restore_puts_it_back(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    ids = await bury(sessions, 3)
    line = {"headers": {}, "properties": {"message_id": "bytes"}, "body_base64": "/wA="}
    await keep(sessions, [from_file_line(json.dumps(line), parked=False)])
    purged = await end_of(await start(settings, "purge", "--all", "--apply"))
    assert purged.code == 0, purged.err
    assert await ids_of(engine) == []
    lines = [json.loads(line) for line in purged.out.splitlines()]  # nothing but the messages
    by_id = {line["id"]: line for line in lines}
    assert by_id.keys() == {*ids, "bytes"}
    assert by_id["bytes"]["body_base64"] == "/wA="
    assert by_id[ids[1]] == file_line(ids[1], by_id[ids[1]]["body"])
    logged = json.loads(purged.err.splitlines()[0])
    assert (logged["event"], logged["count"]) == ("dead_letters.purged", 4)
    assert set(logged["ids"]) == by_id.keys()

    file = tmp_path / "purged.jsonl"
    file.write_text(purged.out)
    await command(settings, "restore", str(file))
    assert await ids_of(engine) == []
    for _ in range(2):
        await command(settings, "restore", str(file), "--apply")
    assert await ids_of(engine) == [*ids, "bytes"]
    again = await end_of(await start(settings, "purge", "--all", "--apply"))
    assert [json.loads(line) for line in again.out.splitlines()] == lines


async def test_restore_reads_a_file_of_the_first_release(
    settings: Settings, engine: AsyncEngine, bus: Bus, tmp_path: Path
) -> None:
    """Such lines hold the broker's own headers, and letters that were parked before they were purged."""
    line = file_line("one", envelope("one"))
    line["headers"] |= {
        "failure-reason": "delivery_limit",
        "parked-at": "2031-05-02T09:00:00+00:00",
        "x-death": [{"count": 1, "reason": "delivery_limit", "time": "2031-05-01T09:00:00+00:00"}],
        "x-first-death-queue": "events.messages",
    }
    file = tmp_path / "purged.jsonl"
    file.write_text(json.dumps(line) + "\n")
    await command(settings, "restore", "--parked", str(file), "--apply")
    assert await ids_of(engine, parked=True) == ["one"]
    await command(settings, "replay", "--parked", "--all", "--apply")
    (message,) = await bus.take()
    assert message.headers.keys() - {"x-delivery-count"} == {"tracestate", "replayed-at"}


async def test_purge_appends_to_its_file_and_deletes_nothing_that_it_cannot_write(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    ids = await bury(sessions, 4)
    file = tmp_path / "purged.jsonl"
    await command(settings, "purge", "--id", ids[0], "--to", str(file), "--apply")
    await command(settings, "purge", "--id", ids[2], "--to", str(file), "--apply")
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [ids[0], ids[2]]
    with pytest.raises(Stopped, match="No such file"):
        await command(settings, "purge", "--all", "--to", str(tmp_path / "no" / "folder"), "--apply")
    with pytest.raises(Stopped, match="No space left on device; what was not written stays"):
        await command(settings, "purge", "--all", "--to", "/dev/full", "--apply")
    assert await ids_of(engine) == [ids[1], ids[3]]


async def test_purge_deletes_nothing_that_nobody_reads(
    settings: Settings, engine: AsyncEngine, sessions: Sessions
) -> None:
    ids = await bury(sessions, 3)
    process = await start(settings, "purge", "--all", "--apply")
    assert process.stdout is not None
    process.stdout._transport.close()  # type: ignore[attr-defined]  # as `| head -0`
    ended = await asyncio.wait_for(process.wait(), 60)
    assert (ended, await ids_of(engine)) == (1, ids)


async def test_restore_stops_at_a_line_that_is_not_a_letter(
    settings: Settings, engine: AsyncEngine, tmp_path: Path
) -> None:
    file = tmp_path / "purged.jsonl"
    for line in ('{"headers": {}}', "[]", "text", '{"headers": 1, "properties": {}, "body": ""}', "[" * 100_000):
        file.write_text(f"{line}\n")
        with pytest.raises(Stopped, match="line 1: "):
            await command(settings, "restore", str(file), "--apply")


# -------------------- failures


async def test_an_unavailable_broker_is_one_line_and_exit_code_1(
    settings: Settings, engine: AsyncEngine, sessions: Sessions
) -> None:
    (message_id,) = await bury(sessions, 1)
    nowhere = settings.model_copy(update={"rabbitmq_url": SecretStr("amqp://guest:hidden@127.0.0.1:1/")})
    ended = await end_of(await start(nowhere, "replay", "--all", "--apply"))
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("messages: RabbitMQ at 127.0.0.1:1: ")
    assert "hidden" not in line
    assert await ids_of(engine) == [message_id]
    shown = await end_of(await start(nowhere, "list"))
    assert (shown.code, shown.err) == (0, "")


async def test_an_unavailable_database_is_one_line_and_exit_code_1(settings: Settings) -> None:
    url = SecretStr("postgresql+asyncpg://events:hidden@127.0.0.1:1/rostrum")
    ended = await end_of(await start(settings.model_copy(update={"database_url": url}), "list"))
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("messages: the database at 127.0.0.1:1: ")
    assert "hidden" not in line


async def test_a_connection_cut_in_the_middle_is_one_line_and_loses_nothing(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus
) -> None:
    ids = await bury(sessions, 20)
    url = make_url(settings.rabbitmq_url.get_secret_value())
    pipes: list[asyncio.StreamWriter] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(url.host, url.port)
        pipes.extend((writer, here))
        await asyncio.gather(_pipe(reader, here), _pipe(there, writer))

    async def is_in_progress() -> bool:
        return await bus.count() >= 3

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        through = settings.rabbitmq_url.get_secret_value().replace(f":{url.port}/", f":{port}/")
        cut_off = settings.model_copy(update={"rabbitmq_url": SecretStr(through)})
        replaying = await start(cut_off, "replay", "--all", "--rate", "20", "--apply")
        async with asyncio.timeout(30):
            await until(is_in_progress)
        for pipe in pipes:
            pipe.transport.abort()
        ended = await end_of(replaying)
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith(f"messages: RabbitMQ at 127.0.0.1:{port}: ")
    assert "Traceback" not in ended.err
    logged = json.loads(ended.err.splitlines()[0])
    assert logged["event"] == "dead_letters.replayed"
    left = await ids_of(engine)
    assert left == ids[int(logged["count"]) :]
    assert sorted({*left, *await bus.ids()}) == sorted(ids)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while some := await reader.read(65536):
            writer.write(some)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def test_wrong_use_is_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (
        ["dead-letters", "replay"],
        ["dead-letters", "replay", "--all", "--type", "x"],
        ["dead-letters", "park", "--all", "--parked"],
        ["dead-letters", "list", "--limit", "0"],
        ["dead-letters", "replay", "--all", "--rate", "-1"],
        ["dead-letters"],
        [],
    ):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2, wrong
    capsys.readouterr()
    monkeypatch.delenv("SERVICE", raising=False)
    assert main(["dead-letters", "list"]) == 2
    assert "missing or invalid: SERVICE" in capsys.readouterr().err
