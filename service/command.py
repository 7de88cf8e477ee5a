"""`twotower serve`: one server process."""

import argparse
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from twotower.errors import EnvironmentProblem
from twotower.sqlite_file import sqlite_path

if TYPE_CHECKING:
    from service.history import HistoryStore
    from service.metrics import Metrics
    from service.settings import Settings
    from twotower.delta import DeltaStore


def main(argv: list[str]) -> int:
    """Serve the current release of a store until SIGTERM or SIGINT; 0 after a clean end."""
    arguments = parser().parse_args(argv)
    settings = make_settings({k: v for k, v in vars(arguments).items() if v is not None})
    return serve(settings)


def parser() -> argparse.ArgumentParser:
    """The command line; what it leaves out comes from TWOTOWER_* variables, then from the defaults."""
    result = argparse.ArgumentParser("twotower serve", description="Serve the current release of a store over HTTP.")
    result.add_argument("--store", help="directory or s3://BUCKET/PREFIX, as `twotower embed` writes it (TWOTOWER_STORE)")
    result.add_argument("--verify-key", type=Path, metavar="PEM", help="refuse what it did not sign (TWOTOWER_VERIFY_KEY)")
    result.add_argument("--variants", type=Path, metavar="TOML", help="arms, shadow and canary (TWOTOWER_VARIANTS)")
    result.add_argument("--host", help="address to listen on (127.0.0.1)")
    result.add_argument("--port", type=int, help="port to listen on; 0 takes a free one (8000)")
    result.add_argument("--history", metavar="URL", help="sqlite:///FILE, redis://... or rediss://... (sqlite:///history.db)")
    result.add_argument("--delta", metavar="URL", help="sqlite:///FILE for what /v1/items is told (delta.db beside --history)")
    result.add_argument(
        "--insecure", action="store_true", default=None, help="allow an address that others can reach, without keys"
    )
    return result


def make_settings(given: dict[str, Any]) -> "Settings":
    """Settings of the values given; EnvironmentProblem in one line per value that is wrong."""
    from pydantic import ValidationError

    from service.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [": ".join([*map(str, e["loc"]), e["msg"].removeprefix("Value error, ")]) for e in error.errors()]
        hint = " (give --store, or set TWOTOWER_STORE)" if any(e["loc"] == ("store",) for e in error.errors()) else ""
        raise EnvironmentProblem("cannot serve: " + "; ".join(lines) + hint) from error


def serve(settings: "Settings") -> int:
    """Take the port, load the release, open the history, answer."""
    with listen(settings.host, settings.port) as listener:
        import uvicorn
        from prometheus_client import CollectorRegistry

        from service.app import build_app
        from service.metrics import Metrics
        from service.source import first_release, source_of

        release, metrics = first_release(source_of(settings)), Metrics(CollectorRegistry())
        history = open_history(settings, metrics)
        app = build_app(settings, release, history, metrics, open_delta(settings))
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
        )
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"

        class Server(uvicorn.Server):
            """Says when it is ready."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                sys.stdout.write(f"serving release {release.id} ({len(release):,} items) on {address} - try {address}/docs\n")
                sys.stdout.flush()

        # uvicorn drains, then raises the signal again for whoever started it: that is us, and all is well.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        Server(config).run(sockets=[listener])
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; EnvironmentProblem when the port is taken or the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise EnvironmentProblem(f"cannot listen on {host}:{port}: {error.strerror or error}. Choose another --port.") from error
    return listener


def open_history(settings: "Settings", metrics: "Metrics") -> "HistoryStore":
    """The store that the URL names, the last users remembered; EnvironmentProblem for a URL or a place that cannot be used."""
    from service.remembered import RememberedHistories

    histories = RememberedHistories(
        open_history_store(settings, metrics), settings.history_cache_mb * 2**20, metrics.history_rollbacks.inc
    )
    metrics.history_cache.set_function(lambda: histories.num_bytes)
    return histories


def open_history_store(settings: "Settings", metrics: "Metrics") -> "HistoryStore":
    """The store that the URL names."""
    if path := sqlite_path(settings.history):
        from service.sqlite_history import SqliteHistory

        return SqliteHistory(path)
    if settings.history.startswith(("redis://", "rediss://")):
        from service.redis_history import RedisHistory

        try:
            redis = RedisHistory(settings.history, settings.redis_timeout_s, settings.redis_ttl_days)
        except (TypeError, ValueError) as error:  # a TypeError for an option of the URL that there is not
            raise EnvironmentProblem(f"--history is no Redis URL: {error}") from error
        metrics.circuit.labels("history").set_function(lambda: redis.breaker.is_open)
        return redis
    # Not the URL itself: it may hold a password.
    raise EnvironmentProblem(
        "--history must be sqlite:///FILE (sqlite:////FILE for an absolute path), redis://... or rediss://..."
    )


def open_delta(settings: "Settings") -> "DeltaStore | None":
    """Where item changes live; None without a place for them. EnvironmentProblem for one that cannot be used."""
    from twotower.delta import DeltaStore

    if settings.delta is None:
        history = sqlite_path(settings.history)
        return DeltaStore(history.with_name("delta.db")) if history else None
    if path := sqlite_path(settings.delta):
        return DeltaStore(path)
    raise EnvironmentProblem("--delta must be sqlite:///FILE (sqlite:////FILE for an absolute path)")


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
