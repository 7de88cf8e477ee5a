"""The competitor of rps_vs_litserve: the same model under LitServe, which batches requests in a worker process.

It is set up as LitServe's documentation shows: one API process, one worker, and batches of at most MAX_BATCH requests that wait
up to BATCH_TIMEOUT_S for more. We tried 2 to 16 requests and 2 to 10 ms. On one core a request in a larger batch costs nearly as
much, so no setting serves a second connection within the limit on the p99, and the shortest wait is the best. Without a wait the
worker spins on the core that it shares with the API. The API process writes histories to an SQLite file without a guarantee
after a crash; the worker reads new events from it and keeps users encoded. Runs in its own environment, which
`benchmarks.training_rivals.environment` makes from litserve.txt.

`python -m benchmarks.serving_rivals.litserve STORE PORT FILE`
"""

import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import litserve
import msgspec

from benchmarks.serving_rivals.fastapi_server import EventsRequest, EventsResponse, RecommendRequest
from benchmarks.serving_rivals.plain_model import Events, PlainModel, Question, Told

MAX_BATCH, BATCH_TIMEOUT_S = 2, 0.002
TABLE = """
CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY, user_id TEXT NOT NULL, told BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_user ON events (user_id, seq);
"""
Ranked = list[tuple[str, float]]


class Recommender(litserve.LitAPI):  # type: ignore[misc] # it is not installed where types are checked
    """POST /v1/recommend."""

    def __init__(self, store: Path, file: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S, api_path="/v1/recommend")
        self.store, self.path = store, file

    def setup(self, device: str) -> None:  # noqa: ARG002 # LitServe's signature
        """Called in the worker."""
        self.model = PlainModel.load(self.store, len(os.sched_getaffinity(0)))
        self.file = connect(self.path)
        self.known: dict[str, tuple[int, Events]] = {}  # number of the last event read, and all events

    def decode_request(self, request: RecommendRequest) -> Question:
        """The request with the user's current events."""
        seq, events = self.known.get(request.user_id) or (0, self.model.encode([]))
        sql = "SELECT seq, told FROM events WHERE user_id = ? AND seq > ? ORDER BY seq"
        if rows := self.file.execute(sql, (request.user_id, seq)).fetchall():
            events = events.followed_by(self.model.encode([msgspec.json.decode(told, type=Told) for _, told in rows]))
            self.known[request.user_id] = rows[-1][0], events
        return Question(events, request.timestamp, request.num_results)

    def batch(self, inputs: Sequence[Question]) -> Sequence[Question]:
        """Nothing to do, because the model pads batches itself."""
        return inputs

    def predict(self, questions: Sequence[Question]) -> list[Ranked]:
        """Answer a batch in one forward pass."""
        return self.model.recommend(questions)

    def unbatch(self, output: list[Ranked]) -> list[Ranked]:
        """One answer per request."""
        return output

    def encode_response(self, ranked: Ranked) -> dict[str, Any]:
        """The body of the response."""
        return {"items": [{"item_id": item_id, "score": score} for item_id, score in ranked]}


def connect(path: Path) -> sqlite3.Connection:
    """Open the file of histories."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + TABLE)
    return connection


def main() -> None:
    """Serve until the process is stopped."""
    store, port, path = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    server, file = litserve.LitServer(Recommender(store, path), accelerator="cpu"), connect(path)

    @server.app.post("/v1/events", status_code=202)  # type: ignore[untyped-decorator]
    async def events(body: EventsRequest) -> EventsResponse:
        told = [(e.user_id, Told(e.item_id, e.event_type, e.timestamp, e.properties)) for e in body.events]
        file.execute("BEGIN")
        file.executemany(
            "INSERT INTO events (user_id, told) VALUES (?, ?)", [(user, msgspec.json.encode(event)) for user, event in told]
        )
        file.execute("COMMIT")
        return EventsResponse(accepted=len(told))

    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
