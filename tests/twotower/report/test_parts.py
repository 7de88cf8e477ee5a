"""Pages in a real browser: nothing scrolls sideways, on a desk or on a phone, whatever the data holds."""

from pathlib import Path

import pytest

from benchmarks.browser.chromium import browser, find_chromium
from twotower.report.page import render
from twotower.report.parts import Cell, Table, Tile, Verdict, triangle

EVIL = "<b>&\u202e" + "x" * 300
CONTENT = """{% extends "frame.html" %}{% import "parts.html" as parts %}{% block content %}
{{ parts.verdict(verdict) }}{{ parts.tiles(tiles) }}{{ parts.table(table) }}{{ parts.matrix(matrix) }}{{ parts.facts(facts) }}
{% endblock %}"""


def page(directory: Path) -> str:
    template = directory / "try.html"
    template.write_text(CONTENT)
    cell = Cell("+0.1102", "+0.1102 to +0.1269", "better")
    content = {
        "verdict": Verdict("worse", EVIL, [EVIL]),
        "tiles": [Tile(EVIL, "0.2242", EVIL, "+0.1 to +0.2", "better")] * 6,
        "table": Table(EVIL, ["", *["unseen R@10"] * 6], [[EVIL, *[cell] * 6], ["model", *["0.2242"] * 6]]),
        "matrix": triangle("About.", ["batch-local loss"] * 14, [[0.5] * 14] * 14),
        "facts": {EVIL: EVIL},
    }
    return render(template, EVIL, content)


def test_hostile_titles_stay_text(tmp_path: Path) -> None:
    assert "<b>&" not in page(tmp_path)


def test_a_correlation_that_is_not_known_is_a_dash_without_colour() -> None:
    (first,) = triangle("", ["a"], [[float("nan")]]).rows[0]
    assert (first.text, first.background) == ("–", "none")


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_nothing_scrolls_sideways_and_the_verdict_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(page(tmp_path))
    with browser() as running, running.page() as tab:
        for width in (1200, 760, 375):
            for scheme in ("light", "dark"):
                tab.show_as(width, 900, scheme)
                tab.open(file.as_uri())
                assert tab.evaluate("document.documentElement.scrollWidth") <= width
                top = "document.querySelector('{}').getBoundingClientRect().top"
                tops = [tab.evaluate(top.format(name)) for name in ("h1", ".verdict", ".tiles", "table")]
                assert tops == sorted(tops)
        assert tab.complaints == []
        assert tab.requests == [file.as_uri()] * 6
