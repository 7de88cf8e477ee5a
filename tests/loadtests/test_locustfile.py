"""The Locust users against a stub of the API that records requests."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadtests.run import Endpoint, run_locust

Call = tuple[str, dict[str, Any]]
pytestmark = pytest.mark.alone


@contextmanager
def stub_api(num_items: int) -> Iterator[tuple[str, list[Call]]]:
    """A server that accepts every event and recommends `num_items` items; yields its URL and the calls it gets."""
    calls: list[Call] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet per answer: two of them wait for each other's acknowledgement

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            calls.append((self.path, body))
            told = self.path == "/v1/events"
            answer = json.dumps({"accepted": len(body["events"])} if told else {"items": [{}] * num_items}).encode()
            self.send_response(202 if told else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_users(directory: Path, num_items: int) -> tuple[list[Endpoint], list[Call]]:
    """One Locust user for two seconds, replaying a history of six events."""
    events = [{"item_id": f"i{n}", "event_type": "view", "timestamp": 1000 * n, "properties": {}} for n in range(6)]
    (directory / "histories.jsonl").write_text(json.dumps({"user_id": "ann", "events": events}) + "\n")
    with stub_api(num_items) as (url, calls):
        return run_locust(url, directory, num_users=1, duration_s=8), calls


@pytest.fixture(scope="module")
def usual_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Endpoint], list[Call]]:
    """What was measured, and what was asked, when every answer is full."""
    return run_users(tmp_path_factory.mktemp("usual"), num_items=10)


def test_a_user_tells_its_past_asks_tells_one_event_and_asks_again(usual_run: tuple[list[Endpoint], list[Call]]) -> None:
    endpoints, calls = usual_run

    steps = [(path, len(body.get("events", []))) for path, body in calls[:5]]
    told_first, asked, told_next = (body for _, body in calls[:3])
    assert steps == [("/v1/events", 3), ("/v1/recommend", 0), ("/v1/events", 1), ("/v1/recommend", 0), ("/v1/recommend", 0)]
    assert {e["user_id"] for e in told_first["events"]} == {asked["user_id"]} == {told_next["events"][0]["user_id"]}
    assert told_next["events"][0]["item_id"] == "i3"
    assert {e.name for e in endpoints} == {"/v1/events (first events)", "/v1/events", "/v1/recommend", "all"}
    assert sum(e.num_failures for e in endpoints) == 0


def test_a_user_whose_history_is_over_begins_again_under_a_new_name(usual_run: tuple[list[Endpoint], list[Call]]) -> None:
    _, calls = usual_run

    users = {body["user_id"] for path, body in calls if path == "/v1/recommend"}
    assert len(users) > 1


def test_a_short_answer_counts_as_a_failure(tmp_path: Path) -> None:
    endpoints, _ = run_users(tmp_path, num_items=9)

    by_name = {e.name: e for e in endpoints}
    assert by_name["/v1/recommend"].num_failures == by_name["/v1/recommend"].num_requests
    assert by_name["/v1/events"].num_failures == 0
