"""The Locust users against a stub of the API that records requests."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from loadtests.crowd import Target
from loadtests.outcomes import Fate, Outcomes, read_outcomes
from loadtests.profiles import Habits, Phase, Profile
from loadtests.run import run_locust

Call = tuple[str, dict[str, Any], str]
pytestmark = pytest.mark.alone
HABITS = Habits(pause_s=0.05, cold_share=0.0, return_share=0.0, repeat_share=0.0)
PROFILE = Profile(name="smoke", phases=(Phase(seconds=2, load=0.5), Phase(seconds=2, load=1.0)), habits=HABITS)


@contextmanager
def stub_api(num_items: int) -> Iterator[tuple[int, list[Call]]]:
    """A server that accepts every event and recommends `num_items` items; yields its port and the calls it gets."""
    calls: list[Call] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet per answer: two of them wait for each other's acknowledgement

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            calls.append((self.path, body, self.headers.get("X-API-Key", "")))
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
        yield server.server_port, calls
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_users(directory: Path, num_items: int) -> tuple[Outcomes, list[Call]]:
    """Locust users who replay a history of six events against the stub."""
    events = [{"item_id": f"i{n}", "event_type": "view", "timestamp": 1000 * n, "properties": {}} for n in range(6)]
    (directory / "histories.jsonl").write_text(json.dumps({"user_id": "ann", "events": events}) + "\n")
    with stub_api(num_items) as (port, calls):
        target = Target("127.0.0.1", port, "web.secret")
        run_locust(target, PROFILE, 60.0, directory / "histories.jsonl", directory)
    (outcomes,) = read_outcomes(directory, "smoke")
    return outcomes, calls


def test_users_take_the_steps_of_people_and_every_request_is_noted(tmp_path: Path) -> None:
    outcomes, calls = run_users(tmp_path, num_items=10)
    users = {body["user_id"] for path, body, _ in calls if path == "/v1/recommend"}
    one = next(iter(users))
    steps = [path for path, body, _ in calls if (body.get("user_id") or body["events"][0]["user_id"]) == one]
    assert steps[:2] == ["/v1/events", "/v1/recommend"]
    assert len(users) > 1
    assert {key for *_, key in calls} == {"web.secret"}
    assert outcomes.generator == "locust"
    assert set(outcomes.fates) == {Fate.GOOD}
    assert 0 < len(outcomes.fates) < len(calls)  # those of the first seconds do not count
    late = sum(at > outcomes.at_s[0] + 2 for at in outcomes.at_s)
    assert late > len(outcomes.at_s) / 2  # the second phase has twice as many users


def test_a_short_answer_counts_as_a_failure(tmp_path: Path) -> None:
    outcomes, _ = run_users(tmp_path, num_items=9)
    fates = {(recommend, fate) for recommend, fate in zip(outcomes.is_recommend, outcomes.fates, strict=True)}
    assert fates == {(True, Fate.FAILED), (False, Fate.GOOD)}
