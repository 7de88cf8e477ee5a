"""The log on disk holds every usable event once, in an order that the file's own order cannot change."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from training.data.event_log import EventLog, basket_starts, read_event_log
from twotower.data.schema import load_schema
from twotower.errors import DataError
from twotower.model.catalogue import read_item_ids


def read(directory: Path) -> EventLog:
    schema = load_schema(directory / "schema.toml")
    return read_event_log(directory / "events.parquet", schema, read_item_ids(directory / "items.parquet", schema.items), 64)


def rewrite(tiny_shop: Path, to: Path, events: pa.Table) -> Path:
    shutil.copytree(tiny_shop, to)
    pq.write_table(events, to / "events.parquet")
    return to


def test_every_event_is_there_once(tiny_shop: Path) -> None:
    log, events = read(tiny_shop), pq.read_table(tiny_shop / "events.parquet")
    item_ids = read_item_ids(tiny_shop / "items.parquet", load_schema(tiny_shop / "schema.toml").items).to_pylist()
    seen = {
        (log.user_ids[u], item_ids[log.item_rows_E[e]], int(log.times_ms_E[e]), log.event_types[log.types_E[e]])
        for u in range(log.num_users)
        for e in range(*log.span(u))
    }
    times = pc.cast(events["timestamp"], pa.int64()).to_pylist()
    told = zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), times, events["event_type"].to_pylist(), strict=True)
    assert seen == set(told)
    assert log.report.num_used == len(events)


def test_histories_run_forward(tiny_shop: Path) -> None:
    log = read(tiny_shop)
    for user in range(log.num_users):
        start, stop = log.span(user)
        assert (np.diff(log.times_ms_E[start:stop]) >= 0).all()


def test_the_order_of_the_file_changes_nothing(tiny_shop: Path, tmp_path: Path) -> None:
    events = pq.read_table(tiny_shop / "events.parquet")
    shuffled = events.take(pa.array(np.random.default_rng(1).permutation(len(events))))
    log, other = read(tiny_shop), read(rewrite(tiny_shop, tmp_path / "shuffled", shuffled))
    np.testing.assert_array_equal(log.item_rows_E, other.item_rows_E)
    np.testing.assert_array_equal(log.times_ms_E, other.times_ms_E)
    np.testing.assert_array_equal(log.context.slots_NS, other.context.slots_NS)


def test_unusable_events_are_counted_not_crashed_on(tiny_shop: Path, tmp_path: Path) -> None:
    events = pq.read_table(tiny_shop / "events.parquet")
    bad = events.slice(0, 3).to_pylist()
    bad[0]["item_id"], bad[1]["item_id"], bad[2]["user_id"] = "discontinued", None, None
    log = read(rewrite(tiny_shop, tmp_path / "bad", pa.concat_tables([events, pa.Table.from_pylist(bad, events.schema)])))
    assert log.report.unknown_items == 1
    assert sorted((reason.count, reason.why) for reason in log.report.left_out) == [
        (1, "the id in column 'item_id' is missing"),
        (1, "the id in column 'user_id' is missing"),
    ]
    assert log.report.num_used == len(events)
    assert any("discontinued" in line for line in log.report.lines())


def test_a_log_of_another_catalogue_is_refused(tiny_shop: Path, tmp_path: Path) -> None:
    events = pq.read_table(tiny_shop / "events.parquet")
    foreign = events.set_column(1, "item_id", pa.array(["elsewhere"] * len(events)))
    with pytest.raises(DataError, match="same ids"):
        read(rewrite(tiny_shop, tmp_path / "foreign", foreign))


def test_baskets_are_runs_of_one_time() -> None:
    assert basket_starts(np.array([3, 3, 5, 5, 5, 9])).tolist() == [0, 2, 5]
    assert basket_starts(np.zeros(0, np.int64)).tolist() == []
