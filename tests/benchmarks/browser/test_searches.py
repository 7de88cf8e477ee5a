"""Queries made from products, and what counts as found."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.browser.searches import KNOWN_EVENTS, NUM_HOUSEHOLDS, NUM_QUERIES, Asked, of_its_type, questions, text_of
from twotower.data.schema import ItemColumns, Schema, Split, dump_schema

TEST_FROM = datetime(2025, 3, 1, tzinfo=UTC)
MILK = {"item_id": "m", "product_type": "WHOLE MILK", "brand": "National", "package_size": "1 GA"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    split = Split(validation_from=TEST_FROM - timedelta(days=20), test_from=TEST_FROM)
    (directory / "schema.toml").write_text(dump_schema(Schema(items=ItemColumns(), split=split)))
    items = [MILK, MILK | {"item_id": "t", "product_type": "TEA"}, MILK | {"item_id": "x", "product_type": None}]
    pq.write_table(pa.Table.from_pylist(items), directory / "items.parquet")
    events = [
        {
            "user_id": f"u{user}",
            "item_id": "x" if day == 1 else "tm"[user % 10 == 0],
            "timestamp": TEST_FROM + timedelta(days=day),
            "event_type": "purchase",
            "price_paid": 1.0,
            "store_id": "7",
        }
        for user in range(NUM_HOUSEHOLDS + 10)
        for day in (-3, -2, 1, 2)
    ]
    pq.write_table(pa.Table.from_pylist(events), directory / "events.parquet")
    return directory


def test_a_query_holds_the_words_of_the_type_alone_with_the_brand_or_with_the_size() -> None:
    assert [text_of(MILK, form) for form in range(3)] == ["whole milk", "national whole milk", "whole milk 1 ga"]
    assert text_of(MILK | {"brand": None}, 1) == "whole milk"


def test_households_are_known_by_what_they_did_before_and_ask_for_what_is_bought_then(data: Path) -> None:
    known, asked, now_ms = questions(data)
    assert (len(known), len(asked), now_ms) == (NUM_HOUSEHOLDS, NUM_QUERIES, int(TEST_FROM.timestamp() * 1000))
    assert all(len(events) <= KNOWN_EVENTS and events[-1]["timestamp"] < now_ms for events in known.values())
    assert {query.product_type for query in asked} == {"WHOLE MILK", "TEA"}, "products without a type are not asked for"
    assert all(query.product_type.lower() in query.text for query in asked)
    common, even = ([q.product_type == "WHOLE MILK" for q in asked if q.is_common is kind] for kind in (True, False))
    assert sum(common) / len(common) == pytest.approx(0.1, abs=0.05)
    assert sum(even) / len(even) == pytest.approx(0.5, abs=0.1)
    assert questions(data)[1] == asked


def test_an_item_of_the_type_counts_and_no_other() -> None:
    query = Asked("u", "tea", "TEA", is_common=True)
    items = [{"metadata": {"product_type": kind}} for kind in ("TEA", None, "WHOLE MILK", "TEA")]
    assert of_its_type({"items": items}, query) == 2
