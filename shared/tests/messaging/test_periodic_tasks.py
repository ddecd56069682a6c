import asyncio
from datetime import timedelta
from uuid import UUID

from prometheus_client import REGISTRY
from sqlalchemy import func, select
from structlog.testing import capture_logs

from shared.database.engine import Sessions
from shared.database.idempotency import IDEMPOTENCY_KEYS
from shared.ids import new_id
from shared.messaging.periodic_tasks import PeriodicTask, prune, repeat
from shared.messaging.tables import INBOX, OUTBOX


def metric(name: str, task: str) -> float | None:
    return REGISTRY.get_sample_value(f"rostrum_{name}", {"task": task})


async def test_a_task_that_fails_or_hangs_is_reported_and_delays_no_other(sessions: Sessions) -> None:
    stopping, hanging = asyncio.Event(), asyncio.Event()
    runs = 0

    async def fail(_: Sessions) -> None:
        raise RuntimeError("the storage is down")

    async def hang(_: Sessions) -> None:
        await hanging.wait()

    async def count(_: Sessions) -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            stopping.set()
            hanging.set()

    tasks = [PeriodicTask(run.__name__, 0.001, run) for run in (fail, hang, count)]
    with capture_logs() as logs:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(repeat(task, sessions, stopping))

    assert runs == 3
    assert (metric("chore_failures_total", "fail") or 0) >= 1
    assert metric("chores_done_timestamp_seconds", "fail") == 0
    assert metric("chore_failures_total", "count") == 0
    assert (metric("chores_done_timestamp_seconds", "count") or 0) > 0
    assert metric("periodic_task_interval_seconds", "count") == 0.001
    [name] = {entry["task"] for entry in logs if entry["event"] == "periodic_task.failed"}
    assert name == "fail"


async def test_a_task_that_failed_is_repeated_long_before_its_interval_ends(sessions: Sessions) -> None:
    stopping = asyncio.Event()
    outcomes = iter([RuntimeError("not yet"), None])

    async def run(_: Sessions) -> None:
        if error := next(outcomes):
            raise error
        stopping.set()

    async with asyncio.timeout(20):
        await repeat(PeriodicTask("hourly", 3600, run), sessions, stopping, retry_after=0.001)
    assert next(outcomes, "none is left") == "none is left"


async def test_expired_rows_are_deleted_and_unpublished_messages_stay_however_old(sessions: Sessions) -> None:
    long_ago, lately, soon = (func.clock_timestamp() + timedelta(days=days) for days in (-40, -20, 1))
    unpublished, published = [new_id(), new_id()], [new_id(), new_id()]
    old, young = new_id(), new_id()
    async with sessions.begin() as session:
        for seq, row_id in enumerate([*unpublished, *published]):
            row = {
                "id": row_id,
                "kind": "message",
                "type": "probe.wall.painted.v1",
                "aggregate_type": "probe.wall",
                "aggregate_id": UUID(int=7),
                "aggregate_seq": seq,
                "payload": {},
                "created_at": long_ago,
            }
            await session.execute(
                OUTBOX.insert().values(**row, published_at=long_ago if row_id in published else None)
            )
        for row_id, received_at in ((old, long_ago), (young, lately)):
            await session.execute(INBOX.insert().values(message_id=row_id, type="t", received_at=received_at))
        for key, expires_at in (("expired", lately), ("valid", soon)):
            row = {"org": "acme", "subject": "u", "operation": "o", "key": key, "request_hash": b""}
            await session.execute(IDEMPOTENCY_KEYS.insert().values(**row, expires_at=expires_at))
    assert await prune(sessions) == 4
    async with sessions() as session:
        assert set(await session.scalars(select(OUTBOX.c.id))) == set(unpublished)
        assert set(await session.scalars(select(INBOX.c.message_id))) == {young}
        assert list(await session.scalars(select(IDEMPOTENCY_KEYS.c.key))) == ["valid"]
