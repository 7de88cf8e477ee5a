import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.telemetry.request_record import RequestRecord
from service.telemetry.tracing import Traces, open_traces
from twotower.errors import EnvironmentProblem

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_is_a_span_below_its_callers_with_its_stages_below_it() -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    record = RequestRecord("r", 10.0, PARENT, "POST", "/v1/recommend", 504, 10.5)
    record.stages += [("history", 10.0, 10.1), ("engine", 10.1, 10.5)]

    Traces(provider)(record)

    history, engine, root = kept.get_finished_spans()
    assert [s.name for s in (history, engine, root)] == ["history", "engine", "POST /v1/recommend"]
    assert root.parent is not None
    assert root.context is not None
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (PARENT[3:35], PARENT[36:52])
    assert history.parent == engine.parent == root.context
    assert root.start_time is not None
    assert root.end_time is not None
    assert root.end_time - root.start_time == pytest.approx(0.5e9, abs=1000)
    assert root.attributes is not None
    assert root.attributes["http.response.status_code"] == 504
    assert not root.status.is_ok


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(EnvironmentProblem, match=r"twotower\[otel\]"):
        open_traces("http://127.0.0.1:9/v1/traces")
