"""OpenTelemetry traces: each reported request becomes a span, with a child span for each of its stages.

Spans are made from the request's record after it was answered, so tracing costs no time while the request is served.
"""

import threading
import time
from typing import TYPE_CHECKING

from service.telemetry.request_record import RequestRecord
from twotower.errors import EnvironmentProblem

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

EXPORT_TIMEOUT_S = 5.0


def open_traces(url: str) -> "Traces":
    """Traces sent to an OTLP collector; EnvironmentProblem when OpenTelemetry is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise EnvironmentProblem("--otlp needs OpenTelemetry: pip install 'twotower[otel]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "twotower"}), shutdown_on_exit=False)
    # A thread of its own sends the spans. When the collector is down or slow, the queue fills up and further spans are dropped.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_TIMEOUT_S)))
    return Traces(provider)


class Traces:
    """Turns request records into spans and sends them."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("twotower")

    def __call__(self, record: RequestRecord) -> None:
        """Send a span for the request and one for each stage. Its parent is the caller's span if it sent a traceparent."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        shift_s = time.time() - time.perf_counter()

        def at(moment_s: float) -> int:
            return int((moment_s + shift_s) * 1e9)

        parent = TraceContextTextMapPropagator().extract({"traceparent": record.traceparent})
        root = self._tracer.start_span(
            f"{record.method} {record.route}",
            parent,
            SpanKind.SERVER,
            {
                "http.request.method": record.method,
                "http.route": record.route,
                "http.response.status_code": record.status,
                "twotower.request_id": record.request_id,
                "twotower.release": record.release or "",
            },
            start_time=at(record.started_s),
        )
        if record.status >= 500:
            root.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(root)
        for name, started_s, ended_s in record.stages:
            self._tracer.start_span(name, inside, start_time=at(started_s)).end(at(ended_s))
        root.end(at(record.ended_s))

    def close(self) -> None:
        """Send the spans that still wait. Gives up after `EXPORT_TIMEOUT_S` if the collector does not answer."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(EXPORT_TIMEOUT_S)
