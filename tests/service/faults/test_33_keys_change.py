import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.service.faults.live_server import live
from tests.service.key_files import bearer, entry, write_keys

pytestmark = pytest.mark.faults


def test_keys_change_under_load_and_a_bad_file_changes_nothing(tiny_store: Path, tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.toml", entry("old", "recommend"), entry("watch", "metrics"))
    with live(tiny_store, tmp_path, "--keys", str(path)) as server, httpx.Client(base_url=server.url) as http:
        stop, statuses = threading.Event(), []

        def load() -> None:
            with httpx.Client(base_url=server.url) as mine:
                while not stop.is_set():
                    statuses.append(status(mine, "old"))

        thread = threading.Thread(target=load)
        thread.start()
        try:
            both = (entry("old", "recommend"), entry("new", "recommend"), entry("watch", "metrics"))
            replace(write_keys(tmp_path / "next.toml", *both), path)
            until(lambda: status(http, "new") == 200)
            for bad in ("", "keys = [", "\x00", path.read_text()[:-40]):
                path.write_text(bad)
                until_refused_again(http)
                assert (status(http, "old"), status(http, "new")) == (200, 200)
            path.unlink()
            until_refused_again(http)
            assert status(http, "new") == 200
        finally:
            stop.set()
            thread.join()
        assert set(statuses) == {200}  # the old key was never refused
        replace(write_keys(tmp_path / "next.toml", *both[1:]), path)
        until(lambda: status(http, "old") == 401)
        assert status(http, "new") == 200


def status(http: httpx.Client, key_id: str) -> int:
    return http.post("/v1/recommend", json={}, headers=bearer(key_id)).status_code


def refused(http: httpx.Client) -> float:
    """How often the file was refused."""
    text = http.get("/metrics", headers=bearer("watch")).text
    found = text.partition('twotower_key_reloads_total{result="refused"} ')[2].split()
    return float(found[0]) if found else 0.0


def until_refused_again(http: httpx.Client) -> None:
    """Wait for the server's next look at a file it cannot use."""
    before = refused(http)
    until(lambda: refused(http) > before)


def replace(fresh: Path, path: Path) -> None:
    """As a secret is rotated: by a rename."""
    fresh.rename(path)


def until(holds: Callable[[], bool]) -> None:
    """Wait for what must come within five seconds."""
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
