import asyncio
import json
import os
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection, AbstractQueue
from pydantic import SecretStr
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from shared.contracts.envelope import Envelope
from shared.database.engine import Sessions, new_sessions
from shared.ids import new_id
from shared.messaging import outbox, outbox_history
from shared.messaging.__main__ import main, new_parser, run
from shared.messaging.consumer import Consumer
from shared.messaging.inbox import Subscription
from shared.messaging.relay import BUCKETS, Relay
from shared.messaging.tables import OUTBOX
from shared.messaging.topology import queue_name
from shared.settings import Settings
from testkit.messages import Painted, paint, painted_class, running
from testkit.processes import until


async def take(queue: AbstractQueue, count: int) -> list[str]:
    """Return the ids of the next ``count`` messages."""
    taken: list[str] = []
    async with asyncio.timeout(15), queue.iterator(no_ack=True) as incoming:
        async for message in incoming:
            taken.append(str(message.message_id))
            if len(taken) == count:
                break
    return taken


async def write(sessions: Sessions, kind: type[Painted], count: int, subject: UUID | None = None) -> list[str]:
    """Add messages to the outbox, each in its own transaction. Return their ids."""
    subject = subject or new_id()
    ids = []
    for seq in range(1, count + 1):
        async with sessions.begin() as session:
            ids.append(str(await outbox.add(session, paint(kind, str(seq)), subject=subject, seq=seq)))
    return ids


async def mark_published(engine: AsyncEngine, *, ago: timedelta = timedelta(minutes=1)) -> None:
    """Mark all that waits as published so long ago, and written a second before."""
    at = func.clock_timestamp() - ago
    async with engine.begin() as connection:
        await connection.execute(
            update(OUTBOX)
            .where(OUTBOX.c.published_at.is_(None))
            .values(published_at=at, created_at=at - timedelta(seconds=1), attempts=1)
        )


