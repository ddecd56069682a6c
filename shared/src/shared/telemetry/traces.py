"""Traces (W3C ``traceparent``): taken from the request or message, begun when there is none, passed on.

Ids go into logs, calls and messages always. Spans are made and exported only where ``OTEL_EXPORTER_OTLP_ENDPOINT``
is set, and OpenTelemetry's SDK is not even imported elsewhere; its other settings are its own environment variables
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
    """Exports the process's spans while the block runs, if there is somewhere to; sends the last ones at its end.

    In the process that does the work, as the sending thread does not survive a fork.
    """
    if not settings.otel_exporter_otlp_endpoint:
        yield
        return
    from shared.telemetry.otlp import new_provider  # noqa: PLC0415 - half a second and 15 MB that others need not pay

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
    """Makes a span below that of ``carrier``, or a new trace, and binds ``trace_id`` and ``bound`` to the logs."""
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
    present = trace.get_current_span(parent).get_span_context()
    if not present.is_valid:
        present = trace.SpanContext(
            # Nobody must be kept from guessing these, so they need not cost a call of the system.
            trace_id=random.getrandbits(128) or 1,
            span_id=random.getrandbits(64) or 1,
            is_remote=False,
            trace_flags=trace.TraceFlags(0),
        )
        parent = trace.set_span_in_context(trace.NonRecordingSpan(present), parent)
    token = context.attach(parent)
    try:
        with structlog.contextvars.bound_contextvars(trace_id=trace.format_trace_id(present.trace_id), **bound):
            yield trace.INVALID_SPAN
    finally:
        context.detach(token)


def is_exporting() -> bool:
    return _tracer is not None


@contextmanager
def span(
    name: str, kind: SpanKind, attributes: Attributes | None = None, *, below: str | None = None
) -> Iterator[None]:
    """A span below the current one, or below that of the ``traceparent`` given; nothing where none are exported."""
    if _tracer is None:
        yield
        return
    parent = _propagator.extract({"traceparent": below}, context=context.Context()) if below else None
    with _tracer.start_as_current_span(name, context=parent, kind=kind, attributes=attributes):
        yield


def current_traceparent() -> str | None:
    """The ``traceparent`` to hand on, None outside of any trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")
