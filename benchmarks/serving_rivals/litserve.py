"""The competitor of rps_vs_litserve: the same model under LitServe, which batches requests in a worker process.

Its own mechanism as its documentation shows it: one API process, one worker, batches of at most MAX_BATCH that wait
BATCH_TIMEOUT_S for company. Tried: 2 to 16 requests and 2 to 10 ms; on one core a larger batch costs nearly as much per request,
so that none bears a second connection within the limit on the p99, and the least waiting wins. No waiting at all makes the
worker spin on the core that it shares with the API. Histories lie in an SQLite file that promises nothing after a crash: the API
process writes it, the worker reads what it has not read yet and keeps users encoded. Runs in an environment of its own, which
`benchmarks.training_rivals.environment` makes of litserve.txt.

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
        self.known: dict[str, tuple[int, Events]] = {}  # up to which event, and all of them

    def decode_request(self, request: RecommendRequest) -> Question:
        """The question, with the user's events as of now."""
        seq, events = self.known.get(request.user_id) or (0, self.model.encode([]))
        sql = "SELECT seq, told FROM events WHERE user_id = ? AND seq > ? ORDER BY seq"
        if rows := self.file.execute(sql, (request.user_id, seq)).fetchall():
            events = events.followed_by(self.model.encode([msgspec.json.decode(told, type=Told) for _, told in rows]))
            self.known[request.user_id] = rows[-1][0], events
        return Question(events, request.timestamp, request.num_results)

    def batch(self, inputs: Sequence[Question]) -> Sequence[Question]:
        """The model pads them itself."""
        return inputs

    def predict(self, questions: Sequence[Question]) -> list[Ranked]:
        """All in one pass."""
        return self.model.recommend(questions)

    def unbatch(self, output: list[Ranked]) -> list[Ranked]:
        """One answer per question."""
        return output

    def encode_response(self, ranked: Ranked) -> dict[str, Any]:
        """Body of the answer."""
        return {"items": [{"item_id": item_id, "score": score} for item_id, score in ranked]}


def connect(path: Path) -> sqlite3.Connection:
    """The file of histories."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + TABLE)
    return connection


def main() -> None:
    """Serve until told to stop."""
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
