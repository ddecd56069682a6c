import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from shared.contracts.envelope import Envelope, Message
from shared.database.engine import Sessions
from shared.ids import new_id
from shared.messaging import dead_letters
from shared.messaging.__main__ import main, new_parser
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letters import DeadLetter, Selection, Stopped, Tally, broker_of, for_each
from shared.messaging.inbox import Subscription
from shared.messaging.topology import (
    DELIVERY_LIMIT,
    EXCHANGE,
    dead_letter_queue_name,
    declare_kept_queue,
    declare_queue,
    parked_queue_name,
    queue_name,
)
from shared.settings import Settings
from testkit.plugin import delete_queues


@dataclass(frozen=True)
class Bus:
    """The queues of one service, and what tests put into them."""

    service: str
    channel: AbstractChannel

    @property
    def dead(self) -> str:
        return dead_letter_queue_name(self.service)

    @property
    def parked(self) -> str:
        return parked_queue_name(self.service)

    @property
    def own(self) -> str:
        return queue_name(self.service)

    async def bury(
        self, count: int, type_of: Callable[[int], str] = lambda _: "events.wall.painted.v1"
    ) -> list[str]:
        """Dead letters as the consumer makes them, numbered by their sequence; returns their ids."""
        ids = []
        for seq in range(count):
            ids.append(str(new_id()))
            message = aio_pika.Message(
                envelope(ids[-1], type_of(seq), seq),
                content_type="application/cloudevents+json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                message_id=ids[-1],
                type=type_of(seq),
                headers={
                    "traceparent": "00-1",
                    "failure-reason": "handler",
                    "failure-error": f"RuntimeError: wall {seq}\nis wet",
                    "failure-attempts": 8,
                    "failed-at": "2031-05-01T09:00:00+00:00",
                },
            )
            await self.channel.default_exchange.publish(message, self.dead)
        return ids

    async def count(self, queue: str) -> int:
        return (await self.channel.declare_queue(queue, passive=True)).declaration_result.message_count or 0

    async def take(self, queue: str) -> list[AbstractIncomingMessage]:
        """All messages of the queue, which is empty then."""
        count = await self.count(queue)
        taken: list[AbstractIncomingMessage] = []
        if count:
            declared = await self.channel.get_queue(queue, ensure=False)
            async with asyncio.timeout(10), declared.iterator(no_ack=True) as incoming:
                async for message in incoming:
                    taken.append(message)
                    if len(taken) == count:
                        break
        return taken

    async def ids(self, queue: str) -> list[str]:
        """The ids of all messages of the queue, which is empty then."""
        return [str(message.message_id) for message in await self.take(queue)]


def envelope(message_id: str, message_type: str, seq: int = 1, subject: UUID | None = None) -> bytes:
    return json.dumps(
        {
            "specversion": "1.0",
            "id": message_id,
            "source": "/rostrum/events",
            "type": message_type,
            "subject": str(subject or new_id()),
            "time": "2031-05-01T09:00:00Z",
            "aggregatetype": "events.wall",
            "aggregateseq": seq,
            "data": {"organizer": "acme", "color": "žluťoučký"},
        }
    ).encode()


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[AbstractConnection]:
    async with broker_of(settings) as connection:
        yield connection


@pytest.fixture
async def bus(settings: Settings, connection: AbstractConnection) -> AsyncIterator[Bus]:
    channel = await connection.channel(on_return_raises=True)
    await declare_queue(channel, settings.service, ["events.wall.painted.v1"])
    bus = Bus(settings.service, channel)
    yield bus
    await delete_queues(await connection.channel(), settings.service)


async def command(settings: Settings, *argv: str) -> None:
    arguments = new_parser().parse_args(["dead-letters", *argv])
    await arguments.command(arguments, settings)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


async def start(settings: Settings, *argv: str, launch: tuple[str, ...] = ("-m", "shared.messaging")) -> Any:
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


async def end_of(process: Any) -> Answer:
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return Answer(process.returncode, out.decode(), err.decode())


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - the condition lives in another process
            await asyncio.sleep(0.05)


# -------------------- looking


