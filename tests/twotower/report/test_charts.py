"""Drawings of rows: what is proven, what is not, and in which order."""

import numpy as np
from matplotlib.figure import Figure

from twotower.report.charts import Whisker, bars, dots, whiskers
from twotower.report.svg import FIRST, PAPER, SECOND


def test_a_worse_interval_is_a_diamond_and_an_undecided_one_is_hollow() -> None:
    axes = Figure().add_subplot()
    rows = [Whisker("a", 1, 0.5, 1.5, "better"), Whisker("b", -1, -2, -0.5, "worse"), Whisker("c", 0, -1, 1, "undecided")]
    whiskers(rows, "gain", middle=0.0)(axes)
    points = {float(np.ravel(line.get_ydata())[0]): line for line in axes.lines if line.get_marker() in ("o", "D")}
    assert [points[y].get_marker() for y in (2.0, 1.0, 0.0)] == ["o", "D", "o"]
    assert [points[y].get_markerfacecolor() for y in (2.0, 1.0, 0.0)] == [FIRST, SECOND, PAPER]


def test_the_first_row_is_on_top() -> None:
    axes = Figure().add_subplot()
    dots(["top", "bottom"], {"model": [1.0, None]}, "R@10")(axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bottom", "top"]
    assert np.ravel(axes.lines[0].get_ydata()).tolist() == [1.0]


def test_every_bar_has_its_count() -> None:
    axes = Figure().add_subplot()
    bars({"many": 1234, "none": 0}, "items")(axes)
    assert [text.get_text() for text in axes.texts] == ["1,234", "0"]
