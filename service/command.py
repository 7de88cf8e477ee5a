"""`twotower serve`: one server process, or several on one port."""

import argparse
import gc
import os
import secrets
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from service.process.supervisor import Promise, supervise
from twotower.artefacts.sqlite_file import sqlite_path
from twotower.device_option import add_device_option
from twotower.errors import EnvironmentProblem

if TYPE_CHECKING:
    from service.histories.history import HistoryStore
    from service.settings import Settings
    from service.telemetry.metrics import Metrics
    from twotower.artefacts.item_changes import DeltaStore


def main(argv: list[str]) -> int:
    """Serve the current release of a store until SIGTERM or SIGINT; 0 after a clean end."""
    arguments = parser().parse_args(argv)
    settings = make_settings({k: v for k, v in vars(arguments).items() if v is not None})
    return serve(settings)


def parser() -> argparse.ArgumentParser:
    """The command line. An option that is left out comes from its TWOTOWER_* variable, then from its default."""
    result = argparse.ArgumentParser("twotower serve", description="Serve the current release of a store over HTTP.")
    result.add_argument("--store", help="directory or s3://BUCKET/PREFIX that `twotower embed` wrote to (TWOTOWER_STORE)")
    result.add_argument("--verify-key", type=Path, metavar="PEM", help="serve only releases signed by it (TWOTOWER_VERIFY_KEY)")
    result.add_argument("--variants", type=Path, metavar="TOML", help="defines arms, shadow and canary (TWOTOWER_VARIANTS)")
    result.add_argument("--host", help="address to listen on (127.0.0.1)")
    result.add_argument("--port", type=int, help="port to listen on; 0 takes a free one (8000)")
    result.add_argument("--workers", type=int, metavar="N", help="server processes that share the port (1)")
    result.add_argument(
        "--engine", choices=("thread", "process"), help="run the model in the server or in a process of its own (thread)"
    )
    add_device_option(result, default=None, told_default="cpu")
    result.add_argument("--dtype", choices=("auto", "fp32", "bf16"), help="of products on a CPU; auto measures first (fp32)")
    result.add_argument("--history", metavar="URL", help="sqlite:///FILE, redis://... or rediss://... (sqlite:///history.db)")
    result.add_argument("--delta", metavar="URL", help="sqlite:///FILE for the changes of /v1/items (delta.db beside --history)")
    result.add_argument("--keys", type=Path, metavar="FILE", help="API keys; `twotower keys new` makes them (TWOTOWER_KEYS)")
    result.add_argument("--admin-port", type=int, help="port for /metrics, /docs and /v1/releases, on TWOTOWER_ADMIN_HOST")
    result.add_argument("--keep-alive-s", type=float, metavar="S", help="how long an idle connection is kept open (75)")
    result.add_argument(
        "--behaviorgpt", action="store_true", default=None, help="answer the Python client behaviorgpt too: docs/behaviorgpt.md"
    )
    result.add_argument("--otlp", metavar="URL", help="where to send OpenTelemetry traces, such as http://HOST:4318/v1/traces")
    result.add_argument(
        "--insecure", action="store_true", default=None, help="allow an address that other machines can reach, without API keys"
    )
    return result


def make_settings(given: dict[str, Any]) -> "Settings":
    """Settings from the given values; EnvironmentProblem that names every value that is wrong."""
    from pydantic import ValidationError

    from service.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [": ".join([*map(str, e["loc"]), e["msg"].removeprefix("Value error, ")]) for e in error.errors()]
        hint = " (give --store, or set TWOTOWER_STORE)" if any(e["loc"] == ("store",) for e in error.errors()) else ""
        raise EnvironmentProblem("cannot serve: " + "; ".join(lines) + hint) from error


def serve(settings: "Settings") -> int:
    """Open the port, then serve from one process or several; returns the exit status."""
    from pydantic import SecretStr

    if settings.log_hash_key is None:  # one key for all processes: their logs are read together
        settings = settings.model_copy(update={"log_hash_key": SecretStr(secrets.token_hex())})
    with listen(settings.host, settings.port) as listener:
        if settings.workers == 1:
            return work(settings, listener)
        return supervise(settings.workers, lambda index, promise: work(settings, listener, index, promise))