async def test_a_list_tells_what_failed_and_why(settings: Settings, bus: Bus, capsys: Any) -> None:
    (message_id,) = await bus.bury(1)
    await command(settings, "list", "--json")
    told = json.loads(capsys.readouterr().out)
    size = told.pop("size")
    assert size > 200
    UUID(told.pop("subject"))
    assert told == {
        "id": message_id,
        "type": "events.wall.painted.v1",
        "seq": 0,
        "failed_at": "2031-05-01T09:00:00+00:00",
        "reason": "handler",
        "error": "RuntimeError: wall 0\nis wet",
        "attempts": 8,
    }
    await command(settings, "list")
    head, row, end = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "type", "subject", "seq", "when", "reason", "attempts", "size", "error"]
    assert message_id in row
    assert row.endswith("RuntimeError: wall 0 is wet")
    assert end == f"1 shown, 1 in {bus.dead}"


async def test_looking_thirty_times_loses_nothing_and_keeps_the_order(
    settings: Settings, bus: Bus, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(dead_letters, "WINDOW", 40)
    ids = await bus.bury(100, lambda seq: f"events.wall.{'odd' if seq % 10 == 3 else 'painted'}.v1")
    looks = (["list", "--limit", "3"], ["list", "--type", "events.wall.odd.v1"], ["show", ids[60]])
    for number in range(30):
        await command(settings, *looks[number % 3])
        assert await bus.count(bus.dead) == 100
    assert await bus.ids(bus.dead) == ids


async def test_only_the_window_of_a_long_queue_is_in_memory(
    settings: Settings, bus: Bus, connection: AbstractConnection, monkeypatch: Any
) -> None:
    monkeypatch.setattr(dead_letters, "WINDOW", 10)
    await bus.bury(35)
    taken: list[int] = []
    original = dead_letters._take

    async def take_and_count(*arguments: Any) -> None:
        await original(*arguments)
        taken.append(len(arguments[-1]))

    monkeypatch.setattr(dead_letters, "_take", take_and_count)
    tally = Tally()
    await for_each(connection, bus.dead, Selection(types=frozenset(["none"])), _leave, tally=tally)
    assert (tally.seen, tally.count, taken) == (35, 0, [10, 10, 10, 5])


async def test_what_another_command_holds_is_told_and_not_waited_for(
    settings: Settings, bus: Bus, connection: AbstractConnection, monkeypatch: Any
) -> None:
    monkeypatch.setattr(dead_letters, "QUIET_SECONDS", 0.2)
    await bus.bury(5)
    inner, outer = Tally(), Tally()

    async def look_meanwhile(_: AbstractIncomingMessage, __: DeadLetter) -> None:
        if outer.seen == 1:
            await for_each(connection, bus.dead, Selection(), _leave, tally=inner)

    await for_each(connection, bus.dead, Selection(), look_meanwhile, tally=outer)
    assert (outer.count, inner.present, inner.count) == (5, 0, 0)

    async def take_one_behind_its_back(_: AbstractChannel, __: str, ___: int, messages: list[Any]) -> None:
        await original(_, __, ___ - 1, messages)

    original = dead_letters._take
    monkeypatch.setattr(dead_letters, "_take", take_one_behind_its_back)
    tally = Tally()
    await for_each(connection, bus.dead, Selection(), _leave, tally=tally)
    assert (tally.present, tally.count, tally.unreachable) == (5, 4, 1)
    assert await bus.count(bus.dead) == 5


async def _leave(_: AbstractIncomingMessage, __: DeadLetter) -> None:
    pass


async def test_show_prints_headers_and_body_and_knows_what_is_not_there(
    settings: Settings, bus: Bus, capsys: Any
) -> None:
    ids = await bus.bury(3)
    await command(settings, "show", ids[1])
    shown = capsys.readouterr().out
    assert f"message_id: {ids[1]}" in shown
    assert "failure-attempts: 8" in shown
    assert '    "color": "žluťoučký"' in shown
    await command(settings, "show", ids[1], "--json")
    assert json.loads(json.loads(capsys.readouterr().out)["body"])["aggregateseq"] == 1
    with pytest.raises(Stopped, match=f"no message {ids[1][:-1]}x is in"):
        await command(settings, "show", f"{ids[1][:-1]}x")
    assert await bus.ids(bus.dead) == ids


async def test_what_is_no_message_of_ours_is_shown_without_harm(settings: Settings, bus: Bus, capsys: Any) -> None:
    bodies = [
        b"\xff\x00 no text",
        b"[" * 50_000,
        b"\x1b[2Jtext",
        b'"just a string"',
        b'{"aggregateseq": "\\ud800"}',
    ]
    for body in bodies:
        await bus.channel.default_exchange.publish(aio_pika.Message(body), bus.dead)
    await command(settings, "list", "--json")
    ids = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert len(set(ids)) == len(bodies)
    for message_id in ids:
        await command(settings, "show", message_id)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "�[2Jtext" in shown
    assert [message.body for message in await bus.take(bus.dead)] == bodies


async def test_a_message_given_up_by_the_broker_tells_when_and_that_it_was_delivered_too_often(
    settings: Settings, bus: Bus, capsys: Any
) -> None:
    body = envelope(str(new_id()), "events.wall.painted.v1")
    await bus.channel.default_exchange.publish(aio_pika.Message(body, message_id="killer"), bus.own)
    own = await bus.channel.get_queue(bus.own, ensure=False)
    for _ in range(DELIVERY_LIMIT + 1):
        message = await own.get(timeout=10)
        await message.reject(requeue=True)

    async def is_dead() -> bool:
        return await bus.count(bus.dead) == 1

    await eventually(is_dead)
    await command(settings, "list", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["id"], told["reason"]) == ("killer", "delivery_limit")
    assert told["failed_at"].endswith("+00:00")
    # Parked, it still says so; replayed, it begins anew.
    await command(settings, "park", "--all", "--apply")
    capsys.readouterr()
    await command(settings, "list", "--parked", "--json")
    parked = json.loads(capsys.readouterr().out)
    assert (parked["reason"], parked["failed_at"]) == ("delivery_limit", told["failed_at"])
    await command(settings, "replay", "--parked", "--all", "--apply")
    (message,) = await bus.take(bus.own)
    assert list(message.headers) == ["replayed-at"]


# -------------------- replaying


def painted_class(service: str) -> type[Message]:
    class Painted(Message):
        message_type: ClassVar[str] = "events.wall.painted.v1"
        color: str

    return Painted


@asynccontextmanager
async def consuming(settings: Settings, sessions: Sessions, handler: Any) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    subscription = Subscription(painted_class(settings.service), handler, keep="latest")
    task = asyncio.create_task(Consumer(settings, sessions, [subscription]).run(stopping))
    try:
        yield
    finally:
        stopping.set()
        async with asyncio.timeout(20):
            await task


async def test_a_replayed_message_is_handled_again_and_has_one_effect(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, bus: Bus, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared.messaging.consumer.FIRST_RETRY_DELAY", 0.001)
    is_mended = False
    effects: list[UUID] = []

    async def on_painted(session: AsyncSession, message: Any, envelope: Envelope) -> None:
        if not is_mended:
            raise RuntimeError("not yet")
        effects.append(envelope.id)

    message_id = new_id()
    body = envelope(str(message_id), "events.wall.painted.v1")
    async with consuming(settings, sessions, on_painted):
        await bus.channel.default_exchange.publish(aio_pika.Message(body, message_id=str(message_id)), bus.own)

        async def is_dead() -> bool:
            return await bus.count(bus.dead) == 1

        await eventually(is_dead)
        is_mended = True
        await command(settings, "replay", "--id", str(message_id), "--apply")

        async def is_handled() -> bool:
            return bool(effects)

        await eventually(is_handled)
        # And once more, as after a crash between confirm and ack.
        await bus.channel.default_exchange.publish(aio_pika.Message(body, message_id=str(message_id)), bus.dead)
        await command(settings, "replay", "--all", "--apply")

        async def is_drained() -> bool:
            return await bus.count(bus.own) == 0

        await eventually(is_drained)
    assert effects == [message_id]
    assert await bus.count(bus.dead) == 0


async def test_a_replay_reaches_the_services_own_queue_and_no_other(
    settings: Settings, bus: Bus, connection: AbstractConnection
) -> None:
    other = await (await connection.channel()).declare_queue(exclusive=True)
    await other.bind(EXCHANGE, "events.wall.painted.v1")
    ids = await bus.bury(3)
    await command(settings, "replay", "--all", "--apply")
    replayed = await bus.take(bus.own)
    assert [message.message_id for message in replayed] == ids
    assert await bus.count(other.name) == 0
    assert await bus.count(bus.dead) == 0
    first = replayed[0]
    assert first.type == "events.wall.painted.v1"
    assert first.content_type == "application/cloudevents+json"
    assert first.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert json.loads(first.body)["id"] == ids[0]
    assert sorted(first.headers) == ["replayed-at", "traceparent"]


async def test_a_message_that_fails_again_at_once_is_not_replayed_again(
    settings: Settings, bus: Bus, connection: AbstractConnection
) -> None:
    await bus.bury(5)
    tally = Tally()

    async def fail_again(message: AbstractIncomingMessage, _: DeadLetter) -> None:
        await bus.channel.default_exchange.publish(aio_pika.Message(message.body), bus.dead)
        await message.ack()

    await for_each(connection, bus.dead, Selection(), fail_again, tally=tally)
    assert tally.count == 5
    assert await bus.count(bus.dead) == 5


async def test_a_replay_goes_no_faster_than_told(settings: Settings, bus: Bus) -> None:
    await bus.bury(5)
    begun_at = asyncio.get_running_loop().time()
    await command(settings, "replay", "--all", "--rate", "20", "--apply")
    assert asyncio.get_running_loop().time() - begun_at >= 4 / 20
    assert await bus.count(bus.own) == 5


async def test_a_replay_to_a_queue_that_is_missing_loses_nothing(settings: Settings, bus: Bus) -> None:
    ids = await bus.bury(5)
    await (await bus.channel.get_queue(bus.own, ensure=False)).delete(if_unused=False, if_empty=False)
    with pytest.raises(Stopped, match=f"{bus.own} does not exist"):
        await command(settings, "replay", "--all", "--apply")
    assert await bus.ids(bus.dead) == ids


# The program as it is, but for an ack that kills it: the moment between the broker's confirm and the ack.
KILLED_AT_ACK = """
import os, signal, sys
from aio_pika import IncomingMessage
from shared.messaging.__main__ import main

async def die(*_): os.kill(os.getpid(), signal.SIGKILL)

IncomingMessage.ack = die
sys.exit(main(sys.argv[1:]))
"""


async def test_a_crash_between_confirm_and_ack_leaves_a_copy_and_loses_nothing(
    settings: Settings, bus: Bus
) -> None:
    ids = await bus.bury(3)
    killed = await end_of(await start(settings, "replay", "--all", "--apply", launch=("-c", KILLED_AT_ACK)))
    assert killed.code == -signal.SIGKILL

    async def is_given_back() -> bool:
        return await bus.count(bus.dead) == 3

    await eventually(is_given_back)
    finished = await end_of(await start(settings, "replay", "--all", "--apply"))
    assert finished.code == 0, finished.err
    assert await bus.count(bus.dead) == 0
    # The copy has the same id, so the inbox absorbs it.
    assert sorted(await bus.ids(bus.own)) == sorted([ids[0], *ids])


# -------------------- choosing, parking, deleting


async def test_without_apply_nothing_changes(settings: Settings, bus: Bus, tmp_path: Path, capsys: Any) -> None:
    ids = await bus.bury(3, lambda seq: f"events.wall.painted.v{seq % 2 + 1}")
    lines = tmp_path / "purged.jsonl"
    for verb, *more in (["replay"], ["park"], ["purge"], ["purge", "--to", str(lines)]):
        await command(settings, verb, "--type", "events.wall.painted.v1", *more)
        told = "".join(capsys.readouterr())
        assert f"would {verb} 2 of 3 messages of {bus.dead}" in told
        assert "--apply does it" in told
    assert not lines.exists()
    assert await bus.count(bus.own) == 0
    assert await bus.ids(bus.dead) == ids


async def test_messages_are_chosen_by_id_by_type_and_by_number(settings: Settings, bus: Bus, capsys: Any) -> None:
    ids = await bus.bury(8, lambda seq: f"events.wall.painted.v{seq % 2 + 1}")
    await command(settings, "replay", "--id", ids[6], "--id", ids[1], "--apply")
    await command(settings, "replay", "--type", "events.wall.painted.v1", "--limit", "2", "--apply")
    await command(settings, "replay", "--all", "--limit", "1", "--apply")
    assert await bus.ids(bus.own) == [ids[1], ids[6], ids[0], ids[2], ids[3]]
    assert "replayed 2 of 6 messages" in capsys.readouterr().out
    assert await bus.ids(bus.dead) == [ids[4], ids[5], ids[7]]


async def test_what_is_parked_is_looked_at_and_changed_like_dead_letters(
    settings: Settings, bus: Bus, capsys: Any
) -> None:
    await command(settings, "list", "--parked")
    assert capsys.readouterr().out == f"0 shown, 0 in {bus.parked}\n"
    ids = await bus.bury(4)
    await command(settings, "park", "--id", ids[0], "--id", ids[2], "--id", ids[3], "--apply")
    capsys.readouterr()
    for _ in range(25):  # RabbitMQ 4 would have deleted them by now from a queue with its own limit
        await command(settings, "list", "--parked", "--json")
    *_, first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [first["id"], second["id"], third["id"]] == [ids[0], ids[2], ids[3]]
    assert (first["reason"], first["error"]) == ("handler", "RuntimeError: wall 0\nis wet")
    await command(settings, "show", "--parked", ids[2])
    assert "parked-at: " in capsys.readouterr().out
    await command(settings, "replay", "--parked", "--id", ids[2], "--apply")
    (replayed,) = await bus.take(bus.own)
    assert (replayed.message_id, "failure-reason" in replayed.headers) == (ids[2], False)
    await command(settings, "purge", "--parked", "--id", ids[3], "--apply")
    assert await bus.ids(bus.parked) == [ids[0]]
    assert await bus.ids(bus.dead) == [ids[1]]


async def test_purge_prints_what_it_deletes_and_restore_brings_it_back(
    settings: Settings, bus: Bus, tmp_path: Path
) -> None:
    ids = await bus.bury(3)
    await bus.channel.default_exchange.publish(aio_pika.Message(b"\xff\x00", message_id="bytes"), bus.dead)
    purged = await end_of(await start(settings, "purge", "--all", "--apply"))
    assert purged.code == 0, purged.err
    assert await bus.count(bus.dead) == 0
    lines = [json.loads(line) for line in purged.out.splitlines()]  # nothing but the messages
    assert [line["id"] for line in lines] == [*ids, "bytes"]
    assert lines[0]["headers"]["failure-error"] == "RuntimeError: wall 0\nis wet"
    logged = json.loads(purged.err.splitlines()[0])
    assert (logged["event"], logged["count"], logged["ids"]) == ("dead_letters.purged", 4, [*ids, "bytes"])

    file = tmp_path / "purged.jsonl"
    file.write_text(purged.out)
    await command(settings, "restore", str(file))
    assert await bus.count(bus.dead) == 0
    await command(settings, "restore", str(file), "--apply")
    restored = await bus.take(bus.dead)
    assert [message.message_id for message in restored] == [*ids, "bytes"]
    assert restored[3].body == b"\xff\x00"
    assert json.loads(restored[0].body)["data"]["color"] == "žluťoučký"
    assert restored[0].headers["failure-attempts"] == 8
    assert restored[0].content_type == "application/cloudevents+json"


async def test_purge_adds_to_its_file_and_deletes_nothing_it_can_not_write(
    settings: Settings, bus: Bus, tmp_path: Path
) -> None:
    ids = await bus.bury(4)
    file = tmp_path / "purged.jsonl"
    await command(settings, "purge", "--id", ids[0], "--to", str(file), "--apply")
    await command(settings, "purge", "--id", ids[2], "--to", str(file), "--apply")
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [ids[0], ids[2]]
    with pytest.raises(Stopped, match="No such file"):
        await command(settings, "purge", "--all", "--to", str(tmp_path / "no" / "folder"), "--apply")
    with pytest.raises(Stopped, match="No space left on device; the message stays"):
        await command(settings, "purge", "--all", "--to", "/dev/full", "--apply")
    assert await bus.ids(bus.dead) == [ids[1], ids[3]]


async def test_restore_stops_at_a_line_that_is_no_message(settings: Settings, bus: Bus, tmp_path: Path) -> None:
    file = tmp_path / "purged.jsonl"
    file.write_text('{"headers": {}}\n')
    with pytest.raises(Stopped, match="line 1: not a message"):
        await command(settings, "restore", str(file))


# -------------------- what may go wrong


async def test_a_broker_that_is_away_is_one_line_and_exit_code_1(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"rabbitmq_url": SecretStr("amqp://guest:hidden@127.0.0.1:1/")})
    answer = await end_of(await start(nowhere, "list"))
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert line.startswith("messages: RabbitMQ at 127.0.0.1:1: ")
    assert "hidden" not in line
    assert answer.out == ""


async def test_a_broker_that_says_nothing_is_not_waited_for_without_end(
    settings: Settings, monkeypatch: Any
) -> None:
    monkeypatch.setattr("shared.messaging.connection.BROKER_TIMEOUT", 0.2)
    gone = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        silent = settings.model_copy(update={"rabbitmq_url": SecretStr(f"amqp://guest:guest@127.0.0.1:{port}/")})
        with pytest.raises(TimeoutError):
            await command(silent, "list")
        gone.set()


async def test_a_connection_cut_in_the_middle_is_one_line_and_loses_nothing(settings: Settings, bus: Bus) -> None:
    ids = await bus.bury(20)
    url = make_url(settings.rabbitmq_url.get_secret_value())
    pipes: list[asyncio.StreamWriter] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(url.host, url.port)
        pipes.extend((writer, here))
        await asyncio.gather(_pipe(reader, here), _pipe(there, writer))

    async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        through = settings.rabbitmq_url.get_secret_value().replace(f":{url.port}/", f":{port}/")
        cut_off = settings.model_copy(update={"rabbitmq_url": SecretStr(through)})
        replaying = await start(cut_off, "replay", "--all", "--rate", "20", "--apply")

        async def is_under_way() -> bool:
            return await bus.count(bus.own) >= 3

        await eventually(is_under_way)
        for pipe in pipes:
            pipe.transport.abort()
        answer = await end_of(replaying)
    assert answer.code == 1
    assert answer.err.splitlines()[-1].startswith(f"messages: RabbitMQ at 127.0.0.1:{port}: ")
    assert "Traceback" not in answer.err
    logged = json.loads(answer.err.splitlines()[0])
    assert logged["event"] == "dead_letters.replayed"
    assert logged["count"] >= 2

    async def is_given_back() -> bool:
        return await bus.count(bus.dead) >= len(ids) - int(logged["count"])

    await eventually(is_given_back)
    assert sorted({*await bus.ids(bus.dead), *await bus.ids(bus.own)}) == sorted(ids)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while some := await reader.read(65536):
            writer.write(some)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def test_a_service_that_never_ran_here_is_told_apart_from_one_without_dead_letters(
    settings: Settings, bus: Bus
) -> None:
    elsewhere = settings.model_copy(update={"service": f"{settings.service}x"})
    answer = await end_of(await start(elsewhere, "list"))
    assert answer.code == 1
    name = elsewhere.service
    complaint = f"there is no queue {name}.messages.dead: is {name} the service's name, and has it run here?"
    assert answer.err == f"messages: {complaint}\n"
    empty = await end_of(await start(settings, "list"))
    assert (empty.code, empty.out) == (0, f"0 shown, 0 in {bus.dead}\n")


def test_wrong_use_is_exit_code_2(monkeypatch: Any, capsys: Any) -> None:
    for wrong in (
        ["dead-letters", "replay"],
        ["dead-letters", "replay", "--all", "--type", "x"],
        ["dead-letters", "park", "--all", "--parked"],
        ["dead-letters", "list", "--limit", "0"],
        ["dead-letters", "replay", "--all", "--rate", "-1"],
        [],
    ):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code == 2, wrong
    capsys.readouterr()
    monkeypatch.delenv("SERVICE", raising=False)
    assert main(["dead-letters", "list"]) == 2
    assert capsys.readouterr().err == "messages: these settings of the environment are missing or wrong: SERVICE\n"


async def test_a_kept_queue_bears_more_looks_than_a_limit_of_the_broker(
    bus: Bus, connection: AbstractConnection
) -> None:
    """The twin: a queue with a limit, as RabbitMQ 4 gives to each that asks for none, loses what is looked at."""
    limited = f"{bus.own}.limited"
    await bus.channel.declare_queue(
        limited, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 2}
    )
    kept = f"{bus.own}.kept"
    await declare_kept_queue(bus.channel, kept)
    try:
        for queue in (limited, kept):
            await bus.channel.default_exchange.publish(aio_pika.Message(b"{}"), queue)
        for _ in range(4):
            for queue in (limited, kept):
                await for_each(connection, queue, Selection(), _leave, tally=Tally())
        assert (await bus.count(limited), await bus.count(kept)) == (0, 1)
    finally:
        for queue in (limited, kept):
            await (await bus.channel.get_queue(queue, ensure=False)).delete(if_unused=False, if_empty=False)
