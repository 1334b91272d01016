"""Spans on their way to an OTLP receiver over HTTP. The only module that imports OpenTelemetry."""

import threading

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bloom import __version__
from bloom.telemetry.tracing import Attributes

FAREWELL_SEC = 2.0

_CONTEXT = TraceContextTextMapPropagator()


class OtlpSpan:
    """One span under way."""

    def __init__(self, span: Span, parent: str | None) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _CONTEXT.inject(carrier, set_span_in_context(span))
        # None of its own where OpenTelemetry itself is switched off.
        self.traceparent = carrier.get("traceparent", parent)

    def end(self, end_ns: int, error: str | None) -> None:
        """End it, badly if there is an `error`."""
        if error is not None:
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(end_ns)


class OtlpExporter:
    """Sends spans in the background; where to, and how many of them, say OpenTelemetry's own variables."""

    def __init__(self, service: str) -> None:
        own = Resource.create({"service.name": service, "service.version": __version__})
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before ours.
        resource = own.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("bloom", __version__)

    def begin(self, name: str, parent: str | None, start_ns: int, attributes: Attributes) -> OtlpSpan:
        """A span below `parent`."""
        context = _CONTEXT.extract({} if parent is None else {"traceparent": parent})
        return OtlpSpan(self._tracer.start_span(name, context, attributes=attributes, start_time=start_ns), parent)

    def close(self) -> None:
        """Send the rest, if the receiver takes it within two seconds: it must not hold up the end of the process."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FAREWELL_SEC)
