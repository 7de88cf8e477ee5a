from typing import Any

import pyarrow as pa

from twotower.data.raw_items import item_table

SCHEMA = pa.schema(
    [("size", pa.string()), ("price", pa.float64()), ("tags", pa.list_(pa.string())), ("image", pa.list_(pa.float32()))]
)


def test_what_is_not_given_is_missing() -> None:
    table, unusable = item_table([{"price": 2}, {}, {"tags": []}], SCHEMA)
    assert table.schema == SCHEMA
    assert table["price"].to_pylist() == [2.0, None, None]
    assert table["tags"].to_pylist() == [None, None, []]
    assert not unusable


def test_a_value_is_read_the_same_whatever_stands_beside_it() -> None:
    items: list[dict[str, Any]] = [{"size": 5}, {"size": 5.5}, {"size": "L"}, {"size": True}, {"tags": [2]}, {"image": [1, 0.5]}]
    together, unusable = item_table(items, SCHEMA)
    alone = [item_table([item], SCHEMA)[0] for item in items]
    assert together.equals(pa.concat_tables(alone).combine_chunks())
    assert together["size"].to_pylist()[:4] == ["5", "5.5", "L", "true"]
    assert not unusable


def test_items_that_do_not_fit_are_named_and_the_others_kept() -> None:
    table, unusable = item_table([{"price": 1}, {"price": "dear"}, {"colour": "red"}, {"tags": "a"}, {"size": "S"}], SCHEMA)
    assert table["price"].to_pylist() == [1.0, None]
    assert {place: error.name for place, error in unusable.items()} == {1: "price", 2: "colour", 3: "tags"}


def test_no_items_are_no_rows() -> None:
    assert item_table([], SCHEMA)[0].equals(SCHEMA.empty_table())


def test_nanoseconds_in_a_text_are_cut_to_the_unit_of_the_column() -> None:
    schema = pa.schema([("at", pa.timestamp("us"))])
    table, unusable = item_table([{"at": "2026-06-01T00:00:00.000001999"}, {"at": "soon"}], schema)
    assert table.column("at").cast(pa.int64()).to_pylist() == [1_780_272_000_000_001]
    assert list(unusable) == [1]
