"""Real purchases: the corpus is what the protocol says, and the counters score what they must before any model is judged."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from training.budget import CONTEXT_TABLE_ROWS
from training.complete_journey import SCHEMA, prepare
from training.data import Data, read_data
from training.evaluate import PersonalFrequency, Popularity, Ranker, next_basket, rank
from training.metrics import summarise
from twotower.schema import load_schema


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("complete-journey")
    assert prepare(out) == (1_469_307, 92_331)
    return out


@pytest.fixture(scope="module")
def december(corpus: Path) -> Data:
    return read_data(corpus / "events.parquet", corpus / "items.parquet", SCHEMA, (14.0,), CONTEXT_TABLE_ROWS)


def test_the_schema_written_is_the_schema_used(corpus: Path) -> None:
    assert load_schema(corpus / "schema.toml") == SCHEMA
    items = pq.read_schema(corpus / "items.parquet").names
    assert set(SCHEMA.items.features) <= set(items)


def test_unit_prices_know_only_the_training_months(corpus: Path) -> None:
    """Items first sold later have none."""
    events = pq.read_table(corpus / "events.parquet", columns=["item_id", "timestamp"])
    items = pq.read_table(corpus / "items.parquet", columns=["item_id", "unit_price"])
    cut = SCHEMA.require_split().validation_from
    sold_before = {i for i, t in zip(events["item_id"].to_pylist(), events["timestamp"].to_pylist(), strict=True) if t < cut}
    priced = {i for i, p in zip(items["item_id"].to_pylist(), items["unit_price"].to_pylist(), strict=True) if p is not None}
    assert priced == sold_before & set(items["item_id"].to_pylist())


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
