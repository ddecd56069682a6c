"""Traces (W3C ``traceparent``): continued from the request or message, or started, and propagated.

Ids always go into logs, calls and messages. Spans exist only where ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set, and
OpenTelemetry's SDK is not imported elsewhere. Its other settings are its own environment variables
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog
from opentelemetry import context, trace
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.settings import Settings

_propagator = TraceContextTextMapPropagator()
_tracer: trace.Tracer | None = None

Attributes = Mapping[str, str | int]


@contextmanager
def exported_traces(settings: Settings, role: str) -> Iterator[None]:
    """Export the process's spans during the block, if an endpoint is set, and send the last ones at its end.

    Call it in the process that does the work, because the sending thread does not survive a fork.
    """
    if not settings.otel_exporter_otlp_endpoint:
        yield
        return
    from shared.telemetry.otlp import new_provider  # noqa: PLC0415 - takes time and memory

    provider = new_provider(f"{settings.service}.{role}")
    try:
        with spans_made_by(provider):
            yield
    finally:
        provider.shutdown()


@contextmanager
def spans_made_by(provider: trace.TracerProvider) -> Iterator[None]:
    global _tracer
    _tracer = provider.get_tracer("rostrum")
    try:
        yield
    finally:
        _tracer = None


@contextmanager
def continued_trace(
    carrier: Mapping[str, str], name: str, kind: SpanKind, attributes: Attributes | None = None, **bound: object
) -> Iterator[trace.Span]:
    """Make a child span of ``carrier``'s, or a new trace, and bind ``trace_id`` and ``bound`` to the logs."""
    parent = (
        _propagator.extract(carrier, context=context.Context()) if "traceparent" in carrier else context.Context()
    )
    if _tracer is not None:
        with (
            _tracer.start_as_current_span(name, context=parent, kind=kind, attributes=attributes) as span,
            structlog.contextvars.bound_contextvars(
                trace_id=trace.format_trace_id(span.get_span_context().trace_id), **bound
            ),
        ):
            yield span
        return
    current = trace.get_current_span(parent).get_span_context()
    if not current.is_valid:
        current = trace.SpanContext(
            # Ids need not be unguessable, so skip the system call.
            trace_id=random.getrandbits(128) or 1,
            span_id=random.getrandbits(64) or 1,
            is_remote=False,
            trace_flags=trace.TraceFlags(0),
        )
        parent = trace.set_span_in_context(trace.NonRecordingSpan(current), parent)
    token = context.attach(parent)
    try:
        with structlog.contextvars.bound_contextvars(trace_id=trace.format_trace_id(current.trace_id), **bound):
            yield trace.INVALID_SPAN
    finally:
        context.detach(token)


@contextmanager
def span(
    name: str, kind: SpanKind, attributes: Attributes | None = None, *, parent: str | None = None
) -> Iterator[None]:
    """Make a child span of the current one, or of the ``traceparent`` given. Do nothing if none are exported."""
    if _tracer is None:
        yield
        return
    given = _propagator.extract({"traceparent": parent}, context=context.Context()) if parent else None
    with _tracer.start_as_current_span(name, context=given, kind=kind, attributes=attributes):
        yield


def current_traceparent() -> str | None:
    """Return the ``traceparent`` to propagate, None outside of any trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")
