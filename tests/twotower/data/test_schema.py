"""schema.toml is read strictly and written as it is read."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from twotower.data.schema import (
    Constant,
    EventColumns,
    ItemColumns,
    Schema,
    SignalColumns,
    Split,
    dump_schema,
    load_schema,
    utc_ms,
)
from twotower.errors import DataError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "schema.toml"
    path.write_text(text)
    return path


def test_a_schema_survives_writing_and_reading(tmp_path: Path) -> None:
    schema = Schema(
        items=ItemColumns(item_id="sku", features={"price": "numeric", "name": "text"}),
        signals=SignalColumns(item_id="sku", features=("mailer", "price_cut")),
        split=Split(validation_from=datetime(2024, 1, 1, tzinfo=UTC), test_from=datetime(2024, 2, 1, tzinfo=UTC)),
    )
    assert load_schema(write(tmp_path, dump_schema(schema))) == schema


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[items.features]\nprice = 'number'\n", "number"),
        ("[itmes]\nitem_id = 'x'\n", "itmes"),
        ("[split]\nvalidation_from = 2024-02-01\n", "validation_from"),
        ("[split]\nvalidation_from = 2024-02-01T00:00:00Z\ntest_from = 2024-01-01T00:00:00Z\n", "before"),
        ("not toml at all", "schema.toml"),
        ("[events]\nuser_id = 'who'\nitem_id = 'who'\n", "two roles"),
        ("[events]\nevent_type = 'action'\n[events.features]\nevent_type = 'categorical'\n", "is a role"),
        ("[events]\nevent_type = { constant = '' }\n", "event_type.constant"),
        ("[events]\nevent_type = { const = 'buy' }\n", "event_type"),
        ("[items.features]\nitem_id = 'categorical'\n", "is the id"),
        ("[items]\ntitle = 'name'\n", "'name'"),
        ("[signals]\nfeatures = []\n", "no features"),
        ("[signals]\nfeatures = ['mailer', 'from']\n", "twice: from"),
    ],
)
def test_a_wrong_schema_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(DataError, match=named):
        load_schema(write(tmp_path, text))


def test_a_log_without_types_has_one_type_for_all_events(tmp_path: Path) -> None:
    schema = load_schema(write(tmp_path, "[events]\nevent_type = { constant = 'buy é' }\n"))
    assert schema.events.roles == ("user_id", "item_id", "timestamp")
    text = dump_schema(schema)
    assert 'event_type = { constant = "buy é" }\n' in text
    assert load_schema(write(tmp_path, text)) == schema


def test_a_schema_is_written_with_comments_where_they_belong(tmp_path: Path) -> None:
    schema = Schema(
        events=EventColumns(event_type=Constant(constant="buy"), features={"price paid": "numeric", "a\nb": "numeric"})
    )
    text = dump_schema(schema, {"events.features": ["not taken: order_id"]})
    assert '[events.features]\n"price paid" = "numeric"\n"a\\nb" = "numeric"\n# not taken: order_id\n\n[items]\n' in text
    assert load_schema(write(tmp_path, text)) == schema


def test_a_missing_schema_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="schema infer"):
        load_schema(tmp_path / "schema.toml")


def test_a_time_without_a_zone_is_utc() -> None:
    assert utc_ms(datetime(1970, 1, 2)) == utc_ms(datetime(1970, 1, 2, tzinfo=UTC)) == 86_400_000
