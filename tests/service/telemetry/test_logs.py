import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from service.telemetry.logs import MAX_WAITING, JsonHandler, LineWriter, RequestLog, redacted
from service.telemetry.request_record import RequestRecord


def test_lines_are_written_whole_and_in_order() -> None:
    reader, descriptor = os.pipe()
    writer = LineWriter(descriptor, pytest.fail)
    for number in range(100):
        writer.put(b"%d" % number)
    writer.close()
    os.close(descriptor)
    with os.fdopen(reader, "rb") as log:
        assert log.read().split() == [b"%d" % number for number in range(100)]


def test_when_nobody_reads_lines_are_dropped_and_counted_and_nobody_waits() -> None:
    reader, descriptor = os.pipe()
    dropped: list[int] = []
    writer = LineWriter(descriptor, lambda: dropped.append(1))
    started = time.monotonic()
    for _ in range(MAX_WAITING + 500):
        writer.put(b"x" * 1000)
    assert time.monotonic() - started < 1
    assert 0 < len(dropped) <= 500
    writer.close()
    assert time.monotonic() - started < 4
    os.close(reader)  # which frees the thread
    assert not redacted(Settings(store=Path("s")))["insecure"]
    writer._thread.join(5)
    os.close(descriptor)


class Written(JsonHandler):
    """Keeps its lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.lines: list[dict[str, Any]] = []
        self._writer: Any = self

    def put(self, line: bytes) -> None:
        self.lines.append(json.loads(line))


def test_a_record_is_one_line_whatever_it_says() -> None:
    written = Written()
    record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, 'a\n{"level": "%s"}', ("\x1b\u2028",), None)
    written.emit(record)
    (line,) = written.lines
    assert (line["level"], line["logger"]) == ("warning", "uvicorn.error")
    assert line["message"] == 'a\n{"level": "\x1b\u2028"}'


def test_an_exception_is_in_its_line() -> None:
    written = Written()
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        written.emit(logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), sys.exc_info()))
    assert "ZeroDivisionError" in written.lines[0]["exception"]


def test_a_request_is_logged_with_its_stages_and_without_its_user(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "twotower.requests")
    record = RequestRecord("id-1", 1.0, "", "POST", "/v1/recommend", 200, 1.25, "web", "ann", "release-1")
    record.stages += [("history", 1.0, 1.1), ("engine", 1.1, 1.2)]
    RequestLog("key")(record)
    fields: dict[str, Any] = vars(caplog.records[0])["fields"]
    assert fields.pop("user") not in (None, "ann")
    assert fields == {
        "request_id": "id-1",
        "trace_id": None,
        "method": "POST",
        "route": "/v1/recommend",
        "status": 200,
        "ms": 250.0,
        "stages_ms": {"history": 100.0, "engine": 100.0},
        "release": "release-1",
        "key_id": "web",
    }
    assert caplog.records[0].levelno == logging.INFO


def test_the_same_user_has_the_same_hash_under_the_same_key_alone() -> None:
    assert RequestLog("a").hashed("ann") == RequestLog("a").hashed("ann") != RequestLog("b").hashed("ann")
    assert RequestLog(None).hashed("ann") != RequestLog(None).hashed("ann")
    assert RequestLog("a").hashed(None) is None


def test_settings_are_shown_without_secrets() -> None:
    shown = redacted(
        Settings(
            store=Path("store"),
            history="rediss://user:hunter2@host:1/0?password=hunter2",
            log_hash_key="hunter2",  # type: ignore[arg-type]
            otlp="http://user:hunter2@collector:4318/v1/traces",
        )
    )
    assert "hunter2" not in json.dumps(shown)
    assert (shown["history"], shown["otlp"]) == ("rediss://host:1/0", "http://collector:4318/v1/traces")
    assert shown["port"] == 8000
