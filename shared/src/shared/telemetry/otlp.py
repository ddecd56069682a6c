"""OpenTelemetry's SDK, configured by its own environment variables. Imported only where traces are exported."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def new_provider(name: str) -> TracerProvider:
    """Return a provider that sends spans in the background, in batches. ``shutdown`` sends the last ones."""
    resource = Resource.create({"service.namespace": "rostrum", "service.name": name})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
