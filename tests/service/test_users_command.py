"""`twotower users` sends past events, deletes one user, or all that are old, and never prints an id."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.histories.history import StoredEvent
from service.histories.redis_history import RedisHistory
from service.histories.sqlite_history import SqliteHistory
from service.model.cpu_dtype import DTYPES
from service.ranking.warm import room_for
from service.release.loaded import LoadedRelease
from service.release.loading import device_of, load_release
from service.states.state_file import FILE
from service.users_command import in_redis, main
from twotower.data.features import DAY_MS
from twotower.errors import DataError, EnvironmentProblem

NOW_MS = time.time_ns() // 1_000_000


def event(user: str, age_days: float = 0.0, item: str = "shoe") -> StoredEvent:
    return StoredEvent(user_id=user, event_type="view", time_ms=int(NOW_MS - age_days * DAY_MS), item_id=item)


def store(path: Path, *events: StoredEvent) -> None:
    async def write() -> None:
        history = SqliteHistory(path)
        await history.append(events)
        await history.close()

    asyncio.run(write())


def sizes(path: Path, *users: str) -> list[int]:
    async def read() -> list[int]:
        history = SqliteHistory(path)
        found = [(await history.read(user)).num_events for user in users]
        await history.close()
        return found

    return asyncio.run(read())


SCHEMA = """[events]
[items]
item_id = "item_id"
[items.features]
title = "text"
[split]
validation_from = 2026-01-01T00:00:00Z
test_from = 2026-02-01T00:00:00Z
"""


class Receiving(BaseHTTPRequestHandler):
    """A server that takes events: it answers with the statuses that it is told, then with 202."""

    statuses: list[int] = []  # noqa: RUF012
    received: list[list[str]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        events = json.loads(self.rfile.read(int(self.headers["content-length"])))["events"]
        self.received.append([event["user_id"] for event in events])
        status = self.statuses.pop(0) if self.statuses else 202
        rejected = [{"index": 0, "reason": "event_type: too long"}] * (status == 422)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"accepted": len(events) - len(rejected), "duplicates": 0, "rejected": rejected}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiving(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Receiving.statuses, Receiving.received = [], []
    monkeypatch.setattr("service.users_command.PAUSES_S", (0.01, 0.01))
    with HTTPServer(("127.0.0.1", 0), Receiving) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def import_users(directory: Path, url: str, users: list[str | None]) -> int:
    (directory / "schema.toml").write_text(SCHEMA)
    times = pa.array([NOW_MS - 1000] * len(users), pa.timestamp("ms", "UTC"))
    columns = {"user_id": users, "item_id": ["shoe"] * len(users), "timestamp": times, "event_type": ["view"] * len(users)}
    pq.write_table(pa.table(columns), directory / "events.parquet")
    return main(
        ["import", "--events", str(directory / "events.parquet"), "--schema", str(directory / "schema.toml"), "--server", url]
    )


def test_past_events_are_sent_in_parts(receiving: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert import_users(tmp_path, receiving, [*map(str, range(1500)), None]) == 0

    assert list(map(len, Receiving.received)) == [1024, 476]
    said = capsys.readouterr().out
    assert said == "1,500 events are stored now, 0 were before\n1 rows cannot be used: `twotower validate` says why\n"


def test_a_server_that_is_busy_gets_the_same_events_again(receiving: str, tmp_path: Path) -> None:
    Receiving.statuses = [503, 429]
    assert import_users(tmp_path, receiving, ["ann"]) == 0
    assert Receiving.received == [["ann"]] * 3


def test_a_server_that_stays_away_or_is_none_ends_the_import_with_what_to_do(receiving: str, tmp_path: Path) -> None:
    Receiving.statuses = [404]
    with pytest.raises(EnvironmentProblem, match=r"status 404: run this again, what is stored is not stored twice"):
        import_users(tmp_path, receiving, ["ann"])
    assert len(Receiving.received) == 1
    with pytest.raises(EnvironmentProblem, match="does not answer"):
        import_users(tmp_path, "http://127.0.0.1:9", ["ann"])


def test_events_that_the_server_rejects_are_told_with_the_first_reason(
    receiving: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Receiving.statuses = [422]
    assert import_users(tmp_path, receiving, ["ann"]) == 1
    assert "1 events were rejected; the first: event_type: too long" in capsys.readouterr().out


def test_a_user_is_deleted_from_histories_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path / "h.db", event("ann"), event("ann"), event("bob"))
    pq.write_table(pa.table({"user_id": ["ann", "bob"]}), tmp_path / "events.parquet")
    places = ["--history", f"sqlite:///{tmp_path / 'h.db'}", "--events", str(tmp_path / "events.parquet")]
    assert main(["delete", "--user", "ann", *places]) == 0
    assert sizes(tmp_path / "h.db", "ann", "bob") == [0, 1]
    assert pq.read_table(tmp_path / "events.parquet").column("user_id").to_pylist() == ["bob"]
    said = capsys.readouterr().out.replace(str(tmp_path), "")
    assert said.startswith("2 events ever stored are deleted from sqlite:///")
    assert "1 events are removed from /events.parquet" in said
    assert "ann" not in said


def test_a_user_is_deleted_from_redis(redis_url: str) -> None:
    async def write() -> None:
        history = RedisHistory(redis_url, 5.0, 1.0)
        await history.append([event("ann-of-this-test")])
        await history.close()

    asyncio.run(write())
    assert [in_redis(redis_url, "ann-of-this-test") for _ in range(2)] == [1, 0]


def test_users_without_a_recent_event_are_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = [event("late", 5), event("late", 500)]  # in the order of arrival, the last one is the oldest
    store(tmp_path / "h.db", event("old", 401), event("new", 500), event("new", 399), *late)
    times = pa.array([NOW_MS - 401 * DAY_MS, NOW_MS], pa.timestamp("ms", "UTC"))
    pq.write_table(pa.table({"user_id": ["old", "new"], "timestamp": times}), tmp_path / "events.parquet")
    places = ["--history", f"sqlite:///{tmp_path / 'h.db'}", "--events", str(tmp_path / "events.parquet")]
    assert main(["expire", "--days", "400", *places, "--history", "redis://:secret@cache:6379/0"]) == 0
    assert sizes(tmp_path / "h.db", "old", "new", "late") == [0, 2, 2]
    assert pq.read_table(tmp_path / "events.parquet").num_rows == 1
    said = capsys.readouterr().out
    assert "1 users are forgotten" in said
    assert "redis://cache:6379/0 forgets by itself" in said
    assert "secret" not in said


def test_of_more_users_than_the_file_has_room_for_the_latest_are_warmed(
    tiny_store: Path, tmp_path: Path, release: LoadedRelease, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = release.item_ids[:2]
    late = event("late", 1, ids[0]), event("late", 3, ids[1])  # in the order of arrival, the last one is the older
    store(
        tmp_path / "h.db",
        event("old", 9, ids[0]),
        event("new", 2, ids[0]),
        *late,
        event("newest", 0.5),
        event("gone", 40, ids[0]),
    )
    full_bytes = 2**30 / room_for(release, 2**30)
    places = ["--history", f"sqlite:///{tmp_path / 'h.db'}", "--store", str(tiny_store), "--directory", str(tmp_path / "states")]
    assert main(["warm", *places, "--days", "30", "--gb", str(3.5 * full_bytes / 2**30)]) == 0
    said = capsys.readouterr().out
    assert "2 users are in the file, 3 events were read" in said, "the newest has no event of an item of the catalogue"
    assert "1 users whose last event is older are left out" in said


def test_states_are_warmed_in_the_dtype_of_the_servers(tiny_store: Path, tmp_path: Path, release: LoadedRelease) -> None:
    store(tmp_path / "h.db", event("ann", 2, release.item_ids[0]), event("ann", 1, release.item_ids[1]))
    places = ["--history", f"sqlite:///{tmp_path / 'h.db'}", "--store", str(tiny_store), "--directory", str(tmp_path / "states")]
    assert main(["warm", *places, "--days", "30", "--dtype", "bf16"]) == 0
    spaces = {name: load_release(tiny_store, device=device_of("cpu", name)).state_space for name in DTYPES}
    with closing(sqlite3.connect(tmp_path / "states" / FILE)) as states:
        ((body,),) = states.execute("SELECT body FROM states")
    assert spaces["bf16"].encode() in body
    assert spaces["bf16"] != spaces["fp32"]


def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"sqlite:///{tmp_path / 'nowhere.db'}"
    with pytest.raises(DataError, match="name where to delete"):
        main(["delete", "--user", "ann"])
    with pytest.raises(EnvironmentProblem, match=r"nowhere\.db is not there"):
        main(["delete", "--user", "ann", "--history", nowhere])
    with pytest.raises(EnvironmentProblem, match="Redis does not know its users"):
        main(["warm", "--store", "s", "--days", "7", "--directory", "d", "--history", "redis://x"])
    with pytest.raises(EnvironmentProblem, match="--history must be"):
        main(["delete", "--user", "ann", "--history", "mysql://x"])
    with pytest.raises(EnvironmentProblem, match="did not delete the user: Redis did not confirm"):
        main(["delete", "--user", "ann", "--history", "redis://127.0.0.1:9"])
    with pytest.raises(EnvironmentProblem, match="does not answer: Connection refused, so it may still hold"):
        main(["delete", "--user", "ann", "--server", "http://127.0.0.1:9"])
    with pytest.raises(DataError, match="--days 0 would forget everything"):
        main(["expire", "--days", "0", "--history", nowhere])
    with pytest.raises(DataError, match="name what is to be looked through"):
        main(["expire", "--days", "1"])
    assert main(["expire", "--days", "1", "--history", nowhere]) == 0
    assert "no server has made that file yet" in capsys.readouterr().out
    assert not (tmp_path / "nowhere.db").exists()
