"""Real purchases: the corpus is as the protocol says, and the counting baselines reach their known scores."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from training.corpora.complete_journey import SCHEMA, prepare, signals_table
from training.data.read import Data, read_data
from training.evaluation.metrics import summarise
from training.evaluation.rankers import PersonalFrequency, Popularity, Ranker, next_basket, rank
from training.recipes.budget import CONTEXT_TABLE_ROWS
from twotower.data.features import DAY_MS
from twotower.data.schema import load_schema


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("complete-journey")
    assert prepare(out) == (1_469_307, 92_331)
    return out


@pytest.fixture(scope="module")
def december(corpus: Path) -> Data:
    signals = corpus / "signals.parquet"
    return read_data(corpus / "events.parquet", corpus / "items.parquet", SCHEMA, (14.0,), CONTEXT_TABLE_ROWS, signals=signals)


def test_the_schema_written_is_the_schema_used(corpus: Path) -> None:
    assert load_schema(corpus / "schema.toml") == SCHEMA
    items = pq.read_schema(corpus / "items.parquet").names
    assert set(SCHEMA.items.features) <= set(items)


def test_a_week_s_signals_are_its_shares_of_the_stores(tmp_path: Path) -> None:
    """In week 2 product 7 is in the mailer of 56 of 112 stores and on display in 28; product 9 is in none but listed."""
    rows = [(7, "A", "0")] * 28 + [(7, "A", "5")] * 28 + [(9, "0", "0")]
    products, mailer, display = ([row[i] for row in rows] for i in range(3))
    weeks = [2] * len(rows)
    columns = {"product_id": products, "week": weeks, "mailer_location": mailer, "display_location": display}
    pq.write_table(pa.table(columns), tmp_path / "promotions.parquet")
    (row,) = signals_table(tmp_path / "promotions.parquet", pa.array([9, 7])).to_pylist()
    monday = datetime(2017, 1, 2, 5, tzinfo=UTC)
    assert row == {"item_id": "7", "from": monday, "until": monday + timedelta(weeks=1), "mailer": 0.5, "display": 0.5}


def test_december_knows_its_mailers(december: Data) -> None:
    """What is bought was in that day's mailer more than three times as often as the catalogue is."""
    assert december.signals is not None
    assert december.signals.report.unknown_items == december.signals.report.never_valid == 0
    log, snapshots = december.log, december.snapshots
    bought = log.times_ms_E >= december.test_from_ms
    mailer = snapshots.of_items(log.times_ms_E[bought], log.item_rows_E[bought].astype(np.int64))[1]
    catalogue = snapshots.at(np.unique(log.times_ms_E[bought] // DAY_MS) * DAY_MS)[1]
    assert (mailer > 0).mean() > 3 * (catalogue > 0).mean()


def test_unit_prices_know_only_the_training_months_and_do_not_tell_new_items_apart(corpus: Path) -> None:
    """Items first sold later have the mean price of their type: a missing price would mean "never sold"."""
    events = pq.read_table(corpus / "events.parquet", columns=["item_id", "timestamp"])
    items = pq.read_table(corpus / "items.parquet", columns=["item_id", "unit_price"])
    cut = SCHEMA.require_split().validation_from
    sold_before = set(events.filter(pc.field("timestamp") < pa.scalar(cut))["item_id"].unique().to_pylist())
    prices = dict(zip(items["item_id"].to_pylist(), items["unit_price"].to_pylist(), strict=True))
    assert all(prices[i] is not None for i in sold_before & prices.keys())
    new = prices.keys() - sold_before
    assert sum(prices[i] is None for i in new) / len(new) < 0.03, "only where nothing of the type was ever sold"


def test_events_of_unknown_items_are_counted(december: Data) -> None:
    assert december.log.report.unknown_items == 4_836
    assert december.log.report.num_users == 2_469


def test_the_counters_score_what_was_measured_for_them(december: Data) -> None:
    """Independent measurements of the same protocol, to within .003."""
    queries = next_basket(december.log, december.test_from_ms, december.end_ms)
    assert len(queries) == pytest.approx(13_176, abs=30), "baskets of one household at one time are one basket"
    counters: dict[str, Ranker] = {
        "popularity": Popularity(december.snapshots),
        "personal frequency": PersonalFrequency(december.snapshots),
    }
    ranked = rank(counters, december.log, queries, december.train_count_N)
    for name, recall, ndcg in (("popularity", 0.105, 0.095), ("personal frequency", 0.192, 0.202)):
        metrics = summarise(ranked[name], len(december.item_ids))
        assert metrics["recall@10"] == pytest.approx(recall, abs=0.003)
        assert metrics["ndcg@10"] == pytest.approx(ndcg, abs=0.003)
