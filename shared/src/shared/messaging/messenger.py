"""The messenger process of a service: relay of its outbox, consumer of its queue, and its regular chores."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvloop
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.database.engine import Sessions, database_check, new_engine
from shared.messaging.commit_notifier import notifying_sessions
from shared.messaging.consumer import Consumer
from shared.messaging.inbox import Subscription
from shared.messaging.job_queues import declare_job_queue
from shared.messaging.relay import Relay, measure_outbox, prune
from shared.settings import Settings
from shared.telemetry.health import not_stopping, serve_health
from shared.telemetry.logs import configure_logs, get_logger
from shared.telemetry.metrics import CHORE_FAILURES, CHORES_DONE_AT
from shared.telemetry.traces import exported_traces
from shared.walltime import use_pinned_tzdata

log = get_logger(__name__)

Chore = Callable[[Sessions], Awaitable[None]]
CHORE_SECONDS = 15.0


def run_messenger(
    settings: Settings, subscriptions: Sequence[Subscription[Any]] = (), chores: Sequence[Chore] = ()
) -> None:
    """Runs until SIGTERM or SIGINT, then drains. ``chores`` run every ``CHORE_SECONDS`` (sweeps of stale jobs)."""
    use_pinned_tzdata()
    configure_logs(
        service=settings.service,
        role="messenger",
        level=settings.log_level,
        as_json=settings.log_format == "json",
    )
    with exported_traces(settings, "messenger"):
        uvloop.run(_run(settings, subscriptions, chores))


async def _run(settings: Settings, subscriptions: Sequence[Subscription[Any]], chores: Sequence[Chore]) -> None:
    stopping = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    engine = new_engine(settings, "messenger")
    relay = Relay(settings, engine, declare_job_queue=lambda queue: declare_job_queue(settings, queue))

    checks = {"database": database_check(engine), "process": not_stopping(stopping)}
    try:
        async with serve_health(settings, checks), notifying_sessions(engine, settings.service) as sessions:
            log.info("messenger.started")
            async with asyncio.TaskGroup() as group:
                group.create_task(relay.run(stopping))
                group.create_task(_do_chores(engine, sessions, chores, stopping))
                if subscriptions:
                    group.create_task(Consumer(settings, sessions, subscriptions).run(stopping))
    finally:
        await engine.dispose()
        log.info("messenger.stopped")


async def _do_chores(
    engine: AsyncEngine, sessions: Sessions, chores: Sequence[Chore], stopping: asyncio.Event
) -> None:
    while not stopping.is_set():
        try:
            await measure_outbox(engine)
            await prune(engine)
            for chore in chores:
                await chore(sessions)
            CHORES_DONE_AT.set_to_current_time()
        except Exception as error:
            CHORE_FAILURES.inc()
            log.warning("messenger.chore_failed", exc_info=error)
        try:
            await asyncio.wait_for(stopping.wait(), CHORE_SECONDS)
        except TimeoutError:
            continue
