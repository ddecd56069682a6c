"""Prometheus metrics of every process; names begin with ``rostrum_``. One process per container serves them.

``docs/metrics.md`` says what each is for; a test holds it against this file. No label may be named like one that
Prometheus puts on the target (``TARGET_LABELS``), and none may take values that a caller chooses.
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

# Prometheus, its operator and our scrape configuration put these on every series of a target. A metric's own label
# of the same name would be renamed to ``exported_…``.
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
    """``HTTP_SECONDS`` of these labels. Looking them up takes a lock, so they are looked up once.

    A method that HTTP does not know is ``other``: callers may make up any number of them.
    """
    return HTTP_SECONDS.labels(method if method in _METHODS else "other", route, str(status))


OUTBOX_OLDEST_SECONDS = Gauge(
    "rostrum_outbox_oldest_unpublished_seconds", "Age of the oldest committed message not yet published."
)
OUTBOX_ROWS = Gauge("rostrum_outbox_unpublished_rows", "Committed messages not yet published.")
RELAY_BUCKETS = Gauge("rostrum_relay_buckets", "Shares of the outbox that this messenger publishes; 16 in all.")
PUBLISHED = Counter("rostrum_messages_published_total", "Rows of the outbox by how it went.", ["type", "result"])
PUBLISH_SECONDS = Histogram(
    "rostrum_message_publish_seconds",
    "Time from sending a message to the broker's confirm.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
HANDLED = Counter("rostrum_messages_handled_total", "Messages received by how it went.", ["type", "result"])
HANDLE_SECONDS = Histogram("rostrum_message_handle_seconds", "Time to handle a message, commit included.", ["type"])
REDELIVERED = Counter("rostrum_messages_redelivered_total", "Messages that the broker handed out before.")
CONSUMER_CONNECTED = Gauge(
    "rostrum_consumer_connected", "1 while this messenger is a consumer of the queue, else 0.", ["queue"]
)
CONSUMERS = Gauge("rostrum_consumers", "Messengers that the broker hands out the service's messages to.")
WAITING = Gauge("rostrum_messages_waiting", "Messages in the service's queue that no messenger has received yet.")
DEAD_LETTERS = Gauge("rostrum_dead_letters", "Messages in the service's dead-letter queue.")
PARKED_LETTERS = Gauge("rostrum_parked_letters", "Dead letters that an operator has parked.")

JOB_SECONDS = Histogram(
    "rostrum_job_seconds",
    "Time of one attempt of a job by how it went.",
    ["actor", "result"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)
JOB_BYTES = Histogram(
    "rostrum_job_bytes",
    "Size of what a job worked on: the picture, the archive that came in, the archive that goes out.",
    ["actor"],
    buckets=tuple(4**power * 1024 for power in range(1, 10)),  # 4 KiB to 256 MiB
)
JOBS = Gauge("rostrum_jobs", "Jobs that have not ended, by state.", ["actor", "state"])
JOBS_OLDEST_SECONDS = Gauge(
    "rostrum_jobs_oldest_seconds",
    "Age of the oldest job that has not ended: since it was asked for, or since it was first started.",
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

JWKS_LOADS = Counter("rostrum_jwks_loads_total", "Loads of the token issuer's keys by how it went.", ["result"])
for _result in ("loaded", "failed"):
    JWKS_LOADS.labels(_result)  # there from the start: Prometheus sees no increase in a series that begins with 1

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
    "Time that a task waited when all connections were in use; 5 s is the end of patience.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5),
)
LOOP_LAG_SECONDS = Histogram(
    "rostrum_event_loop_lag_seconds",
    "How much later than asked for the event loop wakes a task, looked at once a second.",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
)
DISK_FREE_BYTES = Gauge("rostrum_disk_free_bytes", "Free space where files are kept.", ["folder"])
DISK_SIZE_BYTES = Gauge("rostrum_disk_size_bytes", "Size of the file system where files are kept.", ["folder"])
BUILD_INFO = Gauge("rostrum_build_info", "1, with what runs.", ["version", "revision", "python"])
TZDATA_INFO = Gauge("rostrum_tzdata_info", "1, with the release of the tz database.", ["version"])
TZDATA_EXPIRES_AT = Gauge(
    "rostrum_tzdata_expires_timestamp_seconds", "From when on this release of the tz database is surely outdated."
)


def _tzdata_expires_at() -> float:
    """The tz database carries one date of its own end: that of its list of leap seconds, renewed twice a year."""
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
    """Tells the space of the file system that ``folder`` is on, or its nearest parent that is there."""

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
    """Keeps ``LOOP_LAG_SECONDS`` of the running loop until the block ends."""

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
