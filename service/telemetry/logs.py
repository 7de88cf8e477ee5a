"""The log: JSON lines on stderr. A separate thread writes them, so that the server never waits for a reader that has stalled."""

import hashlib
import logging
import os
import queue
import re
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from service.settings import Settings
from service.telemetry.request_record import RequestRecord

MAX_WAITING = 1000  # lines in the queue; a reader that is further behind has probably stopped reading
_FLUSH_S = 1.0
_requests = logging.getLogger("twotower.requests")
_settings = logging.getLogger("twotower.settings")
_PASSWORD = re.compile(r"(?<=://)[^/@]*@|\?.*")


class LineWriter:
    """Writes lines to a file descriptor. A line that does not fit into the queue is dropped, and `on_drop` is called."""

    def __init__(self, descriptor: int, on_drop: Callable[[], None]) -> None:
        self._descriptor, self._on_drop = descriptor, on_drop
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Queue the line, to be written soon; never waits."""
        try:
            self._lines.put_nowait(line + b"\n")
        except queue.Full:
            self._on_drop()

    def close(self) -> None:
        """Write the queued lines, then stop. Gives up after about two seconds if nobody reads."""
        try:
            self._lines.put(None, timeout=_FLUSH_S)
            self._thread.join(_FLUSH_S)
        except queue.Full:
            pass  # nobody reads the lines; the thread ends with the process

    def _write(self) -> None:
        # Not through sys.stderr: a blocked write would hold its lock, and Python waits for that lock at its exit.
        while (line := self._lines.get()) is not None:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                self._on_drop()  # the reader is gone, or the disk is full


class JsonHandler(logging.Handler):
    """Formats log records as JSON lines. So a message with a line break in it cannot forge a further line."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one record to the writer, as a JSON line."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"ts": moment, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage()} | getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = logging.Formatter().formatException(record.exc_info)
        self._writer.put(msgspec.json.encode(line))


def log_to(writer: LineWriter) -> None:
    """Send all log records of this process to the writer, and nowhere else."""
    logging.basicConfig(level=logging.WARNING, handlers=[JsonHandler(writer)], force=True)
    logging.getLogger("twotower").setLevel(logging.INFO)


class RequestLog:
    """Logs one line for each reported request. Bodies are left out, and user ids are hashed."""

    def __init__(self, hash_key: str | None) -> None:
        self._key = hashlib.sha256(hash_key.encode()).digest() if hash_key else secrets.token_bytes(32)

    def __call__(self, record: RequestRecord) -> None:
        """Log one request from its record."""
        stages: dict[str, float] = {}
        for name, started_s, ended_s in record.stages:
            stages[name] = round(stages.get(name, 0) + (ended_s - started_s) * 1000, 3)
        fields = {
            "request_id": record.request_id,
            "trace_id": record.trace_id,
            "method": record.method,
            "route": record.route,
            "status": record.status,
            "ms": round(record.duration_s * 1000, 3),
            "stages_ms": stages,
            "release": record.release,
            "key_id": record.key_id,
            "user": self.hashed(record.user_id),
        }
        _requests.log(logging.ERROR if record.status >= 500 else logging.INFO, "request", extra={"fields": fields})

    def hashed(self, user_id: str | None) -> str | None:
        """The keyed hash of a user id: always the same for one user, and without the key nobody can find it by trying ids."""
        return None if user_id is None else hashlib.blake2b(user_id.encode(), digest_size=12, key=self._key).hexdigest()


def log_settings(settings: Settings) -> None:
    """Log the settings of this process in one line, without secrets."""
    _settings.info("settings", extra={"fields": {"settings": redacted(settings)}})


def redacted(settings: Settings) -> dict[str, Any]:
    """The settings without secrets: URLs lose their user part and their query, and secret values are masked."""
    shown = settings.model_dump(mode="json")
    return {name: _PASSWORD.sub("", value) if isinstance(value, str) else value for name, value in shown.items()}
