"""Trace context (W3C ``traceparent``): taken from the request or message, begun when there is none, passed on.

Only OpenTelemetry's API is used, so it costs next to nothing until an SDK is set up.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog
from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


@contextmanager
def continued_trace(carrier: Mapping[str, str]) -> Iterator[None]:
    """Makes the trace of ``carrier`` (or a new one) current, and binds ``trace_id`` to the logs."""
    ctx = _propagator.extract(carrier, context=context.Context())
    span = trace.get_current_span(ctx).get_span_context()
    if not span.is_valid:
        span = trace.SpanContext(
            trace_id=secrets.randbits(128) or 1,
            span_id=secrets.randbits(64) or 1,
            is_remote=False,
            trace_flags=trace.TraceFlags(0),
        )
        ctx = trace.set_span_in_context(trace.NonRecordingSpan(span), ctx)
    token = context.attach(ctx)
    try:
        with structlog.contextvars.bound_contextvars(trace_id=trace.format_trace_id(span.trace_id)):
            yield
    finally:
        context.detach(token)


def current_traceparent() -> str | None:
    """The ``traceparent`` to hand on, None outside of any trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")
