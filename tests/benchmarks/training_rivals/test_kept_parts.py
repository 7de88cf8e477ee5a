from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from benchmarks.training_rivals.kept_parts import code, hash_of, kept_rankings, key_of
from training.data.read import Data
from training.evaluation.metrics import Rankings
from training.evaluation.rankers import PersonalFrequency, next_basket, rank


@pytest.fixture
def rankings(data: Data) -> Rankings:
    queries = next_basket(data.log, data.test_from_ms, data.end_ms)[:20]
    return rank({"it": PersonalFrequency(data.snapshots)}, data.log, queries, data.train_count_N)["it"]


def test_rankings_are_computed_once_and_come_back_as_they_were(
    rankings: Rankings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def never() -> Rankings:
        raise AssertionError("computed again")

    kept_rankings(tmp_path / "kept" / "it.npz", lambda: rankings)
    again = kept_rankings(tmp_path / "kept" / "it.npz", never)

    for field in fields(Rankings):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(rankings, field.name))
    assert "reused it.npz" in capsys.readouterr().err


def test_what_was_not_finished_is_not_kept(rankings: Rankings, tmp_path: Path) -> None:
    def crash() -> Rankings:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_rankings(tmp_path / "it.npz", crash)

    assert len(kept_rankings(tmp_path / "it.npz", lambda: rankings).rank_A)


def test_a_key_depends_on_every_part_and_on_where_it_ends() -> None:
    assert key_of("a", "b") == key_of("a", "b")
    assert len({key_of("a", "b"), key_of("ab"), key_of("b", "a"), key_of("a")}) == 4


def test_the_hash_of_files_follows_their_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    before = hash_of([file])
    file.write_text("two")
    assert hash_of([file]) != before


def test_code_is_hashed_file_by_file_or_as_a_directory() -> None:
    assert (
        len(
            {
                code("twotower"),
                code("twotower/data/item_statistics.py"),
                code("twotower/data/item_statistics.py", "twotower/data/window.py"),
            }
        )
        == 3
    )
