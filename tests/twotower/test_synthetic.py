"""The made-up shop is the same for the same seed and holds what tests need."""

from pathlib import Path

import pyarrow.parquet as pq

from twotower.synthetic import write_shop


def test_the_same_seed_makes_the_same_shop(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_shop(tmp_path / name, num_users=5, num_items=30, num_events=200, seed=seed)
    events = [pq.read_table(tmp_path / name / "events.parquet") for name in "abc"]
    assert events[0].equals(events[1])
    assert not events[0].equals(events[2])


def test_it_has_several_event_types_missing_values_and_repeats(tiny_shop: Path) -> None:
    events = pq.read_table(tiny_shop / "events.parquet")
    items = pq.read_table(tiny_shop / "items.parquet")
    assert set(events["event_type"].to_pylist()) == {"view", "purchase"}
    assert all(items[name].null_count for name in items.column_names if name != "item_id")
    pairs = list(zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True))
    assert len(set(pairs)) < 0.8 * len(pairs)
