from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedder_cache.build import build_release
from embedder_cache.catalogue.intake import Intake, sound_items, take_in
from twotower.artefacts.bundle import load_bundle, read_table
from twotower.artefacts.item_changes import Changes
from twotower.artefacts.release import ITEMS, read_info, release_path
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.data.schema import ItemColumns

COLUMNS = ItemColumns(item_id="sku", features={"title": "text", "price": "numeric"})
SPEC = FeatureSpec(
    fields=(
        FieldSpec(name="item_id", kind="id"),
        FieldSpec(name="title", kind="text"),
        FieldSpec(name="price", kind="numeric", edges=(0.0, 1.0)),
    )
)
FILE = {"sku": [1, 2, None, 4], "title": ["a", "b", "c", "d"], "price": [1.0, 2.0, 3.0, np.inf]}


@pytest.fixture
def items(tmp_path: Path) -> Path:
    pq.write_table(pa.table(FILE), tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


def read(path: Path, changes: dict[str, Any]) -> tuple[Intake, list[dict[str, Any]]]:
    """What was taken in, and the items that are embedded."""
    intake = take_in(path, COLUMNS, SPEC, Changes(5, changes))
    tables = [table for table, _ in sound_items(path, COLUMNS, intake)]
    return intake, pa.concat_tables(tables).to_pylist()


def test_items_put_replace_those_of_the_file_or_follow_them_and_deleted_ones_are_gone(items: Path) -> None:
    intake, embedded = read(items, {"2": {"title": "B"}, "9": {"price": 9}, "1": None, "unheard of": None})
    assert embedded == [
        {"item_id": "2", "title": "B", "price": None},
        {"item_id": "9", "title": None, "price": 9.0},
    ]
    assert intake.changes.sequence == 5
    assert (len(intake.changes.put), intake.changes.num_deleted) == (2, 2)
    assert intake.rejected.column("row").to_pylist() == [2, 3]  # as they stand in the file


def test_a_faulty_row_that_is_replaced_is_not_reported(items: Path) -> None:
    intake, embedded = read(items, {"4": {"price": 4.0}})
    assert [item["item_id"] for item in embedded] == ["1", "2", "4"]
    assert intake.rejected.column("row").to_pylist() == [2]


def test_an_item_put_that_does_not_fit_the_file_is_rejected_and_the_files_own_stays(items: Path) -> None:
    intake, embedded = read(items, {"1": {"price": "cheap"}, "2": {"colour": "red"}})
    assert [item["title"] for item in embedded] == ["a", "b"]
    lines = [line for line in intake.rejected.to_pylist() if line["row"] is None]
    assert [(line["item_id"], line["column"]) for line in lines] == [("1", "price"), ("2", "colour")]


def test_texts_as_the_file_holds_them_are_compared_by_their_bytes(tmp_path: Path) -> None:
    """A dictionary, and bytes that are no text among them."""
    skus = pa.array([b"caf\xc3\xa9", b"caf\xe9", b"tea"])
    pq.write_table(pa.table(FILE | {"sku": skus, "title": ["a"] * 3, "price": [1.0] * 3}), tmp_path / "items.parquet")
    _, embedded = read(tmp_path / "items.parquet", {"café": None})
    assert [item["item_id"] for item in embedded] == ["tea"]


def test_folding_in_twice_or_what_the_file_holds_already_changes_nothing(
    tiny_shop: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle, items = load_bundle(tiny_bundle), tiny_shop / "items.parquet"
    first = pq.read_table(items).to_pylist()[0]
    same = {name: value for name, value in first.items() if name not in ("item_id", "released")}
    same["released"] = first["released"] and first["released"].isoformat()
    delta = Changes(3, {first["item_id"]: same, "new": {"title": "new"}, "item-7": None})

    build_release(bundle, items, tmp_path, None)
    folded, again = (build_release(bundle, items, tmp_path, None, delta=delta) for _ in range(2))

    assert (folded.changed, again.changed) == (True, False)
    assert (folded.num_embedded, folded.num_gone, folded.num_put, folded.num_deleted) == (1, 1, 2, 1)
    path = release_path(tmp_path, folded.release)
    assert read_info(path).delta_sequence == 3
    assert read_table(path / ITEMS).column("item_id").to_pylist()[-2:] == [first["item_id"], "new"]
