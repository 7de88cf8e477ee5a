"""A column of text gets a type when all of its values allow it."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from training.corpora.column_types import column_name, convert, decide_kinds


def converted(name: str, *batches: list[str | None], what: str = "items", comma: bool = False) -> list[object]:
    given = [pa.record_batch([pa.array(values, pa.string())], names=[name]) for values in batches]
    kind = decide_kinds(given, what, comma)[name]
    return [value for batch in given for value in convert(batch.column(0), kind).to_pylist()]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-20", None], [1, -20, None]),
        (["1", " 2.5 ", "1e3", "NA", ".5"], [1.0, 2.5, 1000.0, None, 0.5]),
        (["007", "12"], ["007", "12"]),
        (["1", "2", "two"], ["1", "2", "two"]),
        (["1", "0x1F"], ["1", "0x1F"]),
        (["12345678901234567890"], [12345678901234567890.0]),
        (["2026-01-05", "0000-00-00", ""], [date(2026, 1, 5), None, None]),
        (["2026-01-05", "2026-01-05 10:00"], [datetime(2026, 1, 5), datetime(2026, 1, 5, 10)]),
        (["2026-01-05T10:00:00+02:00"], [datetime(2026, 1, 5, 8, tzinfo=UTC)]),
        (
            ["2026-01-05 10:00:00 -0500", "2026-01-05T10:00Z"],
            [datetime(2026, 1, 5, 15, tzinfo=UTC), datetime(2026, 1, 5, 10, tzinfo=UTC)],
        ),
        (["2026-02-30"], ["2026-02-30"]),
        (["NA", "-"], ["NA", "-"]),
        ([None, None], [None, None]),
        (["3,40", "1"], ["3,40", "1"]),
    ],
)
def test_all_values_decide(values: list[str | None], expected: list[object]) -> None:
    assert converted("column", values) == expected


def test_a_later_value_changes_what_the_first_ones_suggest() -> None:
    assert converted("column", ["1", "2"], ["2.5"]) == [1.0, 2.0, 2.5]
    assert converted("column", ["1", "2"], ["n. a."]) == ["1", "2", "n. a."]


@pytest.mark.parametrize("name", ["item_id", "movieId", "categoryId", "ean", "order_id"])
def test_ids_stay_as_they_are_written(name: str) -> None:
    assert converted(name, ["1", "2"]) == ["1", "2"]


def test_users_and_types_of_events_stay_as_they_are_written() -> None:
    assert converted("visitor", ["1", "2"], what="events") == ["1", "2"]
    assert converted("event", ["1", "2"], what="events") == ["1", "2"]


def test_a_decimal_comma_is_read_where_semicolons_separate() -> None:
    assert converted("price", ["3,40", "1"], comma=True) == [3.4, 1.0]
    assert converted("price", ["3.40", "1"], comma=True) == [3.4, 1.0]


def test_genres_joined_with_bars_become_lists() -> None:
    assert converted("genres", ["Action|Sci-Fi", "Drama"]) == [["Action", "Sci-Fi"], ["Drama"]]
    assert converted("slogan", ["this|that"]) == ["this|that"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("age:token", "7", "7"),
        ("price:float", "7", 7.0),
        ("class:token_seq", "a b", ["a", "b"]),
        ("title:token_seq", "The Matrix", "The Matrix"),
        ("image:float_seq", "0.5 1", [0.5, 1.0]),
    ],
)
def test_recbole_says_the_type_in_the_name(name: str, value: str, expected: object) -> None:
    assert converted(name, [value]) == [expected]


def test_the_type_leaves_the_name_unless_two_names_would_be_one() -> None:
    assert column_name("price:float", ["price:float"]) == "price"
    assert column_name("price:float", ["price:float", "price:token"]) == "price:float"
