import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedder_cache.catalogue.content_hash import content_hashes
from twotower.errors import DataError

COLUMNS = {
    "title": (pa.string(), st.text(max_size=8)),
    "blob": (pa.large_binary(), st.binary(max_size=8)),
    "price": (pa.float64(), st.floats(allow_nan=False)),
    "count": (pa.int16(), st.integers(-100, 100)),
    "new": (pa.bool_(), st.booleans()),
    "tags": (pa.list_(pa.string()), st.lists(st.none() | st.text(max_size=3), max_size=4)),
    "image": (pa.list_(pa.float32(), 2), st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2)),
    "made": (pa.timestamp("ms"), st.datetimes().map(lambda t: t.replace(microsecond=0))),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    num_rows = draw(st.integers(1, 12))
    values = {name: draw(st.lists(st.none() | cell, min_size=num_rows, max_size=num_rows)) for name, (_, cell) in COLUMNS.items()}
    return pa.table({name: pa.array(values[name], kind) for name, (kind, _) in COLUMNS.items()})


@given(tables())
def test_rows_have_equal_hashes_exactly_when_they_are_equal(table: pa.Table) -> None:
    rows = [repr(row) for row in table.to_pylist()]
    hashes = content_hashes(table).tolist()
    assert [a == b for a in rows for b in rows] == [a == b for a in hashes for b in hashes]


@given(tables(), st.data())
def test_a_hash_depends_on_its_own_row_alone(table: pa.Table, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(table) - 1))
    part = table.slice(start, data.draw(st.integers(1, len(table))))
    np.testing.assert_array_equal(content_hashes(part), content_hashes(table)[start : start + len(part)])


def test_where_a_value_stands_matters() -> None:
    table = pa.table({"a": ["x", "y", "ab", "a"], "b": ["y", "x", "", "b"]})
    assert len(set(content_hashes(table).tolist())) == 4


def test_the_hash_is_the_same_tomorrow() -> None:
    table = pa.table({"item_id": ["a"], "price": [1.5], "tags": pa.array([["x", None]])})
    assert content_hashes(table).tolist() == [13143108160620545754]


def test_what_is_no_feature_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="'shape' holds struct"):
        content_hashes(pa.table({"shape": [{"width": 1}]}))


def test_a_number_that_is_none_is_missing() -> None:
    missing, nan = (content_hashes(pa.table({"price": pa.array([x], pa.float64())})) for x in (None, float("nan")))
    assert missing == nan
