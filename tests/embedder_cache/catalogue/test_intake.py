from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedder_cache.catalogue.intake import occurred_before, sound_items, take_in
from twotower.data.features import FeatureSpec, FieldSpec
from twotower.data.schema import ItemColumns
from twotower.errors import DataError

COLUMNS = ItemColumns(
    item_id="sku", features={"title": "text", "tags": "list", "price": "numeric", "released": "time", "image": "vector"}
)
SPEC = FeatureSpec(
    fields=(
        FieldSpec(name="item_id", kind="id"),
        FieldSpec(name="title", kind="text"),
        FieldSpec(name="tags", kind="list"),
        FieldSpec(name="price", kind="numeric", edges=(0.0, 1.0)),
        FieldSpec(name="released", kind="time", edges=(0.0, 1.0)),
        FieldSpec(name="image", kind="vector", dim=2),
    )
)
NOT_UTF8 = b"caf\xe9"


def catalogue(path: Path, **columns: pa.Array) -> Path:
    """A file of items that are sound but for the columns given."""
    num_rows = len(next(iter(columns.values())))
    sound = {
        "sku": pa.array([f"item-{i}" for i in range(num_rows)]),
        "title": pa.array(["a title"] * num_rows),
        "tags": pa.array([["a"]] * num_rows),
        "price": pa.array([1.0] * num_rows),
        "released": pa.nulls(num_rows, pa.timestamp("ms")),
        "image": pa.array([[1.0, 2.0]] * num_rows),
    }
    pq.write_table(pa.table(sound | columns), path / "items.parquet")
    return path / "items.parquet"


