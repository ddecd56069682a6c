"""Prometheus metrics of every process; names begin with ``rostrum_``. One process per container serves them.

``docs/metrics.md`` documents each, and a test compares it with this file. A label must not have the name of one
that Prometheus sets on the target (``TARGET_LABELS``), nor values that a client chooses.
"""

import asyncio
import os
import platform
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram

from shared.walltime import TZDATA_VERSION

# Prometheus, its operator and our scrape configuration set these on every series of a target, and rename a metric's
# own label of the same name to ``exported_…``.
TARGET_LABELS = frozenset({"job", "instance", "service", "role", "namespace", "pod", "container", "endpoint"})

HTTP_SECONDS = Histogram(
    "rostrum_http_request_seconds",
    "Time to answer a request, by route template.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@lru_cache(maxsize=4096)
def http_seconds(method: str, route: str, status: int) -> Histogram:
    """Return ``HTTP_SECONDS`` with these labels, looked up once, because a look-up takes a lock.

    Unknown methods are ``other``, because clients may invent any number of them.
    """
    return HTTP_SECONDS.labels(method if method in _METHODS else "other", route, str(status))


OUTBOX_OLDEST_SECONDS = Gauge(
    "rostrum_outbox_oldest_unpublished_seconds", "Age of the oldest committed message not yet published."
)
OUTBOX_ROWS = Gauge("rostrum_outbox_unpublished_rows", "Committed messages not yet published.")
RELAY_BUCKETS = Gauge("rostrum_relay_buckets", "Shares of the outbox that this messenger publishes; 16 in all.")
PUBLISHED = Counter("rostrum_messages_published_total", "Rows of the outbox by result.", ["type", "result"])
PUBLISH_SECONDS = Histogram(
    "rostrum_message_publish_seconds",
    "Time from sending a message to the broker's confirm.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
HANDLED = Counter("rostrum_messages_handled_total", "Messages received by result.", ["type", "result"])
HANDLE_SECONDS = Histogram("rostrum_message_handle_seconds", "Time to handle a message, commit included.", ["type"])
REDELIVERED = Counter("rostrum_messages_redelivered_total", "Messages delivered again by the broker.")
CONSUMER_CONNECTED = Gauge(
    "rostrum_consumer_connected", "1 while this messenger consumes the queue, else 0.", ["queue"]
)
CONSUMERS = Gauge("rostrum_consumers", "Messengers that consume the service's queue.")
WAITING = Gauge("rostrum_messages_waiting", "Messages in the service's queue that no messenger has received yet.")
DEAD_LETTERS = Gauge("rostrum_dead_letters", "Messages the service gave up on, without parked ones.")
PARKED_LETTERS = Gauge("rostrum_parked_letters", "Dead letters that an operator has parked.")

JOB_SECONDS = Histogram(
    "rostrum_job_seconds",
    "Duration of one attempt of a job by result.",
    ["actor", "result"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
JOB_BYTES = Histogram(
    "rostrum_job_bytes",
    "Size of a job's input or output: image, imported archive, exported archive.",
    ["actor"],
    buckets=tuple(4**power * 1024 for power in range(1, 10)),  # 4 KiB to 256 MiB
)
JOBS = Gauge("rostrum_jobs", "Unfinished jobs, by state.", ["actor", "state"])
JOBS_OLDEST_SECONDS = Gauge(
    "rostrum_jobs_oldest_seconds",
    "Age of the oldest unfinished job: since its creation if queued, since its first start if running.",
    ["actor", "state"],
)
JOBS_GIVEN_UP = Counter("rostrum_jobs_given_up_total", "Jobs that used up their attempts.", ["actor"])
CHORE_FAILURES = Counter("rostrum_chore_failures_total", "Runs of a periodic task that failed.", ["task"])
CHORES_DONE_AT = Gauge(
    "rostrum_chores_done_timestamp_seconds", "When a periodic task last succeeded; 0 before.", ["task"]
)
PERIODIC_TASK_INTERVAL = Gauge(
    "rostrum_periodic_task_interval_seconds", "Time between two runs of a periodic task.", ["task"]
)

JWKS_LOADS = Counter("rostrum_jwks_loads_total", "Loads of the token issuer's keys by result.", ["result"])
for _result in ("loaded", "failed"):
    JWKS_LOADS.labels(
        _result
    )  # exists from the start, because Prometheus sees no increase in a series that begins with 1

JWKS_LOADED_AT = Gauge("rostrum_jwks_loaded_timestamp_seconds", "When the issuer's keys were last loaded.")
SERVICE_TOKEN_EXPIRES_AT = Gauge(
    "rostrum_service_token_expires_timestamp_seconds",
    "When the token in SERVICE_TOKEN_FILE expires; 0 when it cannot be read.",
    ["file"],
)

DATABASE_CONNECTIONS = Gauge(
    "rostrum_database_connections", "Connections of the pool: in use, or open and idle.", ["state"]
)
DATABASE_POOL_SIZE = Gauge("rostrum_database_pool_size", "Connections that the pool may open.")
DATABASE_POOL_WAITING = Gauge("rostrum_database_pool_waiting", "Tasks that wait for a connection of the pool.")
DATABASE_POOL_WAIT_SECONDS = Histogram(
    "rostrum_database_pool_wait_seconds",
    "Time that a task waited for a connection; it fails after 5 s.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5),
)
LOOP_LAG_SECONDS = Histogram(
    "rostrum_event_loop_lag_seconds",
    "Delay of the event loop in waking a task, sampled once a second.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
DISK_FREE_BYTES = Gauge("rostrum_disk_free_bytes", "Free space where files are kept.", ["folder"])
DISK_SIZE_BYTES = Gauge("rostrum_disk_size_bytes", "Size of the file system where files are kept.", ["folder"])
BUILD_INFO = Gauge("rostrum_build_info", "1, with the release that runs.", ["version", "revision", "python"])
TZDATA_INFO = Gauge("rostrum_tzdata_info", "1, with the release of the tz database.", ["version"])
TZDATA_EXPIRES_AT = Gauge(
    "rostrum_tzdata_expires_timestamp_seconds", "When this release of the tz database is certainly outdated."
)


def _tzdata_expires_at() -> float:
    """Return when the list of leap seconds expires, which is renewed twice a year: the only such date it has."""
    for line in files("tzdata").joinpath("zoneinfo", "leapseconds").read_text("utf-8").splitlines():
        if line.startswith("#Expires"):
            words = line.split()[1:4]
            return datetime.strptime(" ".join(words), "%Y %b %d").replace(tzinfo=UTC).timestamp()
    return 0.0


BUILD_INFO.labels(
    os.environ.get("ROSTRUM_VERSION", "unreleased"),
    os.environ.get("ROSTRUM_REVISION", "unknown"),
    platform.python_version(),
).set(1)
TZDATA_INFO.labels(TZDATA_VERSION).set(1)
TZDATA_EXPIRES_AT.set(_tzdata_expires_at())


def watch_folder(name: str, folder: Path) -> None:
    """Report the space of the file system of ``folder``, or of its nearest existing parent."""

    def usage(of: Callable[["shutil._ntuple_diskusage"], int]) -> float:
        for place in (folder, *folder.absolute().parents):
            with suppress(OSError):
                return of(shutil.disk_usage(place))
        return 0.0

    DISK_FREE_BYTES.labels(name).set_function(lambda: usage(lambda found: found.free))
    DISK_SIZE_BYTES.labels(name).set_function(lambda: usage(lambda found: found.total))


watch_folder("temporary", Path(tempfile.gettempdir()))


@asynccontextmanager
async def measured_loop(interval: float = 1.0) -> AsyncIterator[None]:
    """Observe ``LOOP_LAG_SECONDS`` of the running loop until the block ends."""

    async def measure() -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + interval
            await asyncio.sleep(interval)
            LOOP_LAG_SECONDS.observe(max(0.0, loop.time() - due))

    task = asyncio.create_task(measure())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
