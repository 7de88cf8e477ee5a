"""Searches that are made up from the words of items."""

import numpy as np
import pyarrow as pa
import pytest

from training.data.made_up_queries import AGO_MS, ItemWords, ago_ms
from twotower.data.events import MAX_QUERY
from twotower.data.schema import ItemColumns
from twotower.data.words import tokens

COLUMNS = ItemColumns(
    title="title",
    features={"title": "text", "brand": "categorical", "code": "categorical", "price": "numeric", "tags": "list"},
)
ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d"],
        "title": ["Dark Rye Bread 750 g", None, "?!", "x" * 400],
        "brand": ["Old Mill", "Acme", None, None],
        "code": pa.array([17, 18, None, None]),
        "price": [1.0, 2.0, 3.0, 4.0],
        "tags": [["organic"], [], [], []],
    }
)


def queries(row: int, num: int = 300) -> list[str | None]:
    words, rng = ItemWords([ITEMS.slice(0, 1), ITEMS.slice(1)], COLUMNS, "title"), np.random.default_rng(0)
    return [words.query(rng, row) for _ in range(num)]


def test_a_query_is_words_in_a_row_of_the_title_or_a_category_or_both() -> None:
    found = set(queries(0))
    assert {"bread", "dark rye", "dark rye bread 750", "750 g", "old mill", "old mill bread", "old mill rye bread"} <= found
    assert "dark bread" not in found
    assert "dark rye bread 750 g" not in found, "more words than people type"
    assert not any("17" in query.split() or "organic" in query for query in found if query), "numbers are no words of a category"


def test_without_a_title_the_category_is_typed_and_without_both_nothing() -> None:
    assert set(queries(1)) == {"acme"}
    assert set(queries(2)) == {None}


def test_a_query_is_no_longer_than_the_service_takes() -> None:
    assert {len(query) for query in queries(3) if query} == {MAX_QUERY}


def test_the_same_numbers_draw_the_same_queries() -> None:
    assert queries(0, 20) == queries(0, 20)
    assert all(tokens(query) for query in queries(0) if query)


@pytest.mark.parametrize(("gap_ms", "most"), [(10**9, AGO_MS[1]), (1000, 500), (1, 0), (0, 0)])
def test_a_search_is_shortly_before_what_is_found_and_after_the_event_before(gap_ms: int, most: float) -> None:
    drawn = [ago_ms(np.random.default_rng(seed), gap_ms) for seed in range(200)]
    assert max(drawn) <= most
    assert min(drawn) >= min(AGO_MS[0], gap_ms / 2) - 1
