"""The nested export of Google Analytics 4 becomes one event per item, and a catalogue of what the events say of items."""

import pyarrow as pa
import pytest

from training.corpora.ga4 import Flattened, is_ga4

EVENTS = [
    {
        "event_timestamp": 1_767_600_000_000_000,
        "event_name": "view_item",
        "user_pseudo_id": "a.1",
        "device": {"category": "mobile"},
        "items": [
            {"item_id": "s1", "item_name": "Shoe", "price": 5.0},
            {"item_id": "(not set)", "item_name": "?", "price": None},
        ],
    },
    {"event_timestamp": 1_767_600_000_000_001, "event_name": "page_view", "user_pseudo_id": "a.1", "device": None, "items": []},
    {
        "event_timestamp": 1_767_600_000_000_002,
        "event_name": "purchase",
        "user_pseudo_id": None,
        "user_id": "ann",
        "device": {"category": "desktop"},
        "items": [{"item_id": "s1", "item_name": None, "price": 6.0}],
    },
]


def test_each_item_of_an_event_is_an_event() -> None:
    flattened = Flattened()
    (batch,) = flattened.events([pa.RecordBatch.from_pylist(EVENTS, schema=pa.Table.from_pylist(EVENTS[::-1]).schema)])
    assert batch.column("item_id").to_pylist() == ["s1", None, "s1"]
    assert batch.column("user_id").to_pylist() == ["a.1", "a.1", "ann"]
    assert batch.column("event_type").to_pylist() == ["view_item", "view_item", "purchase"]
    assert batch.column("price").to_pylist() == [5.0, None, 6.0]
    assert batch.column("device_category").to_pylist() == ["mobile", "mobile", "desktop"]
    assert batch.column("timestamp").cast(pa.int64()).to_pylist()[2] == 1_767_600_000_000_002
    assert (flattened.num_events, flattened.without_items) == (3, 1)


def test_an_item_has_the_last_value_of_each_attribute() -> None:
    flattened = Flattened()
    schema = pa.Table.from_pylist(EVENTS[::-1]).schema
    for event in EVENTS:
        list(flattened.events([pa.RecordBatch.from_pylist([event], schema=schema)]))
    assert flattened.items is not None
    assert flattened.items.to_pylist() == [{"item_id": "s1", "item_name": "Shoe", "price": 6.0}]


def test_text_timestamps_and_the_lists_of_a_parquet_export_are_read() -> None:
    flattened = Flattened()
    items = {"list": [{"element": {"item_id": "s1", "quantity": "2"}}]}
    row = {"event_timestamp": "1767600000000000", "event_name": "purchase", "user_pseudo_id": "a", "items": items}
    (batch,) = flattened.events([pa.RecordBatch.from_pylist([row])])
    (event,) = batch.to_pylist()
    assert (event["item_id"], event["quantity"]) == ("s1", 2.0)
    assert batch.column("timestamp").cast(pa.int64()).to_pylist() == [1_767_600_000_000_000]


@pytest.mark.parametrize("missing", ["event_name", "event_timestamp", "items"])
def test_only_a_table_with_its_columns_is_an_export(missing: str) -> None:
    schema = pa.Table.from_pylist(EVENTS).schema
    assert is_ga4(schema)
    assert not is_ga4(schema.remove(schema.get_field_index(missing)))
