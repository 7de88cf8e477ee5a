"""The client's filters as filter expressions."""

from typing import Any

import pyarrow as pa
import pytest

from service.api.errors import ApiError
from service.behaviorgpt.filters import expression_of
from service.release.filters import Filters

ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d"],
        "unit_price": [1.0, 2.5, None, 9.0],
        "department": ["tea", "coffee", "tea", None],
        "shelf": ["x", "tea", "y", 'it\'s "fine"'],
        "tags": [["green"], ["dark", "hot"], None, []],
        "big size": [True, False, True, None],
    }
)
FEATURES_OF = {"price": ("unit_price",), "categories": ("department", "shelf")}


def matching(**filters: Any) -> list[str]:
    expression = expression_of(filters, ITEMS.schema, FEATURES_OF, ["shop"])
    assert expression is not None
    return [item for item, is_in in zip("abcd", Filters(ITEMS).mask(expression), strict=True) if is_in]


@pytest.mark.parametrize(
    ("filters", "items"),
    [
        ({"department": "tea"}, ["a", "c"]),
        ({"department": ["tea", "coffee"]}, ["a", "b", "c"]),
        ({"department": None}, ["d"]),
        ({"categories": "tea"}, ["a", "b", "c"]),  # in either of the two features
        ({"shelf": 'it\'s "fine"'}, ["d"]),
        ({"tags": "dark"}, ["b"]),
        ({"tags": ["dark", "green"]}, ["a", "b"]),
        ({"price": {"min": 2, "max": 9}}, ["b", "d"]),
        ({"price": {"gt": 2.5}}, ["d"]),
        ({"unit_price": {"lte": 2.5}, "department": "tea"}, ["a"]),
        ({"department": {"ne": "tea"}}, ["b"]),
        ({"item_id": {"not_in": ["a", "b"]}}, ["c", "d"]),
        ({"item_id": ["a", "b"], "big size": True}, ["a"]),
        ({"department": "tea", "catalog_id": "shop"}, ["a", "c"]),
        ({"department": "tea", "catalog_id": ["other", "shop"]}, ["a", "c"]),
        ({"department": "tea", "catalog_id": "other"}, []),
        ({"catalog_id": {"ne": "shop"}}, []),
    ],
)
def test_a_filter_leaves_the_items_that_match(filters: dict[str, Any], items: list[str]) -> None:
    assert matching(**filters) == items


def test_no_filters_are_no_expression() -> None:
    assert expression_of({}, ITEMS.schema, FEATURES_OF, ["shop"]) is None
    assert expression_of({"catalog_id": "shop"}, ITEMS.schema, FEATURES_OF, ["shop"]) is None


def test_items_of_several_catalogues_have_a_column_that_says_of_which_they_are() -> None:
    items = pa.table({"item_id": ["a", "b"], "catalog_id": ["shop", "other"]})
    expression = expression_of({"catalog_id": "other"}, items.schema, {}, ["shop", "other"])
    assert expression is not None
    assert Filters(items).mask(expression).tolist() == [False, True]


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"colour": "red"}, "no attribute 'colour'; they have price, categories, item_id"),
        ({"price": {"near": 3}}, "'near', which is none of min, gte, max, lte, gt, lt, ne, not_in"),
        ({"price": {"$gt": 3}}, "'[$]gt', which is none of"),
        ({"catalog_id": {"min": "a"}, "colour": 1}, "no attribute 'colour'"),
        ({"catalog_id": []}, "empty list"),
        ({"price": {}}, "empty condition"),
        ({"department": []}, "empty list"),
        ({"department": [["tea"]]}, "no text, number"),
        ({"price": {"min": {"a": 1}}}, "no text, number"),
        ({"department": ["x" * 600, "y" * 600]}, "too long"),
    ],
)
def test_a_filter_of_another_form_is_a_bad_request(filters: dict[str, Any], says: str) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        expression_of(filters, ITEMS.schema, FEATURES_OF, ["shop"])
    assert refused.value.status == 400
