"""Text from data is text on the page, whatever it holds."""

import re

import pytest

from twotower.report.page import Markup, definitions, duration, element, figure, moment, page, plain, section, table

EVIL = '<script>alert("x")</script>'


def test_text_is_escaped_wherever_it_enters() -> None:
    parts = [
        element("p", EVIL),
        table(EVIL, [EVIL], [[EVIL, EVIL]]),
        definitions({EVIL: EVIL}),
        section(EVIL, EVIL),
        figure(EVIL, EVIL),
    ]
    whole = page(EVIL, EVIL, *parts)
    assert "<script" not in whole
    assert whole.count("&lt;script&gt;") == 13


def test_markup_is_not_escaped_again() -> None:
    assert element("b", element("i", "a & b")) == "<b><i>a &amp; b</i></b>"


def test_a_class_cannot_leave_its_attribute() -> None:
    assert element("b", "x", kind='"><script>') == '<b class="&quot;&gt;&lt;script&gt;">x</b>'


def test_the_first_column_of_a_table_names_its_rows() -> None:
    assert "<tr><th>model</th><td>1</td></tr>" in table("figures", ["", "R@10"], [["model", 1]])


def test_the_page_asks_nothing_of_the_network() -> None:
    whole = page("a run", Markup("<p>hello</p>"))
    assert re.findall(r"(?:src|href)\s*=|@import|url\(|<link|<script", whole) == []
    assert whole.startswith("<!doctype html>")


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "0 s"), (89, "89 s"), (180, "3 minutes"), (7200, "2.0 hours")])
def test_durations_are_in_the_unit_a_person_would_choose(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_times_are_in_utc_to_the_minute() -> None:
    assert moment("2026-11-23T02:08:56+02:00") == "2026-11-23 00:08 UTC"


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