def text(*values: bytes | None) -> pa.Array:
    """Text whose bytes nobody has checked, as Parquet files may hold it."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("sku", pa.array(["a", None]), "is missing"),
        ("sku", pa.array(["a", ""]), "is missing"),
        ("sku", pa.array([1, None]), "is missing"),
        ("sku", pa.array(["a", "b" * 129]), "is longer than 128 bytes"),
        ("sku", text(b"a", NOT_UTF8), "is not UTF-8"),
        ("sku", pa.array(["a", "a"]), "an item of this id came before"),
        ("title", text(None, NOT_UTF8), "is not UTF-8"),
        ("title", pa.array([b"binary is text too", NOT_UTF8]), "is not UTF-8"),
        ("tags", pa.ListArray.from_arrays([0, 1, 3], text(b"a", b"b", NOT_UTF8)), "is not UTF-8"),
        ("price", pa.array([float("nan"), float("-inf")]), "is infinite"),
        ("image", pa.array([None, [1.0, 2.0, 3.0]]), "is not of length 2"),
        ("image", pa.array([[0.0, 0.0], []], pa.list_(pa.float32())), "is not of length 2"),
        ("image", pa.array([[1.0, 2.0], [1.0, float("nan")]]), "holds a value that is not finite"),
        ("image", pa.array([[1.0, 2.0], [None, 1.0]]), "holds a value that is not finite"),
    ],
)
def test_a_row_that_cannot_be_embedded_is_left_out_with_its_reason(
    tmp_path: Path, column: str, values: pa.Array, reason: str
) -> None:
    intake = take_in(catalogue(tmp_path, **{column: values}), COLUMNS, SPEC)
    assert intake.accepted_R.tolist() == [True, False]
    assert len(intake.item_ids) == len(intake.content_N) == 1
    assert [(line["row"], line["column"], line["reason"]) for line in intake.rejected.to_pylist()] == [(1, column, reason)]


def test_a_row_with_two_faults_is_listed_once(tmp_path: Path) -> None:
    path = catalogue(tmp_path, price=pa.array([1.0, np.inf]), title=text(b"a", NOT_UTF8))
    assert take_in(path, COLUMNS, SPEC).rejected.column("column").to_pylist() == ["title"]


def test_a_name_that_is_not_utf8_can_still_be_read_in_the_list(tmp_path: Path) -> None:
    assert take_in(catalogue(tmp_path, sku=text(b"a", NOT_UTF8)), COLUMNS, SPEC).rejected["item_id"].to_pylist() == ["caf\ufffd"]


def test_rows_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    prices = np.ones(20_000)
    prices[[5, 8_192, 19_999]] = np.inf
    intake = take_in(catalogue(tmp_path, price=pa.array(prices)), COLUMNS, SPEC)
    assert intake.rejected.column("row").to_pylist() == [5, 8_192, 19_999]
    assert intake.rejected.column("item_id").to_pylist() == ["item-5", "item-8192", "item-19999"]
    tables, places = zip(*sound_items(tmp_path / "items.parquet", COLUMNS, intake), strict=True)
    assert pa.concat_tables(tables).column("item_id").combine_chunks().equals(intake.item_ids)
    assert [place.start for place in places] + [19_997] == np.cumsum([0, *map(len, tables)]).tolist()


def test_missing_values_are_no_fault(tmp_path: Path) -> None:
    nothing = {"title": pa.nulls(2, pa.string()), "tags": pa.nulls(2, pa.list_(pa.string())), "price": pa.nulls(2)}
    intake = take_in(catalogue(tmp_path, **nothing, image=pa.nulls(2, pa.list_(pa.float32()))), COLUMNS, SPEC)
    assert intake.accepted_R.all()
    assert not len(intake.rejected)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32(), 2), pa.list_(pa.float16(), 2), pa.list_view(pa.float32())], ids=str)
def test_a_missing_vector_of_any_kind_of_list_is_no_fault(tmp_path: Path, kind: pa.DataType) -> None:
    path = catalogue(tmp_path, image=pa.array([[1.0, 2.0], None, [3.0, 4.0]], kind))
    assert len(take_in(path, COLUMNS, SPEC).item_ids) == 3


def test_titles_and_tags_may_be_views_and_categories(tmp_path: Path) -> None:
    tags = pa.array([["a"], None, ["b", "a"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    path = catalogue(tmp_path, title=pa.array(["a", None, "b"], pa.string_view()), tags=tags)
    (items, _), *_ = sound_items(path, COLUMNS, take_in(path, COLUMNS, SPEC))
    assert (items["title"].to_pylist(), items["tags"].to_pylist()) == (["a", None, "b"], [["a"], None, ["b", "a"]])


def test_whole_floats_are_ids_and_others_are_left_out(tmp_path: Path) -> None:
    intake = take_in(catalogue(tmp_path, sku=pa.array([7.0, 7.5, float("nan")])), COLUMNS, SPEC)
    assert intake.item_ids.to_pylist() == ["7"]
    assert intake.rejected["reason"].to_pylist() == ["is no whole number up to 2^53", "is missing"]


def test_a_file_without_any_usable_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 2 items can be embedded: 'price' is infinite"):
        take_in(catalogue(tmp_path, price=pa.array([np.inf, np.inf])), COLUMNS, SPEC)


@pytest.mark.parametrize("titles", [["a", "b", "c"], ["a"]])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, titles: list[str]) -> None:
    intake = take_in(catalogue(tmp_path, title=pa.array(["a", "b"])), COLUMNS, SPEC)
    path = catalogue(tmp_path, title=pa.array(titles))
    with pytest.raises(DataError, match="changed while it was read"):
        list(sound_items(path, COLUMNS, intake))


def test_other_items_in_as_many_rows_are_a_change_too(tmp_path: Path) -> None:
    intake = take_in(catalogue(tmp_path, sku=pa.array(["a", "b"])), COLUMNS, SPEC)
    with pytest.raises(DataError, match="changed while it was read"):
        list(sound_items(catalogue(tmp_path, sku=pa.array(["a", "c"])), COLUMNS, intake))


def test_of_equal_ids_the_first_stays() -> None:
    assert occurred_before(pa.array(["a", "b", "a", "a", "c"])).tolist() == [False, False, True, True, False]
