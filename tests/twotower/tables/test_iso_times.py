"""Times written as text, in the forms that tools write."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from twotower.tables.iso_times import parse_times

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05T12:00:00",
        "2026-01-05 12:00:00",
        "2026-01-05 12:00",
        "2026-01-05T12:00:00Z",
        "2026-01-05T12:00:00.000",
        "2026-01-05T12:00:00.000000000Z",
        "2026-01-05 12:00:00 UTC",
        "2026-01-05 12:00:00.000000 UTC",
        "2026-01-05T14:00:00+02:00",
        "2026-01-05T14:00:00+02",
        "2026-01-05 07:00:00 -0500",
        "2026-01-05T17:30:00.0+05:30",
        " 2026-01-05 12:00:00 ",
    ],
)
def test_a_time_is_understood_alone_and_beside_other_forms(text: str) -> None:
    assert parse_times(pa.array([text])).to_pylist() == [NOON]
    assert parse_times(pa.array([text, "2026-01-05", None, "2026-01-05 07:00:00 -0500"])).to_pylist() == [
        NOON,
        NOON.replace(hour=0),
        None,
        NOON,
    ]


def test_a_fraction_is_kept_to_the_microsecond() -> None:
    times = parse_times(pa.array(["2026-01-05 12:00:00.5 UTC", "2026-01-05 12:00:00.1234567 UTC"]))
    assert [moment.microsecond for moment in times.to_pylist()] == [500_000, 123_456]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "01/05/2026 12:00",
        "20260105",
        "2026-02-30",
        "2026-13-01",
        "2026-01-05T24:00",
        "2026-01-05 12:00 PM",
        "1767614400",
    ],
)
def test_what_is_no_time_is_missing(text: str) -> None:
    assert parse_times(pa.array([text, "2026-01-05"])).to_pylist() == [None, NOON.replace(hour=0)]
