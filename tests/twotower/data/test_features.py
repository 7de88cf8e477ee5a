"""Every kind of feature, its missing values, and what hashing must and must not keep."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data.features import (
    DAY_MS,
    FeatureSpec,
    FieldSpec,
    as_lists,
    encode_rows,
    encode_wanted,
    event_time_features,
    fingerprint,
    fit_field,
    hash_slots,
    num_cut,
    piecewise_linear,
    quantile_edges,
    request_time_features,
    to_days,
    to_floats,
)
from twotower.errors import DataError


def spec(*fields: FieldSpec) -> FeatureSpec:
    return FeatureSpec(fields=fields)


def test_piecewise_linear_by_hand() -> None:
    encoded = piecewise_linear(np.array([0.0, 5.0, 15.0, 99.0, np.nan]), (0.0, 10.0, 20.0))
    np.testing.assert_allclose(encoded, np.array([[0, 0, 0], [0.5, 0, 0], [1, 0.5, 0], [1, 1, 0], [0, 0, 1]]))


def test_edges_of_a_constant_column_still_bin_it() -> None:
    assert quantile_edges(np.array([3.0, 3.0, np.nan])) == (3.0, 4.0)
    assert quantile_edges(np.array([np.nan])) == ()


@given(st.lists(st.text(), min_size=1, max_size=20, unique=True), st.integers(1, 10_000))
def test_hashing_is_deterministic_and_stays_in_the_table(values: list[str], table_rows: int) -> None:
    rows, signs = hash_slots(fingerprint("field", pa.array(values, pa.string())), 3, table_rows)
    assert rows.shape == signs.shape == (len(values), 3)
    assert ((rows >= 0) & (rows < table_rows)).all()
    assert set(np.unique(signs)) <= {-1.0, 1.0}
    np.testing.assert_array_equal(rows, hash_slots(fingerprint("field", pa.array(values, pa.string())), 3, table_rows)[0])


def test_equal_values_of_different_fields_hash_apart() -> None:
    assert fingerprint("brand", pa.array(["red"])) != fingerprint("colour", pa.array(["red"]))


def test_the_order_of_ids_is_gone_after_hashing() -> None:
    """Ids of one basket are often sorted: nothing like that may be readable from the table rows."""
    rows, _ = hash_slots(fingerprint("item_id", pa.array([str(i) for i in range(20_000)])), 1, 2**20)
    assert abs(np.corrcoef(np.arange(20_000), rows[:, 0])[0, 1]) < 0.03


def test_a_missing_value_is_a_token_of_its_own() -> None:
    rows = encode_rows({"brand": pa.array(["a", None, "b", None])}, spec(FieldSpec(name="brand", kind="categorical")), 997)
    np.testing.assert_array_equal(rows.slots_NS[1], rows.slots_NS[3])
    assert rows.weights_NS[1].all()
    assert (rows.slots_NS[1] != rows.slots_NS[0]).any()


def test_an_absent_column_is_missing_everywhere() -> None:
    both = spec(
        FieldSpec(name="brand", kind="categorical"),
        FieldSpec(name="tags", kind="list"),
        FieldSpec(name="price", kind="numeric", edges=(0.0, 1.0)),
    )
    absent = encode_rows({"brand": pa.nulls(2)}, both, 97)
    given_null = encode_rows({"brand": pa.nulls(2), "price": pa.nulls(2, pa.float64())}, both, 97)
    np.testing.assert_array_equal(absent.dense_NF, given_null.dense_NF)
    np.testing.assert_array_equal(absent.dense_NF, [[0, 1], [0, 1]])


def test_text_keeps_words_and_pairs_whatever_their_case() -> None:
    field = spec(FieldSpec(name="title", kind="text"))
    rows = encode_rows({"title": pa.array(["Dark Roast", "dark roast!", "roast dark"])}, field, 2**20)
    np.testing.assert_array_equal(rows.slots_NS[0], rows.slots_NS[1])
    shared = set(rows.slots_NS[0][rows.weights_NS[0] != 0]) & set(rows.slots_NS[2][rows.weights_NS[2] != 0])
    assert len(shared) == 4, "two words of two hashes each are shared; the pair is not"


def test_lists_are_bags_and_long_ones_are_cut() -> None:
    field = spec(FieldSpec(name="tags", kind="list"))
    rows = encode_rows({"tags": pa.array([["a", "b"], [], None, [str(i) for i in range(99)]])}, field, 2**20)
    assert np.count_nonzero(rows.weights_NS, 1).tolist() == [4, 2, 2, 24]
    np.testing.assert_allclose((rows.weights_NS**2).sum(1), 2.0, rtol=1e-6)


def test_so_much_of_texts_is_read_that_one_in_twenty_is_cut() -> None:
    texts = pa.array(["one two three four five six"] * 90 + ["word " * 9] * 5 + ["word " * 30] * 5)
    field = fit_field("title", "text", texts)
    assert field.max_tokens == 17, "nine words have eight pairs"
    assert num_cut(texts, field) == 5
    rows = encode_rows({"title": texts}, spec(field), 2**20)
    assert np.count_nonzero(rows.weights_NS[[0, -1]], 1).tolist() == [22, 34]


def test_what_is_read_of_texts_and_lists_has_bounds() -> None:
    assert fit_field("title", "text", pa.array(["short", None])).max_tokens == 8
    assert fit_field("title", "text", pa.nulls(0, pa.string())).max_tokens == 8
    assert fit_field("tags", "list", pa.array([["a"] * 500])).max_tokens == 48
    assert num_cut(pa.array([["a"] * 9, None, []]), FieldSpec(name="tags", kind="list", max_tokens=8)) == 1


def test_categories_and_lists_are_equal_however_their_accents_are_written() -> None:
    both = spec(FieldSpec(name="brand", kind="categorical"), FieldSpec(name="tags", kind="list"))
    names = ["Nestl\u00e9", "Nestle\u0301"]
    rows = encode_rows({"brand": pa.array(names), "tags": pa.array([[name] for name in names])}, both, 2**20)
    np.testing.assert_array_equal(rows.slots_NS[0], rows.slots_NS[1])


def test_vectors_are_made_unit_and_bad_ones_are_missing() -> None:
    column = pa.array([[3.0, 4.0], None, [float("nan"), 1.0], [0.0, 0.0], [1.0]], pa.list_(pa.float32()))
    rows = encode_rows({"image": column}, spec(FieldSpec(name="image", kind="vector", dim=2)), 7)
    expected = np.array([[0.6, 0.8, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_allclose(rows.dense_NF, expected, rtol=1e-6)


def test_times_may_be_dates_or_missing() -> None:
    column = pa.array([datetime(2024, 1, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC"))
    field = fit_field("released", "time", column)
    rows = encode_rows({"released": column}, spec(field), 7)
    assert rows.dense_NF.shape == (2, field.dense_width)
    assert np.isfinite(rows.dense_NF).all()
    assert rows.dense_NF[1, :-3].sum() == 0


def test_times_may_be_text() -> None:
    assert to_days(pa.array(["1970-01-02", None, "", "1970-01-01T14:00:00+02:00"]), "x").tolist()[::3] == [1.0, 0.5]
    with pytest.raises(DataError, match="'x' is a time in the schema but holds 'soon'"):
        to_days(pa.array(["1970-01-02", "soon"]), "x")


def test_large_integers_are_numbers() -> None:
    assert to_floats(pa.array([2**60 + 1, 2**64 - 1], pa.uint64()), "x").tolist() == [2.0**60, 2.0**64]


@pytest.mark.parametrize("make", [pa.list_view, pa.large_list_view])
def test_a_list_view_of_one_row_is_read_without_a_cast(make: Any) -> None:
    lists = as_lists(pa.array([[1.0, 2.0]], make(pa.float32())), "x", pa.float64())
    lists.validate(full=True)
    assert lists.to_pylist() == [[1.0, 2.0]]


def test_a_column_of_the_wrong_type_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="'price'"):
        fit_field("price", "numeric", pa.array(["cheap"]))


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("list", pa.array(["abc"])),
        ("list", pa.array([3])),
        ("vector", pa.array([["a"]])),
        ("vector", pa.array([1.5])),
        ("categorical", pa.array([["a"]])),
    ],
    ids=str,
)
def test_values_of_another_shape_are_refused_by_name(kind: str, column: pa.Array) -> None:
    with pytest.raises(DataError, match="'thing'"):
        encode_rows({"thing": column}, spec(FieldSpec(name="thing", kind=kind, dim=1)), 7)


def test_vectors_of_integers_and_columns_that_are_all_missing_are_read() -> None:
    for column in (pa.array([[3, 4]]), pa.nulls(1)):
        field = fit_field("image", "vector", column)
        assert np.isfinite(encode_rows({"image": column}, spec(field), 7).dense_NF).all()


def test_an_integer_code_keeps_its_hash_when_a_tool_writes_it_as_a_double() -> None:
    field = spec(FieldSpec(name="code", kind="categorical"))
    columns = (pa.array([7, None]), pa.array([7.0, float("nan")]), pa.array(["7", None]))
    encoded = [encode_rows({"code": c}, field, 997).slots_NS for c in columns]
    np.testing.assert_array_equal(encoded[0], encoded[1])
    np.testing.assert_array_equal(encoded[0], encoded[2])


def test_gaps_look_back_and_the_first_event_has_none() -> None:
    features = event_time_features(np.array([10 * DAY_MS, 10 * DAY_MS, 13 * DAY_MS]))
    np.testing.assert_allclose(features[:, 0], [0, 0, np.log1p(3) / 3], rtol=1e-6)
    np.testing.assert_allclose(features[:, 1], [0, 1, 0])


def test_a_request_before_the_last_event_has_no_negative_gap() -> None:
    assert request_time_features(np.array([DAY_MS]), np.array([2 * DAY_MS]))[0, 0] == 0


def test_asking_for_nothing_in_particular_is_its_own_wish() -> None:
    rows, _ = encode_wanted([None, "purchase", None], spec(), 2**20)
    np.testing.assert_array_equal(rows[0], rows[2])
    assert (rows[0] != rows[1]).any()


def test_the_length_of_most_vectors_is_that_of_the_column() -> None:
    usual = pa.array([[1.0, 2.0], [3.0], None, [4.0, 5.0]], pa.list_(pa.float64()))
    assert fit_field("image", "vector", usual).dim == 2
    assert fit_field("image", "vector", pa.nulls(2, usual.type)).dim == 0
    with pytest.raises(DataError, match="'image': vectors of 2 different lengths"):
        fit_field("image", "vector", pa.array([[1.0, 2.0], [3.0]], usual.type))
