from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loadtests.traffic import MOMENT_MS, History, Replay, read_histories, write_histories
from twotower.data.schema import Constant, EventColumns

START = datetime(2025, 3, 1, tzinfo=UTC)
START_MS = 1_740_787_200_000


def write_log(path: Path, events_of: dict[Any, int]) -> Path:
    """A log of `events_of[user]` hourly events per user, in which everybody's newest event comes first."""
    rows = [
        {
            "user_id": user,
            "item_id": number,
            "timestamp": START + timedelta(hours=number),
            "event_type": "purchase",
            "price_paid": float("nan") if number == 0 else 1.5,
            "channel": None if number == 0 else "web",
        }
        for user, num_events in events_of.items()
        for number in reversed(range(num_events))
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def history(num_events: int) -> History:
    events = [{"item_id": f"i{n}", "event_type": "view", "timestamp": 1000 * n, "properties": {}} for n in range(num_events)]
    return History(user_id="ann", events=tuple(events))


def test_only_users_with_enough_events_are_replayed_oldest_event_first(tmp_path: Path) -> None:
    log = write_log(tmp_path / "events.parquet", {7: 40, 8: 39})

    written = write_histories(log, tmp_path / "histories.jsonl", num_users=10)

    assert written == 1
    (only,) = read_histories(tmp_path / "histories.jsonl")
    assert only.user_id == "7"
    assert [e["item_id"] for e in only.events] == [str(n) for n in range(40)]
    assert only.events[1] == {
        "item_id": "1",
        "event_type": "purchase",
        "timestamp": START_MS + 3_600_000,
        "properties": {"price_paid": 1.5, "channel": "web"},
    }


def test_the_columns_are_those_of_the_schema_and_the_type_may_be_constant(tmp_path: Path) -> None:
    log = write_log(tmp_path / "events.parquet", {"ann": 40})
    table = pq.read_table(log).drop_columns(["event_type"]).rename_columns(["who", "what", "when", "price_paid", "channel"])
    pq.write_table(table, log)
    columns = EventColumns(user_id="who", item_id="what", timestamp="when", event_type=Constant(constant="listen"))

    write_histories(log, tmp_path / "histories.jsonl", 1, columns)

    (only,) = read_histories(tmp_path / "histories.jsonl")
    assert only.events[1] == {
        "item_id": "1",
        "event_type": "listen",
        "timestamp": START_MS + 3_600_000,
        "properties": {"price_paid": 1.5, "channel": "web"},
    }


def test_missing_values_are_left_out_because_json_cannot_say_nan(tmp_path: Path) -> None:
    log = write_log(tmp_path / "events.parquet", {"ann": 40})

    write_histories(log, tmp_path / "histories.jsonl", num_users=1)

    assert read_histories(tmp_path / "histories.jsonl")[0].events[0]["properties"] == {}


def test_the_same_seed_chooses_the_same_users(tmp_path: Path) -> None:
    log = write_log(tmp_path / "events.parquet", {f"user-{n}": 40 for n in range(20)})

    for name in ("first", "second"):
        assert write_histories(log, tmp_path / name, num_users=5) == 5

    assert (tmp_path / "first").read_text() == (tmp_path / "second").read_text()


def test_a_log_without_the_expected_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table({"user_id": ["ann"], "sku": ["x"]}), path)

    with pytest.raises(ValueError, match="has no column 'item_id', 'timestamp', 'event_type'"):
        write_histories(path, tmp_path / "histories.jsonl", num_users=1)


def test_a_log_of_short_histories_is_refused(tmp_path: Path) -> None:
    log = write_log(tmp_path / "events.parquet", {"ann": 3})

    with pytest.raises(ValueError, match="no user with 40 events"):
        write_histories(log, tmp_path / "histories.jsonl", num_users=1)


def test_a_replay_tells_half_of_a_history_then_one_event_at_a_time() -> None:
    replay = Replay.start(history(5), "run-0")

    told = [[e["item_id"] for e in replay.first_events()["events"]]]
    while not replay.finished:
        told.append([e["item_id"] for e in replay.next_event()["events"]])

    assert told == [["i0", "i1"], ["i2"], ["i3"], ["i4"]]


def test_a_question_comes_just_after_the_last_event_told() -> None:
    replay = Replay.start(history(4), "run-0")
    replay.first_events()

    assert replay.question() == {"user_id": "ann-run-0", "num_results": 10, "timestamp": 1000 + MOMENT_MS}


def test_two_replays_of_one_history_share_neither_user_nor_event_ids() -> None:
    first, second = (Replay.start(history(4), suffix).first_events()["events"] for suffix in ("run-0", "run-1"))

    assert {e["user_id"] for e in first}.isdisjoint(e["user_id"] for e in second)
    assert {e["event_id"] for e in first}.isdisjoint(e["event_id"] for e in second)
