"""Trace context (W3C ``traceparent``): taken from the request or message, begun when there is none, passed on.

Only OpenTelemetry's API is used, so it costs next to nothing until an SDK is set up.
"""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog
from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()


@contextmanager
def continued_trace(carrier: Mapping[str, str], **bound: object) -> Iterator[None]:
    """Makes the trace of ``carrier`` (or a new one) current, and binds ``trace_id`` and ``bound`` to the logs."""
    ctx = context.Context()
    span = trace.INVALID_SPAN_CONTEXT
    if "traceparent" in carrier:
        ctx = _propagator.extract(carrier, context=ctx)
        span = trace.get_current_span(ctx).get_span_context()
    if not span.is_valid:
        span = trace.SpanContext(
            # Nobody must be kept from guessing these, so they need not cost a call of the system.
            trace_id=random.getrandbits(128) or 1,
            span_id=random.getrandbits(64) or 1,
            is_remote=False,
            trace_flags=trace.TraceFlags(0),
        )
        ctx = trace.set_span_in_context(trace.NonRecordingSpan(span), ctx)
    token = context.attach(ctx)
    try:
        with structlog.contextvars.bound_contextvars(trace_id=trace.format_trace_id(span.trace_id), **bound):
            yield
    finally:
        context.detach(token)


def current_traceparent() -> str | None:
    """The ``traceparent`` to hand on, None outside of any trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")
