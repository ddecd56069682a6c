"""Periodic tasks of a messenger. Each runs on its own, so one that fails or hangs delays no other."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select

from shared.database.engine import Sessions
from shared.database.idempotency import forget_expired_keys
from shared.messaging.dead_letters import measure_dead_letters
from shared.messaging.tables import INBOX, OUTBOX
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import (
    CHORE_FAILURES,
    CHORES_DONE_AT,
    OUTBOX_OLDEST_SECONDS,
    OUTBOX_ROWS,
    PERIODIC_TASK_INTERVAL,
)

log = get_logger(__name__)

PRUNE_BATCH = 2000
KEEP_PUBLISHED = timedelta(hours=24)
KEEP_RECEIVED = timedelta(days=30)


@dataclass(frozen=True)
class PeriodicTask:
    """Work that a messenger repeats ``every`` so many seconds, beginning when it starts.

    Several messengers of a service run it at the same time. ``name`` labels its metrics and log lines.
    """

    name: str
    every: float
    run: Callable[[Sessions], Awaitable[object]]


async def repeat(
    task: PeriodicTask, sessions: Sessions, stopping: asyncio.Event, *, retry_after: float = 60.0
) -> None:
    """Run the task until ``stopping`` is set.

    An error is logged and counted, and the task is tried again after ``retry_after`` seconds at most.
    """
    failures, done_at = CHORE_FAILURES.labels(task.name), CHORES_DONE_AT.labels(task.name)
    PERIODIC_TASK_INTERVAL.labels(task.name).set(task.every)
    while not stopping.is_set():
        delay = task.every
        started = time.monotonic()
        try:
            await task.run(sessions)
        except Exception as error:
            delay = min(delay, retry_after)
            failures.inc()
            log.warning(
                "periodic_task.failed",
                task=task.name,
                seconds=round(time.monotonic() - started, 3),
                exc_info=error,
            )
        else:
            done_at.set_to_current_time()
            log.debug("periodic_task.done", task=task.name, seconds=round(time.monotonic() - started, 3))
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), delay)


async def measure_outbox(sessions: Sessions) -> None:
    """Set the gauges of the committed messages that are not published yet: their number and greatest age."""
    unpublished = select(
        func.count(),
        func.coalesce(func.extract("epoch", func.clock_timestamp() - func.min(OUTBOX.c.created_at)), 0),
    ).where(OUTBOX.c.published_at.is_(None))
    async with sessions() as session:
        rows, age = (await session.execute(unpublished)).one()
    OUTBOX_ROWS.set(rows)
    OUTBOX_OLDEST_SECONDS.set(float(age))


async def prune(sessions: Sessions) -> int:
    """Delete expired rows of outbox, inbox and idempotency keys, some thousand at most. Return how many."""
    now = func.clock_timestamp()
    sent = select(OUTBOX.c.id).where(OUTBOX.c.published_at < now - KEEP_PUBLISHED).limit(PRUNE_BATCH)
    received = select(INBOX.c.message_id).where(INBOX.c.received_at < now - KEEP_RECEIVED).limit(PRUNE_BATCH)
    async with sessions.begin() as session:
        outbox = await session.scalars(delete(OUTBOX).where(OUTBOX.c.id.in_(sent)).returning(OUTBOX.c.id))
        inbox = await session.scalars(
            delete(INBOX).where(INBOX.c.message_id.in_(received)).returning(INBOX.c.message_id)
        )
        keys = await forget_expired_keys(session)
        return len(outbox.all()) + len(inbox.all()) + keys


EVERY_MESSENGER = (
    PeriodicTask("measure_outbox", 15, measure_outbox),
    PeriodicTask("measure_dead_letters", 15, measure_dead_letters),
    PeriodicTask("prune", 15, prune),
)
