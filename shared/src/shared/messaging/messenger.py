"""The messenger process of a service: relay of its outbox, consumer of its queue, and its periodic tasks."""

import asyncio
import signal
from collections.abc import Sequence
from typing import Any

import uvloop

from shared.database.engine import database_check, new_engine
from shared.messaging.commit_notifier import notifying_sessions
from shared.messaging.consumer import Consumer
from shared.messaging.inbox import Subscription
from shared.messaging.periodic_tasks import EVERY_MESSENGER, PeriodicTask, repeat
from shared.messaging.relay import Relay
from shared.settings import Settings
from shared.telemetry.health import not_stopping, serve_health
from shared.telemetry.logs import configure_logs, get_logger
from shared.telemetry.traces import exported_traces
from shared.walltime import use_pinned_tzdata

log = get_logger(__name__)


def run_messenger(
    settings: Settings,
    subscriptions: Sequence[Subscription[Any]] = (),
    periodic_tasks: Sequence[PeriodicTask] = (),
) -> None:
    """Run until SIGTERM or SIGINT, then drain. Raise ``ValueError`` for subscriptions that exclude one another."""
    use_pinned_tzdata()
    configure_logs(settings, "messenger")
    with exported_traces(settings, "messenger"):
        uvloop.run(_run(settings, subscriptions, [*EVERY_MESSENGER, *periodic_tasks]))


async def _run(
    settings: Settings, subscriptions: Sequence[Subscription[Any]], periodic_tasks: Sequence[PeriodicTask]
) -> None:
    stopping = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopping.set)
    engine = new_engine(settings, "messenger")
    relay = Relay(settings)
    checks = {"database": database_check(engine), "process": not_stopping(stopping)}
    try:
        async with serve_health(settings, checks), notifying_sessions(engine, settings.service) as sessions:
            roles = [relay.run(stopping), *(repeat(task, sessions, stopping) for task in periodic_tasks)]
            if subscriptions:
                roles.append(Consumer(settings, sessions, subscriptions).run(stopping))
            log.info("messenger.started")
            async with asyncio.TaskGroup() as group:
                for role in roles:
                    group.create_task(role)
    finally:
        await engine.dispose()
        log.info("messenger.stopped")
