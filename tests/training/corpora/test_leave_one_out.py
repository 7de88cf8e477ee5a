"""Leave-one-out files become events whose global time split leaves the last two of every user out."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from training.corpora.leave_one_out import SCHEMA, prepare, read_sequences
from training.data.read import read_data
from training.evaluation.rankers import leave_one_out
from training.recipes.budget import CONTEXT_TABLE_ROWS
from twotower.data.schema import load_schema
from twotower.errors import DataError

LINES = "ann 3 1 2 9\nbob 2 3 1\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    sequences, attributes = tmp_path / "shop.txt", tmp_path / "shop.json"
    sequences.write_text(LINES)
    attributes.write_text(json.dumps({"1": [7, 8], "9": [7]}))
    return sequences, attributes


def test_the_split_is_leave_one_out(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(*files, out) == (7, 4)
    assert load_schema(out / "schema.toml") == SCHEMA
    assert not SCHEMA.events.clock, "the dates are made up"
    data = read_data(out / "events.parquet", out / "items.parquet", SCHEMA, (14.0,), CONTEXT_TABLE_ROWS)
    ids = data.item_ids.to_pylist()
    held_out = {
        part: [[ids[row] for row in query.answers] for query in leave_one_out(data.log, start, stop)]
        for part, start, stop in (
            ("validation", data.train_until_ms, data.test_from_ms),
            ("test", data.test_from_ms, data.end_ms),
        )
    }
    assert held_out == {"validation": [["2"], ["3"]], "test": [["9"], ["1"]]}
    assert data.train_count_N.sum() == 3


def test_items_keep_their_attributes_and_may_have_none(files: tuple[Path, Path], tmp_path: Path) -> None:
    prepare(*files, tmp_path / "out")
    items = pq.read_table(tmp_path / "out" / "items.parquet").to_pylist()
    assert {i["item_id"]: i["attributes"] for i in items} == {"1": ["7", "8"], "2": None, "3": None, "9": ["7"]}


@pytest.mark.parametrize(
    ("text", "what"),
    [("ann 1 2 3\nbob 4 5\n", r":2: 2 items"), ("ann 1 2 3\nann 4 5 6\n", "needs one line"), ("", "0 lines")],
)
def test_lines_that_cannot_be_left_one_out_of_are_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "shop.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=what):
        read_sequences(path)


def test_attributes_that_are_no_lists_by_item_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[1].write_text("[1, 2]")
    with pytest.raises(DataError, match="JSON object of lists"):
        prepare(*files, tmp_path / "out")
