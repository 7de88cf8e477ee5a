"""Row 13: no room for what a server writes: events are not acknowledged, recommendations go on, and room is noticed."""

import resource
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.service.faults.processes import serving

EVENTS = {"events": [{"user_id": "ann", "item_id": "item-1", "event_type": "view", "timestamp": 10**12}]}


@pytest.mark.faults
def test_histories_that_cannot_be_written_are_not_acknowledged_and_answers_go_on(tiny_store: Path, tmp_path: Path) -> None:
    with serving(tiny_store, tmp_path / "h.db") as server, httpx.Client(base_url=server.address, timeout=10) as http:
        assert http.post("/v1/events", json=EVENTS).status_code == 202
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        for _ in range(3):
            refused = http.post("/v1/events", json=EVENTS)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "history_unavailable")
            answer = http.post("/v1/recommend", json={"user_id": "ann"})
            assert (answer.status_code, answer.json()["events_used"]) == (200, 1)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        assert http.post("/v1/events", json=EVENTS).status_code == 202
        assert http.get("/v1/users/ann").json()["num_events"] == 2
        assert server.end(signal.SIGTERM) == 0


@pytest.mark.faults
def test_what_cannot_be_logged_does_not_stop_the_server(tiny_store: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full, serving(tiny_store, tmp_path / "h.db", stderr=full) as server:
        with httpx.Client(base_url=server.address) as http:
            http.get("/", headers={"host": "\x7f"})
            assert http.post("/v1/recommend", json={}).status_code == 200
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        assert server.process.wait(timeout=10) == 0
