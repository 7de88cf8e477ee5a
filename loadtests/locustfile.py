"""Locust users that replay real histories: send the first events, ask for recommendations, send an event, ask again.

`make loadtest` runs this. By hand, against any server:
TWOTOWER_HISTORIES=histories.jsonl locust -f loadtests/locustfile.py --host http://127.0.0.1:8000
"""

import itertools
import os
import random
import uuid
from pathlib import Path
from typing import Any

from locust import FastHttpUser, between, task

from loadtests.traffic import NUM_RESULTS, Json, Replay, read_histories

HISTORIES = read_histories(Path(os.environ["TWOTOWER_HISTORIES"]))
RUN = uuid.uuid4().hex[:8]
NUMBERS = itertools.count()


class Household(FastHttpUser):  # type: ignore[misc]  # locust is not type-checked here, so its classes are Any
    """A user who returns with the next event of a real history, and takes another history when that one is over."""

    wait_time = between(0.05, 0.15)
    replay: Replay

    def on_start(self) -> None:
        """Choose a history and send its first events."""
        self.replay = Replay.start(random.choice(HISTORIES), f"{RUN}-{next(NUMBERS)}")
        self.tell(self.replay.first_events(), "/v1/events (first events)")

    @task  # type: ignore[untyped-decorator]
    def ask_tell_ask(self) -> None:
        """POST /v1/recommend, then one real event, then /v1/recommend again."""
        self.ask()
        self.tell(self.replay.next_event(), "/v1/events")
        self.ask()
        if self.replay.finished:
            self.on_start()

    def ask(self) -> None:
        """POST /v1/recommend. An answer with too few items is a failure."""
        with self.client.post("/v1/recommend", json=self.replay.question(), catch_response=True) as response:
            check(response, lambda answer: len(answer["items"]), NUM_RESULTS)

    def tell(self, body: Json, name: str) -> None:
        """POST /v1/events. An event that is not accepted is a failure."""
        with self.client.post("/v1/events", json=body, name=name, catch_response=True) as response:
            check(response, lambda answer: answer["accepted"], len(body["events"]))


def check(response: Any, count: Any, expected: int) -> None:
    """Mark a response as failed unless its status is 2xx and `count` of its body is as expected."""
    if not 200 <= response.status_code < 300:
        response.failure(f"status {response.status_code}: {(response.text or '')[:200]}")
    elif (counted := count(response.json())) != expected:
        response.failure(f"{counted} instead of {expected}")
