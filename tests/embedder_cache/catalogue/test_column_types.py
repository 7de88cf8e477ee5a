"""Columns are held to their kinds and to the types of the served release."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedder_cache.catalogue.column_types import changed_columns, converted, family, hold_columns
from embedder_cache.catalogue.intake import sound_items, take_in
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.data.schema import ItemColumns, ItemKind

KINDS: dict[str, ItemKind] = {
    "price": "numeric",
    "released": "time",
    "code": "categorical",
    "stock": "categorical",
    "tags": "list",
}
COLUMNS = ItemColumns(item_id="sku", features=KINDS)
SPEC = FeatureSpec(
    fields=(
        FieldSpec(name="item_id", kind="id"),
        *(FieldSpec(name=name, kind=kind, edges=(0.0, 1.0)) for name, kind in COLUMNS.features.items()),
    )
)
SERVED = pa.schema(
    [
        ("item_id", pa.string()),
        ("price", pa.float64()),
        ("released", pa.timestamp("us", "UTC")),
        ("code", pa.int64()),
        ("stock", pa.bool_()),
        ("tags", pa.list_(pa.string())),
    ]
)
SOUND: dict[str, list[Any]] = {
    "sku": ["a", "b"],
    "price": [1.5, 2.0],
    "released": [datetime(2026, 1, 1, tzinfo=UTC), None],
    "code": [7, 8],
    "stock": [True, False],
    "tags": [["x"], []],
}


def catalogue(directory: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(SOUND | columns), directory / "items.parquet")
    return directory / "items.parquet"


def embedded(path: Path, served: pa.Schema | None = SERVED) -> pa.Table:
    intake = take_in(path, COLUMNS, SPEC, served=served)
    return pa.concat_tables([table for table, _ in sound_items(path, COLUMNS, intake)])


@pytest.mark.parametrize(
    ("name", "tonight", "read"),
    [
        ("price", ["12.50", " 3 "], [12.5, 3.0]),
        ("price", ["", "+1e2"], [None, 100.0]),
        ("price", [None, "nan"], [None, None]),
        ("released", ["2026-01-01", "2026-01-01T02:00:00+02:00"], [datetime(2026, 1, 1, tzinfo=UTC)] * 2),
        ("code", ["7", "12"], [7, 12]),
        ("stock", ["True", "f"], [True, False]),
        ("stock", [1, 0], [True, False]),
        ("tags", [[1, 2], None], [["1", "2"], None]),
    ],
)
def test_values_of_another_type_are_read_as_the_served_release_has_them(
    name: str, tonight: list[Any], read: list[Any], tmp_path: Path
) -> None:
    table = embedded(catalogue(tmp_path, **{name: tonight}))
    values = [None if isinstance(value, float) and np.isnan(value) else value for value in table.column(name).to_pylist()]
    assert values == read
    assert changed_columns(table.schema, SERVED, COLUMNS.features) == []


def test_a_converted_column_is_told(tmp_path: Path) -> None:
    held = hold_columns(catalogue(tmp_path, price=["1", "2"]), COLUMNS, SERVED)
    assert held.lines == ("WARNING: column 'price' holds text, which is read as numbers",)


def test_a_price_that_is_no_number_is_the_fault_of_its_row(tmp_path: Path) -> None:
    path = catalogue(tmp_path, price=["12,50", "3"])
    intake = take_in(path, COLUMNS, SPEC, served=SERVED)
    assert intake.rejected.to_pylist() == [{"row": 0, "item_id": "a", "column": "price", "reason": "is no number"}]
    assert "1 values are none, such as '12,50'" in intake.changes.held.lines[0]


@pytest.mark.parametrize("codes", [["007", "8"], ["7", "eight"]])
def test_codes_that_would_lose_something_stay_text_and_are_named(codes: list[str], tmp_path: Path) -> None:
    table = embedded(catalogue(tmp_path, code=codes))
    assert table.column("code").to_pylist() == codes
    assert changed_columns(table.schema, SERVED, COLUMNS.features) == ["'code' holds text, in the served release numbers"]


def test_without_a_served_release_the_kind_decides(tmp_path: Path) -> None:
    table = embedded(catalogue(tmp_path, price=["1", "2"], code=["7", "8"]), served=None)
    assert table.schema.field("price").type == pa.float64()
    assert table.column("code").to_pylist() == ["7", "8"]


def test_what_was_served_as_text_is_a_number_as_its_kind_says(tmp_path: Path) -> None:
    served = SERVED.set(1, pa.field("price", pa.string()))
    assert embedded(catalogue(tmp_path, price=["1", "2"]), served).schema.field("price").type == pa.float64()


def test_a_column_without_any_value_keeps_the_type_that_is_served(tmp_path: Path) -> None:
    table = embedded(catalogue(tmp_path, code=[None, None]))
    assert table.schema.field("code").type == pa.int64()


@pytest.mark.parametrize("column", [pa.array(["7.0", "7.5"]), pa.array(["1e3"]), pa.array([7.5])])
def test_text_that_is_no_plain_integer_is_no_code(column: pa.Array) -> None:
    wanted = pa.int64() if pa.types.is_string(column.type) else pa.string()
    result, unreadable = converted(column, wanted)
    assert result.null_count == len(column)
    assert unreadable.all()


def test_bytes_that_are_no_text_are_left_to_the_check_of_texts() -> None:
    raw = pa.array([b"caf\xe9", b"12"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    result, unreadable = converted(column, pa.float64())
    assert result.to_pylist() == [None, 12.0]
    assert not unreadable.any()


def test_families_are_what_a_filter_can_compare() -> None:
    kinds = [pa.int8(), pa.float32(), pa.decimal128(9, 2), pa.large_string(), pa.bool_(), pa.date32(), pa.list_(pa.int64())]
    names = ["numbers", "numbers", "numbers", "text", "true or false", "times", "lists of numbers"]
    assert [family(kind) for kind in kinds] == names
