"""Numbers and times are written the same way on every page."""

import pytest

from twotower.report.numbers import duration, metric, moment, percent, plain, short, signed, signed_spread


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "0 s"), (89, "89 s"), (180, "3 minutes"), (7200, "2.0 hours")])
def test_durations_are_in_the_unit_a_person_would_choose(seconds: float, expected: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == expected


def test_times_are_in_utc_to_the_minute() -> None:
    assert moment("2026-11-23T02:08:56+02:00") == "2026-11-23 00:08 UTC"


def test_a_metric_without_a_value_is_a_dash() -> None:
    assert [metric(value) for value in (0.22416, 4393.6, None, float("nan"))] == ["0.2242", "4,394", "–", "–"]


def test_signs_are_minus_signs_and_units_stay_with_their_numbers() -> None:
    assert signed(-0.5, 1) == "−0.5"
    assert signed_spread(-0.1, 0.2, 1) == "−0.1 to +0.2"
    assert percent(0.0213) == "2.1\u00a0%"
    assert [short(22.83, "ms"), short(12345)] == ["22.8\u00a0ms", "12,345"]


def test_values_are_written_for_people() -> None:
    values = {"num_layers": 4, "items": 92331, "share": 0.0199911480, "ok": True, "half_lives_days": [14.0, 30.0], "commit": None}
    assert plain(values) == {
        "num layers": "4",
        "items": "92,331",
        "share": "0.0199911",
        "ok": "True",
        "half lives days": "14 30",
        "commit": "None",
    }