async def waiting(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        rows = select(OUTBOX.c.id).where(OUTBOX.c.published_at.is_(None)).order_by(OUTBOX.c.aggregate_seq)
        return [str(message_id) for message_id in (await connection.execute(rows)).scalars()]


async def command(settings: Settings, *argv: str) -> None:
    await run(new_parser().parse_args(["outbox", *argv]), settings)


# -------------------- status


async def test_status_shows_what_waits_what_was_refused_and_what_was_published(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    painted, primed = painted_class(settings.service), painted_class(settings.service, "primed")
    await write(sessions, painted, 2)
    await mark_published(engine)
    await write(sessions, painted, 3)
    await mark_published(engine, ago=timedelta(hours=5))
    waiting_ids = await write(sessions, primed, 4)
    async with sessions.begin() as session:
        await outbox.add_job(session, "paint", queue="jobs", job_id=new_id())
    async with engine.begin() as connection:
        await connection.execute(
            update(OUTBOX)
            .where(OUTBOX.c.id == UUID(waiting_ids[0]))
            .values(attempts=3, last_error="no room", created_at=func.clock_timestamp() - timedelta(minutes=90))
        )
    await command(settings, "status", "--json")
    status = json.loads(capsys.readouterr().out)
    assert status["unpublished"]["rows"] == 5
    assert 5400 <= status["unpublished"]["oldest_seconds"] < 5500
    assert [(item["kind"], item["type"], item["rows"]) for item in status["unpublished"]["types"]] == [
        ("message", primed.message_type, 4),
        ("job", "paint", 1),
    ]
    (refused,) = status["refused"]["oldest"]
    assert status["refused"]["rows"] == 1
    assert (refused["id"], refused["attempts"], refused["error"]) == (waiting_ids[0], 3, "no room")
    assert status["published"] == {"last_hour": 2, "last_24_hours": 5}
    assert status["relays"] == []
    await command(settings, "status")
    shown = capsys.readouterr().out
    assert "unpublished: 5, the oldest for 1:30:" in shown
    assert f"{waiting_ids[0]}  {primed.message_type}" in shown
    assert "no room" in shown
    assert "published: 2 in the last hour, 5 in the last 24 hours" in shown


async def test_status_shows_which_relay_holds_which_buckets(settings: Settings, engine: AsyncEngine) -> None:
    relays = [Relay(settings), Relay(settings)]

    async def are_shared() -> bool:
        return [len(relay.buckets) for relay in relays] == [BUCKETS // 2, BUCKETS // 2]

    async with running(relays[0]), running(relays[1]):
        await until(are_shared)
        shown = (await outbox_history.outbox_status(new_sessions(engine), settings.service))["relays"]
        held = [sorted(relay.buckets) for relay in relays]
    assert [item["name"] for item in shown] == [f"{settings.service}.relay"] * 2
    assert sorted(item["buckets"] for item in shown) == sorted(held)


# -------------------- replay


async def test_a_replay_publishes_messages_again_with_the_same_ids_in_order_and_no_jobs(
    settings: Settings,
    engine: AsyncEngine,
    sessions: Sessions,
    spy: AbstractQueue,
    capsys: pytest.CaptureFixture[str],
) -> None:
    painted = painted_class(settings.service)
    ids = await write(sessions, painted, 5)
    async with sessions.begin() as session:
        await outbox.add_job(session, painted.message_type, queue="jobs", job_id=new_id())
    await mark_published(engine)
    await command(settings, "replay", "--type", painted.message_type, "--apply")
    assert await waiting(engine) == ids
    assert "5 messages will be published again, written from" in capsys.readouterr().out
    async with running(Relay(settings)):
        assert await take(spy, 5) == ids


async def test_a_replay_publishes_each_message_once_while_relays_run(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, spy: AbstractQueue
) -> None:
    painted = painted_class(settings.service)
    ids = await write(sessions, painted, 9)
    async with running(Relay(settings)):
        assert await take(spy, 9) == ids

        async def is_idle() -> bool:
            return not await waiting(engine)

        await until(is_idle)
        condition = outbox_history.published(types=[painted.message_type])
        replayed = await outbox_history.replay(sessions, condition)
        assert await take(spy, 9) == ids
        await until(is_idle)
    assert sorted(map(str, replayed)) == ids
    assert await spy.get(fail=False) is None


async def test_the_receivers_inbox_absorbs_a_replay(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, connection: AbstractConnection, spy: AbstractQueue
) -> None:
    painted = painted_class(settings.service)
    effects: list[str] = []

    async def on_painted(session: AsyncSession, message: Painted, envelope: Envelope) -> None:
        effects.append(str(envelope.id))

    consumer = Consumer(settings, sessions, [Subscription(painted, on_painted, keep="latest")])
    channel = await connection.channel()

    async def is_listening() -> bool:
        try:
            await (await connection.channel()).declare_queue(queue_name(settings.service), passive=True)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False
        return True

    async with running(consumer):
        await until(is_listening)
        async with running(Relay(settings)):
            ids = await write(sessions, painted, 3)
            assert await take(spy, 3) == ids

            async def are_handled() -> bool:
                return effects == ids and not await waiting(engine)

            await until(are_handled)
            await command(settings, "replay", "--type", painted.message_type, "--apply")
            assert await take(spy, 3) == ids

        async def is_drained() -> bool:
            queue = await channel.declare_queue(queue_name(settings.service), passive=True)
            return queue.declaration_result.message_count == 0

        await until(is_drained)
    assert effects == ids


async def test_messages_are_selected_by_type_time_and_subject(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    painted, primed = painted_class(settings.service), painted_class(settings.service, "primed")
    wall = new_id()
    old = await write(sessions, painted, 1, wall)
    await mark_published(engine, ago=timedelta(hours=3))
    new = [*await write(sessions, primed, 1, wall), *await write(sessions, painted, 1)]
    await mark_published(engine)

    async def replayed(*argv: str) -> set[str]:
        await command(settings, "replay", *argv, "--apply")
        ids = set(await waiting(engine))
        async with engine.begin() as connection:
            await connection.execute(
                update(OUTBOX)
                .where(OUTBOX.c.published_at.is_(None))
                .values(published_at=OUTBOX.c.created_at + timedelta(seconds=1))
            )
        return ids

    assert await replayed("--subject", str(wall)) == {old[0], new[0]}
    assert await replayed("--since", "2h") == set(new)
    assert await replayed("--since", "4h", "--until", "120m") == set(old)
    assert await replayed("--type", painted.message_type, "--type", primed.message_type) == {*old, *new}
    assert await replayed("--type", painted.message_type, "--since", "2h") == {new[1]}
    begun = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert await replayed("--since", begun, "--subject", str(wall)) == {new[0]}
    assert await replayed("--type", "no.such.type.v1") == set()


async def test_without_apply_a_replay_only_counts(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    await write(sessions, painted_class(settings.service), 2)
    await mark_published(engine)
    await command(settings, "replay", "--since", "1h")
    would, kept = capsys.readouterr().out.splitlines()
    assert would.startswith("would publish 2 messages again, written from ")
    assert would.endswith("; --apply does it")
    assert kept.startswith(
        "Published messages are deleted after 24 hours and cannot be published again then; the oldest"
    )
    assert await waiting(engine) == []


# -------------------- failures


async def test_an_unavailable_database_is_one_line_and_exit_code_1(settings: Settings) -> None:
    nowhere = settings.model_copy(
        update={"database_url": SecretStr("postgresql+asyncpg://events:hidden@127.0.0.1:1/rostrum")}
    )
    await _fails_with_one_line(nowhere, "messages: the database at 127.0.0.1:1: ")


async def test_a_database_without_the_service_is_one_line_and_exit_code_1(settings: Settings) -> None:
    await _fails_with_one_line(settings, 'relation "outbox" does not exist')


async def _fails_with_one_line(settings: Settings, text: str) -> None:
    environment = {
        "SERVICE": settings.service,
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "RABBITMQ_URL": settings.rabbitmq_url.get_secret_value(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "shared.messaging", "outbox", "status"),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    (line,) = err.decode().splitlines()
    assert text in line
    assert "hidden" not in line


@pytest.mark.parametrize(
    "wrong",
    [
        ["replay"],
        ["replay", "--until", "2h"],
        ["replay", "--since", "2031-05-01T09:00"],
        ["replay", "--since", "yesterday"],
        ["replay", "--subject", "wall"],
    ],
)
def test_wrong_use_is_exit_code_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["outbox", *wrong])
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
