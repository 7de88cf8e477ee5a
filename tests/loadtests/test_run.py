import json
from pathlib import Path

import pytest

from benchmarks.report import Row
from loadtests.run import Endpoint, main, percentile, report_rows, served_columns
from twotower.data.schema import EventColumns


def endpoint(name: str, num_failures: int = 0, p99_ms: float = 20.0) -> Endpoint:
    return Endpoint(name, num_requests=200, num_failures=num_failures, requests_per_s=50.0, p50_ms=5.0, p99_ms=p99_ms)


def gates(rows: list[Row]) -> dict[str, bool]:
    return {row.metric: row.meets_must for row in rows if row.must is not None}


def test_a_fast_run_without_failures_passes_both_gates() -> None:
    measured = [endpoint("/v1/recommend"), endpoint("/v1/events"), endpoint("all")]

    assert gates(report_rows(measured, p99_ms=20, max_failure_ratio=0)) == {"recommend_p99": True, "failure_ratio": True}


def test_a_slow_tail_fails_the_latency_gate() -> None:
    measured = [endpoint("/v1/recommend", p99_ms=20.1), endpoint("/v1/events"), endpoint("all")]

    assert gates(report_rows(measured, p99_ms=20, max_failure_ratio=0)) == {"recommend_p99": False, "failure_ratio": True}


def test_one_failure_in_two_hundred_fails_the_failure_gate() -> None:
    measured = [endpoint("/v1/recommend"), endpoint("/v1/events"), endpoint("all", num_failures=1)]

    rows = report_rows(measured, p99_ms=20, max_failure_ratio=0)

    assert gates(rows) == {"recommend_p99": True, "failure_ratio": False}
    assert rows[-1].value == 0.005


def test_entries_taken_together_are_one_distribution() -> None:
    fast = {"num_requests": 3, "num_failures": 1, "start_time": 0, "last_request_timestamp": 4, "response_times": {"1": 3}}
    slow = {"num_requests": 1, "num_failures": 0, "start_time": 1, "last_request_timestamp": 8, "response_times": {"9": 1}}

    assert Endpoint.of("all", [fast, slow]) == Endpoint("all", 4, 1, requests_per_s=0.5, p50_ms=1.0, p99_ms=9.0)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.5, 0.51, 0.99)] == [2.0, 3.0, 4.0]


def test_without_the_demos_data_it_says_how_to_make_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--store", str(tmp_path / "none")])

    assert status == 2
    assert "make demo ARGS=--once" in capsys.readouterr().err


@pytest.mark.alone
def test_a_short_load_on_a_real_server_is_measured_and_written(
    tiny_shop: Path, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    arguments = ["--store", str(tiny_store), "--events", str(tiny_shop / "events.parquet")]
    status = main([*arguments, "--duration", "8", "--users", "2", "--p99-ms", "5000"])

    report = json.loads((tmp_path / "build" / "bench" / "loadtest.json").read_text())
    figures = {row["metric"]: row["value"] for row in report["rows"]}
    assert status == 0
    assert figures["failure_ratio"] == 0
    assert figures["requests_per_s"] > 1
    assert figures.keys() >= {"recommend_p50", "recommend_p99", "events_p50", "events_p99"}


def test_the_columns_of_the_log_are_those_of_the_served_release(tiny_store: Path, tmp_path: Path) -> None:
    assert served_columns(tiny_store).features == {"price_paid": "numeric", "channel": "categorical"}
    assert served_columns(tmp_path) == EventColumns()
