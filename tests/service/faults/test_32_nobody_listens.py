"""A log that nobody reads and a collector that does not answer: what is lost is counted, and nobody waits."""

import os
import socket
import time
from pathlib import Path

import httpx
import pytest

from tests.service.faults.live_server import Live, live

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def log_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWOTOWER_LOG_SAMPLE_RATE", "1")


def slowest_s(server: Live, count: int) -> float:
    """The longest of many requests."""
    longest = 0.0
    with httpx.Client(base_url=server.url) as http:
        for _ in range(count):
            started = time.monotonic()
            assert http.post("/v1/recommend", json={}).status_code == 200
            longest = max(longest, time.monotonic() - started)
    return longest


def test_a_log_that_is_not_read_stops_nothing_and_what_is_lost_is_counted(tiny_store: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb") as pipe, live(tiny_store, tmp_path, stderr=pipe) as server:
        assert slowest_s(server, 1600) < 1.0  # a pipe holds some 200 lines, and 1,000 wait
        assert "twotower_log_lines_dropped_total 0.0" not in httpx.get(f"{server.url}/metrics").text
        server.process.terminate()
        assert server.process.wait(timeout=15) == 0


def test_a_log_whose_reader_is_gone_stops_nothing(tiny_store: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as pipe, live(tiny_store, tmp_path, stderr=pipe) as server:
        os.close(reader)
        assert slowest_s(server, 50) < 1.0
        server.process.terminate()
        assert server.process.wait(timeout=15) == 0


def test_a_collector_that_never_answers_stops_nothing(tiny_store: Path, tmp_path: Path) -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        url = f"http://127.0.0.1:{hole.getsockname()[1]}/v1/traces"
        with live(tiny_store, tmp_path, "--otlp", url) as server:
            assert slowest_s(server, 600) < 1.0
            server.process.terminate()
            assert server.process.wait(timeout=25) == 0


def test_a_collector_that_is_not_there_stops_nothing(tiny_store: Path, tmp_path: Path) -> None:
    with live(tiny_store, tmp_path, "--otlp", "http://127.0.0.1:9/v1/traces") as server:
        assert slowest_s(server, 100) < 1.0
        server.process.terminate()
        assert server.process.wait(timeout=25) == 0
