"""The client's columns and the features of a schema."""

import pyarrow as pa
import pytest

from service.uploads.columns import category_paths, items_of, part_of, price_of, read_plain, roles_of
from tests.service.uploads.files import catalogue
from twotower.data.schema import ItemColumns
from twotower.errors import DataError

GROCERY = ItemColumns(
    title="title",
    features={
        "title": "text",
        "department": "categorical",
        "brand": "categorical",
        "product_type": "categorical",
        "manufacturer_id": "categorical",
        "tags": "list",
        "unit_price": "numeric",
        "released": "time",
        "image": "vector",
    },
)
ROWS = catalogue(
    id=["a", "b"],
    name=["Green tea", "Soap"],
    brand=["Leaf", None],
    categories=["Drinks, Tea, Green tea", None],
    price=["1,299.00", "free"],
    timestamp=[1_700_000_000, None],
    keywords=[["hot"], None],
    search_keywords=[["cup"], []],
    market=["SE", "SE"],
)


def test_roles_are_found_by_kind_and_name() -> None:
    roles = roles_of(GROCERY)
    assert (roles.name, roles.brand, roles.price, roles.keywords, roles.first_sale) == (
        "title",
        "brand",
        "unit_price",
        "tags",
        "released",
    )
    assert roles.categories == ("department", "product_type")


def test_columns_become_the_features_that_hold_the_same() -> None:
    items = items_of(ROWS, pa.array(["c/a", "c/b"]), GROCERY).to_pylist()
    assert items[0] | {"released": None} == {
        "item_id": "c/a",
        "title": "Green tea",
        "department": "Drinks",
        "brand": "Leaf",
        "product_type": "Green tea",  # the narrowest part of a path with more parts than there are features
        "manufacturer_id": None,
        "tags": ["hot", "cup"],
        "unit_price": 1299.0,
        "released": None,
        "image": None,
    }
    assert items[0]["released"].timestamp() == 1_700_000_000
    assert {name: value for name, value in items[1].items() if value is not None} == {"item_id": "c/b", "title": "Soap"}


def test_without_features_for_them_brand_and_categories_follow_the_name() -> None:
    items = items_of(ROWS, pa.array(["a", "b"]), ItemColumns(features={"text": "text"}))
    assert items.column("text").to_pylist() == ["Green tea Leaf Drinks, Tea, Green tea", "Soap"]


def test_a_list_of_categories_gets_the_whole_path() -> None:
    items = items_of(ROWS, pa.array(["a", "b"]), ItemColumns(features={"categories": "list"}))
    assert items.column("categories").to_pylist() == [["Drinks", "Tea", "Green tea"], None]


def test_a_model_that_reads_none_of_it_is_refused() -> None:
    with pytest.raises(DataError, match="neither names nor brands nor categories"):
        items_of(ROWS, pa.array(["a", "b"]), ItemColumns(features={"weight": "numeric"}))


@pytest.mark.parametrize(
    ("path", "parts"),
    [(["a", "b", "c"], ["a", "c"]), (["a", "b"], ["a", "b"]), (["a"], ["a", None]), (None, [None, None])],
)
def test_a_path_is_dealt_to_the_features(path: list[str] | None, parts: list[str | None]) -> None:
    assert [part_of(path, place, 2) for place in range(2)] == parts


def test_paths_are_split_at_commas() -> None:
    assert category_paths(pa.chunked_array([["Food, Tea ,", " ", None, "Drinks"]])) == [["Food", "Tea"], None, None, ["Drinks"]]


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("299.00", 299.0),
        ("1,299.00", 1299.0),
        ("1 299,00 kr", 1299.0),
        ("$5", 5.0),
        ("1,299", 1299.0),
        ("12,5", 12.5),
        ("", None),
        (None, None),
        ("free", None),
        (".", None),
    ],
)
def test_a_price_is_the_number_in_its_text(text: str | None, price: float | None) -> None:
    assert price_of(text) == price


def test_columns_in_other_layouts_are_read_as_plain_ones() -> None:
    table = ROWS.set_column(2, "brand", ROWS.column("brand").dictionary_encode())
    table = table.set_column(1, "name", ROWS.column("name").cast(pa.large_string()))
    assert read_plain(table) == ROWS
    with pytest.raises(DataError, match="the column id is missing"):
        read_plain(ROWS.drop_columns(["id"]))
