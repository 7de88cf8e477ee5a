from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.training_rivals import corpus
from benchmarks.training_rivals.corpus import Corpus, best_sellers, prepared
from twotower.data.schema import load_schema


def test_best_sellers_are_those_of_the_training_months_with_all_their_events(tiny_shop: Path, tmp_path: Path) -> None:
    shop = Corpus(tiny_shop)
    until = load_schema(shop.schema).require_split().validation_from
    events = pq.read_table(shop.events).to_pylist()
    counts = Counter(e["item_id"] for e in events if e["timestamp"] < until)

    best = best_sellers(shop, 30, tmp_path / "best")

    kept = set(pq.read_table(best.items)["item_id"].to_pylist())
    assert sorted(counts[i] for i in kept) == sorted(n for _, n in counts.most_common(30))
    assert pq.read_table(best.events).to_pylist() == [e for e in events if e["item_id"] in kept]
    assert load_schema(best.schema) == load_schema(shop.schema)


def test_data_is_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[tuple[str | Path, ...]] = []

    def run(*arguments: str | Path) -> None:
        commands.append(arguments)
        Path(arguments[-1]).mkdir()

    monkeypatch.setattr(corpus, "run_twotower", run)

    first = prepared(tmp_path / "data", "complete-journey")
    again = prepared(tmp_path / "data", "complete-journey")

    assert first == again
    assert commands == [("prepare", "complete-journey", "--out", tmp_path / "data")]


def test_a_fingerprint_follows_the_files(tiny_shop: Path, tmp_path: Path) -> None:
    best = best_sellers(Corpus(tiny_shop), 30, tmp_path / "best")
    assert best.fingerprint == Corpus(tmp_path / "best").fingerprint != Corpus(tiny_shop).fingerprint
