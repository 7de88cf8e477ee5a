"""The searches of a log, and where they stand in histories."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data.batches import BatchSampler
from training.data.event_log import EventLog, read_event_log
from training.data.made_up_queries import ItemWords
from training.evaluation.cold_start import compacted
from training.recipes.config import StageConfig, TrainConfig
from twotower.data.events import MAX_QUERY
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.data.schema import EventColumns, ItemColumns, Schema, Split
from twotower.model.config import ModelConfig

START = datetime(2025, 1, 1, tzinfo=UTC)
ITEMS = pa.array(["bread", "milk", "tea"])
SCHEMA = Schema(
    events=EventColumns(query="text"),
    split=Split(validation_from=START + timedelta(days=90), test_from=START + timedelta(days=99)),
)
# user, minute, item, query
ROWS: list[tuple[str, int, str | None, str | None]] = [
    ("ann", 0, None, "rye bread"),
    ("ann", 1, "bread", None),
    ("ann", 1, None, "at the same moment"),
    ("ann", 5, None, "TEA"),
    ("ann", 4, None, "milk?"),
    ("ann", 7, "milk", "an item, so no search"),
    ("ann", 7, "tea", ""),
    ("ann", 9, None, " ... "),
    ("ann", 9, None, None),
    ("bob", 3, "tea", None),
    ("eve", 3, None, "only searches"),
    ("bob", 2, None, "x" * 300),
]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> EventLog:
    return read(tmp_path_factory.mktemp("log"), ROWS)


def read(directory: Path, rows: list[tuple[str, int, str | None, str | None]]) -> EventLog:
    users, minutes, items, texts = zip(*rows, strict=True)
    columns: dict[str, Any] = {
        "user_id": users,
        "item_id": pa.array(items, pa.string()),
        "timestamp": [START + timedelta(minutes=minute) for minute in minutes],
        "event_type": ["view" if item else "search" for item in items],
        "text": pa.array(texts, pa.string()),
    }
    pq.write_table(pa.table(columns), directory / "events.parquet")
    return read_event_log(directory / "events.parquet", SCHEMA, ITEMS, 64)


def seen(log: EventLog, user: int, first: int, stop: int) -> list[str]:
    """The items and queries of a window."""
    history = log.window(user, first, stop)
    return [ITEMS[row].as_py() if row >= 0 else history.queries[-1 - row] for row in history.item_rows_L.tolist()]


def test_searches_stand_at_their_times_after_the_events_of_their_moment(log: EventLog) -> None:
    both = ["milk", "tea"] if log.item_rows_E[1] == 1 else ["tea", "milk"]  # a basket's order is that of hashes
    assert seen(log, 0, 0, 3) == ["rye bread", "bread", "at the same moment", "milk?", "TEA", *both]
    assert log.window(0, 0, 3).times_ms_L.tolist() == sorted(log.window(0, 0, 3).times_ms_L.tolist())
    assert seen(log, 1, 0, 4) == ["x" * MAX_QUERY, "tea"]


def test_what_is_no_search_is_counted_as_ever_and_searches_are_counted_apart(log: EventLog) -> None:
    report = log.report
    assert (report.num_events, report.num_used, report.num_users, report.num_searches) == (12, 4, 2, 6)
    assert [(reason.count, reason.why) for reason in report.left_out] == [(2, "the id in column 'item_id' is missing")]
    assert "6 searches" in report.lines()[0]


def test_a_question_knows_the_searches_before_the_moment_of_its_event(log: EventLog) -> None:
    assert log.num_known(0, np.array([0, 1, 2, 3])).tolist() == [1, 5, 6, 7]
    assert seen(log, 0, 0, 1) == ["rye bread", "bread", "at the same moment", "milk?", "TEA"]
    assert seen(log, 0, 0, 0) == ["rye bread"]


@pytest.mark.parametrize("first", range(8))
def test_a_window_may_begin_at_any_event_or_search(log: EventLog, first: int) -> None:
    assert seen(log, 0, first, 3) == seen(log, 0, 0, 3)[first:]
    assert log.first_row(0, first) == [0, 0, 1, 1, 1, 1, 2, 3][first]


def test_without_a_column_of_queries_such_rows_are_left_out_as_before(tmp_path: Path) -> None:
    log = read(tmp_path, [row for row in ROWS if row[2]])
    assert (log.searches, log.num_known(0, np.array([3])).tolist()) == (None, [3])
    assert len(log.window(0, 1, 3)) == 2


def test_searches_stay_where_they_are_when_events_are_removed(tmp_path: Path) -> None:
    log = compacted(read(tmp_path, ROWS), np.array([False, True, True, False]))
    assert log.user_ids == ["ann"]
    assert seen(log, 0, 0, 2)[:4] == ["rye bread", "at the same moment", "milk?", "TEA"]


def test_training_reads_the_searches_of_the_log_and_makes_up_none(log: EventLog) -> None:
    fields = (FieldSpec(name="item_id", kind="id"), FieldSpec(name="title", kind="text"))
    model = ModelConfig(item_spec=FeatureSpec(fields=fields), context_spec=log.context_spec, query_field="title")
    stages = (StageConfig(share=1.0, num_negatives=None, train_embedder=True, max_steps=1),)
    config = TrainConfig(metric="", minutes=None, stages=stages, batch_windows=16, search_share=0.5)
    columns = ItemColumns(features={"title": "text"}, title="title")
    words = ItemWords([pa.table({"item_id": ITEMS, "title": ITEMS})], columns, "title")
    sampler = BatchSampler(log, int(log.times_ms_E.max()) + 1, model, config, words)
    assert not sampler.makes_up
    batch = sampler.sample(np.random.default_rng(0))
    positions = {(int(batch.users_B[w]), int(p)) for w, p in zip(batch.window_Q, batch.position_Q, strict=True)}
    assert positions == {(0, 0), (0, 4), (1, 0)}
    searched = [(batch.histories.item_rows_BL[w] < 0).sum().item() for w in range(16)]
    assert len(batch.searches) == sum(searched) > 0
