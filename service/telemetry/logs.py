"""The log: JSON lines on stderr, written by a thread of their own so that a reader that stalls stalls nobody else."""

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
from service.telemetry.trail import Trail

MAX_WAITING = 1000  # lines; a reader that is so far behind has stopped reading
_FLUSH_S = 1.0
_requests = logging.getLogger("twotower.requests")
_settings = logging.getLogger("twotower.settings")
_PASSWORD = re.compile(r"(?<=://)[^/@]*@|\?.*")


class LineWriter:
    """Writes lines to a file descriptor. What does not fit into its queue is dropped, and `on_drop` called."""

    def __init__(self, descriptor: int, on_drop: Callable[[], None]) -> None:
        self._descriptor, self._on_drop = descriptor, on_drop
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Write the line some time; never waits."""
        try:
            self._lines.put_nowait(line + b"\n")
        except queue.Full:
            self._on_drop()

    def close(self) -> None:
        """Write what waits, if that takes no longer than a second."""
        try:
            self._lines.put(None, timeout=_FLUSH_S)
            self._thread.join(_FLUSH_S)
        except queue.Full:
            pass  # nobody reads; the thread ends with the process

    def _write(self) -> None:
        # Not sys.stderr: Python waits for its lock when it ends, which a blocked write would hold.
        while (line := self._lines.get()) is not None:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                self._on_drop()  # the reader is gone, or the disk is full


class JsonHandler(logging.Handler):
    """Log records as JSON lines: the text of a message can never look like another line."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the line to the writer."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"ts": moment, "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage()} | getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = logging.Formatter().formatException(record.exc_info)
        self._writer.put(msgspec.json.encode(line))


def log_to(writer: LineWriter) -> None:
    """Send every log of this process to the writer, and to nowhere else."""
    logging.basicConfig(level=logging.WARNING, handlers=[JsonHandler(writer)], force=True)
    logging.getLogger("twotower").setLevel(logging.INFO)


class RequestLog:
    """One line for each request reported, without bodies and without ids in clear."""

    def __init__(self, hash_key: str | None) -> None:
        self._key = hashlib.sha256(hash_key.encode()).digest() if hash_key else secrets.token_bytes(32)

    def __call__(self, trail: Trail) -> None:
        """Log what the request did."""
        stages: dict[str, float] = {}
        for name, started_s, ended_s in trail.stages:
            stages[name] = round(stages.get(name, 0) + (ended_s - started_s) * 1000, 3)
        fields = {
            "request_id": trail.request_id,
            "trace_id": trail.trace_id,
            "method": trail.method,
            "route": trail.route,
            "status": trail.status,
            "ms": round(trail.duration_s * 1000, 3),
            "stages_ms": stages,
            "release": trail.release,
            "key_id": trail.key_id,
            "user": self.hashed(trail.user_id),
        }
        _requests.log(logging.ERROR if trail.status >= 500 else logging.INFO, "request", extra={"fields": fields})

    def hashed(self, user_id: str | None) -> str | None:
        """A user as the log knows them: the same user has the same hash, and nobody without the key can try ids."""
        return None if user_id is None else hashlib.blake2b(user_id.encode(), digest_size=12, key=self._key).hexdigest()


def log_settings(settings: Settings) -> None:
    """One line that says how this process is set up; what may hold a secret is left out."""
    _settings.info("settings", extra={"fields": {"settings": redacted(settings)}})


def redacted(settings: Settings) -> dict[str, Any]:
    """The settings without passwords: of URLs their user part and query, of secrets everything."""
    shown = settings.model_dump(mode="json")
    return {name: _PASSWORD.sub("", value) if isinstance(value, str) else value for name, value in shown.items()}
