"""The catalogue streams in file order, and embeds the same whatever the batch."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower.artefacts.bundle import load_bundle
from twotower.data.features import EncodedRows
from twotower.data.schema import ItemColumns, load_schema
from twotower.errors import DataError
from twotower.model.catalogue import (
    embed_catalogue,
    embed_rows,
    encode_items,
    fit_item_spec,
    read_item_ids,
    stream_items,
)


def write(tmp_path: Path, **columns: object) -> Path:
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_a_single_item_embeds_as_it_does_in_the_catalogue(tiny_shop: Path, tiny_bundle: Path) -> None:
    towers, items = load_bundle(tiny_bundle).towers, tiny_shop / "items.parquet"
    model = towers.config.model
    streamed = list(embed_catalogue(items, towers.schema.items, towers.embedder, model.item_spec, model.table_rows))
    vectors_ND = np.concatenate([v for _, v in streamed])
    (table,) = stream_items(items, towers.schema.items)
    alone = embed_rows(towers.embedder, encode_items(table.slice(17, 1), model.item_spec, model.table_rows))
    np.testing.assert_allclose(alone.numpy()[0], vectors_ND[17], rtol=1e-5, atol=1e-6)


def test_the_spec_holds_the_id_first_and_every_kind(tiny_shop: Path) -> None:
    spec = fit_item_spec(tiny_shop / "items.parquet", load_schema(tiny_shop / "schema.toml").items)
    assert [f.kind for f in spec.fields] == ["id", "text", "categorical", "list", "numeric", "time", "vector"]
    assert spec.fields[-1].dim == 8


def test_every_nth_title_of_a_large_catalogue_decides_how_much_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.model.catalogue.SAMPLE_ITEMS", 50)
    columns = ItemColumns(features={"title": "text", "brand": "categorical"})
    titles = ["word " * (20 if row % 2 else 6) for row in range(100)]
    path = write(tmp_path, item_id=[str(row) for row in range(100)], title=titles, brand=["a"] * 100)
    assert fit_item_spec(path, columns).fields[1].max_tokens == 11


def test_a_repeated_item_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'a'"):
        read_item_ids(write(tmp_path, item_id=["a", "b", "a"]), ItemColumns())


def test_an_item_without_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing ids"):
        read_item_ids(write(tmp_path, item_id=["a", None]), ItemColumns())


def test_an_empty_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no items"):
        read_item_ids(write(tmp_path, item_id=pa.array([], pa.string())), ItemColumns())


def test_a_missing_feature_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'price'"):
        list(stream_items(write(tmp_path, item_id=["a"]), ItemColumns(features={"price": "numeric"})))


def test_a_nan_price_is_a_missing_price(tmp_path: Path) -> None:
    columns = ItemColumns(features={"price": "numeric"})
    path = write(tmp_path, item_id=["a", "b", "c"], price=pa.array([1.0, float("nan"), None]))
    spec = fit_item_spec(path, columns)
    rows: EncodedRows = encode_items(next(stream_items(path, columns)), spec, 64)
    np.testing.assert_array_equal(rows.dense_NF[1], rows.dense_NF[2])
