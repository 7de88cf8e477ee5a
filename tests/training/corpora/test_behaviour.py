"""Synthetic behaviour follows its dials, and its truth is a bound."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from training.corpora.behaviour import FAVOURITES, Block, Dials, blocks, make_kinds, prepare
from twotower.data.features import DAY_MS
from twotower.data.schema import load_schema

SMALL = {"num_users": 400, "events_per_user": 50, "num_items": 60, "num_kinds": 6}


def drawn(**dials: float) -> Block:
    made = Dials(**{**SMALL, **dials})  # type: ignore[arg-type]
    (block,) = blocks(made, make_kinds(made, np.random.default_rng(made.seed)))
    return block


def test_files_are_what_the_schema_says_and_the_same_seed_gives_them_again(tmp_path: Path) -> None:
    assert prepare(Dials(**SMALL), tmp_path / "a") == (20_000, 60)  # type: ignore[arg-type]
    prepare(Dials(**SMALL), tmp_path / "b")  # type: ignore[arg-type]
    events = pq.read_table(tmp_path / "a/events.parquet")
    assert events.equals(pq.read_table(tmp_path / "b/events.parquet"))
    load_schema(tmp_path / "a/schema.toml").require_split()
    assert set(events["event_type"].to_pylist()) == {"view", "cart", "purchase"}
    truth = json.loads((tmp_path / "a/truth.json").read_text())
    assert truth["dials"]["num_items"] == 60


def test_the_truth_is_the_entropy_where_it_can_be_worked_out() -> None:
    """One kind, no repeats, no Zipf: every item is equally likely, so each event takes log 60 nats."""
    block = drawn(num_kinds=1, zipf=0.0, repeat_rate=0.0, stay_rate=0.0)
    np.testing.assert_allclose(block.nats_E, np.log(60))


def test_no_predictor_without_the_truth_has_a_lower_loss() -> None:
    block = drawn(num_users=4_000)
    counts = np.bincount(block.rows_E, minlength=60)
    popularity = -np.log(counts / counts.sum())
    assert block.nats_E.mean() < popularity[block.rows_E].mean()


def test_the_probabilities_of_all_items_add_up_to_one() -> None:
    """The mean of 1/p over events drawn from p is the number of items that can be drawn, where every item can be."""
    block = drawn(num_users=4_000, num_kinds=1, repeat_rate=0.0)
    assert np.exp(block.nats_E).mean() == pytest.approx(60, rel=0.03)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_popularity_falls_by_the_zipf_law(exponent: float) -> None:
    block = drawn(num_users=4_000, num_kinds=1, zipf=exponent, repeat_rate=0.0)
    counts = np.sort(np.bincount(block.rows_E, minlength=60))[::-1]
    slope = np.polyfit(np.log(np.arange(1, 31)), np.log(counts[:30]), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.1)


def test_repeats_are_as_frequent_as_the_dial_says() -> None:
    """Of so many items that chance repeats almost nothing."""
    block = drawn(num_items=100_000, num_kinds=10, zipf=0.0, repeat_rate=0.3)
    rows_UL = block.rows_E.reshape(400, 50).tolist()
    repeated = [row in rows[:place] for rows in rows_UL for place, row in enumerate(rows) if place]
    assert np.mean(repeated) == pytest.approx(0.3, abs=0.02)


def test_drift_moves_what_is_popular_and_without_it_nothing_moves() -> None:
    def distance(drift: float) -> float:
        block = drawn(num_users=4_000, num_kinds=1, zipf=1.5, repeat_rate=0.0, drift=drift)
        late = block.times_ms_E > np.median(block.times_ms_E)
        halves = [np.bincount(block.rows_E[part], minlength=60) / part.sum() for part in (late, ~late)]
        return float(np.abs(halves[0] - halves[1]).sum())

    assert distance(0.0) < 0.1 < 0.5 < distance(0.5)


def test_events_of_a_user_follow_each_other_within_the_days() -> None:
    block = drawn()
    times_UL = block.times_ms_E.reshape(400, 50)
    assert (np.diff(times_UL, axis=1) > 0).all(), "no two events of a user share a time"
    assert np.ptp(times_UL) <= 120 * DAY_MS


def test_favourites_add_up() -> None:
    assert FAVOURITES.sum() == pytest.approx(1)


@pytest.mark.parametrize("wrong", [{"num_kinds": 61}, {"repeat_rate": 1.0}, {"zipf": -1}, {"num_users": 0}])
def test_dials_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        drawn(**wrong)