def work(settings: "Settings", listener: socket.socket, index: int = 0, promise: Promise = lambda _: None) -> int:
    """Run one server process: load the release, open the history, answer until a signal ends it.

    Ends the process; its exit status is 0 after a signal and 1 when the engine was lost.
    """
    # Must be set before numpy is imported. On small matrices numpy's threads wait for one another more than they work.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(settings.torch_threads))
    import uvicorn
    from prometheus_client import CollectorRegistry

    from service.app import build_app
    from service.engine.thread import TURN_S
    from service.http.protocol import protocol
    from service.process.server import Server
    from service.release.source import first_release, source_of
    from service.telemetry.logs import LineWriter, log_settings, log_to
    from service.telemetry.metrics import Metrics

    listeners = [listener]
    if settings.admin_port is not None:
        listeners.append(listen(settings.admin_host, settings.admin_port + index if settings.admin_port else 0))
        settings = settings.model_copy(update={"admin_port": listeners[1].getsockname()[1]})
    release, metrics = first_release(source_of(settings)), Metrics(CollectorRegistry())
    history = open_history(settings, metrics)
    app = build_app(settings, release, history, metrics, open_delta(settings))
    writer = LineWriter(sys.stderr.fileno(), metrics.log_dropped.inc)
    log_to(writer)
    config = uvicorn.Config(
        app.asgi,
        http=protocol(settings.client_timeout_s, app.asgi),
        proxy_headers=False,  # nothing here asks who the client is
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # uvicorn says int, and passes it to call_later
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    process = f" (process {index + 1} of {settings.workers})" if settings.workers > 1 else ""

    def say_ready() -> None:
        sys.stdout.write(
            f"serving release {release.id} ({len(release):,} items) on {address} - open {address}/ in a browser{process}\n"
        )
        sys.stdout.flush()
        log_settings(settings)
        sys.setswitchinterval(TURN_S)
        gc.freeze()  # the objects made so far live to the end: the garbage collector need not visit them again and again

    server = Server(
        config,
        app.context.readiness,
        promise,
        say_ready,
        drain_s=settings.drain_s,
        shutdown_timeout_s=settings.shutdown_timeout_s,
    )
    # uvicorn drains, then raises the signal again for its caller. We are the caller, and we end with status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    status = 1  # without a signal, the server only ends when it has lost its engine
    try:
        server.run(sockets=listeners)
    except SystemExit:
        status = 0
    finally:
        writer.close()
    sys.stdout.flush()
    os._exit(status)  # a normal exit would wait for threads: a stuck engine, or a release that is still being read


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; EnvironmentProblem when the port is taken or this machine does not have the address."""
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
    """The store that --history names, behind a cache of recent users; EnvironmentProblem when it cannot be used."""
    from service.histories.remembered import RememberedHistories
    from service.histories.sqlite_history import SqliteHistory

    store = open_history_store(settings, metrics)
    histories = RememberedHistories(store, settings.history_cache_mb * 2**20, metrics.history_rollbacks.inc)
    if isinstance(store, SqliteHistory):
        histories.follow(store)
    metrics.history_cache.set_function(lambda: histories.num_bytes)
    return histories


def open_history_store(settings: "Settings", metrics: "Metrics") -> "HistoryStore":
    """The store that --history names, without the cache; EnvironmentProblem when it cannot be used."""
    if path := sqlite_path(settings.history):
        from service.histories.sqlite_history import SqliteHistory

        return SqliteHistory(path)
    if settings.history.startswith(("redis://", "rediss://")):
        from service.histories.redis_history import RedisHistory

        try:
            redis = RedisHistory(settings.history, settings.redis_timeout_s, settings.redis_ttl_days)
        except (TypeError, ValueError) as error:  # TypeError: the URL has an option that redis-py does not know
            raise EnvironmentProblem(f"--history is not a Redis URL: {error}") from error
        metrics.circuit.labels("history").set_function(lambda: redis.breaker.is_open)
        return redis
    # The message does not show the URL, which may hold a password.
    raise EnvironmentProblem(
        "--history must be sqlite:///FILE (sqlite:////FILE for an absolute path), redis://... or rediss://..."
    )


def open_delta(settings: "Settings") -> "DeltaStore | None":
    """The file of item changes, or None when this server has none; EnvironmentProblem when it cannot be used."""
    from twotower.artefacts.item_changes import DeltaStore

    if settings.delta is None:
        history = sqlite_path(settings.history)
        path = history.with_name("delta.db") if history else None
        if settings.workers > 1 or settings.engine == "process":
            refuse_changes(path)
            return None
        return DeltaStore(path) if path else None
    if path := sqlite_path(settings.delta):
        return DeltaStore(path)
    raise EnvironmentProblem("--delta must be sqlite:///FILE (sqlite:////FILE for an absolute path)")


def refuse_changes(path: Path | None) -> None:
    """EnvironmentProblem if a single process would use the file `path`, and it exists: several processes would ignore it."""
    if path is not None and path.exists():
        raise EnvironmentProblem(
            f"{path} may hold changed items, which only one process can serve: leave out --workers and --engine, or put them "
            f"into a release with `twotower embed --delta sqlite:///{path}`, serve that release and move the file away."
        )


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
