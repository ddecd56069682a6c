"""One trace leads from the request to the handler, through outbox and bus."""

import asyncio
from collections.abc import Iterator
from typing import Any, ClassVar
from uuid import UUID

import httpx
import pytest
from asgi_lifespan import LifespanManager
from fastapi import APIRouter, FastAPI
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_trace_id
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from shared.contracts.envelope import Envelope, Message
from shared.database.engine import Sessions
from shared.http.app import new_app
from shared.http.dependencies import SessionDep
from shared.ids import new_id
from shared.messaging import outbox
from shared.messaging.connection import connect
from shared.messaging.consumer import Consumer
from shared.messaging.inbox import Subscription
from shared.messaging.relay import Relay
from shared.messaging.topology import declare_queue
from shared.settings import Settings
from shared.telemetry.traces import current_traceparent, spans_made_by
from testkit.plugin import delete_queues

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with spans_made_by(provider):
        yield exporter


def message_class(service: str) -> type[Message]:
    class Painted(Message):
        message_type: ClassVar[str] = f"{service}.wall.painted.v1"

    return Painted


def app_of(settings: Settings, painted: type[Message]) -> FastAPI:
    router = APIRouter()

    @router.post("/v1/walls/{wall}")
    async def paint(wall: UUID, session: SessionDep) -> str | None:
        await outbox.add(session, painted(organizer="acme"), subject=wall, seq=1)
        return current_traceparent()

    return new_app(settings, [router], title="Probe", description="")


def client_of(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://probe.test")


async def test_the_request_the_publishing_and_the_handling_of_a_message_are_one_trace(
    settings: Settings, engine: AsyncEngine, sessions: Sessions, spans: InMemorySpanExporter
) -> None:
    painted = message_class(settings.service)
    handled = asyncio.Event()
    stopping = asyncio.Event()

    async def on_painted(session: AsyncSession, message: Any, envelope: Envelope) -> None:
        handled.set()

    async with await connect(settings, "test") as broker:
        channel = await broker.channel()
        await declare_queue(channel, settings.service, [painted.message_type])
        app = app_of(settings, painted)
        async with LifespanManager(app), client_of(app) as client:
            answer = await client.post(f"/v1/walls/{new_id()}", headers={"traceparent": TRACEPARENT})
            assert answer.status_code == 200
        subscriptions = [Subscription(painted, on_painted, keep="latest")]
        roles = [
            asyncio.create_task(Relay(settings).run(stopping)),
            asyncio.create_task(Consumer(settings, sessions, subscriptions).run(stopping)),
        ]
        async with asyncio.timeout(20):
            await handled.wait()
        stopping.set()
        await asyncio.gather(*roles)
        await delete_queues(channel, settings.service)

    found = {span.name: span for span in spans.get_finished_spans()}
    request = found["POST /v1/walls/{wall}"]
    sent, processed = found[f"send {painted.message_type}"], found[f"process {painted.message_type}"]
    assert [span.kind for span in (request, sent, processed)] == [
        SpanKind.SERVER,
        SpanKind.PRODUCER,
        SpanKind.CONSUMER,
    ]
    assert {_trace(span) for span in (request, sent, processed)} == {TRACE}
    assert _parent(sent) == _parent(processed) == _id(request)
    assert dict(request.attributes or {})["http.response.status_code"] == 200


async def test_where_no_spans_are_exported_the_trace_is_handed_on_all_the_same(
    settings: Settings, engine: AsyncEngine
) -> None:
    app = app_of(settings, message_class(settings.service))
    async with LifespanManager(app), client_of(app) as client:
        answer = await client.post(f"/v1/walls/{new_id()}", headers={"traceparent": TRACEPARENT})
        assert answer.json() == TRACEPARENT


def _trace(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_trace_id(span.context.trace_id)


def _id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def _parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None
