"""The worker process of a service: dramatiq actors over one event loop, one engine and one set of resources.

``python -m <service>.worker`` runs dramatiq's master with one worker process. A killed child ends the master with
an error; the supervisor restarts it and the broker delivers unfinished triggers again. The worker process serves
the probes on ``health_port`` from the loop of the tasks, so that a blocked loop fails them.
"""

import asyncio
import ctypes
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Generic, TypeVar
from uuid import UUID

import dramatiq
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import AsyncIO, Middleware, MiddlewareError, TimeLimit
from dramatiq.worker import Worker
from opentelemetry.trace import SpanKind, StatusCode

from shared.database.engine import Sessions, database_check, new_engine
from shared.jobs.attempts import outcome
from shared.messaging.commit_notifier import notifying_sessions
from shared.messaging.job_queues import new_job_broker
from shared.settings import Settings
from shared.telemetry.health import serve_health
from shared.telemetry.logs import configure_logs, get_logger
from shared.telemetry.metrics import JOB_SECONDS
from shared.telemetry.traces import continued_trace, exported_traces
from shared.walltime import use_pinned_tzdata

log = get_logger(__name__)

JOB_TIME_LIMIT_MS = 15 * 60 * 1000

_PR_SET_PDEATHSIG = 1


R = TypeVar("R")

Task = Callable[[R, UUID], Awaitable[None]]
OpenResources = Callable[[Sessions], AbstractAsyncContextManager[R]]


class _Resources(Middleware, Generic[R]):
    """Open the process's resources on the event loop before the first task, and close them after the last.

    They open in ``before_worker_boot``, because dramatiq's threads already consume during ``after_worker_boot``.
    """

    def __init__(self, settings: Settings, open_resources: OpenResources[R], event_loop: AsyncIO) -> None:
        self._settings = settings
        self._open = open_resources
        self._event_loop = event_loop
        self._stack = AsyncExitStack()
        self._is_draining = False
        self.value: R | None = None

    def before_worker_boot(self, broker: dramatiq.Broker, worker: Worker) -> None:
        _end_with_master()
        try:
            _on_loop(self._enter())
        except Exception as error:
            log.critical("worker.not_started", exc_info=error)
            # The loop's thread would keep the process alive, and dramatiq reacts to no other error than this one.
            self._event_loop.after_worker_shutdown(broker, worker)  # type: ignore[no-untyped-call]
            raise MiddlewareError("The worker's resources could not be opened.") from error

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        self._is_draining = True

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        _on_loop(self._stack.aclose())
        log.info("worker.stopped")

    async def _enter(self) -> None:
        async with AsyncExitStack() as stack:
            stack.enter_context(exported_traces(self._settings, "worker"))
            engine = new_engine(self._settings, "worker")
            stack.push_async_callback(engine.dispose)
            sessions = await stack.enter_async_context(notifying_sessions(engine, self._settings.service))
            self.value = await stack.enter_async_context(self._open(sessions))
            checks = {"database": database_check(engine), "process": self._ready}
            await stack.enter_async_context(serve_health(self._settings, checks))
            self._stack = stack.pop_all()
        log.info("worker.started")

    async def _ready(self) -> None:
        if self._is_draining:
            raise RuntimeError("draining")


def _end_with_master() -> None:
    """Ask the kernel to kill this process when dramatiq's master is killed, because it would keep the probes' port.

    SIGTERM would not do: its logs go through the master, so a graceful stop fails halfway.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _on_loop(awaitable: Awaitable[Any]) -> None:
    loop = get_event_loop_thread()
    assert loop is not None  # noqa: S101 - started by the AsyncIO middleware, which comes first
    loop.run_coroutine(awaitable)


def new_worker_broker(
    settings: Settings, open_resources: OpenResources[R], tasks: Mapping[str, Task[R]], *, queue: str
) -> RabbitmqBroker:
    """Return a broker with ``tasks`` as actors: name on the wire → async function of resources and job id.

    ``open_resources`` gets sessions whose commits wake the messenger.
    dramatiq does not retry a task that raises: ``requeue_lost_jobs`` decides on that by the job's row.
    """
    use_pinned_tzdata()
    configure_logs(settings, "worker")
    broker = new_job_broker(settings)
    event_loop = AsyncIO()
    resources = _Resources(settings, open_resources, event_loop)
    for middleware in (event_loop, resources, TimeLimit(time_limit=JOB_TIME_LIMIT_MS)):
        broker.add_middleware(middleware)
    for name, task in tasks.items():
        as_actor = dramatiq.actor(broker=broker, actor_name=name, queue_name=queue)
        as_actor(_as_actor(name, task, resources))
    dramatiq.set_broker(broker)
    return broker


def _as_actor(name: str, task: Task[R], resources: "_Resources[R]") -> Callable[..., Awaitable[None]]:
    async def run(job_id: str, traceparent: str | None = None) -> None:
        assert resources.value is not None  # noqa: S101 - opened before the worker boots
        carrier = {"traceparent": traceparent} if traceparent else {}
        attributes = {"messaging.system": "rabbitmq", "rostrum.job.id": job_id}
        with continued_trace(
            carrier, f"process {name}", SpanKind.CONSUMER, attributes, job=name, job_id=job_id
        ) as span:
            started = time.monotonic()
            result = "crashed"
            try:
                outcome.set("ended")
                await task(resources.value, UUID(job_id))
                result = outcome.get()
            except asyncio.CancelledError:
                result = "cancelled"
                raise
            except Exception as error:
                span.record_exception(error)
                span.set_status(StatusCode.ERROR)
                log.error("job.crashed", exc_info=error)
            finally:
                seconds = time.monotonic() - started
                JOB_SECONDS.labels(name, result).observe(seconds)
                log.info("job.attempted", result=result, seconds=round(seconds, 3))

    return run
