"""Prometheus metrics of every process; names begin with ``rostrum_``. One process per container serves them."""

from functools import lru_cache

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response

HTTP_SECONDS = Histogram(
    "rostrum_http_request_seconds",
    "Time to answer a request, by route template.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


@lru_cache(maxsize=4096)
def http_seconds(method: str, route: str, status: int) -> Histogram:
    """``HTTP_SECONDS`` of these labels. Looking them up takes a lock, so they are looked up once."""
    return HTTP_SECONDS.labels(method, route, str(status))


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
WAITING = Gauge("rostrum_messages_waiting", "Messages in the service's queue that nobody has taken yet.")
DEAD_LETTERS = Gauge("rostrum_dead_letters", "Messages in the service's dead-letter queue.")
JOB_SECONDS = Histogram(
    "rostrum_job_seconds",
    "Time of one attempt of a job.",
    ["job", "result"],
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600),
)


async def serve_metrics(_: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
