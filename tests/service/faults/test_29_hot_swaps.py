"""Row 29: releases are swapped under load; no request fails, and each answer is that of the release it names."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.service.conftest import Following, TwoReleases
from tests.service.test_command import serving

NUM_CLIENTS = 4
GROWTH = 1.05


class Served(NamedTuple):
    """A server process."""

    address: str
    pid: int

    @property
    def resident_mib(self) -> float:
        """Memory that it holds of its own: mapped files are the system's."""
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(lines["RssAnon"].split()[0]) / 1024


@pytest.fixture
def server(two: TwoReleases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server that forgets a release as soon as it serves another, so that each swap is a load."""
    monkeypatch.setenv("TWOTOWER_KEEP_OLD_S", "0")
    monkeypatch.setenv("TWOTOWER_POLL_S", "3600")
    with serving(two.store, "--history", f"sqlite:///{tmp_path / 'history.db'}") as (process, line):
        threading.Thread(target=lambda: list(process.stdout or ()), daemon=True).start()
        yield Served(line.split()[6], process.pid)


def ask_on(address: str, answers: dict[str, list[str]], ended: threading.Event) -> dict[str, int]:
    """Ask until the end; how many answers each release gave."""
    given = dict.fromkeys(answers, 0)
    with httpx.Client(base_url=address, timeout=30) as http:
        for number in count():
            if ended.is_set():
                break
            body: dict[str, Any] = {"timestamp": 1_746_057_600_000, "user_id": f"user-{number}"}
            response = http.post("/v1/recommend", json=body)
            assert response.status_code == 200, response.text
            answer = response.json()
            assert [item["item_id"] for item in answer["items"]] == answers[answer["release"]]
            given[answer["release"]] += 1
    return given


def swap_under_load(two: TwoReleases, server: Served, times: int) -> tuple[float, float]:
    """Memory (MiB) after the first fifth of the swaps, and after all of them."""
    answers = {release: Following.answers_of(two.store, release) for release in two[1:]}
    ended = threading.Event()
    with ThreadPoolExecutor(NUM_CLIENTS) as pool, httpx.Client(base_url=server.address, timeout=60) as http:
        clients = [pool.submit(ask_on, server.address, answers, ended) for _ in range(NUM_CLIENTS)]
        try:
            resident = []
            for number in range(times):
                release = two[1 + number % 2]
                assert http.post("/v1/admin/activate", json={"release": release}).status_code == 200
                assert http.post("/v1/admin/refresh").json()["serving"] == release
                resident.append(server.resident_mib)
        finally:
            ended.set()
        given = [client.result() for client in clients]
    assert all(sum(of[release] for of in given) > times for release in two[1:])
    return resident[times // 5], resident[-1]


def test_20_swaps_under_load_fail_no_request(two: TwoReleases, server: Served) -> None:
    swap_under_load(two, server, 20)


@pytest.mark.faults
def test_100_swaps_under_load_leave_no_memory_behind(two: TwoReleases, server: Served) -> None:
    before, after = swap_under_load(two, server, 100)
    assert after < before * GROWTH
