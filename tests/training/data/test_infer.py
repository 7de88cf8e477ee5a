"""A first schema is guessed from names, types and values; what it leaves out is said, and validate accepts it."""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data.infer import Guess, infer_schema
from training.data.inspect import inspect
from twotower.data.schema import Constant, load_schema
from twotower.errors import DataError

ROWS = 120
START = datetime(2026, 1, 5, tzinfo=UTC)
EVENTS: dict[str, Any] = {
    "user_id": [f"u{n % 12}" for n in range(ROWS)],
    "item_id": [f"i{n % 60}" for n in range(ROWS)],
    "timestamp": [START + timedelta(hours=n) for n in range(ROWS)],
    "event_type": ["view", "purchase"] * (ROWS // 2),
}
ITEMS: dict[str, Any] = {"item_id": [f"i{n}" for n in range(60)], "group": [f"g{n % 5}" for n in range(60)]}


def guessed(tmp_path: Path, events: dict[str, Any] | None = None, items: dict[str, Any] | None = None) -> Guess:
    """The guess for the usual events and items with other or further columns; None takes a column away."""
    for name, columns, changes in (("events", EVENTS, events), ("items", ITEMS, items)):
        kept = {n: values for n, values in {**columns, **(changes or {})}.items() if values is not None}
        pq.write_table(pa.table(kept), tmp_path / f"{name}.parquet")
    return infer_schema(tmp_path / "events.parquet", tmp_path / "items.parquet")


def accepted(tmp_path: Path, guess: Guess) -> bool:
    """Whether validate finds no error with the guess, as it is written."""
    (tmp_path / "schema.toml").write_text(guess.text())
    schema = load_schema(tmp_path / "schema.toml")
    assert schema == guess.schema
    return all(f.level != "error" for f in inspect(tmp_path / "events.parquet", tmp_path / "items.parquet", schema))


def reasons(guess: Guess) -> dict[str, str]:
    return {f"{column.table}.{column.name}": column.why for column in guess.left_out}


def test_kinds_are_guessed_from_names_and_types(tiny_shop: Path) -> None:
    guess = infer_schema(tiny_shop / "events.parquet", tiny_shop / "items.parquet")
    schema = guess.schema
    assert schema.events.features == {"price_paid": "numeric", "channel": "categorical"}
    assert schema.items.features == {
        "title": "text",
        "department": "categorical",
        "tags": "list",
        "price": "numeric",
        "released": "time",
        "image": "vector",
    }
    assert schema.items.title == "title"
    assert not guess.left_out
    split = schema.require_split()
    assert 80 < (split.validation_from - split.validation_from.replace(month=1, day=1)).days < 110


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([time(9, n % 4) for n in range(60)], "categorical"),
        ([timedelta(minutes=n) for n in range(60)], "numeric"),
        ([2**60 + n % 3 for n in range(60)], "categorical"),
        (pa.array([2**63 + n % 3 for n in range(60)], pa.uint64()), "categorical"),
        (pa.array([b"ab", b"cd"] * 30), "categorical"),
        ([True, False] * 30, "categorical"),
        ([date(2026, 1, 1 + n % 28) for n in range(60)], "time"),
        (["2026-01-05T10:00:00Z", "2026-01-06 10:00:00 -0500"] * 30, "time"),
        ([["a"], ["a", "b"]] * 30, "list"),
        ([[1, 2], [3]] * 30, "list"),
        ([[1.0, 2.0]] * 60, "vector"),
        ([[1.0, 2.0]] * 59 + [[1.0]], "vector"),
        ([n % 9 for n in range(60)], "numeric"),
        (["soft red shoe", "hard blue shoe of wool"] * 30, "text"),
        (["有机牛奶新鲜", "手工咖啡家庭"] * 30, "text"),
        (pa.array(["red", "blue"] * 30).dictionary_encode(), "categorical"),
    ],
)
def test_the_kind_of_a_column_of_items_is_one_that_validate_accepts(tmp_path: Path, values: Any, kind: str) -> None:
    guess = guessed(tmp_path, items={"column": values})
    assert guess.schema.items.features["column"] == kind
    assert accepted(tmp_path, guess)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (pa.nulls(60), "it has no value"),
        (pa.nulls(60, pa.float64()), "it has no value"),
        ([{"a": 1}] * 60, "it holds struct"),
        ([[{"a": 1}]] * 60, "it holds list<"),
        (pa.array([[("k", "v")]] * 60, pa.map_(pa.string(), pa.string())), "it holds map"),
        ([[1.0], [1.0, 2.0]] * 30, "different lengths"),
        ([f"https://example.org/{n}.jpg" for n in range(60)], "look like ids"),
        ([f"{n}.5" for n in range(60)], "numbers as text"),
    ],
)
def test_a_column_of_items_that_is_left_out_is_listed_with_the_reason(tmp_path: Path, values: Any, why: str) -> None:
    guess = guessed(tmp_path, items={"column [x]": values})
    assert why in reasons(guess)["items.column [x]"]
    assert "column [x]" in guess.text()
    assert accepted(tmp_path, guess)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("paid", [1.5] * ROWS, "numeric"),
        ("quantity", [1, 2] * (ROWS // 2), "numeric"),
        ("rating", [n % 5 for n in range(ROWS)], "numeric"),
        ("store_id", [n % 5 for n in range(ROWS)], "categorical"),
        ("organic", [True, False] * (ROWS // 2), "categorical"),
        ("channel", ["web", "app"] * (ROWS // 2), "categorical"),
    ],
)
def test_a_column_of_events_that_says_something_of_the_event_is_a_feature(
    tmp_path: Path, name: str, values: Any, kind: str
) -> None:
    guess = guessed(tmp_path, events={name: values})
    assert guess.schema.events.features == {name: kind}
    assert accepted(tmp_path, guess)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("order_id", [n // 3 for n in range(ROWS)]),
        ("transactionid", [float(n // 3) for n in range(ROWS)]),
        ("Session ID", [f"s{n // 60}" for n in range(ROWS)]),
        ("user_session", [f"s{n // 60}" for n in range(ROWS)]),
        ("referrer", [f"https://example.org/{n}" for n in range(ROWS)]),
        ("line", list(range(ROWS))),
        ("context", [{"a": 1}] * ROWS),
        ("until", [START] * ROWS),
        ("tags", [["a"]] * ROWS),
        ("empty", pa.nulls(ROWS)),
    ],
)
def test_a_column_of_events_that_is_an_id_or_no_value_is_left_out_and_listed(tmp_path: Path, name: str, values: Any) -> None:
    guess = guessed(tmp_path, events={name: values})
    assert guess.schema.events.features == {}
    assert reasons(guess)[f"events.{name}"]
    assert accepted(tmp_path, guess)


def test_an_id_of_a_group_of_items_is_no_number_whatever_its_case(tmp_path: Path) -> None:
    groups = {"categoryId": [n % 5 for n in range(60)], "BRAND_ID": [float(n % 5) for n in range(60)]}
    assert guessed(tmp_path, items=groups).schema.items.features == {
        "group": "categorical",
        "categoryId": "categorical",
        "BRAND_ID": "categorical",
    }


def test_a_column_that_is_left_out_can_be_taken_by_removing_a_sign(tmp_path: Path) -> None:
    text = guessed(tmp_path, events={"order_id": [n // 3 for n in range(ROWS)]}).text()
    assert '# order_id = "categorical"  # its values look like ids' in text
    (tmp_path / "schema.toml").write_text(text.replace('# order_id = "cat', 'order_id = "cat'))
    assert load_schema(tmp_path / "schema.toml").events.features == {"order_id": "categorical"}


@pytest.mark.parametrize(
    "names",
    [
        ("visitorId", "sku", "ts", "action"),
        ("User ID", "Item ID", "Time", "Event Type"),
        ("user_id:token", "item_id:token", "timestamp:float", "event_type:token"),
        ("user_pseudo_id", "product_id", "event_timestamp", "event_name"),
    ],
)
def test_other_names_for_the_roles_are_found(tmp_path: Path, names: tuple[str, ...]) -> None:
    guess = guessed(tmp_path, events={**dict.fromkeys(EVENTS), **dict(zip(names, EVENTS.values(), strict=True))})
    assert guess.schema.events.roles == names
    assert accepted(tmp_path, guess)


def test_the_item_of_an_event_is_the_column_that_the_catalogue_is_keyed_by(tmp_path: Path) -> None:
    events = {"item_id": None, "asin": ["v"] * ROWS, "parent_asin": EVENTS["item_id"]}
    guess = guessed(tmp_path, events=events, items={"item_id": None, "parent_asin": ITEMS["item_id"]})
    assert (guess.schema.events.item_id, guess.schema.items.item_id) == ("parent_asin", "parent_asin")
    assert guessed(tmp_path, items={"item_id": None, "id": ITEMS["item_id"]}).schema.items.item_id == "id"


def test_texts_of_events_without_items_are_searches(tmp_path: Path) -> None:
    typed = ["rye bread", None] * (ROWS // 2)
    items = [None if text else item for text, item in zip(typed, EVENTS["item_id"], strict=True)]
    guess = guessed(tmp_path, {"item_id": items, "Search Term": typed})
    assert (guess.schema.events.query, guess.schema.events.features, guess.left_out) == ("Search Term", {}, ())
    assert accepted(tmp_path, guess)
    assert guessed(tmp_path, {"Search Term": typed}).schema.events.query is None, "every event has an item"


def test_a_log_without_types_gets_a_constant_one(tmp_path: Path) -> None:
    guess = guessed(tmp_path, events={"event_type": None})
    assert guess.schema.events.event_type == Constant(constant="purchase")
    assert 'event_type = { constant = "purchase" }' in guess.text()
    assert "no column tells the types of events" in guess.text()
    assert accepted(tmp_path, guess)


def test_a_column_of_many_values_does_not_tell_the_types(tmp_path: Path) -> None:
    many = {name: values * 20 for name, values in EVENTS.items()}
    many["event_type"] = [f"e{n}" for n in range(20 * ROWS)]
    guess = guessed(tmp_path, events=many)
    assert guess.schema.events.event_type == Constant(constant="purchase")


def test_the_only_column_of_times_is_the_time_whatever_its_name(tmp_path: Path) -> None:
    guess = guessed(tmp_path, events={"timestamp": None, "wann": EVENTS["timestamp"]})
    assert guess.schema.events.timestamp == "wann"


def test_a_log_without_users_is_refused_with_what_was_tried(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column looks like user_id .*customerid.*Rename it"):
        guessed(tmp_path, events={"user_id": None})


def test_the_nested_export_of_ga4_is_refused_with_the_command_that_flattens_it(tmp_path: Path) -> None:
    events = {
        **dict.fromkeys(EVENTS),
        "event_name": ["view"],
        "event_timestamp": [1],
        "user_pseudo_id": ["a"],
        "items": [[{"x": 1}]],
    }
    with pytest.raises(DataError, match="twotower prepare files --events"):
        guessed(tmp_path, events=events)


def test_each_part_of_the_split_has_events(tmp_path: Path) -> None:
    times = [START + timedelta(days=n // 100 * 30, hours=n % 100 // 50) for n in range(ROWS)]  # the last days are in one night
    split = guessed(tmp_path, events={"timestamp": times}).schema.require_split()
    counts = [sum(t < split.validation_from for t in times), sum(t >= split.test_from for t in times)]
    assert all(counts)
    assert sum(counts) < ROWS


def test_a_log_of_one_moment_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"too few different times .*'timestamp' the right column"):
        guessed(tmp_path, events={"timestamp": [START] * ROWS})


def test_columns_and_types_of_all_files_of_a_directory_count(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    first = {**EVENTS, "paid": [1] * ROWS, "note": pa.nulls(ROWS)}
    second = {**EVENTS, "paid": [1.5] * ROWS, "note": ["gift", "none"] * (ROWS // 2), "channel": ["web"] * ROWS}
    for name, columns in (("a", first), ("b", second)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    pq.write_table(pa.table(ITEMS), tmp_path / "items.parquet")
    schema = infer_schema(folder, tmp_path / "items.parquet").schema
    assert schema.events.features == {"paid": "numeric", "note": "categorical", "channel": "categorical"}


def test_a_column_that_files_hold_in_two_ways_is_left_out_with_both_names(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    pq.write_table(pa.table({**ITEMS, "when": [START] * 60}), folder / "a.parquet")
    pq.write_table(pa.table({**ITEMS, "when": [1.5] * 60}), folder / "b.parquet")
    pq.write_table(pa.table(EVENTS), tmp_path / "events.parquet")
    (why,) = reasons(infer_schema(tmp_path / "events.parquet", folder)).values()
    assert "a.parquet" in why
    assert "b.parquet" in why
