"""Names of columns in the data that people have are understood, however they are written."""

import pytest

from training.corpora.column_names import find_role, is_group, is_id, plain_name


@pytest.mark.parametrize(
    ("role", "names"),
    [
        (
            "user_id",
            ["user_id", "userId", "User ID", "user_id:token", "uid", "USERID", "visitorid", "user_pseudo_id", "customer_id"],
        ),
        (
            "item_id",
            ["item_id", "movieId", "parent_asin", "article_id", "Item ID", "itemid:token", "sku", "StockCode", "product_id"],
        ),
        (
            "timestamp",
            ["timestamp", "t_dat", "event_timestamp", "timestamp:float", "Time", "created_at", "InvoiceDate", "event_time"],
        ),
        ("event_type", ["event_type", "event_name", "Event Type", "event", "action", "behavior_type", "interaction"]),
    ],
)
def test_a_role_is_found_by_the_names_of_public_data_sets(role: str, names: list[str]) -> None:
    for name in names:
        assert find_role(role, ["price", name, "channel"]) == name


def test_the_best_guess_wins_whatever_the_order_of_the_columns() -> None:
    assert find_role("item_id", ["asin", "parent_asin"]) == "parent_asin"
    assert find_role("timestamp", ["event_date", "event_timestamp"]) == "event_timestamp"
    assert find_role("user_id", ["session_id", "customer_id"]) == "customer_id"
    assert find_role("event_type", ["price", "channel"]) is None


@pytest.mark.parametrize(
    "name", ["order_id", "transactionid", "categoryId", "CATEGORY_ID", "sales_channel_id", "ean", "storeid:token"]
)
def test_ids_and_codes_are_known_by_their_names(name: str) -> None:
    assert is_id(name)


@pytest.mark.parametrize("name", ["paid", "price_paid", "grid", "valid", "bid", "price", "rating", "android", "unit_price"])
def test_a_word_that_ends_like_an_id_is_none(name: str) -> None:
    assert not is_id(name)


def test_a_group_of_events_is_known_by_its_name() -> None:
    assert all(map(is_group, ["order_id", "transactionid", "BasketID", "session", "user_session", "event_id", "invoice no"]))
    assert not any(map(is_group, ["store_id", "category_id", "channel", "price", "event_value"]))


def test_the_type_that_recbole_appends_is_not_part_of_a_name() -> None:
    assert plain_name("user_id:token") == "user_id"
    assert plain_name("a:b") == "a:b"
