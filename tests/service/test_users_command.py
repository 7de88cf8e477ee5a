"""`twotower users` deletes one user, or all that are old, and never prints an id."""

import asyncio
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.histories.history import StoredEvent
from service.histories.redis_history import RedisHistory
from service.histories.sqlite_history import SqliteHistory
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


def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"sqlite:///{tmp_path / 'nowhere.db'}"
    with pytest.raises(DataError, match="name where to delete"):
        main(["delete", "--user", "ann"])
    with pytest.raises(EnvironmentProblem, match=r"nowhere\.db is not there"):
        main(["delete", "--user", "ann", "--history", nowhere])
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
