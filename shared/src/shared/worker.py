"""The worker process of a service: dramatiq actors over one event loop, one engine and one set of resources.

``python -m <service>.worker`` runs dramatiq's own master with one worker process. A killed child ends the master
with an error; the supervisor starts it again and the broker delivers what was not finished.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Generic, TypeVar
from uuid import UUID

import dramatiq
import structlog
from dramatiq.asyncio import get_event_loop_thread
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.cli import main as run_dramatiq
from dramatiq.cli import make_argument_parser
from dramatiq.middleware import AsyncIO, Middleware, TimeLimit
from dramatiq.worker import Worker

from shared.jobs import new_job_broker
from shared.logs import configure_logs, get_logger
from shared.metrics import JOB_SECONDS
from shared.settings import Settings
from shared.tracing import continued_trace

log = get_logger(__name__)

R = TypeVar("R")

JOB_TIME_LIMIT_MS = 15 * 60 * 1000

Task = Callable[[R, UUID], Awaitable[None]]
OpenResources = Callable[[], AbstractAsyncContextManager[R]]


class _Resources(Middleware, Generic[R]):
    """Opens the process's resources on the event loop before the first task can run, closes them after the last.

    ``before_worker_boot`` and no later: dramatiq's threads consume while ``after_worker_boot`` still runs.
    """

    def __init__(self, open_resources: OpenResources[R]) -> None:
        self._open = open_resources
        self._stack: AsyncExitStack | None = None
        self.value: R | None = None

    def before_worker_boot(self, broker: dramatiq.Broker, worker: Worker) -> None:
        _on_loop(self._enter())

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Worker) -> None:
        if self._stack is not None:
            _on_loop(self._stack.aclose())

    async def _enter(self) -> None:
        self._stack = AsyncExitStack()
        self.value = await self._stack.enter_async_context(self._open())
        log.info("worker.started")


def _on_loop(awaitable: Awaitable[Any]) -> None:
    loop = get_event_loop_thread()
    assert loop is not None  # noqa: S101 - the AsyncIO middleware stands before this one
    loop.run_coroutine(awaitable)


def new_worker_broker(
    settings: Settings, open_resources: OpenResources[R], tasks: Mapping[str, Task[R]], *, queue: str
) -> RabbitmqBroker:
    """Registers ``tasks`` (name on the wire → async function of resources and job id) and makes the broker current.

    A task that raises is not tried again by dramatiq: the job's row and the sweep decide on that.
    """
    configure_logs(
        service=settings.service, role="worker", level=settings.log_level, as_json=settings.log_format == "json"
    )
    broker = new_job_broker(settings)
    resources = _Resources(open_resources)
    for middleware in (AsyncIO(), resources, TimeLimit(time_limit=JOB_TIME_LIMIT_MS)):
        broker.add_middleware(middleware)
    for name, task in tasks.items():
        as_actor = dramatiq.actor(broker=broker, actor_name=name, queue_name=queue)
        as_actor(_as_actor(name, task, resources))
    dramatiq.set_broker(broker)
    return broker


def _as_actor(name: str, task: Task[R], resources: "_Resources[R]") -> Callable[..., Awaitable[None]]:
    async def run(job_id: str, traceparent: str | None = None) -> None:
        assert resources.value is not None  # noqa: S101 - opened before the worker boots
        with (
            continued_trace({"traceparent": traceparent} if traceparent else {}),
            structlog.contextvars.bound_contextvars(job=name, job_id=job_id),
        ):
            started = time.monotonic()
            result = "failed"
            try:
                await task(resources.value, UUID(job_id))
                result = "ended"
            except asyncio.CancelledError:
                result = "cancelled"
                raise
            except Exception as error:
                log.error("job.crashed", exc_info=error)
            finally:
                seconds = time.monotonic() - started
                JOB_SECONDS.labels(name, result).observe(seconds)
                log.info("job.attempted", result=result, seconds=round(seconds, 3))

    return run


def run_worker(create_broker: str, *, threads: int) -> int:
    """Runs dramatiq for ``module:function`` that makes the broker; ``threads`` is how many jobs run at once."""
    arguments = make_argument_parser().parse_args(  # type: ignore[no-untyped-call]
        [create_broker, "--processes", "1", "--threads", str(threads), "--worker-shutdown-timeout", "60000"]
    )
    code: int = run_dramatiq(arguments)  # type: ignore[no-untyped-call]
    return code
