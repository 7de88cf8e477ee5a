"""OpenTelemetry traces, for those who collect them: each reported request as a span, with a span for each of its stages.

Spans are made once the request is answered, of its trail: while it is served tracing costs nothing.
"""

import threading
import time
from typing import TYPE_CHECKING

from service.telemetry.trail import Trail
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
    # A thread sends them; its queue drops what a collector that is down or slow does not take.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url, timeout=EXPORT_TIMEOUT_S)))
    return Traces(provider)


class Traces:
    """Makes spans of trails."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer("twotower")

    def __call__(self, trail: Trail) -> None:
        """One span for the request, below the caller's where it sent a traceparent, and one for each stage."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        shift_s = time.time() - time.perf_counter()

        def at(moment_s: float) -> int:
            return int((moment_s + shift_s) * 1e9)

        parent = TraceContextTextMapPropagator().extract({"traceparent": trail.traceparent})
        root = self._tracer.start_span(
            f"{trail.method} {trail.route}",
            parent,
            SpanKind.SERVER,
            {
                "http.request.method": trail.method,
                "http.route": trail.route,
                "http.response.status_code": trail.status,
                "twotower.request_id": trail.request_id,
                "twotower.artefacts.release": trail.release or "",
            },
            start_time=at(trail.started_s),
        )
        if trail.status >= 500:
            root.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(root)
        for name, started_s, ended_s in trail.stages:
            self._tracer.start_span(name, inside, start_time=at(started_s)).end(at(ended_s))
        root.end(at(trail.ended_s))

    def close(self) -> None:
        """Send what waits; a collector that does not answer is given up."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(EXPORT_TIMEOUT_S)
